"""Spectral elements that adapt to the densities: the accurate method of `solve_pde`."""

from __future__ import annotations

from dataclasses import dataclass

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.solution import Density
from mkvlasov.solution_pde import PdeSolution
from mkvlasov.solvers.pde.task import Task


@dataclass(frozen=True, slots=True)
class SpectralElements:
    """Polynomials on elements that are halved and joined as the densities ask for; L-stable steps of order four.

    Elements end where phi' jumps or bends, and are adapted, in size and number, to the tolerance: to the spike that
    forms at a kink, to densities that move, narrow or spread. Gauss-Lobatto nodes make the mass matrix diagonal, mass
    is conserved to rounding, and for an affine drift the moments obey the closed equations exactly. Without a
    regularizer or with a quadratic one, coordinates move and stretch with the densities. Stages take their
    coefficients from extrapolated overlaps, so a step needs no iteration. A second run, to a tolerance six times
    looser, gives the error estimate.

    Not positive: densities may go below zero by about their error (``stats["smallest_density"]`` says how far).

    Parameters
    ----------
    degree : int
        Of the polynomials, 4 to 12.

    Notes
    -----
    Time steps: ARK4(3)6L[2]SA, Kennedy and Carpenter, Applied Numerical Mathematics 44, 2003.
    """

    degree: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "degree", _checks.integer("degree", self.degree, minimum=4, maximum=12))

    def solve(self, task: Task) -> PdeSolution:
        """Solve the task."""
        from mkvlasov.solvers.pde.elements.solve import solve

        return solve(task, self, self.degree)

    def density(self, solution: PdeSolution, *, t: float, loading: Array) -> Density:
        """Return p(w | a), solved for along the stored coefficients."""
        from mkvlasov.solvers.pde.elements.solve import density

        return density(solution, self.degree, t=t, loading=loading)
