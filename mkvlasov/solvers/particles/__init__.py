"""Interacting particles: systems of rows of weights that are coupled through their mean overlaps."""
