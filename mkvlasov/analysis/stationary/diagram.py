"""What a continuation of stationary states returns."""

from __future__ import annotations

from dataclasses import dataclass

from mkvlasov._typing import Array
from mkvlasov.analysis.diagram import BifurcationDiagram, FixedPointBranch
from mkvlasov.analysis.families import at_value
from mkvlasov.analysis.stationary.search import RTOL, stationary_symmetries
from mkvlasov.analysis.stationary.self_consistency import SelfConsistency
from mkvlasov.analysis.stationary.states import StationaryState, describe


@dataclass(frozen=True, eq=False)
class StationaryDiagram(BifurcationDiagram):
    """Stationary states of the PDE as functions of one parameter of the problem.

    The attributes are those of `BifurcationDiagram`, with stationary states for fixed points: `eigenvalues` are the
    leading ones of the linearized PDE (not a number where there are fewer), `residual` is the largest difference
    between the order parameters and the moments of the densities.
    """

    def state(self, branch: int, index: int) -> StationaryState:
        """Return the stationary state at a point of a branch, with its densities and stability."""
        chosen = self.branches[branch]
        assert isinstance(chosen, StationaryBranch)
        problem, _ = at_value(self.problem, self.name, float(chosen.parameter[index]))
        equations = SelfConsistency(problem, RTOL)
        x = equations.entries.pack(chosen.Q[index], chosen.R[index])
        y = equations.unknowns(x)
        if equations.on_sphere:
            y[-1] = chosen.drift[index]
        return describe(equations, stationary_symmetries(equations), y, found=1)

    def __str__(self) -> str:
        return super().__str__().replace("fixed points", "stationary states", 1)


@dataclass(frozen=True, eq=False)
class StationaryBranch(FixedPointBranch):
    """Stationary states along a curve; see `StationaryDiagram`.

    Attributes
    ----------
    drift : ndarray, shape (n,)
        Linear drift of the densities: G, on the sphere with the multiplier.
    """

    drift: Array
