"""What `solve_pde` asks of a method, checked and ready to be solved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mkvlasov._typing import Array
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw
from mkvlasov.solution_pde import PdeSolution, StoredMethod


@dataclass(frozen=True)
class Task:
    """A problem, where it starts, and what is asked for.

    Attributes
    ----------
    problem : Problem
    initial : InitialLaw
    t : ndarray, shape (T,)
        Output times, increasing, not negative.
    rtol : float
    loading_order : int or None
        Quadrature nodes per feature for loadings without atoms; None leaves it to the method.
    progress : bool
    limit : LimitCoefficients
        To a tolerance well below `rtol`.
    largest : float
        Trace of Q beyond which weights count as blown up.
    """

    problem: Problem
    initial: InitialLaw
    t: Array
    rtol: float
    loading_order: int | None
    progress: bool
    limit: LimitCoefficients
    largest: float


@runtime_checkable
class PdeMethod(StoredMethod, Protocol):
    """How the PDE is solved: a small frozen dataclass that is stored with its solutions."""

    def solve(self, task: Task) -> PdeSolution:
        """Solve the task; a run that ends early says so in the status."""
