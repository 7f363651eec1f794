"""Direct SGD: its pieces against literal definitions, and the promises about seeds, workers and failure."""

from __future__ import annotations

import numpy as np
import pytest

from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.problem import activations, augmentations, hidden, initial, loadings, losses, regularizers, schedules
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solution_runs import SgdSolution
from mkvlasov.solvers.sgd import literal, reduced
from mkvlasov.solvers.sgd.literal import batch_losses, draw_views, sgd_increment
from mkvlasov.solvers.sgd.simulate import simulate_sgd
from mkvlasov.solvers.sgd.start import draw_start


def make_problem(**fields: object) -> Problem:
    given = {
        "hidden": hidden.Rademacher([4.0, 3.0]),
        "activation": "tanh",
        "learning_rate": 0.4,
        "augmentation": augmentations.GaussianNoise([0.5, 0.8], -0.6),
    }
    return Problem(**{**given, **fields})


START = initial.Gaussian(Q=1.0, R=[0.3, 0.2])
TWO_OUTPUTS = initial.Gaussian(Q=[[1.0, 0.2], [0.2, 0.8]], R=[[0.3, 0.2], [-0.2, 0.4]])


def orthonormal(n: int, k: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, k)))[0].T


def barlow(y1: np.ndarray, y2: np.ndarray) -> np.ndarray:
    return ((y1 - y2) ** 2).sum(axis=-1) - np.cos(y1[..., 0] * y2[..., -1])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"regularizer": regularizers.DoubleWell(0.7), "batch_size": 3},
        {"outputs": 2, "activation": "erf", "loss": losses.Covariance(0.8), "batch_size": 4},
        {"outputs": 2, "activation": "sigmoid", "loss": losses.Covariance(0.5, centered=True), "batch_size": 3},
        {"outputs": 2, "loss": losses.Custom(barlow), "batch_size": 2, "regularizer": regularizers.GroupLasso(0.4)},
        {"augmentation": augmentations.RandomMask(0.6, 0.3), "regularizer": regularizers.L2(0.2)},
    ],
)
def test_a_step_goes_down_the_gradient_of_the_literal_loss(fields: dict[str, object]) -> None:
    problem, n, rate = make_problem(**fields), 7, 0.3
    rng = np.random.default_rng(1)
    features = orthonormal(n, 2, 2)
    weights = rng.standard_normal((problem.outputs, n))
    views = draw_views(problem, features, rng, 1)

    def objective(w: np.ndarray) -> float:
        loss = float(batch_losses(problem, w, views)[0])
        return loss + float(problem.regularizer.value(w.T).sum()) / n

    gradient = np.zeros_like(weights)
    step = 1e-5
    for index in np.ndindex(weights.shape):
        shift = np.zeros_like(weights)
        shift[index] = step
        gradient[index] = (objective(weights + shift) - objective(weights - shift)) / (2.0 * step)
    # Central differences: truncation 1e-10, rounding 1e-16 / 1e-5 times a loss of order 1 to 10.
    np.testing.assert_allclose(sgd_increment(problem, weights, views[0], rate), -rate * gradient, rtol=0, atol=2e-9)


@pytest.mark.parametrize("correlation", [-1.0, 0.4, 1.0])
@pytest.mark.parametrize("std", [[0.5, 0.8], 0.0])
def test_views_have_the_covariance_of_the_model(std: object, correlation: float) -> None:
    draws = 40_000
    problem = make_problem(
        augmentation=augmentations.GaussianNoise(std, correlation), background_variance=0.7, batch_size=2
    )
    features = orthonormal(5, 2, 3)
    views = draw_views(problem, features, np.random.default_rng(4), draws)
    assert views.shape == (draws, 2, 2, 5)
    rows = views.swapaxes(1, 2).reshape(2 * draws, 10)
    sample = features.T @ problem.hidden.covariance @ features + 0.7 * (np.eye(5) - features.T @ features)
    expected = np.kron(np.ones((2, 2)), sample) + np.kron(problem.noise_covariance, np.eye(5))
    products = rows[:, :, None] * rows[:, None, :]
    error = products.std(axis=0) / np.sqrt(len(rows))
    # 55 different entries: 4.5 standard errors are exceeded by chance with a probability below 4e-4 per case.
    assert (np.abs(products.mean(axis=0) - expected) < 4.5 * error + 1e-12).all()
    # Samples of a batch are independent.
    across = views[:, 0, 0, :, None] * views[:, 1, 1, None, :]
    assert (np.abs(across.mean(axis=0)) < 4.5 * across.std(axis=0) / np.sqrt(draws)).all()


