"""Whether the moment equations close (docs/theory.md, section 4)."""

from __future__ import annotations

from mkvlasov.errors import ClosureError, InvalidInput
from mkvlasov.problem.contrastive import Problem


def closure_obstacles(problem: Problem) -> tuple[str, ...]:
    """Return the reasons why dQ/dt and dR/dt are not functions of (Q, R); empty if the moments close.

    The drift of w is linear but for phi'; schedules, batches, any loss and the sphere keep that. So the only obstacle
    is a regularizer that is not quadratic: its E[phi'(w) a^T] and E[phi'(w) w^T] need the whole density.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    tuple of str
        One sentence per obstacle.
    """
    if problem.regularizer.linear_strength is not None:
        return ()
    return (
        f"the regularizer {problem.regularizer!r} has a gradient phi'(w) that is not linear in w, so E[phi'(w) a^T] "
        "and E[phi'(w) w^T] depend on the whole density and not on (Q, R) alone",
    )


def require_closure(problem: object) -> float:
    """Return kappa, the strength of the L2 regularizer (0 without one), if the moments close.

    Raises
    ------
    ClosureError
        If they do not; names the terms and points to the PDE.
    """
    if not isinstance(problem, Problem):
        raise InvalidInput("problem", problem, "a mkvlasov.Problem")
    kappa = problem.regularizer.linear_strength
    if kappa is None:
        reasons = "; ".join(closure_obstacles(problem))
        raise ClosureError(f"the moment equations do not close: {reasons}. Use solve_pde (or simulate_particles).")
    return kappa
