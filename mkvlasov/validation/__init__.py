"""Agreement between routes, judged against their errors."""
