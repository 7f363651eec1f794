"""The solution of the McKean-Vlasov PDE with one output: order parameters, densities, coefficients along the way."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.density import Density
from mkvlasov.errors import InvalidInput
from mkvlasov.problem.continued import Tabulated, matching, on_constraint, sample_each
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.problem.tabulated import TabulatedLaw
from mkvlasov.problem.value import Value
from mkvlasov.solution import Solution

_AT_EVERY_TIME = {
    "t", "Q", "R", "Q_error", "R_error", "Q_stderr", "R_stderr", "loss", "loss_stderr",
    "nodes", "densities", "quadrature", "density_error",
}  # fmt: skip


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


class StoredMethod(Protocol):
    """What a solution asks of the method that found it."""

    def density(self, solution: PdeSolution, *, t: float, loading: Array) -> Density:
        """Return p(w | a) at a stored time for a loading (K,) that is not a node of the run."""


@dataclass(frozen=True, eq=False, repr=False)
class PdeEnd(Value):
    """Where a PDE solution ended, as an initial law: its densities, on its loading nodes.

    The law of the loadings is that of the solution. For a loading that is not a node of it the equation is solved along
    the stored coefficients.

    Attributes
    ----------
    solution : PdeSolution
        With its last time alone.
    """

    solution: PdeSolution

    @cached_property
    def table(self) -> Tabulated:
        """The densities at the end."""
        end = self.solution
        w, p, rule = end.nodes[-1], end.densities[-1], end.quadrature[-1]
        return Tabulated(end.loading_points, end.loading_weights, w, p, rule)

    def check(self, problem: Problem) -> None:
        self.table.check(problem)
        if problem.loadings != self.solution.problem.loadings:
            raise InvalidInput("problem.loadings", problem.loadings, f"{self.solution.problem.loadings!r}, as before")

    def overlaps(self, problem: Problem) -> tuple[Array, Array]:
        return self.table.overlaps(problem)

    def conditional(self, loading: Array, problem: Problem) -> TabulatedLaw:
        density = self.solution.density(float(self.solution.t[-1]), loading)
        p = density.p / float(density.weights @ density.p)
        return TabulatedLaw(density.w, p, density.weights, kinks=density.kinks)

    def loading_nodes(self, problem: Problem, order: int) -> LoadingNodes:
        return self.table.loading_nodes(problem, order)

    def sample(self, rng: np.random.Generator, a: Array, problem: Problem) -> Array:
        return sample_each(self, rng, a, problem)

    def sample_rows(self, rng: np.random.Generator, n: int, problem: Problem) -> tuple[Array, Array]:
        return self.table.sample_rows(rng, n, problem)


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
    method : StoredMethod
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
    method: StoredMethod
    rtol: float

    @property
    def final(self) -> InitialLaw:
        """The densities at the last time: an initial law to go on from, along any route.

        It keeps the loading nodes, so a run from it has no error of its own in them. Along the routes that draw, every
        row gets one of these loadings.
        """
        if not len(self.t):
            raise InvalidInput("final", self.status.message, "a solution that reached a time")
        last: dict[str, Any] = {f.name: getattr(self, f.name)[-1:] for f in fields(self) if f.name in _AT_EVERY_TIME}
        return on_constraint(PdeEnd(replace(self, **last)), self.problem)

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
        near = matching(self.loading_points, a)
        if len(near):
            at = index, near[0]
            found = Density(self.nodes[at], self.densities[at], self.quadrature[at])
        else:
            found = self.method.density(self, t=float(self.t[index]), loading=a)
        return Density(found.w, found.p, found.weights, self.problem.regularizer.kinks)