def test_masks_keep_entries_of_the_same_sample_as_often_as_they_say() -> None:
    problem = make_problem(augmentation=augmentations.RandomMask(keep=0.7, overlap=0.45))
    views = draw_views(problem, orthonormal(20, 2, 5), np.random.default_rng(6), 5000)
    first, second = views[:, 0, 0], views[:, 1, 0]
    both = (first != 0.0) & (second != 0.0)
    np.testing.assert_array_equal(first[both], second[both])
    for kept, probability in ((first != 0.0, 0.7), (second != 0.0, 0.7), (both, 0.45)):
        assert abs(kept.mean() - probability) < 4.0 * np.sqrt(probability * (1.0 - probability) / kept.size)
    # A kept entry is x / keep, so the mean of x^2 over kept entries is that of the sample over keep^2.
    variance = (4.0 + 3.0 + 18 * 1.0) / 20 / 0.7**2
    squares = np.where(first != 0.0, first**2, 0.0).mean(axis=1)
    assert abs(squares.mean() - 0.7 * variance) < 4.0 * squares.std() / np.sqrt(5000)


def literal_run(problem: Problem, start: initial.Gaussian, n: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """SGD as a textbook would write it, one sample and one coordinate vector at a time; returns Q and R in one row."""
    a = problem.loadings.sample(rng, n, problem.n_features)
    values, vectors = np.linalg.eigh(a.T @ a / n)
    a = a @ vectors @ np.diag(values**-0.5) @ vectors.T
    u = a / np.sqrt(n)
    w = start.sample(rng, a, problem)
    if problem.constraint == "sphere":
        w = w / np.sqrt((w**2).mean(axis=0))
    for step in range(steps):
        tau = problem.rate(step / n)
        x1, x2 = [], []
        for _ in range(int(problem.batch_size)):
            c = problem.hidden.sample(rng, ())
            z = rng.standard_normal(n)
            x = u @ c + np.sqrt(problem.background_variance) * (z - u @ (u.T @ z))
            one, two = problem.augmentation.views(rng, x)
            x1.append(one)
            x2.append(two)
        h1, h2 = np.array(x1) @ w / np.sqrt(n), np.array(x2) @ w / np.sqrt(n)
        alpha1, alpha2 = problem.alpha(h1, h2)
        gradient = (np.array(x1).T @ alpha1 + np.array(x2).T @ alpha2) / np.sqrt(n)
        w = w - tau * gradient - tau / n * problem.regularizer.gradient(w)
        if problem.constraint == "sphere":
            w = w / np.sqrt((w**2).mean(axis=0))
    return np.concatenate([(w.T @ w / n).ravel(), (w.T @ a / n).ravel()])


@pytest.mark.parametrize(
    ("method", "fields", "start"),
    [
        (
            "literal",
            {
                "learning_rate": schedules.ExponentialDecay(2.0, 0.3),
                "regularizer": regularizers.L1(0.8),
                "background_variance": 0.5,
            },
            START,
        ),
        (
            "literal",
            {
                "outputs": 2,
                "batch_size": 2,
                "loss": losses.Covariance(0.8),
                "augmentation": augmentations.RandomMask(0.5, 0.0),
                "constraint": "sphere",
            },
            initial.Gaussian(1.0, [[0.3, 0.2], [-0.2, 0.4]]),
        ),
        (
            "reduced",
            {
                "learning_rate": schedules.ExponentialDecay(2.0, 0.3),
                "regularizer": regularizers.L1(0.8),
                "background_variance": 0.5,
            },
            START,
        ),
        (
            "reduced",
            {
                "outputs": 2,
                "batch_size": 3,
                "activation": "sigmoid",
                "loss": losses.Covariance(0.8, centered=True),
                "constraint": "sphere",
                "learning_rate": 3.0,
            },
            initial.Gaussian(1.0, [[0.3, 0.2], [-0.2, 0.4]]),
        ),
    ],
)
def test_law_of_a_short_run_is_that_of_the_literal_loop(
    method: str, fields: dict[str, object], start: initial.Gaussian
) -> None:
    problem, n, steps = make_problem(**fields), 12, 9
    rng = np.random.default_rng(7)
    literal = np.array([literal_run(problem, start, n, steps, rng) for _ in range(1000)])
    fast = simulate_sgd(
        problem, start, t_eval=[steps / n], dimension=n, runs=3000, rng=8, method=method, progress=False
    )
    simulated = np.concatenate([fast.runs.Q[0].reshape(3000, -1), fast.runs.R[0].reshape(3000, -1)], axis=1)
    for moment in (1, 2):
        a, b = literal**moment, simulated**moment
        error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) <= 4.0 * error + 1e-12).all()


