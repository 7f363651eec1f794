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


def row_of(comparison, quantity):
    return next(row for row in comparison.rows if row.quantity == quantity)


def test_correlated_entries_are_judged_together():
    """A gap across a strong correlation of two entries is hidden in each of them and seen by the joint row.

    It is ten standard errors of the difference, a half of those of an entry, and five times the bound of the bias.
    """
    rng = np.random.default_rng(13)
    solution = drawn(rng, runs=64, spread=0.003)
    common = np.cumsum(rng.standard_normal((31, 64)), axis=0) * 3e-3 / np.sqrt(31)
    walk = np.cumsum(rng.standard_normal((31, 64)), axis=0) * 1e-4 / np.sqrt(31)
    R = truth()[1][:, None] + np.stack([common + walk, common - walk], axis=-1)[:, :, None, :]
    R[..., 0] += 3e-4 * np.tanh(T)[:, None, None]
    moved = dataclasses.replace(solution, runs=Runs(solution.runs.Q, R, solution.runs.loss), R=R.mean(axis=1))
    comparison = mv.compare(deterministic(), moved)
    assert row_of(comparison, "order parameters").verdict == "disagree"
    assert row_of(comparison, "R[0, 0]").verdict != "disagree"
    assert row_of(comparison, "R[0, 1]").verdict != "disagree"


def test_too_few_runs_are_undecided_and_the_number_advised_decides():
    few = mv.compare(deterministic(), drawn(np.random.default_rng(14), runs=16, spread=0.01), deviation=0.02)
    row = row_of(few, "R[0, 0]")
    assert row.verdict == "undecided"
    assert few.passed
    assert few.verdict == "undecided"
    advised = int(row.reason.split("(about ")[-1].split(" runs")[0].replace(",", ""))
    more = drawn(np.random.default_rng(15), runs=2 * advised, spread=0.01)
    enough = mv.compare(deterministic(), more, deviation=0.02)
    assert row_of(enough, "R[0, 0]").verdict == "agree"


def test_errors_larger_than_the_deviation_leave_deterministic_routes_undecided():
    comparison = mv.compare(deterministic(), deterministic(error=0.2))
    assert {row.verdict for row in comparison.rows} == {"undecided"}


def sized(rng, dimension, runs, bias):
    """Runs at a dimension: spread 1 / sqrt(N), bias / N in all entries from the start on."""
    solution = drawn(rng, runs=runs, spread=1.0 / np.sqrt(dimension))
    grown = bias / dimension * np.tanh(T)
    Q = solution.runs.Q + grown[:, None, None, None]
    R = solution.runs.R + grown[:, None, None, None]
    moved = Runs(Q, R, solution.runs.loss)
    return dataclasses.replace(
        solution, runs=moved, Q=Q.mean(axis=1), R=R.mean(axis=1), stats={**solution.stats, "dimension": dimension}
    )


def test_two_dimensions_are_extrapolated():
    """A bias ten times the bound at one dimension is rejected there and gone after the extrapolation."""
    rng = np.random.default_rng(16)
    one, two = sized(rng, 100.0, 6000, 40.0), sized(rng, 200.0, 6000, 40.0)
    comparison = mv.compare(deterministic(), one, two)
    joint = {row.other: row.verdict for row in comparison.rows if row.quantity == "order parameters"}
    assert joint.pop("SGD (N to infinity)") == "agree"
    assert set(joint.values()) == {"disagree"}
    assert len(joint) == 2


def theory(dimension_bias, covariance, exact=True):
    from mkvlasov.reduction.fluctuations import Fluctuations

    Q, R = truth()
    limit = np.concatenate([R[:, 0], Q[:, 0]], axis=1)
    cov = np.broadcast_to(covariance, (31, 3, 3)) * (T / 6.0 if exact else 1.0 + T)[:, None, None]
    bias = dimension_bias * np.tanh(T)[:, None] * np.ones(3)
    return Fluctuations(T, ("R[0,0]", "R[0,1]", "Q[0,0]"), limit, cov, bias, 1e-6)


def exact_start(solution):
    """The same runs from exactly the truth at time zero."""
    Q, R = solution.runs.Q.copy(), solution.runs.R.copy()
    Q[:] -= Q[:1] - truth()[0][0]
    R[:] -= R[:1] - truth()[1][0]
    return dataclasses.replace(solution, runs=Runs(Q, R, solution.runs.loss), Q=Q.mean(axis=1), R=R.mean(axis=1))


def test_the_predicted_bias_is_subtracted_and_the_predicted_spread_judged():
    solution = exact_start(sized(np.random.default_rng(17), 100.0, 6000, 40.0))
    # N times the covariance of walks of 30 steps of variance 1 / 31.
    right = np.eye(3) * 30.0 / 31.0
    comparison = mv.compare(deterministic(), solution, fluctuations=theory(40.0, right))
    assert comparison.passed, str(comparison)
    assert {row.statistic for row in comparison.rows} >= {"covariance of the runs"}
    without = mv.compare(deterministic(), solution, fluctuations=theory(0.0, right))
    assert row_of(without, "order parameters").verdict == "disagree"
    wider = mv.compare(deterministic(), solution, fluctuations=theory(40.0, 1.2 * right))
    assert row_of(wider, "spread at t = 6").verdict == "disagree"


def test_fluctuations_of_other_runs_are_refused():
    solution = exact_start(sized(np.random.default_rng(18), 100.0, 8, 0.0))
    with pytest.raises(mv.InvalidInput, match="exact_overlaps"):
        mv.compare(deterministic(), solution, fluctuations=theory(0.0, np.eye(3), exact=False))
    with pytest.raises(mv.InvalidInput, match=r"system\.fluctuations"):
        mv.compare(deterministic(), solution, fluctuations="theory")


def test_extrapolation_weights_cancel_the_first_order_with_least_variance():
    from mkvlasov.validation.tracks import extrapolation_weights

    sizes, runs = np.array([100.0, 400.0, 200.0]), np.array([50.0, 10.0, 20.0])
    weights = extrapolation_weights(sizes, runs)
    assert weights.sum() == pytest.approx(1.0)
    assert weights @ (1.0 / sizes) == pytest.approx(0.0, abs=1e-12)
    change = np.cross(np.ones(3), 1.0 / sizes)  # the only direction left free
    variance = [((weights + s * change) ** 2 / (sizes * runs)).sum() for s in (-0.1, 0.0, 0.1)]
    assert variance[1] < min(variance[0], variance[2])
    np.testing.assert_allclose(extrapolation_weights(sizes[:2], runs[:2]), [-1.0 / 3.0, 4.0 / 3.0])
