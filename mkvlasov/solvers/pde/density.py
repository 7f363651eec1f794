"""The density of one more loading, along the coefficients that a run left behind."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator

from mkvlasov._typing import Array
from mkvlasov.solution import Density
from mkvlasov.solution_pde import CoefficientHistory, PdeSolution
from mkvlasov.solvers.pde.fluxes import volumes
from mkvlasov.solvers.pde.rates import Rates
from mkvlasov.solvers.pde.run import run
from mkvlasov.solvers.pde.scout import scout
from mkvlasov.solvers.pde.setup import equations_of


class StoredRates:
    """Rates interpolated in time: smooth, and never a negative diffusion between positive ones."""

    def __init__(self, history: CoefficientHistory) -> None:
        table = np.column_stack([history.linear, history.tau, history.diffusion, history.tilt])
        self._end = float(history.t[-1])
        # A run that was asked for its start only has one entry.
        self._rows = PchipInterpolator(history.t, table, axis=0) if len(table) > 1 else lambda t: table[0]

    def __call__(self, t: float, moments: Array) -> Rates:
        row = self._rows(min(t, self._end))
        return Rates(linear=float(row[0]), tau=float(row[1]), diffusion=float(row[2]), tilt=row[3:])


def solve_density(solution: PdeSolution, *, t: float, loading: Array) -> Density:
    """Return p(w | a) at time t by solving one Fokker-Planck equation along the stored coefficients.

    Parameters
    ----------
    solution : PdeSolution
    t : float
        Not beyond the end of the solution.
    loading : ndarray, shape (K,)
    """
    problem = solution.problem
    equations = equations_of(
        problem, loading[None], np.ones(1), rates=StoredRates(solution.coefficients), flux=solution.flux
    )
    law = solution.initial.conditional(loading, problem)
    # The meshes are built along the scout's times, so there must be some even if only the start is asked for.
    horizon = t if t > 0.0 else float(solution.t[-1]) or 1.0
    outline = scout(equations, [law], end=horizon, kinked=bool(problem.regularizer.kinks), largest_second_moment=np.inf)
    result = run(
        equations,
        [law],
        outline,
        kinks=problem.regularizer.kinks,
        cells=solution.cells,
        outputs=np.array([t]),
        tolerance=solution.rtol,
        largest_second_moment=np.inf,
    )
    nodes, mass = result.path.snapshot_nodes[-1][0], result.path.snapshot_mass[-1][0]
    return Density(nodes, mass / volumes(np.diff(nodes)[None])[0])