def test_recorded_loss_is_the_expected_batch_loss() -> None:
    # For y = h the loss is known at the start: - E h1 h2 = - [R E[c c^T] R^T + eta (Q - R R^T) + S_12 Q].
    problem = make_problem(activation=activations.Identity(), learning_rate=0.01)
    Q, R = START.overlaps(problem)
    expected = -(R @ problem.hidden.covariance @ R.T + Q - R @ R.T + problem.noise_covariance[0, 1] * Q).item()
    s = simulate_sgd(
        problem,
        START,
        t_eval=[0.0],
        dimension=60,
        runs=64,
        rng=9,
        exact_overlaps=True,
        loss_batches=100,
        progress=False,
    )
    assert abs(s.loss[0] - expected) < 4.0 * s.loss_stderr[0]
    assert s.loss_stderr[0] < 0.05 * abs(expected)


def run_small(**options: object) -> SgdSolution:
    given = {"t_eval": [0.0, 0.5, 2.0], "dimension": 40, "runs": 5, "rng": 10, "method": "literal", "progress": False}
    return simulate_sgd(make_problem(batch_size=2), START, **{**given, **options})


@pytest.mark.parametrize("method", ["reduced", "literal"])
def test_same_seed_gives_the_same_numbers_whatever_the_workers_and_blocks(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    one, two = run_small(method=method, workers=1, snapshots=[1.0]), run_small(method=method, workers=2)
    monkeypatch.setattr(literal, "_BLOCK_COORDINATES", 1)
    monkeypatch.setattr(reduced, "_BLOCK_RUNS", 1)
    three = run_small(method=method, workers=3)
    for other in (two, three):
        np.testing.assert_array_equal(one.runs.Q, other.runs.Q)
        np.testing.assert_array_equal(one.runs.R, other.runs.R)
        np.testing.assert_array_equal(one.runs.loss, other.runs.loss)
    assert not np.array_equal(run_small(method=method, rng=11).runs.R, one.runs.R)


@pytest.mark.parametrize("constraint", [None, "sphere"])
@pytest.mark.parametrize("method", ["reduced", "literal"])
def test_a_run_does_not_depend_on_when_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, method: str, constraint: str | None
) -> None:
    monkeypatch.setattr(reduced, "_CHUNK_STEPS", 16)
    problem = make_problem(batch_size=2, constraint=constraint, regularizer=regularizers.L1(0.2))

    def run(t_eval: object, runs: int = 5, snapshots: object = None) -> np.ndarray:
        return simulate_sgd(
            problem, START, t_eval=t_eval, dimension=40, runs=runs, rng=10, method=method, snapshots=snapshots,
            progress=False,
        ).runs.R  # fmt: skip

    # 160 steps: several chunks of samples.
    usual = run([0.0, 2.0, 4.0])
    np.testing.assert_array_equal(run(np.linspace(0.0, 4.0, 9), snapshots=[0.2, 3.9])[[0, 4, 8]], usual)
    # More runs leave the first ones as they are.
    np.testing.assert_array_equal(run([0.0, 2.0, 4.0], runs=7)[:, :5], usual)


def test_a_generator_may_be_the_seed_and_moves_on() -> None:
    rng = np.random.default_rng(12)
    first, second = run_small(rng=rng), run_small(rng=rng)
    assert not np.array_equal(first.R, second.R)
    np.testing.assert_array_equal(first.R, run_small(rng=np.random.default_rng(12)).R)


def test_a_time_is_read_off_after_the_nearest_step() -> None:
    by_step = run_small(t_eval=[7 / 40])
    np.testing.assert_array_equal(run_small(t_eval=[7.4 / 40]).runs.R, by_step.runs.R)
    assert run_small(t_eval=[7.4 / 40]).stats["steps"] == 7


def test_exact_overlaps_start_exactly() -> None:
    problem = make_problem(outputs=2, batch_size=2)
    s = simulate_sgd(
        problem, TWO_OUTPUTS, t_eval=[0.0], dimension=50, runs=3, rng=13, exact_overlaps=True, progress=False
    )
    Q, R = TWO_OUTPUTS.overlaps(problem)
    np.testing.assert_allclose(s.runs.Q[0], np.broadcast_to(Q, (3, 2, 2)), atol=1e-13)
    np.testing.assert_allclose(s.runs.R[0], np.broadcast_to(R, (3, 2, 2)), atol=1e-13)
    free = simulate_sgd(problem, TWO_OUTPUTS, t_eval=[0.0], dimension=50, runs=3, rng=13, progress=False)
    assert np.abs(free.runs.R[0] - R).max() > 0.01


