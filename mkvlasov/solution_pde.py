"""The solution of the McKean-Vlasov PDE with one output: order parameters, densities, coefficients along the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import InvalidInput
from mkvlasov.solution import Density, Solution


@dataclass(frozen=True)
class CoefficientHistory:
    """Coefficients of the Fokker-Planck equations at the S time steps that were taken.

    The weights of coordinates with loading a follow dw = -(linear w + tilt . a + tau phi'(w)) dt + sqrt(2 D) dB.

    Attributes
    ----------
    t : ndarray, shape (S,)
    linear : ndarray, shape (S,)
        tau G; on the sphere with the pull back to it.
    tilt : ndarray, shape (S, K)
        tau H.
    tau : ndarray, shape (S,)
    diffusion : ndarray, shape (S,)
        D = Lambda / 2.
    """

    t: Array
    linear: Array
    tilt: Array
    tau: Array
    diffusion: Array


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PdeSolution(Solution):
    """Order parameters and densities from the PDE; L loading nodes, n mesh nodes per loading.

    Attributes
    ----------
    loading_points, loading_weights : ndarray, shapes (L, K) and (L,)
        Atoms of the law of the loadings, or a quadrature of it.
    nodes : ndarray, shape (T, L, n)
        Values of w at which the densities are given; the meshes move.
    densities : ndarray, shape (T, L, n)
        p(w | a); the sum of densities times control volumes is one for every loading.
    density_error : ndarray, shape (T,)
        Estimated error of the densities in L1, mean over the loadings.
    coefficients : CoefficientHistory
    cells, flux, rtol
        The discretization that was asked for.
    """

    loading_points: Array
    loading_weights: Array
    nodes: Array
    densities: Array
    density_error: Array
    coefficients: CoefficientHistory
    cells: int
    flux: str
    rtol: float

    def density(self, t: float, loading: ArrayLike) -> Density:
        """Return p(w | a) at a stored time, on the nodes of the mesh.

        Behaviour: a loading that is a node of the run is read off; for any other the Fokker-Planck equation is solved
        from the start along the stored coefficients, with the same cells, flux and tolerance.

        Parameters
        ----------
        t : float
            One of the stored times.
        loading : float or array, shape (K,)

        Returns
        -------
        Density
            With arrays ``w`` and ``p`` of shape (n,).

        Raises
        ------
        InvalidInput
            For a time that was not stored or a loading of the wrong shape.
        """
        index = self.time_index(t)
        k = self.R.shape[2]
        a = np.atleast_1d(_checks.array("loading", loading, ndim=(0, 1)))
        if a.shape != (k,):
            raise InvalidInput("loading", loading, f"{k} number(s), one per feature")
        near = np.flatnonzero(np.isclose(self.loading_points, a, rtol=0.0, atol=1e-9).all(axis=1))
        if len(near):
            return Density(self.nodes[index, near[0]], self.densities[index, near[0]])
        # Data must not depend on solvers; a density at another loading is the one method that needs them.
        from mkvlasov.solvers.pde.density import solve_density

        return solve_density(self, t=float(self.t[index]), loading=a)
