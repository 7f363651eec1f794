"""Densities as results: averages, distribution function and quantiles against closed forms."""

import numpy as np
import pytest
from scipy import integrate, stats

import mkvlasov as mv
from mkvlasov.density import Density, density_of_law
from mkvlasov.problem.conditional import GaussianMixture
from mkvlasov.problem.tabulated import TabulatedLaw, trapezoidal
from mkvlasov.solution_runs import Histogram

LEVELS = np.array([1e-6, 0.01, 0.2, 0.5, 0.77, 0.999])


def _normal(nodes=401):
    w = np.linspace(-7.0, 9.0, nodes)
    return Density(w, stats.norm.pdf(w, 1.0, 0.8))


def _spike():
    """A fifth of the mass in a Laplace law of width 1e-3 at zero, the rest normal; nodes graded to the spike."""
    side = np.concatenate([[0.0], np.geomspace(1e-5, 0.1, 120), np.linspace(0.15, 9.0, 90)])
    w = np.unique(np.concatenate([-side, side]))
    p = 0.2 * stats.laplace.pdf(w, scale=1e-3) + 0.8 * stats.norm.pdf(w)
    return Density(w, p)


def _spike_cdf(w):
    return 0.2 * stats.laplace.cdf(w, scale=1e-3) + 0.8 * stats.norm.cdf(w)


def test_averages_and_quantiles_of_a_normal_density():
    density, exact = _normal(), stats.norm(1.0, 0.8)
    np.testing.assert_allclose(density.mean_of(np.square), 1.64, rtol=1e-12)
    np.testing.assert_allclose(density.mean_of(lambda w: 2.0), 2.0, rtol=1e-12)
    np.testing.assert_allclose(density.mean_of(np.cos), np.cos(1.0) * np.exp(-0.32), rtol=1e-12)
    w = np.linspace(-3.0, 5.0, 97)
    np.testing.assert_allclose(density.cdf(w), exact.cdf(w), atol=1e-7)
    np.testing.assert_allclose(density.quantile(LEVELS[1:]), exact.ppf(LEVELS[1:]), atol=1e-5)
    assert density.mass(0.0, 2.0) == pytest.approx(exact.cdf(2.0) - exact.cdf(0.0), abs=1e-7)


def test_the_distribution_function_converges_with_the_nodes():
    """Fourth order, but where slopes are limited."""
    w = np.linspace(-3.0, 5.0, 301)
    errors = [np.abs(_normal(n).cdf(w) - stats.norm.cdf(w, 1.0, 0.8)).max() for n in (101, 201, 401)]
    assert errors[0] / errors[1] > 10.0
    assert errors[1] / errors[2] > 10.0


