"""The joint tests against laws that are known: uniform p-values, power, degrees of freedom.

Simulations of Gaussian vectors with a known covariance; seeds were fixed before looking. Numbers of rejections are
judged by the binomial law at 1e-4 per side.
"""

import math

import numpy as np
import pytest
from scipy import stats

from mkvlasov.validation import joint
from mkvlasov.validation.directions import affordable, time_shapes, trajectory_directions

NO_BIAS = np.zeros(4)


def covariance(p=4):
    """Entries of very different size, strongly correlated."""
    factor = np.tril(np.random.default_rng(5).normal(size=(p, p))) + 2.0 * np.eye(p)
    scale = 3.0 ** np.arange(p)
    return scale[:, None] * (factor @ factor.T) * scale


def draw(rng, n, cov):
    return rng.standard_normal((n, len(cov))) @ np.linalg.cholesky(cov).T


def within(count, n, rate):
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], n, rate)
    return low <= count <= high


def test_p_values_of_the_joint_test_are_uniform():
    rng, cov = np.random.default_rng(1), covariance()
    p_values = []
    for _ in range(600):
        runs = draw(rng, 12, cov)
        p_values.append(joint.joint_test(runs.mean(axis=0), joint.spread_of([(1.0, runs)]), NO_BIAS).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


def test_two_samples_of_unequal_spread_reject_at_the_stated_rate():
    """Weights as in an extrapolation, 2 and -1, and samples of different sizes and covariances."""
    rng, cov = np.random.default_rng(2), covariance()
    count = 0
    for _ in range(1000):
        one, two = draw(rng, 20, cov), draw(rng, 40, 3.0 * cov[::-1, ::-1])
        gap = 2.0 * one.mean(axis=0) - two.mean(axis=0)
        count += joint.joint_test(gap, joint.spread_of([(2.0, one), (-1.0, two)]), NO_BIAS).p_value < 0.05
    assert within(count, 1000, 0.05)


def test_a_single_sample_has_one_degree_of_freedom_less_than_runs():
    runs = draw(np.random.default_rng(3), 30, covariance())
    spread = joint.spread_of([(0.7, runs)])
    assert spread.freedom == pytest.approx(29.0, rel=1e-6)
    np.testing.assert_allclose(spread.covariance, 0.49 * np.cov(runs, rowvar=False) / 30)


def test_the_statistic_does_not_depend_on_the_units():
    runs = draw(np.random.default_rng(4), 30, covariance())
    mixing = np.random.default_rng(6).normal(size=(4, 4))
    one = joint.joint_test(runs.mean(axis=0), joint.spread_of([(1.0, runs)]), NO_BIAS)
    other = joint.joint_test(mixing @ runs.mean(axis=0), joint.spread_of([(1.0, runs @ mixing.T)]), NO_BIAS)
    assert other.statistic == pytest.approx(one.statistic, rel=1e-6)
    reference = 30 * runs.mean(axis=0) @ np.linalg.solve(np.cov(runs, rowvar=False), runs.mean(axis=0))
    assert one.statistic == pytest.approx(reference, rel=1e-8)


def test_entries_that_depend_on_each_other_are_counted_once():
    runs = draw(np.random.default_rng(7), 30, covariance(3))
    doubled = np.concatenate([runs, runs[:, :1] + runs[:, 1:2]], axis=1)
    one = joint.joint_test(runs.mean(axis=0), joint.spread_of([(1.0, runs)]), np.zeros(3))
    two = joint.joint_test(doubled.mean(axis=0), joint.spread_of([(1.0, doubled)]), NO_BIAS)
    assert two.dimension == 3
    assert two.statistic == pytest.approx(one.statistic, rel=1e-5)


def test_power_is_the_rate_at_which_the_test_rejects():
    rng, cov, n = np.random.default_rng(8), covariance(), 20
    shift = np.linalg.cholesky(cov) @ np.array([0.7, -0.6, 0.5, 0.0])
    known = joint.Spread(cov / n, n - 1.0)
    predicted = joint.power(shift, known, NO_BIAS, 0.01)
    assert 0.2 < predicted < 0.95
    count = 0
    for _ in range(1500):
        runs = draw(rng, n, cov) + shift
        count += joint.joint_test(runs.mean(axis=0), joint.spread_of([(1.0, runs)]), NO_BIAS).p_value <= 0.01
    assert within(count, 1500, predicted)


@pytest.mark.parametrize("noncentrality", [0.5, 5.0, 30.0])
def test_power_follows_the_noncentral_laws(noncentrality):
    """F for an estimated covariance (three digits), chi-squared for a known one."""
    shift = np.sqrt(noncentrality) * np.eye(3)[0]
    estimated = joint.power(shift, joint.Spread(np.eye(3), 19.0), np.zeros(3), 0.05)
    exact = stats.ncf.sf(stats.f.isf(0.05, 3, 17), 3, 17, noncentrality * 1.0)
    assert estimated == pytest.approx(exact, abs=2e-3)
    known = joint.power(shift, joint.Spread(np.eye(3), np.inf), np.zeros(3), 0.05)
    assert known == pytest.approx(stats.ncx2.sf(stats.chi2.isf(0.05, 3), 3, noncentrality), rel=1e-6)


def test_the_number_of_runs_that_is_advised_has_the_power_wanted():
    cov, shift = covariance(), 0.3 * np.linalg.cholesky(covariance())[:, 0]
    spread = joint.Spread(cov / 20, 19.0)
    factor = joint.runs_factor(shift, spread, NO_BIAS, alpha=0.01, wanted=0.9)
    assert factor > 2.0
    more = joint.Spread(cov / (20 * factor), 20 * factor - 1.0)
    assert joint.power(shift, more, NO_BIAS, 0.01) == pytest.approx(0.9, abs=0.01)
    hidden = joint.runs_factor(shift, spread, np.abs(shift), alpha=0.01, wanted=0.9)
    assert math.isinf(hidden)


def test_an_admissible_bias_never_raises_false_alarms_and_larger_ones_are_seen():
    rng, cov, n = np.random.default_rng(9), covariance(), 400
    half_width = 0.2 * np.sqrt(np.diagonal(cov))
    p_values = []
    for sign in rng.choice([-1.0, 1.0], size=(300, 4)):
        runs = draw(rng, n, cov) + sign * half_width
        p_values.append(joint.joint_test(runs.mean(axis=0), joint.spread_of([(1.0, runs)]), half_width).p_value)
    assert np.mean(np.array(p_values) <= 0.05) <= stats.binom.ppf(1 - 1e-4, 300, 0.05) / 300
    runs = draw(rng, n, cov) + 3.0 * half_width
    assert joint.joint_test(runs.mean(axis=0), joint.spread_of([(1.0, runs)]), half_width).p_value < 1e-4


def test_the_nearest_bias_is_found():
    """Against a search on a fine grid in two dimensions."""
    cov = np.array([[2.0, 1.5], [1.5, 3.0]])
    white, gap, half = joint.whitening(cov), np.array([1.0, -2.0]), np.array([0.4, 0.7])
    x, y = np.meshgrid(np.linspace(-0.4, 0.4, 401), np.linspace(-0.7, 0.7, 401))
    rest = gap[:, None] - np.stack([x.ravel(), y.ravel()])
    brute = np.einsum("in,in->n", rest, np.linalg.solve(cov, rest)).min()
    assert joint.nearest_distance(gap, white, half) == pytest.approx(brute, rel=1e-4)


def test_p_values_of_the_covariance_test_are_uniform_and_wrong_covariances_are_seen():
    rng, cov = np.random.default_rng(10), covariance(3)
    p_values = [joint.covariance_test(draw(rng, 30, cov), cov).p_value for _ in range(600)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4
    n = 120
    predicted = joint.covariance_power(1.5, 3, n, 0.05)
    count = sum(joint.covariance_test(draw(rng, n, 1.5 * cov), cov).p_value <= 0.05 for _ in range(300))
    # The noncentral law is an approximation: five points of power.
    assert count / 300 == pytest.approx(predicted, abs=0.05 + 3.0 * math.sqrt(0.25 / 300))


def test_holm_by_hand():
    adjusted = joint.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
    assert joint.holm(np.zeros(0)).shape == (0,)
    np.testing.assert_allclose(joint.holm(np.array([0.9, 0.8])), [1.0, 1.0])


def test_shapes_in_time_are_averages_against_legendre_polynomials():
    t = np.linspace(2.0, 6.0, 4001)
    x = (t - 4.0) / 2.0
    # On [-1, 1] the averages of P_i P_j are 1 / (2 i + 1) for i = j and 0 otherwise.
    products = time_shapes(t) @ np.polynomial.legendre.legvander(x, 2)
    np.testing.assert_allclose(products, np.diag([1.0, 1.0 / 3.0, 1.0 / 5.0]), atol=1e-6)
    uneven = np.array([0.0, 0.1, 0.5, 2.0])
    np.testing.assert_allclose(time_shapes(uneven)[0] @ uneven, np.trapezoid(uneven, uneven) / 2.0)
    assert time_shapes(np.array([1.0])).tolist() == [[1.0]]


def test_directions_take_simple_shapes_first_and_no_more_than_runs_allow():
    t = np.linspace(0.0, 1.0, 9)
    few = trajectory_directions(t, 4, 5)
    assert few.shape == (5, 9, 4)
    assert [np.flatnonzero(np.abs(d).sum(axis=0)).tolist() for d in few] == [[0], [1], [2], [3], [0]]
    assert len(trajectory_directions(t, 4, 100)) == 12
    assert len(trajectory_directions(t[:1], 4, 100)) == 4
    assert affordable(15.0) == 5
    assert affordable(1.0) == 1
