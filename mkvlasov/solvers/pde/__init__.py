"""The McKean-Vlasov PDE with one output: finite volumes on moving meshes, all loadings in one tridiagonal system."""
