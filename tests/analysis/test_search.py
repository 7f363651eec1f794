"""Searches against closed forms and dense grids; the times and states behind them against other integrators."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import mkvlasov as mv
from mkvlasov.analysis.approach import march

PAPER, START = mv.read_problem("contrastive")
SEARCH_RTOL, TIGHT = 1e-7, 1e-11


def _search(problem, over, goal, **options):
    return mv.search(problem, options.pop("initial", START), over=over, goal=goal, progress=False, **options)


# A linear activation on the sphere, K = 1, by hand from docs/theory.md, sections 3 and 9: with p = R^2, D = v - eta,
# dp/dt = 2 p [2 tau D (1 - p) - L / 2], L = 2 tau^2 [T11 (u + s^2) + T12 (u + rho s^2)], u = eta + D p: a logistic
# equation dp/dt = p (a - b p).
V, ETA, S, RHO = 3.0, 1.0, 0.5, -0.5
LINEAR = mv.Problem(
    hidden=mv.hidden.Rademacher(V), activation="identity", learning_rate=0.1, constraint="sphere",
    augmentation=mv.augmentations.GaussianNoise(S, RHO), background_variance=ETA,
)  # fmt: skip
P_START = 0.04
LINEAR_START = mv.initial.Gaussian(Q=1.0, R=[[np.sqrt(P_START)]])


def _logistic(tau, batch=1):
    T11, T12, D = ETA + S * S, ETA + RHO * S * S, V - ETA
    noise = 2.0 * tau**2 / batch
    a = 4.0 * tau * D - noise * (T11 * (ETA + S * S) + T12 * (ETA + RHO * S * S))
    b = 4.0 * tau * D + noise * D * (T11 + T12)
    return a, b


def _squared_at(t, tau, batch=1):
    a, b = _logistic(tau, batch)
    return a / (b + (a / P_START - b) * np.exp(-a * t))


def _time_to(cosine, tau):
    a, b = _logistic(tau)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.log((a / P_START - b) / (a / cosine**2 - b)) / a
    return t if a > 0.0 and a / b > cosine**2 else np.inf


def test_goals_have_the_values_of_the_logistic_equation():
    a, b = _logistic(0.1)
    found = mv.goals.CosineAt(2.0).evaluate(LINEAR, LINEAR_START, TIGHT)
    assert found.value == pytest.approx(np.sqrt(_squared_at(2.0, 0.1)), abs=1e-9)
    found = mv.goals.TimeToReach(0.7).evaluate(LINEAR, LINEAR_START, TIGHT)
    assert found.value == pytest.approx(_time_to(0.7, 0.1), abs=1e-9)
    found = mv.goals.SteadyCosine().evaluate(LINEAR, LINEAR_START, TIGHT)
    assert found.value == pytest.approx(np.sqrt(a / b), abs=1e-9)


def test_the_best_constant_rate_is_that_of_the_closed_form():
    for goal, exact in (
        (mv.goals.TimeToReach(0.7), lambda tau: _time_to(0.7, tau)),
        (mv.goals.CosineAt(3.0), lambda tau: -np.sqrt(_squared_at(3.0, tau))),
    ):
        best = minimize_scalar(exact, bounds=(0.1, 0.6), method="bounded", options={"xatol": 1e-10})
        found = _search(LINEAR, {"learning_rate": (0.02, 1.5)}, goal, initial=LINEAR_START, evaluations=150)
        assert found.status == "converged"
        assert found.value == pytest.approx(abs(best.fun), abs=1e-8)
        assert found.error < 1e-8
        # At the minimum the goal is flat: errors of the search of 1e-7 leave the rate open to their root.
        assert found.best["learning_rate"] == pytest.approx(best.x, rel=3e-3)
        low, high = found.flat["learning_rate"]
        assert low <= found.best["learning_rate"] <= high
        assert not found.at_bounds


def test_a_dense_grid_in_two_dimensions_holds_nothing_better():
    goal = mv.goals.TimeToReach(0.7)
    over = {"learning_rate": (0.05, 1.0), "augmentation.correlation": (-1.0, 1.0)}
    found = _search(LINEAR, over, goal, initial=LINEAR_START, evaluations=120)
    values = [
        goal.evaluate(
            replace(LINEAR, learning_rate=tau, augmentation=mv.augmentations.GaussianNoise(S, rho)), LINEAR_START, 1e-7
        ).value
        for tau in np.geomspace(0.05, 1.0, 17)
        for rho in np.linspace(-1.0, 1.0, 5)
    ]
    assert found.value <= min(values) + 1e-6
    assert found.value > min(values) - 0.05  # and the grid is not far away
    assert found.best["augmentation.correlation"] == -1.0  # Lambda falls with rho for weak noise
    assert found.at_bounds == ("augmentation.correlation",)


def test_integers_are_integers_and_the_best_of_them():
    """At a given rate the diffusion falls with the batch: the largest is best, whatever the steps of the optimizer."""
    over = {"batch_size": (1, 40), "learning_rate": (0.3, 0.6)}
    found = _search(LINEAR, over, mv.goals.CosineAt(1.0), initial=LINEAR_START, evaluations=150)
    batches = found.parameters[:, 0]
    assert (batches == np.round(batches)).all()
    assert found.best["batch_size"] == 40
    assert found.problem.batch_size == 40
    best = minimize_scalar(
        lambda tau: -np.sqrt(_squared_at(1.0, tau, 40)), bounds=(0.3, 0.6), method="bounded", options={"xatol": 1e-10}
    )
    assert found.value == pytest.approx(-best.fun, abs=1e-7)
    only = _search(LINEAR, {"batch_size": (1, 7)}, mv.goals.CosineAt(1.0), initial=LINEAR_START, evaluations=20)
    assert only.best["batch_size"] == 7
    assert len(only.ranks) <= 7  # no batch is tried twice


def test_times_to_reach_are_crossings_of_a_fine_grid():
    """On a trajectory with competition of two features, against solve_ode."""
    goal = mv.goals.TimeToReach(0.9)
    schedule = mv.schedules.PiecewiseLinear([1.0, 2.0, 4.0], [0.3, 1.0, 0.5])
    for problem in (PAPER, replace(PAPER, learning_rate=schedule), replace(PAPER, constraint="sphere")):
        value = goal.evaluate(problem, START, SEARCH_RTOL).value
        t = np.linspace(0.0, 8.0, 801)
        cosine = mv.solve_ode(problem, START, t_eval=t, rtol=1e-10, progress=False).cosine_similarity[:, 0, 0]
        (before,) = np.nonzero((cosine[:-1] < 0.9) & (cosine[1:] >= 0.9))
        assert len(before) == 1

        k = before[0]
        exact = np.interp(0.9, cosine[k : k + 2], t[k : k + 2])
        # Linear over 0.01: (0.01)^2 / 8 times the curvature over the slope, which is of order one.
        assert value == pytest.approx(exact, abs=5e-5)


def test_steady_cosines_are_late_times_of_the_ode():
    goal = mv.goals.SteadyCosine(feature=0)
    for problem in (PAPER, replace(PAPER, hidden=mv.hidden.Gaussian([4.0, 4.0]))):  # the second one with a continuum
        found = goal.evaluate(problem, START, SEARCH_RTOL)
        late = mv.solve_ode(problem, START, t_eval=[100.0], rtol=1e-10, progress=False)
        assert found.value == pytest.approx(late.cosine_similarity[-1, 0, 0], abs=1e-6)


@pytest.mark.parametrize("start", [[[0.0, 0.0]], [[0.3, 0.3]]])
def test_a_start_on_the_way_to_a_saddle_is_not_called_steady(start):
    """Without overlaps the trajectory never leaves R = 0; between two equal features it ends where both are known."""
    equal = replace(PAPER, hidden=mv.hidden.Rademacher([4.0, 4.0]))
    found = mv.goals.SteadyCosine(t_max=40.0).evaluate(equal, mv.initial.Gaussian(Q=1.0, R=start), SEARCH_RTOL)
    assert found.ended == "missed"
    assert "not settled" in found.message
    assert 1.0 < found.rank <= 2.0


def test_schedules_are_at_least_as_good_as_the_best_constant_rate():
    goal, bounds = mv.goals.CosineAt(4.0), (0.05, 4.0)
    constant = _search(PAPER, {"learning_rate": bounds}, goal, evaluations=60)
    flat = mv.schedules.PiecewiseLinear([0.0, 4.0], [1.0, 1.0])
    names = ("learning_rate.rates[0]", "learning_rate.rates[1]")
    scheduled = _search(replace(PAPER, learning_rate=flat), dict.fromkeys(names, bounds), goal, evaluations=120)
    assert scheduled.value >= constant.value
    first, second = (scheduled.best[name] for name in names)
    assert first > constant.best["learning_rate"] > second  # fast at the beginning, quiet at the end
    ode = mv.solve_ode(scheduled.problem, START, t_eval=[4.0], rtol=1e-9, progress=False)
    assert ode.cosine_similarity[-1, 0, 0] == pytest.approx(scheduled.value, abs=1e-6)


def test_those_that_miss_are_ranked_by_how_near_they_came():
    goal = mv.goals.TimeToReach(0.9999, t_max=20.0)
    found = _search(PAPER, {"learning_rate": (0.05, 2.0)}, goal, evaluations=60)
    assert found.counts == {"missed": len(found.ranks)}
    assert found.value == np.inf
    assert "not reached" in str(found)
    assert (found.ranks > goal.t_max).all()
    largest = []
    for rate in found.parameters[:4, 0]:
        ode = mv.solve_ode(
            replace(PAPER, learning_rate=rate), START, t_eval=np.linspace(0.0, 20.0, 401), progress=False
        )
        largest.append(ode.cosine_similarity[:, 0, 0].max())
    assert (np.argsort(found.ranks[:4]) == np.argsort(largest)[::-1]).all()


def test_trajectories_that_diverge_come_last_and_are_counted():
    """Without decay a linear activation off the sphere grows for ever; with much it does not."""
    free = replace(LINEAR, constraint=None, regularizer=mv.regularizers.L2(6.0))
    goal = mv.goals.CosineAt(40.0)
    found = _search(free, {"regularizer.strength": (0.1, 12.0)}, goal, initial=LINEAR_START, evaluations=60)
    assert found.counts["failed"] > 0
    assert found.counts["reached"] > 0
    assert found.ranks[found.ended == "failed"].min() > found.ranks[found.ended == "reached"].max()
    assert np.isnan(found.values[found.ended == "failed"]).all()


def test_searches_repeat_and_another_seed_finds_the_same():
    over, goal = {"learning_rate": (0.02, 4.0)}, mv.goals.TimeToReach(0.9)
    first, again, other = (_search(PAPER, over, goal, evaluations=60, rng=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.parameters, again.parameters)
    assert not np.array_equal(first.parameters[:5], other.parameters[:5])
    assert other.value == pytest.approx(first.value, rel=1e-5)


def test_an_interrupted_search_keeps_the_best_so_far():
    class Interrupted(mv.goals.CosineAt):
        calls = 0

        def evaluate(self, problem, initial, rtol):
            type(self).calls += 1
            if self.calls == 9:
                raise KeyboardInterrupt
            return super().evaluate(problem, initial, rtol)

    found = _search(LINEAR, {"learning_rate": (0.02, 1.5)}, Interrupted(3.0), initial=LINEAR_START)
    assert found.status == "interrupted after 8 evaluations"
    assert len(found.ranks) == 8
    assert found.value == pytest.approx(np.max(found.values), abs=1e-6)


def test_the_budget_is_kept_and_said():
    over = {f"learning_rate.rates[{i}]": (0.02, 4.0) for i in range(3)}
    problem = replace(LINEAR, learning_rate=mv.schedules.PiecewiseLinear([0.0, 1.0, 2.0], [0.1] * 3))
    found = _search(problem, over, mv.goals.CosineAt(2.0), initial=LINEAR_START, evaluations=45)
    assert len(found.ranks) == 45
    assert found.status == "stopped after 45 evaluations"


def test_steps_do_not_cross_kinks_of_the_schedule():
    schedule = mv.schedules.PiecewiseLinear([0.0, 1.0, 2.5], [0.1, 0.5, 0.2])
    pieces = list(march(replace(LINEAR, learning_rate=schedule), np.array([0.2, 1.0]), 4.0, 1e-8))
    ends = np.array([piece.times[-1] for piece in pieces])
    assert {1.0, 2.5, 4.0} <= set(ends.tolist())
    starts = [piece.times[0] for piece in pieces]
    np.testing.assert_array_equal(starts[1:], ends[:-1])


@pytest.mark.parametrize(
    ("problem", "over", "goal", "field"),
    [
        (PAPER, {}, mv.goals.CosineAt(1.0), "over"),
        (PAPER, {"learning_rate": (1.0, 0.5)}, mv.goals.CosineAt(1.0), "over"),
        (PAPER, {"learning_rate": (-1.0, 0.5)}, mv.goals.CosineAt(1.0), "learning_rate"),
        (PAPER, {"batch_size": (1, 2.5)}, mv.goals.CosineAt(1.0), "over"),
        (PAPER, {"batch_size": (0, 3)}, mv.goals.CosineAt(1.0), "batch_size"),
        (PAPER, {"nothing": (0.0, 1.0)}, mv.goals.CosineAt(1.0), "name"),
        (PAPER, {"learning_rate": (0.1, 1.0)}, mv.goals.CosineAt(1.0, feature=2), "goal.feature"),
        (PAPER, {"learning_rate": (0.1, 1.0)}, "fast", "goal"),
        (
            replace(PAPER, learning_rate=mv.schedules.ExponentialDecay(1.0, 2.0)),
            {"learning_rate.timescale": (1.0, 9.0)}, mv.goals.SteadyCosine(), "learning_rate",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_by_name(problem, over, goal, field):
    with pytest.raises((mv.InvalidInput, mv.UnsupportedError), match=f"^{field}"):
        _search(problem, over, goal)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: mv.goals.TimeToReach(1.5), "goal.cosine"),
        (lambda: mv.goals.TimeToReach(0.5, t_max=-1.0), "goal.t_max"),
        (lambda: mv.goals.CosineAt(0.0), "goal.t"),
        (lambda: mv.goals.SteadyCosine(feature=-1), "goal.feature"),
        (lambda: mv.schedules.PiecewiseLinear([0.0, 1.0], [0.1]), "learning_rate.rates"),
        (lambda: mv.schedules.PiecewiseLinear([1.0, 0.0], [0.1, 0.2]), "learning_rate.times"),
        (lambda: mv.schedules.PiecewiseLinear([0.0, 1.0], [0.1, -0.2]), "learning_rate.rates"),
    ],
)
def test_bad_goals_and_schedules_are_named(make, field):
    with pytest.raises(mv.InvalidInput, match=f"^{field}:"):
        make()


def test_figures_show_every_evaluation_and_the_best():
    over = {"learning_rate": (0.02, 4.0), "augmentation.std": (0.0, 3.0)}
    found = _search(PAPER, over, mv.goals.TimeToReach(0.9, t_max=15.0), evaluations=40)
    axes = found.plot().axes[:2]
    for ax, name in zip(axes, over, strict=True):
        assert ax.get_xlabel() == name
        lines = {line.get_label(): line for line in ax.lines}
        drawn = len(ax.collections[0].get_offsets()) + len(lines["not reached"].get_xdata())
        assert drawn == len(found.ranks)
        assert lines["best"].get_xdata()[0] == found.best[name]
        assert lines["best"].get_ydata()[0] == found.value
    assert axes[0].get_xscale() == "log"
    assert axes[1].get_xscale() == "linear"
