"""Spectral elements that adapt to the densities."""
