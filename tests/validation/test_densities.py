"""Densities judged by cells: uniform p-values for runs that share fluctuations; wrong densities are seen."""

import numpy as np
import pytest
from scipy import stats

import mkvlasov as mv
from mkvlasov.density import density_of_law
from mkvlasov.problem.conditional import GaussianMixture
from mkvlasov.validation.densities import cell_gap
from mkvlasov.validation.joint import joint_test, spread_of

NORMAL = density_of_law(GaussianMixture(np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1))), None)


def runs(rng, n=24, size=400):
    """Coordinates that share a shift as large as the counting noise; over runs their law is exactly N(0, 1)."""
    common = rng.standard_normal((n, 1)) / np.sqrt(size)
    return list(common + np.sqrt(1.0 - 1.0 / size) * rng.standard_normal((n, size)))


def p_value(samples, density=NORMAL):
    cells = cell_gap(samples, density, 0.1)
    return joint_test(cells.gap, spread_of([(1.0, cells.fractions)]), np.zeros(len(cells.gap))).p_value


def test_p_values_are_uniform_though_coordinates_of_a_run_are_not_independent():
    rng = np.random.default_rng(21)
    p_values = [p_value(runs(rng)) for _ in range(150)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


def test_another_shape_with_the_same_first_two_moments_is_seen():
    """Laplace's law of variance one: neither R nor Q tells it from the normal one."""
    rng = np.random.default_rng(22)
    assert p_value(list(rng.laplace(scale=np.sqrt(0.5), size=(24, 400)))) < 1e-6


def test_distances_and_alternative_against_closed_forms():
    rng = np.random.default_rng(23)
    cells = cell_gap(list(0.3 + rng.standard_normal((24, 20_000))), NORMAL, 0.1)
    # A shift by s is a Wasserstein distance s, and moves the distribution function by 2 Phi(s / 2) - 1 at most.
    assert cells.wasserstein == pytest.approx(0.3, abs=0.01)
    assert cells.kolmogorov == pytest.approx(2.0 * stats.norm.cdf(0.15) - 1.0, abs=0.005)
    edges = stats.norm.ppf(np.arange(1, 8) / 8)
    expected = np.diff(stats.norm.cdf(edges / 1.1), prepend=0.0) - 1.0 / 8.0
    np.testing.assert_allclose(cells.change, expected, atol=1e-6)


def test_densities_of_sparse_loadings_agree_and_those_of_another_penalty_do_not():
    problem, initial = mv.read_problem("sparse")
    t = np.linspace(0.0, 5.0, 6)
    pde = mv.solve_pde(problem, initial, t_eval=t)
    common = {"t_eval": t, "particles": 5000, "runs": 24, "snapshots": [1.0, 5.0]}
    right = mv.compare(pde, mv.simulate_particles(problem, initial, rng=24, **common))
    rows = [row for row in right.rows if row.statistic == "fractions in cells"]
    assert len(rows) == 4  # two loadings, two times
    assert {row.verdict for row in rows} == {"agree"}, str(right)
    other = mv.Problem(
        hidden=problem.hidden, activation="tanh", learning_rate=0.3, loadings=problem.loadings,
        augmentation=problem.augmentation, regularizer=mv.regularizers.L1(0.33),
    )  # fmt: skip
    wrong = mv.compare(pde, mv.simulate_particles(other, initial, rng=25, **common))
    assert any(row.verdict == "disagree" for row in wrong.rows if row.statistic == "fractions in cells")
