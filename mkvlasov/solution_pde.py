"""The solution of the McKean-Vlasov PDE with one output: order parameters, densities, coefficients along the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import InvalidInput
from mkvlasov.solution import Density, Solution

if TYPE_CHECKING:
    from mkvlasov.solvers.pde.task import Task


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


@runtime_checkable
class PdeMethod(Protocol):
    """How the PDE is solved: a small frozen dataclass that is stored with its solutions."""

    def solve(self, task: Task) -> PdeSolution:
        """Solve the task; a run that ends early says so in the status."""

    def density(self, solution: PdeSolution, *, t: float, loading: Array) -> Density:
        """Return p(w | a) at a stored time for a loading (K,) that is not a node of the run."""


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
        p(w | a) at the nodes.
    quadrature : ndarray, shape (T, L, n)
        Weights of the nodes; their sum with the densities is one for every loading.
    density_error : ndarray, shape (T,)
        Estimated error of the densities in L1, mean over the loadings.
    coefficients : CoefficientHistory
    method : PdeMethod
        With its options.
    rtol : float
    """

    loading_points: Array
    loading_weights: Array
    nodes: Array
    densities: Array
    quadrature: Array
    density_error: Array
    coefficients: CoefficientHistory
    method: PdeMethod
    rtol: float

    def density(self, t: float, loading: ArrayLike) -> Density:
        """Return p(w | a) at a stored time, on the nodes of the mesh.

        Behaviour: a loading that is a node of the run is read off; for any other the Fokker-Planck equation is solved
        from the start along the stored coefficients, with the same method and tolerance.

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
        return self.method.density(self, t=float(self.t[index]), loading=a)
