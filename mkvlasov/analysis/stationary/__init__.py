"""Stationary states of the PDE without time evolution: densities, search, stability, continuation."""
