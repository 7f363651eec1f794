"""What is given to a figure: one or several solutions of problems of one shape."""

from __future__ import annotations

from collections.abc import Sequence

from mkvlasov.errors import InvalidInput
from mkvlasov.solution import Solution


def one_solution(solution: Solution) -> Solution:
    """Return the solution, if it is one."""
    if not isinstance(solution, Solution):
        raise InvalidInput("solution", solution, "a solution")
    return solution


def several_solutions(solutions: Sequence[Solution]) -> list[Solution]:
    """Return the solutions, if there are any, with equal numbers of outputs and features."""
    allowed = "a list of one or more solutions"
    if not isinstance(solutions, Sequence) or not solutions or not all(isinstance(s, Solution) for s in solutions):
        raise InvalidInput("solutions", solutions, allowed)
    if len({s.R.shape[1:] for s in solutions}) > 1:
        raise InvalidInput("solutions", list(solutions), f"{allowed} with equal numbers of outputs and features")
    return list(solutions)