def test_a_spike_at_zero_is_resolved():
    density = _spike()
    for half in (1e-4, 1e-3, 1e-2, 0.1):
        exact = _spike_cdf(half) - _spike_cdf(-half)
        assert density.mass(-half, half) == pytest.approx(exact, rel=2e-3)
    np.testing.assert_allclose(_spike_cdf(density.quantile(LEVELS)), LEVELS, atol=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_mass_is_conserved_and_the_distribution_function_increases(seed):
    """Whatever the nodes, the density (zeros and slight undershoots included) and the quadrature weights."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 60))
    w = np.cumsum(10.0 ** rng.uniform(-4, 0, n))
    p = rng.random(n) ** 4 * (rng.random(n) > 0.3) + rng.random() / 100
    p[rng.integers(n)] -= 0.011
    weights = trapezoidal(w) * rng.uniform(0.5, 1.5, n)
    density = Density(w, p, weights)
    points = np.sort(np.concatenate([w, rng.uniform(w[0] - 1, w[-1] + 1, 500)]))
    values = density.cdf(points)
    assert (np.diff(values) >= -1e-14).all()
    assert values[0] == 0.0
    total = weights @ p
    assert values[-1] == pytest.approx(total, rel=1e-12)
    q = rng.random(40)
    np.testing.assert_allclose(density.cdf(density.quantile(q)), q * total, atol=1e-9 * total)
    assert density.quantile(0.0) >= w[0]
    assert density.quantile(1.0) <= w[-1]


@pytest.mark.parametrize("seed", range(5))
def test_between_points_at_which_it_rises_the_density_rises(seed):
    rng = np.random.default_rng(seed)
    w, p = np.cumsum(10.0 ** rng.uniform(-2, 0, (2, 15)), axis=1)
    fine = np.linspace(w[:-1], w[1:], 50, axis=1).ravel()
    assert (np.diff(Density(w, p).pdf(fine)) >= -1e-12).all()


def test_densities_of_the_exact_law_are_exact_whatever_the_points():
    law = GaussianMixture(np.array([0.3, 0.7]), np.array([[-1.0], [0.5]]), np.array([[[1e-6]], [[0.49]]]))
    density = density_of_law(law, np.linspace(0.0, 0.1, 5))

    def cdf(w):
        return 0.3 * stats.norm.cdf(w, -1.0, 1e-3) + 0.7 * stats.norm.cdf(w, 0.5, 0.7)

    w = np.linspace(-2.0, 3.0, 41)
    np.testing.assert_allclose(density.cdf(w), cdf(w), rtol=1e-13)
    np.testing.assert_allclose(cdf(density.quantile(LEVELS)), LEVELS, rtol=1e-9)
    assert density.mass(-1.001, -0.999) == pytest.approx(cdf(-0.999) - cdf(-1.001), rel=1e-12)
    folded = 0.7 * (
        0.7 * np.sqrt(2 / np.pi) * np.exp(-0.5 * (0.5 / 0.7) ** 2) + 0.5 * (1 - 2 * stats.norm.cdf(-0.5 / 0.7))
    )
    assert density.mean_of(np.abs) == pytest.approx(0.3 + folded, abs=1e-5)
    assert density.mean_of(np.square) == pytest.approx(0.3 * (1 + 1e-6) + 0.7 * (0.25 + 0.49), rel=1e-12)


def _kinked(w):
    return 0.5 * np.exp(-np.abs(w)) * (1.0 + 0.3 * np.tanh(3 * w))


def _kinked_table():
    w = np.linspace(-9, 9, 361)
    p = _kinked(w)
    weights = trapezoidal(w)
    return TabulatedLaw(w, p / (weights @ p), weights)


@pytest.mark.parametrize("scale", [0.7, -0.4])
@pytest.mark.parametrize("noise", [0.0, 1e-4, 0.03, 0.5])
def test_the_affine_image_of_a_table_with_noise(scale, noise):
    """Against the convolution of the tabulated function by quadrature."""
    table = _kinked_table()
    law = table.affine(np.array([[scale]]), np.array([0.25]), np.array([[noise**2]]))
    assert law.mean[0] == pytest.approx(scale * table.mean[0] + 0.25, rel=1e-12)
    variance = table.second_moment[0, 0] - table.mean[0] ** 2
    assert law.second_moment[0, 0] - law.mean[0] ** 2 == pytest.approx(scale**2 * variance + noise**2, rel=1e-10)
    x, step = np.linspace(-9.0, 9.0, 20_001, retstep=True)
    points = np.array([-1.3, -0.1, 0.25, 0.6, 1.9])

    expected = step * (_kinked((points[:, None] + noise * x - 0.25) / scale) / abs(scale)) @ stats.norm.pdf(x)
    # The trapezoidal rule errs by h^2 / 12 times the jump of the slope at the kink, one, times the noise's density.
    slack = 0.05**2 / 12.0 * 0.4 / max(noise, 0.03)
    np.testing.assert_allclose(law.pdf(points), expected, rtol=2e-4, atol=slack)
    fine = np.linspace(law.w[0] - 6 * noise, points[-1], 4001)
    np.testing.assert_allclose(law.cdf(points[-1:]), integrate.simpson(law.pdf(fine), x=fine), rtol=1e-4)
    low, high = law.ends(1e-3)
    assert law.cdf(np.array([low]))[0] <= 1e-3
    assert law.cdf(np.array([high]))[0] >= 1 - 1e-3
    drawn = law.sample(np.random.default_rng(3), 4000)[:, 0]
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("noise", [0.003, 0.015, 0.1])
def test_noise_blurs_the_jumps_at_both_ends_of_a_table(noise):
    w = np.linspace(0.0, 1.0, 51)
    law = TabulatedLaw(w, np.ones(51), trapezoidal(w)).affine(np.eye(1), np.zeros(1), np.array([[noise**2]]))
    x = np.linspace(-0.3, 1.3, 65)
    exact = stats.norm.cdf(x / noise) - stats.norm.cdf((x - 1.0) / noise)
    # Straight lines between the points are exact here.
    np.testing.assert_allclose(law.pdf(x), exact, atol=1e-12)


def test_further_images_of_a_noisy_table_add_up():
    table = _kinked_table()
    one = table.affine(np.array([[0.5]]), np.array([0.1]), np.array([[0.04]]))
    two = one.affine(np.array([[2.0]]), np.array([-1.0]), np.array([[0.09]]))
    direct = table.affine(np.array([[1.0]]), np.array([-0.8]), np.array([[0.25]]))
    w = np.linspace(-3, 3, 31)
    np.testing.assert_allclose(two.cdf(w), direct.cdf(w), rtol=1e-10)
    np.testing.assert_allclose(direct.cdf(direct.quantile(LEVELS)), LEVELS, atol=1e-10)


def test_quantiles_of_a_histogram_beside_empty_bins():
    """Half the mass in [0, 1], half in [3, 4]: between 1 and 3 nothing is reached."""
    histogram = Histogram(np.arange(6.0), np.array([0.5, 0.0, 0.0, 0.5, 0.0]), np.zeros(5), 10)
    np.testing.assert_allclose(histogram.quantile([0.0, 0.25, 0.5, 0.75, 1.0]), [0.0, 0.5, 1.0, 3.5, 4.0])


def test_a_histogram_answers_the_same_questions():
    w = np.sort(np.random.default_rng(0).normal(size=5000))
    counts, edges = np.histogram(w, bins=400)
    histogram = Histogram(edges, counts / 5000 / np.diff(edges), np.zeros(400), 5000)
    np.testing.assert_allclose(histogram.cdf(edges), np.searchsorted(w, edges, side="left") / 5000, atol=1 / 4999)
    np.testing.assert_allclose(histogram.quantile(LEVELS[1:]), np.quantile(w, LEVELS[1:]), atol=0.05)
    assert histogram.mean_of(np.square) == pytest.approx(np.mean(w**2), rel=1e-3)
    assert histogram.mass(edges[3], edges[300]) == pytest.approx(counts[3:300].sum() / 5000, rel=1e-12)
    assert histogram.quantile(1.0) == pytest.approx(edges[-1], rel=1e-14)
    assert histogram.quantile(1.0) <= edges[-1]


def test_bad_questions_are_refused():
    density = _normal()
    with pytest.raises(mv.InvalidInput, match=r"q: got .*within \[0, 1\]"):
        density.quantile([0.5, 1.5])
    with pytest.raises(mv.InvalidInput, match="high: got"):
        density.mass(1.0, -1.0)
    with pytest.raises(mv.InvalidInput, match="function"):
        density.mean_of(lambda w: w[:3])
    with np.errstate(divide="ignore"), pytest.raises(mv.InvalidInput, match="function"):
        density.mean_of(lambda w: np.log(np.maximum(w, 0.0)))


def test_the_density_between_the_points_is_that_of_the_law():
    """A normal law on coarse points, in between to fourth order of the spacing 0.2; nothing beyond the points."""
    w = np.linspace(-6.0, 6.0, 61)
    density = Density(w, np.exp(-0.5 * w * w) / np.sqrt(2.0 * np.pi))
    middle = np.array([-1.3, 0.1, 0.7])
    np.testing.assert_allclose(density.pdf(middle), np.exp(-0.5 * middle**2) / np.sqrt(2.0 * np.pi), atol=1e-4)
    assert (density.pdf([-7.0, 7.0]) == 0.0).all()


def test_a_cusp_on_a_node_is_not_rounded_off():
    """A Laplace law on coarse points, with the cusp known and not; the rest is the error of the mass by trapezoids."""
    w = np.linspace(-6.0, 6.0, 49)
    between = np.linspace(-1.0, 1.0, 203)
    sharp, round_ = (Density(w, 0.5 * np.exp(-np.abs(w)), kinks=kinks) for kinks in ((0.0,), ()))
    errors = [np.abs(each.pdf(between) - 0.5 * np.exp(-np.abs(between))).max() for each in (sharp, round_)]
    assert errors[0] < 4e-3 < 1e-2 < errors[1]
    law = TabulatedLaw(w, 0.5 * np.exp(-np.abs(w)), trapezoidal(w), kinks=(0.0,))
    moved = law.affine(np.array([[-2.0]]), np.array([1.0]), np.zeros((1, 1)))
    np.testing.assert_allclose(moved.pdf(1.0 - 2.0 * between), 0.5 * law.pdf(between), atol=1e-9)


def test_the_density_of_the_pde_has_a_cusp_at_the_kink_of_l1():
    problem = mv.Problem(
        hidden=mv.hidden.Rademacher(4.0), activation="tanh", learning_rate=0.5, regularizer=mv.regularizers.L1(1.0),
        augmentation=mv.augmentations.GaussianNoise(0.4), loadings=mv.loadings.Sparse(0.25),
    )  # fmt: skip
    late = mv.solve_pde(problem, mv.initial.Gaussian(Q=1.0, R=0.7), t_eval=[0.0, 100.0], progress=False)
    density = late.density(100.0, 0.0)
    beside = density.pdf([0.0, 0.001, 0.002, 0.004, 0.008])
    slopes = -np.diff(np.log(beside)) / np.array([0.001, 0.001, 0.002, 0.004])
    np.testing.assert_allclose(slopes, slopes[-1], rtol=0.05)
    from_there = late.final.conditional(np.zeros(1), problem)
    np.testing.assert_allclose(from_there.pdf(np.array([0.001])), beside[1], rtol=1e-3)
