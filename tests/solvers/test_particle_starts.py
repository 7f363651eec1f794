"""How particles are drawn at the start."""

from __future__ import annotations

import numpy as np
import pytest

from mkvlasov.problem import hidden, initial, loadings
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import GaussianMixture
from mkvlasov.solvers.particles.starts import draw_particles, stratified


def make_problem(features: int = 1, **fields: object) -> Problem:
    return Problem(hidden=hidden.Rademacher(4.0 * np.ones(features)), activation="tanh", learning_rate=0.4, **fields)


def test_atoms_of_loadings_occur_in_proportion() -> None:
    problem = make_problem(2, loadings=loadings.Sparse(0.3))
    rows, a = draw_particles(problem, initial.Gaussian(1.0, [0.3, 0.2]), 1000, np.random.default_rng(8))
    points, weights = problem.loadings.nodes(2, 1)
    for point, weight in zip(points, weights, strict=True):
        assert abs((a == point).all(axis=1).sum() - 1000 * weight) <= 1.0
    residual = rows - a @ np.array([[0.3], [0.2]])
    assert abs(residual.var() - (1.0 - 0.13)) < 0.02


def test_strata_leave_order_parameters_nearly_exact() -> None:
    problem, start = make_problem(loadings=loadings.Sparse(0.25)), initial.Gaussian(1.0, 0.5)
    w, a = draw_particles(problem, start, 4000, np.random.default_rng(1))
    # Independent draws would be off by 1 / sqrt(4000) = 1.6e-2.
    assert abs((w * a).mean() - 0.5) < 1e-3
    assert abs((w * w).mean() - 1.0) < 3e-3


@pytest.mark.parametrize("features", [1, 2])
def test_continuous_loadings_have_exact_order_parameters(features: int) -> None:
    problem = make_problem(features, outputs=2)
    Q, R = np.array([[1.0, 0.2], [0.2, 0.8]]), np.array([[0.5, 0.2], [-0.2, 0.4]])[:, :features]
    w, a = draw_particles(problem, initial.Gaussian(Q, R), 500, np.random.default_rng(9))
    np.testing.assert_allclose(a.T @ a / 500, np.eye(features), atol=1e-12)
    np.testing.assert_allclose(w.T @ w / 500, Q, atol=1e-12)
    np.testing.assert_allclose(w.T @ a / 500, R, atol=1e-12)


LAW = GaussianMixture(np.array([0.3, 0.7]), np.array([[-1.0], [2.0]]), np.array([[[0.25]], [[1.0]]]))


def test_stratified_draws_have_the_law_to_within_a_stratum() -> None:
    w = np.sort(stratified(LAW, 1000, np.random.default_rng(2))[:, 0])
    # Every component is off by at most one of its strata, and one more for the rounding of the proportions.
    assert np.abs(LAW.cdf(w) - (np.arange(1000) + 0.5) / 1000).max() < 4.0 / 1000


def test_stratified_draws_are_right_in_the_mean() -> None:
    rng = np.random.default_rng(3)
    cubes = np.array([(stratified(LAW, 7, rng) ** 3).mean() for _ in range(4000)])
    exact = 0.3 * (-1.0 - 3.0 * 0.25) + 0.7 * (8.0 + 6.0)
    assert abs(cubes.mean() - exact) < 4.0 * cubes.std() / np.sqrt(4000)


def test_entries_of_stratified_vectors_are_independent_but_for_their_covariance() -> None:
    covariance = np.array([[1.0, 0.6], [0.6, 2.0]])
    law = GaussianMixture(np.ones(1), np.zeros((1, 2)), covariance[None])
    w = stratified(law, 20_000, np.random.default_rng(4))
    np.testing.assert_allclose(w.T @ w / 20_000, covariance, atol=4.0 * 2.5 / np.sqrt(20_000))
    # A fourth moment tells independent strata from sorted ones.
    whitened = w @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    assert abs((whitened[:, 0] ** 2 * whitened[:, 1] ** 2).mean() - 1.0) < 4.0 * np.sqrt(8.0 / 20_000)


def test_point_masses_have_their_share() -> None:
    start = initial.Mixture([0.25, 0.75], [initial.Point(0.0), initial.Gaussian(1.0, 0.0)])
    w, _ = draw_particles(make_problem(loadings=loadings.Rademacher()), start, 1000, np.random.default_rng(5))
    assert abs((w == 0.0).sum() - 250) <= 2


def test_an_empirical_start_keeps_weights_and_loadings_together() -> None:
    start = initial.Empirical(np.array([0.9, -0.4]), np.array([1.0, -1.0]))
    w, a = draw_particles(make_problem(loadings=loadings.Rademacher()), start, 100, np.random.default_rng(10))
    np.testing.assert_array_equal(w[:, 0], np.where(a[:, 0] > 0, 0.9, -0.4))
