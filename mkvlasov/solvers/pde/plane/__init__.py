"""The McKean-Vlasov PDE with two outputs: boxes that follow the densities, and a splitting over directions."""
