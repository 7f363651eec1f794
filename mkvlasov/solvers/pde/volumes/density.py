"""The density of one more loading, along the coefficients that a run left behind."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator

from mkvlasov._typing import Array
from mkvlasov.density import Density
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.solution_pde import CoefficientHistory, PdeSolution
from mkvlasov.solvers.pde.volumes.fluxes import Scheme, volumes
from mkvlasov.solvers.pde.volumes.rates import Rates
from mkvlasov.solvers.pde.volumes.run import run
from mkvlasov.solvers.pde.volumes.scout import scout
from mkvlasov.solvers.pde.volumes.setup import family_of


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


def solve_density(solution: PdeSolution, *, t: float, loading: Array, cells: int, scheme: Scheme) -> Density:
    """Return p(w | a) at time t by solving one Fokker-Planck equation along the stored coefficients.

    Parameters
    ----------
    solution : PdeSolution
    t : float
        Not beyond the end of the solution.
    loading : ndarray, shape (K,)
    cells : int
    scheme : Scheme
    """
    family = family_of(
        solution.problem,
        solution.initial,
        LoadingNodes(loading[None], np.ones(1)),
        rates=StoredRates(solution.coefficients),
        scheme=scheme,
        largest=np.inf,
    )
    # The meshes are built along the scout's times, so there must be some even if only the start is asked for.
    outline = scout(family, t if t > 0.0 else float(solution.t[-1]) or 1.0)
    path = run(family, outline, cells=cells, outputs=np.array([t]), tolerance=solution.rtol).path
    nodes, mass = path.snapshot_nodes[-1][0], path.snapshot_mass[-1][0]
    return Density(nodes, mass / volumes(np.diff(nodes)[None])[0])
