"""What `solve_pde` asks of a method, checked and ready to be solved."""

from __future__ import annotations

from dataclasses import dataclass

from mkvlasov._typing import Array
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw


@dataclass(frozen=True)
class Task:
    """A problem with one output, where it starts, and what is asked for.

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
        Q beyond which weights count as blown up.
    """

    problem: Problem
    initial: InitialLaw
    t: Array
    rtol: float
    loading_order: int | None
    progress: bool
    limit: LimitCoefficients
    largest: float
