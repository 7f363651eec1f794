"""The comparison of routes on synthetic solutions, where the truth and the spread are chosen."""

import dataclasses

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.solution import Status
from mkvlasov.solution_ode import OdeSolution
from mkvlasov.solution_runs import Runs, SgdSolution, Snapshots

PROBLEM = mv.Problem(hidden=mv.hidden.Rademacher([4.0, 3.0]), activation="tanh", learning_rate=0.4)
INITIAL = mv.initial.Gaussian(1.0, [0.3, 0.2])
T = np.linspace(0.0, 6.0, 31)


def truth():
    R = np.stack([0.3 + 0.4 * np.tanh(T / 2.0), 0.2 * np.exp(-T / 3.0)], axis=-1)[:, None, :]
    return (1.0 + 0.3 * np.tanh(T))[:, None, None], R


def deterministic(error=1e-6, **changes):
    Q, R = truth()
    fields = {
        "route": "ode",
        "problem": PROBLEM,
        "initial": INITIAL,
        "t": T,
        "Q": Q,
        "R": R,
        "Q_error": np.full_like(Q, error),
        "R_error": np.full_like(R, error),
        "Q_stderr": np.zeros_like(Q),
        "R_stderr": np.zeros_like(R),
        "loss": np.zeros(31),
        "loss_stderr": np.zeros(31),
        "status": Status(True, "reached t = 6"),
        "stats": {"seconds": 0.0, "error_estimate": error},
        "A": np.ones_like(Q),
        "C": R,
        "P": Q,
    }
    return OdeSolution(**{**fields, **changes})


def drawn(rng, runs=16, spread=0.03, shift=0.0):
    """Runs around the truth with errors that are random walks in time, as those of SGD nearly are."""
    Q, R = truth()
    walk = np.cumsum(rng.standard_normal((31, runs, 3)), axis=0) * spread / np.sqrt(31)
    run_Q = Q[:, None] + walk[..., :1, None]
    run_R = R[:, None] + walk[..., None, 1:] + shift * np.tanh(T)[:, None, None, None]
    stderr = [x.std(axis=1, ddof=1) / np.sqrt(runs) for x in (run_Q, run_R)]
    return SgdSolution(
        route="sgd",
        problem=PROBLEM,
        initial=INITIAL,
        t=T,
        Q=run_Q.mean(axis=1),
        R=run_R.mean(axis=1),
        Q_error=np.zeros_like(Q),
        R_error=np.zeros_like(R),
        Q_stderr=stderr[0],
        R_stderr=stderr[1],
        loss=np.zeros(31),
        loss_stderr=np.zeros(31),
        status=Status(True, "reached t = 6"),
        stats={"seconds": 0.0, "error_estimate": 0.0},
        runs=Runs(run_Q, run_R, np.zeros((31, runs))),
        snapshots=Snapshots(np.zeros(0), np.zeros((0, runs, 1, 1)), np.zeros((runs, 1, 2))),
    )


def test_false_alarms_stay_below_the_stated_rate():
    """At alpha = 0.1 (with 31 correlated times Bonferroni is conservative): at most 10% of 200 tables, plus 3 sigma."""
    rng = np.random.default_rng(11)
    alarms = sum(not mv.compare(deterministic(), drawn(rng), alpha=0.1).passed for _ in range(200))
    assert alarms <= 20 + 3 * np.sqrt(200 * 0.1 * 0.9)


def test_a_shift_of_two_spreads_of_a_single_run_is_seen():
    rng = np.random.default_rng(12)
    assert not any(mv.compare(deterministic(), drawn(rng, shift=0.06)).passed for _ in range(20))


def test_deterministic_solutions_are_judged_by_their_own_errors():
    moved = deterministic(R=truth()[1] + 1.5e-6)
    assert mv.compare(deterministic(), moved).passed
    beyond = deterministic(R=truth()[1] + 2.5e-6)
    comparison = mv.compare(deterministic(), beyond)
    assert not comparison.passed
    assert {row.quantity for row in comparison.rows if not row.passed} >= {"R[0, 0]", "R[0, 1]"}
    assert "DISAGREE" in str(comparison)
    assert all("Q" not in row.quantity for row in comparison.rows if not row.passed)


def test_a_run_that_ended_early_fails_the_comparison():
    ended = Status(False, "diverged at t = 2")
    other = dataclasses.replace(deterministic(), status=ended)
    comparison = mv.compare(deterministic(), other)
    assert not comparison.passed
    assert "diverged at t = 2" in str(comparison)
    assert not mv.compare(other, deterministic()).passed


def test_nan_never_passes():
    R = truth()[1].copy()
    R[7, 0, 0] = np.nan
    assert not mv.compare(deterministic(), deterministic(R=R)).passed


def test_an_error_that_is_not_known_allows_nothing():
    R = truth()[1]
    unknown = np.full_like(R, 1e-6)
    unknown[20:] = np.inf
    assert not mv.compare(deterministic(), deterministic(R_error=unknown)).passed


def test_solutions_must_share_times_and_shapes():
    with pytest.raises(mv.InvalidInput, match="same output times"):
        mv.compare(deterministic(), deterministic(t=T + 0.1))
    with pytest.raises(mv.InvalidInput, match="shape"):
        mv.compare(deterministic(), deterministic(R=np.zeros((31, 1, 1))))
    with pytest.raises(mv.InvalidInput, match="at least one other"):
        mv.compare(deterministic())
    with pytest.raises(mv.InvalidInput, match="at least 2 runs"):
        mv.compare(deterministic(), one_run())


def one_run():
    solution = drawn(np.random.default_rng(1), runs=2)
    first = Runs(solution.runs.Q[:, :1], solution.runs.R[:, :1], solution.runs.loss[:, :1])
    return dataclasses.replace(solution, runs=first)
