"""Selection at finite dimension: against a law of escape times in closed form, symmetries, and direct simulation."""

import numpy as np
import pytest
from scipy import stats

import mkvlasov as mv
from mkvlasov.analysis.growth import escape_growth
from mkvlasov.analysis.selection import selection_probability

LEVEL = 0.5


def linear_problem(**changes):
    """One feature, no activation, weights on the sphere: dR/dt = R (g - b R^2), and everything is known."""
    fields = {
        "hidden": mv.hidden.Rademacher(3.0),
        "activation": "identity",
        "learning_rate": 0.3,
        "augmentation": mv.augmentations.GaussianNoise(std=0.5, correlation=0.0),
        "constraint": "sphere",
    }
    return mv.Problem(**{**fields, **changes})


def linear_constants():
    """Return g, b and the noise V of R at R = 0 of the linear problem, by hand from alpha^(1) = -h^(2), and vice versa.

    Cov(h^(v), h^(w)) = T_vw + (<c^2> - 1) R^2, so that the diffusion of the weights is tau^2 (2 T11 T22 + 2 T12^2) at
    R = 0, and grows with (<c^2> - 1) R^2 times tau^2 (T11 + T22 + 2 T12).
    """
    tau, variance, own, cross = 0.3, 3.0, 1.25, 1.0
    push = 2.0 * tau * (variance - 1.0)
    g = push - tau**2 * (own**2 + cross**2)
    b = push + 0.5 * tau**2 * (variance - 1.0) * (2.0 * own + 2.0 * cross)
    noise = tau**2 * 2.0 * ((variance + 0.25) * own + variance * cross)
    return g, b, noise


def closed_form(dimension):
    """Return the distribution function of the time at which |R| reaches the level, for large N.

    R starts at N(0, 1 / N); with the noise up to any later time it is as if it had started at N(0, (1 + V / 2g) / N).
    """
    g, b, noise = linear_constants()
    spread = (1.0 + noise / (2.0 * g)) / dimension
    reached = LEVEL**2 * g / (g - b * LEVEL**2)
    return lambda t: 1.0 - stats.chi2(1).cdf(reached * np.exp(-2.0 * g * t) / spread)


def kurtosis_problem(**changes):
    """Features of equal variance, hence equal growth rates, and different kurtosis."""
    fields = {
        "hidden": mv.hidden.Sparse(variance=[3.0, 3.0], kurtosis=[1.0, 2.0]),
        "activation": "tanh",
        "learning_rate": 0.4,
        "regularizer": mv.regularizers.L2(0.2),
        "augmentation": mv.augmentations.GaussianNoise(std=0.5, correlation=-0.6),
    }
    return mv.Problem(**{**fields, **changes})


def test_escape_times_follow_the_closed_form_of_a_linear_problem():
    dimension = 1_000_000  # the closed form leaves out terms of order N^(-1/2)
    found = selection_probability(linear_problem(), dimension=dimension, samples=2000, level=LEVEL, progress=False)
    g, _, _ = linear_constants()
    assert found.growth_rate == pytest.approx(g, rel=1e-8)
    assert found.escaped > 0.998  # all but one in 3000
    assert stats.kstest(found.escape_times[np.isfinite(found.escape_times)], closed_form(dimension)).pvalue > 1e-3


def test_the_slope_over_log_n_is_that_of_the_growth_rate():
    # Samples share their random numbers: the slope has no statistical error but that of paths near the level.
    found = escape_growth(linear_problem(), dimensions=[10_000, 100_000, 1_000_000], samples=500, progress=False)
    g, _, _ = linear_constants()
    assert found.predicted_slope == pytest.approx(0.5 / g, rel=1e-8)
    assert found.slope == pytest.approx(found.predicted_slope, abs=max(5.0 * found.slope_error, 1e-3))
    assert found.slope_error < 0.01 * found.slope
    assert np.corrcoef(found.times)[0, 1:].min() > 0.95


def test_probabilities_agree_with_direct_simulation():
    problem, dimension = kurtosis_problem(), 200
    found = selection_probability(problem, dimension=dimension, samples=600, rng=11, progress=False)
    runs = mv.simulate_sgd(
        problem, mv.initial.Gaussian(1.0, 0.0), t_eval=np.linspace(0.0, 30.0, 61), dimension=dimension, runs=1000,
        rng=12, loss_batches=1, progress=False,
    )  # fmt: skip
    item = found.compare(runs)
    assert item.passed, str(item)
    assert abs(item.escape_z) < 3.0, str(item)
    assert 0.3 < item.found[0] < 0.8  # both are selected
    assert item.predicted.sum() == pytest.approx(1.0)
    assert "agree within 3 standard errors" in str(item)
    figure = item.plot()
    bars, times = figure.axes
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(item.predicted[:2].tolist())
    assert times.lines[1].get_xdata() == pytest.approx(np.sort(item.run_escape_times))


