"""Splitting over directions in boxes that follow the densities: the method of `solve_pde` for two outputs."""

from __future__ import annotations

from dataclasses import dataclass

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.density_plane import PlaneDensity
from mkvlasov.errors import InvalidInput
from mkvlasov.solution_plane import PlanePdeSolution
from mkvlasov.solvers.pde.task import Task

_FEWEST_CELLS, _MOST_CELLS = 24, 1024


@dataclass(frozen=True, slots=True)
class PlaneSplitting:
    """Strang splitting over three directions of a grid, in a box per loading that moves, stretches and turns.

    The box follows mean and covariance of its density, moved by the part of the drift that is affine in w, so that
    narrow or tilted bumps stay as wide in cells as they were; without a regularizer or with a quadratic one nothing is
    left but the change of shape. In the coordinates of the box the diffusion matrix is a sum of squares of three
    integer directions with positive weights (Selling's decomposition), and every step solves tridiagonal systems along
    their lines, by TR-BDF2. Mass is conserved to rounding. A run on half the cells with steps twice as long gives the
    error estimate.

    Where phi has kinks, the accurate kind takes graded meshes along the axes of w instead, whose nodes gather at the
    ridges that form there, and the splitting of Hundsdorfer and Verwer.

    Parameters
    ----------
    cells : int
        Per direction and loading, even, 24 to 1024.
    positive : bool
        False: central fluxes, and the two runs extrapolated to better than second order; densities may go below zero
        where a bump or a ridge at a kink is narrower than two cells. True: exponentially fitted fluxes and, where
        TR-BDF2 would go below zero, implicit Euler; never negative, but diffusive wherever drift dominates diffusion
        over a cell.

    Notes
    -----
    Selling, J. Reine Angew. Math. 77, 1874; for Fokker-Planck equations: Bonnans, Bonnet and Mirebeau, 2022. Fluxes:
    Scharfetter and Gummel, IEEE Trans. Electron Devices 16, 1969. docs/two-outputs.md.
    """

    cells: int = 96
    positive: bool = False

    def __post_init__(self) -> None:
        cells = _checks.integer("cells", self.cells, minimum=_FEWEST_CELLS, maximum=_MOST_CELLS)
        if cells % 2:
            raise InvalidInput("cells", self.cells, "an even integer, since a run on half of them gives the error")
        object.__setattr__(self, "cells", cells)
        object.__setattr__(self, "positive", _checks.flag("positive", self.positive))

    def solve(self, task: Task) -> PlanePdeSolution:
        """Solve the task."""
        from mkvlasov.solvers.pde.plane.solve import solve

        return solve(task, self, cells=self.cells, positive=self.positive)

    def density(self, solution: PlanePdeSolution, *, t: float, loading: Array) -> PlaneDensity:
        """Return p(w | a), solved for along the stored coefficients."""
        from mkvlasov.solvers.pde.plane.solve import density

        return density(solution, cells=self.cells, positive=self.positive, t=t, loading=loading)
