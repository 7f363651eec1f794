"""What figures of many times read off a solution: the share of the weights in every interval between given edges."""

from __future__ import annotations

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.density import Density
from mkvlasov.errors import InvalidInput
from mkvlasov.plotting.loadings import LoadingGroup
from mkvlasov.solution import Solution
from mkvlasov.solution_ode import OdeSolution
from mkvlasov.solution_pde import PdeSolution
from mkvlasov.solution_plane import PlanePdeSolution
from mkvlasov.solution_runs import RunsSolution

_HIDDEN_TAIL = 2e-3
"""Mass on either side that may lie outside of a figure."""


def times_of(solution: Solution) -> Array:
    """Return the times at which the solution knows the law of the weights; raises `InvalidInput` if there are none."""
    times = solution.snapshots.t if isinstance(solution, RunsSolution) else solution.t
    if not len(times):
        raise InvalidInput("solution", solution, "a solution with densities (simulations: pass snapshots=[...])")
    return times


def density_of(solution: PdeSolution | PlanePdeSolution, t: float, loading: Array, output: int) -> Density:
    """Return the density of the weights of one output at a stored time."""
    if isinstance(solution, PdeSolution):
        return solution.density(t, loading)
    return solution.density(t, loading).marginal(output)


def interval_masses(solution: Solution, t: float, group: LoadingGroup, output: int, edges: Array) -> Array:
    """Return the masses (n,) between the edges (n + 1,) at a stored time; narrow spikes and atoms count as they are."""
    if isinstance(solution, RunsSolution):
        histogram = solution.histogram(t, group.selection, bins=edges, output=output)
        return histogram.density * np.diff(edges)
    total = np.zeros(len(edges) - 1)
    for point, weight in zip(group.points, group.weights, strict=True):
        if isinstance(solution, OdeSolution):
            cumulative = solution.law(t, point).marginal(output).cdf(edges)
        elif isinstance(solution, (PdeSolution, PlanePdeSolution)):
            cumulative = density_of(solution, t, point, output).cdf(edges)
        else:
            raise InvalidInput("solution", solution, "a solution with densities")
        total += weight * np.diff(cumulative)
    return total


def reach(solution: Solution, t: float, group: LoadingGroup, output: int) -> tuple[float, float]:
    """Return between which weights all but little of the mass lies at a stored time."""
    if isinstance(solution, RunsSolution):
        histogram = solution.histogram(t, group.selection, bins=400, output=output)
        low, high = histogram.quantile([_HIDDEN_TAIL, 1.0 - _HIDDEN_TAIL])
        return float(low), float(high)
    ends = []
    for point in group.points:
        if isinstance(solution, OdeSolution):
            ends.append(solution.law(t, point).marginal(output).ends(_HIDDEN_TAIL))
        elif isinstance(solution, (PdeSolution, PlanePdeSolution)):
            low, high = density_of(solution, t, point, output).quantile([_HIDDEN_TAIL, 1.0 - _HIDDEN_TAIL])
            ends.append((float(low), float(high)))
    return min(low for low, _ in ends), max(high for _, high in ends)
