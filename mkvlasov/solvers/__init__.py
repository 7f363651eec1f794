"""Four routes to the same order parameters; each is blind to the others."""
