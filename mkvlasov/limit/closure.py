"""Whether the moment equations close (docs/theory.md, section 4)."""

from __future__ import annotations

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
