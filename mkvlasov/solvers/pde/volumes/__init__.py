"""Finite volumes on meshes that move with the densities."""