def test_runs_have_features_of_their_own() -> None:
    problem = make_problem()
    starts = [draw_start(problem, START, 30, np.random.default_rng(seed), False) for seed in (14, 15)]
    for _, features, drawn in starts:
        np.testing.assert_allclose(features @ features.T, np.eye(2), atol=1e-13)
        assert np.abs(features.T * np.sqrt(30) - drawn).max() > 1e-3
    assert np.abs(starts[0][1] - starts[1][1]).max() > 0.1


def test_weights_stay_on_the_sphere() -> None:
    problem = make_problem(outputs=2, batch_size=2, constraint="sphere", regularizer=regularizers.L1(0.1))
    start = initial.Gaussian(1.0, [[0.3, 0.2], [-0.2, 0.4]])
    s = simulate_sgd(problem, start, t_eval=[0.0, 0.3, 1.0], dimension=40, runs=3, rng=16, progress=False)
    np.testing.assert_allclose(np.diagonal(s.runs.Q, axis1=-2, axis2=-1), 1.0, atol=1e-13)


def test_divergence_ends_the_arrays_and_is_said() -> None:
    problem = make_problem(activation=activations.Polynomial([0.0, 1.0, 0.0, 0.5]), learning_rate=1.0)
    s = simulate_sgd(
        problem,
        START,
        t_eval=np.linspace(0, 4, 21),
        dimension=50,
        runs=4,
        rng=17,
        snapshots=[0.0, 4.0],
        method="literal",
        progress=False,
    )
    assert not s.status.success
    assert "4 of 4 run(s) diverged" in s.status.message
    assert 1 <= len(s.t) < 21
    assert len(s.Q) == len(s.R) == len(s.loss) == len(s.Q_error) == len(s.runs.Q) == len(s.t)
    assert np.isfinite(s.runs.Q).all()
    assert np.isfinite(s.loss).all()
    assert s.snapshots.t.tolist() == [0.0]
    assert s.stats["diverged"] == 4


def test_only_the_runs_that_diverge_are_counted() -> None:
    # From these starts some runs escape and some decay; the arrays end where the first one leaves.
    problem = make_problem(
        activation=activations.Polynomial([0.0, 0.0, 1.0]),
        hidden=hidden.Rademacher(1.0),
        learning_rate=0.3,
        regularizer=regularizers.L2(3.0),
        augmentation=None,
    )
    s = simulate_sgd(
        problem,
        initial.Gaussian(0.6, 0.1),
        t_eval=[0.0, 0.1, 30.0],
        dimension=20,
        runs=40,
        rng=18,
        method="literal",
        progress=False,
    )
    assert 0 < s.stats["diverged"] < 40
    assert len(s.t) < 3


def test_one_run_has_no_standard_error() -> None:
    s = run_small(runs=1)
    assert np.isinf(s.R_stderr).all()
    assert np.isinf(s.cosine_similarity_stderr).all()


def test_means_and_standard_errors_are_those_of_the_runs() -> None:
    s = run_small()
    np.testing.assert_allclose(s.R, s.runs.R.mean(axis=1))
    np.testing.assert_allclose(s.R_stderr, s.runs.R.std(axis=1, ddof=1) / np.sqrt(5))
    cosine = s.runs.R / np.sqrt(s.runs.Q)
    np.testing.assert_allclose(s.cosine_similarity, cosine.mean(axis=1))
    np.testing.assert_allclose(s.cosine_similarity_stderr, cosine.std(axis=1, ddof=1) / np.sqrt(5))
    assert not s.Q_error.any()
    assert s.n_runs == 5


def test_an_infinite_batch_is_refused_with_a_way_out() -> None:
    with pytest.raises(UnsupportedError, match="solve_ode"):
        simulate_sgd(make_problem(batch_size=np.inf), START, t_eval=[1.0])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"dimension": 3}, "dimension"),
        ({"runs": 0}, "runs"),
        ({"rng": -1}, "rng"),
        ({"t_eval": [1.0, 0.5]}, "t_eval"),
        ({"snapshots": [3.0]}, "snapshots"),
        ({"workers": 0}, "workers"),
        ({"loss_batches": 0}, "loss_batches"),
        ({"exact_overlaps": 1}, "exact_overlaps"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, object], name: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{name}"):
        run_small(**options)


def test_too_few_coordinates_for_sparse_loadings_is_said() -> None:
    problem = make_problem(loadings=loadings.Sparse(0.01))
    with pytest.raises(UnsupportedError, match="larger dimension"):
        simulate_sgd(problem, START, t_eval=[0.0], dimension=5, runs=20, rng=19, progress=False)
