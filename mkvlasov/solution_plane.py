"""The solution of the McKean-Vlasov PDE with two outputs: order parameters, joint densities, coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.density_plane import PlaneDensity
from mkvlasov.errors import InvalidInput
from mkvlasov.problem.continued import matching, on_constraint, sample_each
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.problem.plane_table import PlaneTable
from mkvlasov.problem.value import Value
from mkvlasov.solution import Solution
from mkvlasov.solution_pde import CoefficientHistory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AT_EVERY_TIME = {
    "t", "Q", "R", "Q_error", "R_error", "Q_stderr", "R_stderr", "loss", "loss_stderr",
    "origins", "axes", "coordinates", "densities", "density_error",
}  # fmt: skip


class StoredPlaneMethod(Protocol):
    """What a solution asks of the method that found it."""

    def density(self, solution: PlanePdeSolution, *, t: float, loading: Array) -> PlaneDensity:
        """Return p(w | a) at a stored time for a loading (K,) that is not a node of the run."""


@dataclass(frozen=True, eq=False, repr=False)
class PlaneEnd(Value):
    """Where a PDE solution with two outputs ended, as an initial law: its joint densities, on its loading nodes.

    The law of the loadings is that of the solution. For a loading that is not a node of it the equation is solved along
    the stored coefficients.

    Attributes
    ----------
    solution : PlanePdeSolution
        With its last time alone.
    """

    solution: PlanePdeSolution

    def check(self, problem: Problem) -> None:
        end = self.solution
        if problem.outputs != 2:
            raise InvalidInput("initial", self, f"a law of {problem.outputs} output(s) (this one has two)")
        if problem.n_features != end.R.shape[2]:
            raise InvalidInput("initial", self, f"a law of {problem.n_features} feature(s)")
        if problem.loadings != end.problem.loadings:
            raise InvalidInput("problem.loadings", problem.loadings, f"{end.problem.loadings!r}, as before")

    def overlaps(self, problem: Problem) -> tuple[Array, Array]:
        self.check(problem)
        end = self.solution
        laws = [end.law(0, i) for i in range(len(end.loading_weights))]
        Q = sum(weight * law.second_moment for weight, law in zip(end.loading_weights, laws, strict=True))
        means = np.array([law.mean for law in laws])
        return np.asarray(Q), (end.loading_weights * means.T) @ end.loading_points

    def conditional(self, loading: Array, problem: Problem) -> PlaneTable:
        self.check(problem)
        table = self.solution.density(float(self.solution.t[-1]), loading).law
        return PlaneTable(table.origin, table.axes, table.coordinates, table.p / table.masses.sum())

    def loading_nodes(self, problem: Problem, order: int) -> LoadingNodes:
        return LoadingNodes(self.solution.loading_points, self.solution.loading_weights)

    def sample(self, rng: np.random.Generator, a: Array, problem: Problem) -> Array:
        return sample_each(self, rng, a, problem)

    def sample_rows(self, rng: np.random.Generator, n: int, problem: Problem) -> tuple[Array, Array]:
        end = self.solution
        a = end.loading_points[rng.choice(len(end.loading_weights), size=n, p=end.loading_weights)]
        return self.sample(rng, a, problem), a


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PlanePdeSolution(Solution):
    """Order parameters and joint densities from the PDE with two outputs; L loading nodes, n x n cells per loading.

    Attributes
    ----------
    loading_points, loading_weights : ndarray, shapes (L, K) and (L,)
        Atoms of the law of the loadings, or a quadrature of it.
    origins, axes : ndarray, shapes (T, L, 2) and (T, L, 2, 2)
        Boxes of the densities, w = origin + axes xi; they move, stretch and turn.
    coordinates : ndarray, shape (T, L, 2, n)
        Values of xi_1 and xi_2 at the centres of the cells.
    densities : ndarray, shape (T, L, n, n)
        p(w | a) at the centres of the cells of the boxes.
    density_error : ndarray, shape (T,)
        Estimated error of the densities in L1, mean over the loadings.
    coefficients : CoefficientHistory
        With matrices: ``linear`` (S, 2, 2), ``tilt`` (S, 2, K), ``diffusion`` (S, 2, 2).
    method : StoredPlaneMethod
        With its options.
    rtol : float
    """

    loading_points: Array
    loading_weights: Array
    origins: Array
    axes: Array
    coordinates: Array
    densities: Array
    density_error: Array
    coefficients: CoefficientHistory
    method: StoredPlaneMethod
    rtol: float

    @property
    def final(self) -> InitialLaw:
        """The joint densities at the last time: an initial law to go on from, along any route.

        It keeps the loading nodes, so a run from it has no error of its own in them. Along the routes that draw, every
        row gets one of these loadings.
        """
        if not len(self.t):
            raise InvalidInput("final", self.status.message, "a solution that reached a time")
        last: dict[str, Any] = {f.name: getattr(self, f.name)[-1:] for f in fields(self) if f.name in _AT_EVERY_TIME}
        return on_constraint(PlaneEnd(replace(self, **last)), self.problem)

    def law(self, index: int, node: int) -> PlaneTable:
        """Return the law of w for a loading node at an output time, both by their index."""
        at = index, node
        return PlaneTable(self.origins[at], self.axes[at], self.coordinates[at], self.densities[at])

    def density(self, t: float, loading: ArrayLike) -> PlaneDensity:
        """Return the joint density p(w | a) at a stored time; its ``marginal(output)`` is that of one weight.

        Behaviour: a loading that is a node of the run is read off; for any other the Fokker-Planck equation is solved
        from the start along the stored coefficients, with the same method and tolerance.

        Parameters
        ----------
        t : float
            One of the stored times.
        loading : float or array, shape (K,)

        Returns
        -------
        PlaneDensity

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
        if not len(near):
            return self.method.density(self, t=float(self.t[index]), loading=a)
        law = self.law(index, near[0])
        return PlaneDensity(law.origin, law.axes, law.coordinates, law.p)

    # A thin delegate to the layers below, imported when used: the one exception to the direction of imports.

    def plot_joint_density(self, times: Sequence[float], loadings: ArrayLike | None = None) -> Figure:
        """Draw joint densities p(w_1, w_2 | a) at stored times in colours, a row per loading."""
        from mkvlasov.plotting.planes import plot_joint_densities

        return plot_joint_densities(self, times, loadings)
