"""Fluctuations at finite dimension against literal simulation: one step, then ensembles of runs."""

import numpy as np
import pytest
from scipy import stats

import mkvlasov as mv
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.entries import Entries
from mkvlasov.limit.increments import IncrementLaw
from mkvlasov.limit.random_start import independent_start
from mkvlasov.order_parameters import match_overlaps, orthonormalize, overlaps
from mkvlasov.reduction.fluctuations import fluctuations
from mkvlasov.solvers.sgd.literal import draw_views, sgd_increment
from mkvlasov.solvers.sgd.start import rescale_to_sphere


def make_problem(**changes):
    fields = {
        "hidden": mv.hidden.Rademacher([4.0, 3.0]),
        "activation": "tanh",
        "learning_rate": 0.4,
        "regularizer": mv.regularizers.L2(0.3),
        "augmentation": mv.augmentations.GaussianNoise(std=[0.5, 0.7], correlation=-0.6),
        "background_variance": 0.8,
    }
    return mv.Problem(**{**fields, **changes})


ONE_STEP = {
    "plain": {},
    "batch": {"batch_size": 3},
    "strong decay": {"regularizer": mv.regularizers.L2(3.0)},
    "no noise": {"augmentation": None},
    "sphere": {"constraint": "sphere"},
    "Gaussian features": {"hidden": mv.hidden.Gaussian([2.0, 1.0])},
    "uniform features": {"hidden": mv.hidden.Uniform([2.0, 1.0])},
    "centred": {"activation": "sigmoid", "batch_size": 3, "loss": mv.losses.Covariance(centered=True)},
    "two outputs": {"outputs": 2, "batch_size": 2},
    "decorrelated": {"outputs": 2, "batch_size": 2, "loss": mv.losses.Covariance(decorrelation=0.5)},
    "sphere, two outputs": {"outputs": 2, "constraint": "sphere"},
}


def one_step(problem, Q, R, dimension, count, seed):
    """Draw N times the increments of the entries in one literal step from exactly (Q, R), shape (count, d)."""
    rng = np.random.default_rng(seed)
    m, k = R.shape
    a = orthonormalize(rng.standard_normal((dimension, k)))
    w = match_overlaps(rng.standard_normal((dimension, m)), a, Q, R)
    weights, features = w.T.copy(), a.T / np.sqrt(dimension)
    entries, found = Entries(m, k), []
    for _ in range(count // 10_000):
        views = draw_views(problem, features, rng, 10_000)
        moved = weights + sgd_increment(problem, np.broadcast_to(weights, (len(views), m, dimension)), views, 0.4)
        if problem.constraint == "sphere":
            rescale_to_sphere(moved)
        after = overlaps(np.swapaxes(moved, -1, -2), a)
        found.append(dimension * (entries.pack(*after) - entries.pack(Q, R)))
    return np.concatenate(found)


def state(problem):
    m = problem.outputs
    Q = np.eye(m) if problem.constraint == "sphere" else 1.2 * np.eye(m)
    if m == 2:
        Q[0, 1] = Q[1, 0] = 0.2
    return Q, np.array([[0.5, 0.3], [-0.2, 0.6]])[:m]


@pytest.mark.parametrize("case", ONE_STEP)
def test_increments_against_literal_steps(case):
    """Covariance at N = 100; the mean at N = 12, where its correction is large."""
    problem = make_problem(**ONE_STEP[case])
    Q, R = state(problem)
    law = IncrementLaw(problem)(Q, R, 0.4)
    closed = ClosedRates(problem)
    # The Stein route of the coefficients and the direct average share no code; Sobol points leave 1e-3.
    size = np.sqrt(np.diagonal(law.covariance))
    np.testing.assert_array_less(np.abs(law.mean - closed.rates(closed.entries.pack(Q, R), 0.4)), 2e-3 * size + 1e-7)

    delta = one_step(problem, Q, R, 100, 40_000, seed=1)
    root = np.sqrt(delta.shape[0])
    centred = delta - delta.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :]
    # 5 standard errors, plus 1.5 N^-1 relative: the fluctuation of |x|^2 / N about T, of variance 2 T^2 / N.
    allowed = 5.0 * products.std(axis=0) / root + np.outer(size, size) * (0.015 + 3.0 * float(law.error)) + 1e-12
    assert (np.abs(products.mean(axis=0) - law.covariance) <= allowed).all()

    dimension = 12
    delta = one_step(problem, Q, R, dimension, 300_000, seed=2)
    stderr = delta.std(axis=0) / np.sqrt(len(delta))
    limit = closed.rates(closed.entries.pack(Q, R), 0.4)
    shift = dimension * (delta.mean(axis=0) - limit)
    # On the sphere the next order, 1/N of the correction, is left over; else the formula is exact for every N.
    next_order = 0.5 * np.abs(law.finite_size) if problem.constraint == "sphere" else 0.0
    sampled = 5e-3 * np.abs(law.finite_size).max() + 5.0 * float(law.error) * np.abs(law.finite_size).max()
    assert (np.abs(shift - law.finite_size) <= 5.0 * dimension * stderr + next_order + sampled + 1e-9).all()


