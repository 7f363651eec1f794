"""The reduced method against the literal algorithm: law of one step, penalties, the user's own functions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.problem import activations, augmentations, hidden, initial, losses, regularizers
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.regularizers import Regularizer
from mkvlasov.solution_runs import SgdSolution
from mkvlasov.solvers.sgd.plan import Plan
from mkvlasov.solvers.sgd.reduced import ReducedBlock
from mkvlasov.solvers.sgd.simulate import simulate_sgd
from mkvlasov.solvers.sgd.start import Streams

START = initial.Gaussian(Q=[[1.0, 0.2], [0.2, 0.8]], R=[[0.3, 0.2], [-0.2, 0.4]])
NOISE = augmentations.GaussianNoise([0.5, 0.8], -0.6)


def make_problem(**fields: object) -> Problem:
    given = {
        "hidden": hidden.Sparse([4.0, 3.0], 2.0),
        "activation": "tanh",
        "learning_rate": 2.0,
        "augmentation": NOISE,
        "outputs": 2,
        "batch_size": 3,
        "loss": losses.Covariance(0.8),
        "background_variance": 0.7,
    }
    return Problem(**{**given, **fields})


def block_at(problem: Problem, weights: np.ndarray, features: np.ndarray, runs: int, dtype: str) -> ReducedBlock:
    """Return a block whose runs all start at the given weights (m, N) and features (K, N)."""
    plan = Plan(
        problem=problem,
        initial=initial.Gaussian(1.0, 0.0),
        dimension=weights.shape[1],
        exact_overlaps=False,
        loss_batches=1,
        output_steps=np.zeros(1, int),
        snapshot_steps=np.zeros(0, int),
        observables={},
        proximal=False,
        dtype=np.dtype(dtype),
    )
    streams = [Streams.spawn(seed) for seed in np.random.SeedSequence(1).spawn(runs)]
    block = ReducedBlock(plan, streams, np.zeros((runs, 0, problem.n_features)))
    block.weights[:], block.features[:] = weights, features
    return block


def reduced_steps(problem: Problem, w: np.ndarray, u: np.ndarray, dtype: str) -> np.ndarray:
    """Changes of the weights in the first steps of many runs, which go back to the start after each: (20000, m N)."""
    block = block_at(problem, w, u, 500, dtype)
    before, steps = block.weights.copy(), []
    for step in range(40):
        block.advance(step, step + 1)
        steps.append((block.weights - before).astype(float).reshape(500, -1))
        block.weights[:] = before
    return np.concatenate(steps)


def literal_steps(problem: Problem, w: np.ndarray, u: np.ndarray, draws: int) -> np.ndarray:
    """Changes of the weights in one step as section 1 of docs/theory.md says it, written without the package's SGD."""
    rng = np.random.default_rng(2)
    n, tau, eta = w.shape[1], problem.rate(0.0), problem.background_variance
    (s1, s2), rho = problem.augmentation.std, problem.augmentation.correlation
    c = problem.hidden.sample(rng, (draws, int(problem.batch_size)))
    z, n1, n2 = rng.standard_normal((3, *c.shape[:-1], n))
    x = c @ u + math.sqrt(eta) * (z - (z @ u.T) @ u)
    views = x + s1 * n1, x + s2 * (rho * n1 + math.sqrt(1.0 - rho**2) * n2)
    alpha = problem.alpha(*(v @ w.T / math.sqrt(n) for v in views))
    step = sum(np.einsum("dbj,dbi->dji", a, v) for a, v in zip(alpha, views, strict=True))
    return -tau / math.sqrt(n) * step - tau / n * problem.regularizer.gradient(w.T).T


@pytest.mark.parametrize(
    ("fields", "dtype"),
    [
        ({}, "float64"),
        ({"activation": "relu", "loss": losses.Covariance(0.5, stop_gradient=True)}, "float64"),
        ({"outputs": 1, "batch_size": 1, "regularizer": regularizers.Huber(0.4, 0.5)}, "float32"),
    ],
)
def test_one_step_has_the_law_of_the_literal_step(fields: dict[str, object], dtype: str) -> None:
    # First and second moments of all coordinates of the update: with the weights and features fixed these hold every
    # cross moment with the loadings and weights too, and the mean of its cube. N = 7 leaves 3 directions off U and W.
    problem, n = make_problem(**fields), 7
    rng = np.random.default_rng(3)
    features = np.linalg.qr(rng.standard_normal((n, 2)))[0].T
    weights = rng.standard_normal((problem.outputs, n))
    ours = reduced_steps(problem, weights, features, dtype)
    literal = literal_steps(problem, weights, features, 2 * len(ours)).reshape(2 * len(ours), -1)
    upper = np.triu_indices(ours.shape[1])
    moments = (lambda x: x), (lambda x: (x[:, :, None] * x[:, None, :])[:, *upper]), (lambda x: x**3)
    deviations = []
    for moment in moments:
        a, b = moment(ours), moment(literal)
        error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        deviations.append((a.mean(axis=0) - b.mean(axis=0)) / error)
    # 133 numbers at most: 4.5 standard errors are exceeded by chance with a probability below 1e-3.
    assert np.abs(np.concatenate(deviations)).max() < 4.5


PENALTIES: list[Regularizer] = [
    regularizers.L1(0.7),
    regularizers.L2(0.4),
    regularizers.ElasticNet(0.5, 0.3),
    regularizers.Huber(0.6, 0.4),
    regularizers.DoubleWell(0.8),
    regularizers.GroupLasso(0.9),
]