def test_equal_features_are_selected_alike():
    problem = kurtosis_problem(hidden=mv.hidden.Rademacher([3.0, 3.0]), activation="erf")
    found = selection_probability(problem, dimension=500, samples=2000, rng=5, progress=False)
    merged = {name: part.count for name, part in found.probabilities().items() if part.count}
    assert set(merged) == {"feature 0", "feature 1"}
    counts = {name: part.count for name, part in found.probabilities(signs=True).items() if part.count}
    assert set(counts) == {"feature 0", "-feature 0", "feature 1", "-feature 1"}
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_every_sample_reaches_a_lower_level_earlier():
    # The random numbers of a sample are its own, whichever samples are left.
    low, high = (
        escape_growth(linear_problem(), dimensions=[200, 2000], samples=60, level=level, progress=False).times
        for level in (0.4, 0.6)
    )
    assert (low < high).all()


def test_what_is_not_learnt_stays_uninformative():
    problem = kurtosis_problem(hidden=mv.hidden.Rademacher([1.0, 0.9]))
    found = selection_probability(problem, dimension=2000, samples=100, t_max=10.0, progress=False)
    assert found.growth_rate < 0.0
    assert found.probabilities()["uninformative"].value == 1.0
    assert not np.isfinite(found.escape_times).any()
    assert "none has escaped" in str(found)


def test_starts_with_overlaps_follow_the_ode():
    problem = kurtosis_problem()
    initial = mv.initial.Gaussian(1.0, [0.1, 0.0])
    found = selection_probability(problem, dimension=10**7, initial=initial, samples=20, progress=False)
    ode = mv.solve_ode(problem, initial, t_eval=np.linspace(0.0, 12.0, 1201), progress=False)
    reached = ode.t[np.argmax(ode.cosine_similarity[:, 0, 0] >= found.level)]
    # Spread of the start over its mean, and the output times of the ODE.
    assert found.escape_times == pytest.approx(np.full(20, reached), abs=0.05)
    assert found.probabilities(signs=True)["feature 0"].value == 1.0


def test_two_outputs_and_masks_run():
    two = kurtosis_problem(outputs=2, activation="erf", hidden=mv.hidden.Rademacher([4.0, 3.0]))
    assert np.isfinite(escape_growth(two, dimensions=[200, 2000], samples=10, progress=False).times).all()
    masked = kurtosis_problem(augmentation=mv.augmentations.RandomMask(keep=0.8))
    assert np.isfinite(escape_growth(masked, dimensions=[200, 2000], samples=10, progress=False).times).all()


def test_runs_of_something_else_are_refused():
    problem, start = linear_problem(), mv.initial.Gaussian(1.0, 0.0)
    found = selection_probability(problem, dimension=100, samples=20, progress=False)
    t = np.linspace(0.0, 12.0, 25)
    runs = mv.simulate_sgd(problem, start, t_eval=t, dimension=100, runs=4, rng=0, progress=False)
    assert found.compare(runs).runs == 4
    for other in (
        mv.simulate_sgd(problem, start, t_eval=t, dimension=101, runs=4, rng=0, progress=False),
        mv.simulate_sgd(problem, mv.initial.Gaussian(1.0, 0.1), t_eval=t, dimension=100, runs=4, progress=False),
        mv.simulate_sgd(linear_problem(batch_size=2), start, t_eval=t, dimension=100, runs=4, progress=False),
        "runs",
    ):
        with pytest.raises(mv.InvalidInput, match="sgd"):
            found.compare(other)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"dimension": 2}, "dimension"),
        ({"samples": 0}, "samples"),
        ({"level": 1.0}, "level"),
        ({"t_max": 0.0}, "t_max"),
        ({"points": 3}, "points"),
        ({"rng": -1}, "rng"),
        ({"initial": mv.initial.Gaussian(1.0, [0.1, 0.2])}, "initial"),
    ],
)
def test_bad_arguments(arguments, field):
    with pytest.raises(mv.InvalidInput, match=field):
        mv.reduce(linear_problem()).selection_probability(progress=False, **arguments)


@pytest.mark.parametrize("dimensions", [[200], [200, 100], [200, 200], 200])
def test_bad_dimensions(dimensions):
    with pytest.raises(mv.InvalidInput, match="dimensions"):
        mv.reduce(linear_problem()).escape_growth(dimensions=dimensions)


def test_without_growth_a_time_must_be_given():
    quiet = linear_problem(hidden=mv.hidden.Rademacher(1.0))
    with pytest.raises(mv.UnsupportedError, match="no overlap grows"):
        selection_probability(quiet, samples=10)
    with pytest.raises(mv.UnsupportedError, match="nothing escapes"):
        escape_growth(quiet, samples=10)
    with pytest.raises(mv.UnsupportedError, match="schedule"):
        selection_probability(linear_problem(learning_rate=lambda t: 0.3 / (1.0 + t)))


def test_the_figure_of_the_growth_shows_quantiles_and_the_slope():
    found = escape_growth(linear_problem(), dimensions=[200, 2000], samples=50, progress=False)
    lines = found.plot().axes[0].lines
    assert lines[1].get_ydata() == pytest.approx(np.quantile(found.times, 0.5, axis=1, method="inverted_cdf"))
    assert np.diff(lines[-1].get_ydata()) == pytest.approx(np.log(10.0) * found.predicted_slope)