def test_one_output_start_is_the_formula_of_the_theory():
    """Gaussian rows: p = Q - |R|^2; N Var R = p, N Cov(Q, R) = 2 p R, N Var Q = 4 p |R|^2 + 2 p^2."""
    r, q = np.array([0.5, 0.3]), 1.2
    p = q - r @ r
    start = independent_start(make_problem(), mv.initial.Gaussian(q, r))
    # Orthonormalizing turns the part R a of the rows as well: to first order that is -(1/2) R (A - 1), which with
    # mean(R a a^T) - R leaves half of R (A - 1).
    expected = np.zeros((3, 3))
    half = 0.25 * (r @ r * np.eye(2) + np.outer(r, r))
    expected[:2, :2] = p * np.eye(2) + half
    # mean w^2 - Q contains r^T (A - 1) r, whose covariance with (A - 1) r / 2 is |r|^2 r.
    expected[:2, 2] = expected[2, :2] = 2.0 * p * r + (r @ r) * r
    expected[2, 2] = 4.0 * p * (r @ r) + 2.0 * p**2 + 2.0 * (r @ r) ** 2
    np.testing.assert_allclose(start.covariance, expected, atol=1e-12)


STARTS = {
    "Gaussian": ({}, mv.initial.Gaussian(1.2, [0.5, 0.3])),
    "sparse": ({"loadings": mv.loadings.Sparse(0.3), "hidden": mv.hidden.Rademacher([2.0])}, mv.initial.Point(0.8)),
    "mixture": (
        {"loadings": mv.loadings.Rademacher()},
        mv.initial.Mixture([0.4, 0.6], [mv.initial.Gaussian(0.8, [0.5, 0.3]), mv.initial.Point(0.4)]),
    ),
    "two outputs": ({"outputs": 2}, mv.initial.Gaussian([[1.0, 0.2], [0.2, 0.8]], [[0.5, 0.3], [-0.2, 0.6]])),
    "sphere": ({"constraint": "sphere"}, mv.initial.Gaussian(1.0, [0.5, 0.3])),
}