@pytest.mark.parametrize("regularizer", PENALTIES, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("step", ["gradient", "proximal"])
def test_compiled_penalties_are_those_of_the_problem(regularizer: Regularizer, step: str) -> None:
    # An activation without slope: only the regularizer moves the weights. A large rate, so that it is seen.
    problem = make_problem(regularizer=regularizer, activation=activations.Polynomial([1.0]), learning_rate=40.0)
    n, m = 300, 2

    def observe(w: np.ndarray, u: np.ndarray) -> np.ndarray:
        return w

    s = simulate_sgd(
        problem, START, t_eval=[0.0, 1 / n], dimension=n, runs=2, rng=4, method="reduced", regularizer_step=step,
        observables={"weights": observe}, progress=False,
    )  # fmt: skip
    before, after = s.observables["weights"]
    assert before.shape == (2, n, m)
    gain = 40.0 / n
    expected = (
        regularizer.proximal(before, gain) if step == "proximal" else before - gain * regularizer.gradient(before)
    )
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-13)
    assert np.abs(after - before).max() > 0.02
    if step == "proximal" and isinstance(regularizer, regularizers.L1):
        np.testing.assert_array_equal(after == 0.0, np.abs(before) <= gain * 0.7)


def run(problem: Problem, **options: object) -> SgdSolution:
    given = {"t_eval": [0.0, 1.0], "dimension": 40, "runs": 3, "rng": 5, "method": "reduced", "progress": False}
    return simulate_sgd(problem, START, **{**given, **options})


def double_well(w: np.ndarray) -> np.ndarray:
    return 0.2 * (w * w - 1.0) ** 2


def double_well_slope(w: np.ndarray) -> np.ndarray:
    return 0.8 * (w * w - 1.0) * w


def test_functions_of_the_users_own_give_the_numbers_of_the_built_in_ones() -> None:
    built_in = run(make_problem(learning_rate=0.5, regularizer=regularizers.DoubleWell(0.8)))
    for own in (
        {"activation": activations.Custom(np.tanh, lambda h: 1.0 - np.tanh(h) ** 2)},
        {"regularizer": regularizers.Custom(double_well, double_well_slope)},
        {"loss": losses.Covariance(0.8, g=lambda c: 0.5 * c * c, g_derivative=lambda c: c)},
    ):
        s = run(make_problem(**{"learning_rate": 0.5, "regularizer": regularizers.DoubleWell(0.8), **own}))
        np.testing.assert_allclose(s.runs.R, built_in.runs.R, rtol=0, atol=1e-10)
        assert np.abs(s.runs.R[1] - s.runs.R[0]).max() > 0.05


def test_single_precision_follows_double_precision_in_law_only() -> None:
    # Not the same draws, so the means of many runs are compared.
    problem = make_problem(learning_rate=0.5, regularizer=regularizers.L1(0.2))
    single, double = (run(problem, runs=300, dtype=dtype) for dtype in ("float32", "float64"))
    gap = np.abs(single.R - double.R) / np.hypot(single.R_stderr, double.R_stderr)
    assert gap.max() < 4.0
    assert not np.array_equal(single.runs.R, double.runs.R)


def test_recorded_loss_is_that_of_literal_batches() -> None:
    # The same seed gives the same starts, here far from weights of size one: only the batches differ.
    problem, start = make_problem(), initial.Gaussian(6.0, [[0.3, 0.2], [-0.2, 0.4]])
    options = {"t_eval": [0.0], "dimension": 40, "runs": 60, "rng": 7, "loss_batches": 200, "progress": False}
    one, two = (simulate_sgd(problem, start, method=method, **options) for method in ("reduced", "literal"))
    np.testing.assert_allclose(one.runs.R, two.runs.R, rtol=0, atol=1e-12)
    gap = one.runs.loss[0] - two.runs.loss[0]
    assert abs(gap.mean()) < 4.0 * gap.std() / np.sqrt(60)


def test_weights_among_the_features_are_no_obstacle() -> None:
    # P = Q - R R^T vanishes: the frame of W off the features is empty at the first step.
    problem = make_problem(outputs=1, batch_size=1, loss=None)
    features = np.linalg.qr(np.random.default_rng(6).standard_normal((30, 2)))[0].T
    moved = reduced_steps(problem, math.sqrt(30) * features[:1], features, "float64")
    literal = literal_steps(problem, math.sqrt(30) * features[:1], features, 40_000)[:, 0]
    for moment in (1, 2):
        a, b = moved**moment, literal**moment
        error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4.5 * error).all()


def test_where_the_reduction_does_not_apply_it_is_refused() -> None:
    masked = make_problem(augmentation=augmentations.RandomMask(0.5))
    with pytest.raises(UnsupportedError, match="not additive Gaussian noise"):
        run(masked)
    with pytest.raises(UnsupportedError, match="float64"):
        run(masked, method="auto", dtype="float32")
    with pytest.raises(UnsupportedError, match="literal"):
        run(make_problem(), method="literal", dtype="float32")
    with pytest.raises(InvalidInput, match=r"^method"):
        run(make_problem(), method="fast")
    custom = regularizers.Custom(double_well, double_well_slope)
    with pytest.raises(InvalidInput, match=r"^regularizer_step"):
        run(make_problem(regularizer=custom), regularizer_step="proximal")