def assert_same_law(predicted_mean, predicted_covariance, sample, level=1e-4):
    """Hotelling test of the mean and a normal-theory chi-square test of the covariance, of whitened samples."""
    moving = np.diagonal(predicted_covariance) > 1e-12
    covariance = predicted_covariance[np.ix_(moving, moving)]
    white = np.linalg.solve(np.linalg.cholesky(covariance), (sample - predicted_mean)[:, moving].T).T
    n, d = white.shape
    assert stats.chi2.sf(n * (white.mean(axis=0) ** 2).sum(), d) > level
    excess = np.cov(white.T).reshape(d, d) - np.eye(d)
    # Var of the entries of a sample covariance of standard normals: 2 / n on the diagonal, 1 / n off it.
    statistic = 0.5 * n * (np.diagonal(excess) ** 2).sum() + n * (np.triu(excess, 1) ** 2).sum()
    assert stats.chi2.sf(statistic, d * (d + 1) // 2) > level


@pytest.mark.parametrize("case", STARTS)
def test_independent_starts(case):
    changes, initial = STARTS[case]
    problem, n = make_problem(**changes), 500
    result = fluctuations(problem, initial, [0.0])
    runs = mv.simulate_sgd(
        problem, initial, t_eval=[0.0], dimension=n, runs=3000, rng=11, loss_batches=1, method="literal", progress=False
    ).runs
    sample = Entries(problem.outputs, problem.n_features).pack(runs.Q[0], runs.R[0])
    # 3000 runs see 4 % in a variance, so corrections of 1 / N do not matter; the mean moves by 0.1 standard errors.
    assert_same_law(result.mean(n)[0], result.covariance[0] / n, sample)


def test_bias_of_orthonormalized_loadings():
    """One feature, w = a R + noise: R of a run is R sqrt(mean a^2), whose mean is R (1 - 1 / (4 N))."""
    problem = make_problem(hidden=mv.hidden.Rademacher([4.0]))
    assert independent_start(problem, mv.initial.Gaussian(1.0, 0.6)).bias == pytest.approx([-0.15, 0.0], abs=1e-12)


RUNS = {
    "exact": ({}, True, 500),
    "independent": ({}, False, 500),
    "sphere": ({"constraint": "sphere"}, True, 500),
    "schedule": ({"learning_rate": mv.schedules.ExponentialDecay(0.8, 0.5)}, True, 500),
    "two outputs": ({"outputs": 2, "hidden": mv.hidden.Rademacher([4.0])}, True, 500),
}


@pytest.mark.parametrize("case", RUNS)
def test_ensembles_of_runs(case):
    changes, exact, n = RUNS[case]
    problem = make_problem(**changes)
    k, m = problem.n_features, problem.outputs
    initial = mv.initial.Gaussian(1.0, np.array([[0.5, 0.3], [-0.2, 0.4]])[:m, :k])
    times = [0.1, 0.6]
    result = fluctuations(problem, initial, times, exact)
    runs = mv.simulate_sgd(
        problem, initial, t_eval=times, dimension=n, runs=300, rng=21, exact_overlaps=exact, loss_batches=1,
        method="literal", progress=False,
    ).runs  # fmt: skip
    sample = Entries(m, k).pack(runs.Q, runs.R)
    for i in range(len(times)):
        # 300 runs see 8 % in a standard deviation: more than 1/N, less than any term left out.
        assert_same_law(result.mean(n)[i], result.covariance[i] / n, sample[i])


def test_bias_of_the_mean_at_small_dimension():
    """Large steps of a strongly regularized problem: each part of the bias is many standard errors."""
    problem = make_problem(
        hidden=mv.hidden.Rademacher([2.0]), regularizer=mv.regularizers.L2(2.0), learning_rate=0.8, batch_size=4
    )
    initial, n, t = mv.initial.Gaussian(1.5, 0.9), 60, 0.6
    result = fluctuations(problem, initial, [t], exact_overlaps=True)
    runs = mv.simulate_sgd(
        problem, initial, t_eval=[t], dimension=n, runs=4000, rng=31, exact_overlaps=True, loss_batches=1,
        method="literal", progress=False,
    ).runs  # fmt: skip
    sample = Entries(1, 1).pack(runs.Q[0], runs.R[0])
    stderr = n * sample.std(axis=0) / np.sqrt(len(sample))
    found = n * (sample.mean(axis=0) - result.limit[0])
    assert (np.abs(result.bias[0]) > 8.0 * stderr).any()
    # 4 standard errors and the next order, taken as 5 / N of the bias.
    assert (np.abs(found - result.bias[0]) <= 4.0 * stderr + 5.0 / n * np.abs(result.bias[0])).all()


def test_bias_from_curvature_at_small_dimension():
    """Independent starts, which spread wide, in a large batch: the curvature of the rates makes most of the bias."""
    problem = make_problem(
        hidden=mv.hidden.Rademacher([4.0]), regularizer=mv.regularizers.Zero(), learning_rate=0.8, batch_size=8
    )
    initial, n, times = mv.initial.Gaussian(1.0, 0.3), 100, [0.0, 0.7]
    result = fluctuations(problem, initial, times)
    runs = mv.simulate_sgd(
        problem, initial, t_eval=times, dimension=n, runs=2000, rng=41, loss_batches=1, method="literal", progress=False
    ).runs
    first, last = Entries(1, 1).pack(runs.Q, runs.R)
    # What follows linearly from the start, whose mean is known, is taken out: a control variate.
    moved = first - result.mean(n)[0]
    last = last - moved @ np.linalg.lstsq(first - first.mean(axis=0), last - last.mean(axis=0), rcond=None)[0]
    stderr = n * last.std(axis=0) / np.sqrt(len(last))
    found = n * (last.mean(axis=0) - result.limit[1])
    assert (np.abs(result.bias[1]) > 8.0 * stderr).any()
    assert (np.abs(found - result.bias[1]) <= 4.0 * stderr + 5.0 / n * np.abs(result.bias[1])).all()


def test_gradient_flow_is_the_limit_of_large_batches():
    initial, t = mv.initial.Gaussian(1.0, [0.5, 0.3]), [0.5]
    flow = fluctuations(make_problem(batch_size=np.inf), initial, t)
    large = fluctuations(make_problem(batch_size=10**9), initial, t)
    np.testing.assert_allclose(flow.covariance, large.covariance, rtol=1e-5)
    np.testing.assert_allclose(flow.bias, large.bias, rtol=1e-4, atol=1e-6)


def test_masks_have_spreads_but_no_predicted_bias():
    problem = make_problem(augmentation=mv.augmentations.RandomMask(0.7))
    result = fluctuations(problem, mv.initial.Gaussian(1.0, [0.5, 0.3]), [0.2], exact_overlaps=True)
    assert (np.diagonal(result.covariance[0]) > 0.0).all()
    assert np.isnan(result.bias).all()
    assert result.std(400) == pytest.approx(np.sqrt(np.diagonal(result.covariance[0]) / 400)[None])


def test_what_cannot_be_predicted_is_refused():
    with pytest.raises(mv.ClosureError):
        fluctuations(make_problem(regularizer=mv.regularizers.L1(0.1)), mv.initial.Gaussian(1.0, [0.5, 0.3]), [1.0])
    grows = make_problem(activation="identity", regularizer=mv.regularizers.Zero())
    with pytest.raises(mv.UnsupportedError, match="diverged"):
        fluctuations(grows, mv.initial.Gaussian(1.0, [0.5, 0.3]), [500.0])
