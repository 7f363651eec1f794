"""The chain of the order parameters against the literal algorithm at finite dimension, in law."""

import dataclasses
import functools

import numpy as np
import pytest
from scipy import stats

import mkvlasov as mv
from mkvlasov.order_parameters import match_overlaps, orthonormalize, overlaps
from mkvlasov.solvers.sgd.chain import Draws, OrderParameterChain, chain_applies, simulate_chain

LEVEL = 1e-4
"""Probability of a false alarm per test, shared among its statistics (Bonferroni)."""


def make_problem(**changes):
    fields = {
        "hidden": mv.hidden.Rademacher([4.0, 3.0]),
        "activation": "tanh",
        "learning_rate": 0.9,
        "regularizer": mv.regularizers.L2(0.7),
        "augmentation": mv.augmentations.GaussianNoise(std=[0.5, 0.8], correlation=-0.6),
        "background_variance": 0.8,
    }
    return mv.Problem(**{**fields, **changes})


def literal_views(problem, u, rng):
    """Draw a batch in both views, (runs, B, N) each, for features (runs, N, K)."""
    runs, n, _ = u.shape
    batch, eta = problem.batch_size, problem.background_variance
    c = problem.hidden.sample(rng, (runs, batch))
    z = rng.standard_normal((runs, batch, n))
    x = c @ u.mT + np.sqrt(eta) * (z - z @ u @ u.mT)
    (s1, shared), (_, s2) = problem.noise_covariance
    first, second = rng.standard_normal((2, runs, batch, n))
    rho = shared / np.sqrt(s1 * s2) if shared else 0.0
    x1 = x + np.sqrt(s1) * first
    return x1, x + np.sqrt(s2) * (rho * first + np.sqrt(1.0 - rho**2) * second)


def literal_step(problem, w, u, rng, rate, proximal=False):
    """One step as theory.md, section 1, writes it, for weights (runs, N, m)."""
    n = w.shape[1]
    x1, x2 = literal_views(problem, u, rng)
    alpha1, alpha2 = problem.alpha(x1 @ w / np.sqrt(n), x2 @ w / np.sqrt(n))
    gradient = (x1.mT @ alpha1 + x2.mT @ alpha2) / np.sqrt(n)
    if proximal:
        w = problem.regularizer.proximal(w - rate * gradient, rate / n)
    else:
        w = w - rate * gradient - rate / n * problem.regularizer.gradient(w)
    if problem.constraint == "sphere":
        w = w / np.sqrt((w**2).mean(axis=1, keepdims=True))
    return w


def pack(Q, R):
    rows, columns = np.triu_indices(Q.shape[-1])
    return np.concatenate([R.reshape(*R.shape[:-2], -1), Q[..., rows, columns]], axis=-1)


def moments(x):
    """Entries and their products about fixed centres: as many statistics of the law as there are columns."""
    rows, columns = np.triu_indices(x.shape[1])
    return np.concatenate([x, x[:, rows] * x[:, columns]], axis=1)


def p_value_of_same_law(x, y):
    """Smallest p-value, corrected for their number, of means, second moments and Kolmogorov-Smirnov of the entries."""
    centre, scale = y.mean(axis=0), y.std(axis=0)
    moving = scale > 1e-9 * np.abs(centre).max()
    assert (np.abs(x - centre)[:, ~moving] < 1e-9).all()
    x, y = ((s[:, moving] - centre[moving]) / scale[moving] for s in (x, y))
    a, b = moments(x), moments(y)
    z = (a.mean(axis=0) - b.mean(axis=0)) / np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
    p = [*(2.0 * stats.norm.sf(np.abs(z))), *(stats.ks_2samp(s, t).pvalue for s, t in zip(x.T, y.T, strict=True))]
    return len(p) * min(p)


def state(problem):
    Q = np.array([[1.2, 0.2], [0.2, 0.9]])[: problem.outputs, : problem.outputs]
    if problem.constraint == "sphere":
        Q = np.where(np.eye(len(Q), dtype=bool), 1.0, Q)
    return Q, np.array([[0.6, 0.3], [-0.2, 0.5]])[: problem.outputs]


def literal_runs(problem, Q, R, dimension, steps, count, seed, proximal=False):
    """Entries after some literal steps from exactly (Q, R)."""
    rng = np.random.default_rng(seed)
    a = orthonormalize(rng.standard_normal((dimension, R.shape[1])))
    w = match_overlaps(rng.standard_normal((dimension, len(Q))), a, Q, R)
    w, u = np.tile(w, (count, 1, 1)), np.tile(a / np.sqrt(dimension), (count, 1, 1))
    for step in range(steps):
        w = literal_step(problem, w, u, rng, problem.rate(step / dimension), proximal)
    return pack(*overlaps(w, np.tile(a, (count, 1, 1))))


def chain_runs(problem, Q, R, dimension, steps, count, seed, proximal=False, wrong_freedom=0):
    """The same for the chain."""
    rng = np.random.default_rng(seed)
    chain = OrderParameterChain(problem, dimension, proximal)
    R, P = np.tile(R, (count, 1, 1)), np.tile(Q - R @ R.T, (count, 1, 1))
    diverged = np.full(count, np.inf)
    for step in range(steps):
        drawn = chain.draw([rng], step, count)
        squares = drawn.squares
        if wrong_freedom:
            squares = squares + rng.chisquare(wrong_freedom, squares.shape)
        # One step of many runs instead of many steps of one.
        draws = Draws(*(np.swapaxes(part, 0, 1) for part in (drawn.hidden, drawn.normals, squares)), drawn.rates[:1])
        chain.advance(R, P, diverged, draws, (0, 1), step)
    assert np.isinf(diverged).all()
    return pack(P + R @ R.mT, R)


DECORRELATED = {"outputs": 2, "batch_size": 3, "loss": mv.losses.Covariance(decorrelation=2.0)}
ONE_STEP = {
    "plain": ({}, 7),
    "batch, Gaussian features": ({"batch_size": 3, "hidden": mv.hidden.Gaussian([2.0, 1.0])}, 7),
    "centred": ({"batch_size": 3, "activation": "sigmoid", "loss": mv.losses.Covariance(centered=True)}, 7),
    "equal views": ({"augmentation": None}, 7),
    "opposite noises": ({"augmentation": mv.augmentations.GaussianNoise(0.9, -1.0), "regularizer": None}, 7),
    "no background": ({"background_variance": 0.0}, 7),
    "sphere": ({"constraint": "sphere"}, 7),
    "two outputs": ({"outputs": 2, "activation": "erf"}, 7),
    "decorrelated": (DECORRELATED, 7),
    "decorrelated and centred": ({**DECORRELATED, "loss": mv.losses.Covariance(2.0, centered=True)}, 7),
    "sphere, two outputs": ({**DECORRELATED, "constraint": "sphere"}, 7),
    "equal views, two outputs": ({"outputs": 2, "augmentation": None}, 7),
    "smallest dimension": (DECORRELATED, 5),
    # So large a step that the directions off features and weights count, of which there are two.
    "two directions off": ({**DECORRELATED, "learning_rate": 5.0}, 6),
}


@pytest.mark.parametrize("case", ONE_STEP)
def test_one_step_has_the_law_of_the_literal_algorithm(case):
    changes, dimension = ONE_STEP[case]
    problem = make_problem(**changes)
    Q, R = state(problem)
    literal = literal_runs(problem, Q, R, dimension, 1, 20_000, seed=1)
    assert p_value_of_same_law(chain_runs(problem, Q, R, dimension, 1, 40_000, seed=2), literal) > LEVEL


WRONG = {
    "noise": {"augmentation": mv.augmentations.GaussianNoise(std=[0.5, 0.8], correlation=-0.2)},
    "background": {"background_variance": 1.0},
    "decay": {"regularizer": mv.regularizers.L2(0.6)},
    "decorrelation": {"loss": mv.losses.Covariance(decorrelation=1.5)},
    "law of c": {"hidden": mv.hidden.Gaussian([4.0, 3.0])},
    "degrees of freedom": {},  # as if the directions of the weights were not among those drawn already
}


def test_a_proximal_step_of_l2():
    problem = make_problem(**DECORRELATED, regularizer=mv.regularizers.L2(3.0))
    Q, R = state(problem)
    literal = literal_runs(problem, Q, R, 7, 1, 20_000, seed=1, proximal=True)
    assert p_value_of_same_law(chain_runs(problem, Q, R, 7, 1, 40_000, seed=2, proximal=True), literal) > LEVEL
    assert p_value_of_same_law(chain_runs(problem, Q, R, 7, 1, 40_000, seed=2), literal) < LEVEL


@functools.cache
def decorrelated_step():
    problem = make_problem(**DECORRELATED)
    return literal_runs(problem, *state(problem), 7, 1, 20_000, seed=1)


@pytest.mark.parametrize("piece", WRONG)
def test_a_wrong_piece_of_a_step_is_noticed(piece):
    wrong = make_problem(**{**DECORRELATED, **WRONG[piece]})
    found = chain_runs(wrong, *state(wrong), 7, 1, 40_000, seed=2, wrong_freedom=0 if WRONG[piece] else 2)
    assert p_value_of_same_law(found, decorrelated_step()) < LEVEL


def test_weights_that_depend_on_each_other_and_on_the_features():
    """Q - R R^T of rank one, then of rank zero: fewer directions than outputs carry the weights."""
    problem = make_problem(**DECORRELATED)
    R = np.array([[0.6, 0.3], [-0.2, 0.5]])
    for rest in (np.array([[0.4, 0.2], [0.2, 0.1]]), np.zeros((2, 2))):
        Q = R @ R.T + rest
        literal = literal_runs(problem, Q, R, 7, 1, 20_000, seed=3)
        assert p_value_of_same_law(chain_runs(problem, Q, R, 7, 1, 40_000, seed=4), literal) > LEVEL


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": mv.schedules.ExponentialDecay(1.5, 0.5)},
        {**DECORRELATED, "constraint": "sphere"},
        {"outputs": 2, "batch_size": 3, "activation": "relu", "learning_rate": 0.3},
    ],
)
def test_a_few_steps_in_few_dimensions(changes):
    problem = make_problem(**changes)
    Q, R = state(problem)
    literal = literal_runs(problem, Q, R, 6, 8, 5_000, seed=5)
    assert p_value_of_same_law(chain_runs(problem, Q, R, 6, 8, 10_000, seed=6), literal) > LEVEL


def run(problem, initial, **changes):
    options = {
        "dimension": 100, "steps": np.array([0, 50, 100]), "seeds": 8, "exact_overlaps": False, "loss_batches": 4,
        "workers": 1, "progress": False,
    }  # fmt: skip
    options |= changes
    options["seeds"] = np.random.SeedSequence(7).spawn(options["seeds"])
    return simulate_chain(problem, initial, **options)


START = mv.initial.Gaussian(1.0, [0.5, 0.3])
TWO = mv.initial.Gaussian([[1.0, 0.2], [0.2, 0.8]], [[0.5, 0.3], [-0.2, 0.6]])


@pytest.mark.parametrize(("changes", "initial"), [({"learning_rate": 0.4}, START), (DECORRELATED, TWO)])
def test_whole_runs_from_independent_starts(changes, initial):
    problem, n, count = make_problem(**changes), 100, 150
    rng = np.random.default_rng(8)
    drawn = rng.standard_normal((count, n, 2))
    w, a = np.array([initial.sample(rng, loadings, problem) for loadings in drawn]), orthonormalize(drawn)
    found = run(problem, initial, seeds=2000)
    for step in range(101):
        if step in (0, 50, 100):
            at = [0, 50, 100].index(step)
            assert p_value_of_same_law(pack(found.Q[at], found.R[at]), pack(*overlaps(w, a))) > LEVEL
        w = literal_step(problem, w, a / np.sqrt(n), rng, problem.rate(step / n))


def test_recorded_loss_is_that_of_literal_batches():
    problem = make_problem(**DECORRELATED)
    n, (Q, R), rng = 60, TWO.overlaps(problem), np.random.default_rng(9)
    record = run(problem, TWO, dimension=n, steps=np.array([0]), exact_overlaps=True, loss_batches=64, seeds=200)
    a = orthonormalize(rng.standard_normal((n, 2)))
    w = match_overlaps(rng.standard_normal((n, 2)), a, Q, R)
    x1, x2 = literal_views(problem, np.tile(a / np.sqrt(n), (10_000, 1, 1)), rng)
    literal = problem.batch_loss(*(problem.activation.value(x @ w / np.sqrt(n)) for x in (x1, x2)))
    error = np.hypot(literal.std() / 100.0, record.loss.std() / np.sqrt(200))
    assert abs(record.loss.mean() - literal.mean()) < 4.0 * error
    # Each record is a mean over 64 batches.
    assert record.loss.std() == pytest.approx(literal.std() / 8.0, rel=0.2)


NAMED = ("identity", "tanh", "erf", "sigmoid", "softplus", "relu", "leaky_relu")


@pytest.mark.parametrize("activation", [*NAMED, mv.activations.Polynomial([0.1, 0.5, -0.1, -0.02])])
@pytest.mark.parametrize("changes", [{}, {**DECORRELATED, "loss": mv.losses.Covariance(0.5, centered=True)}])
def test_functions_of_ones_own_give_the_same_numbers(activation, changes):
    """The compiled steps and the NumPy steps are two ways to write one map of the same random numbers."""
    problem = make_problem(**changes, activation=activation, learning_rate=0.2)
    own = mv.activations.Custom(problem.activation.value, problem.activation.derivative)
    initial = START if problem.outputs == 1 else TWO
    other = make_problem(**changes, activation=own, learning_rate=0.2)
    one, two = (run(p, initial, dimension=50, steps=np.array([0, 10, 30]), proximal=True) for p in (problem, other))
    for name in ("Q", "R", "loss"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-7, atol=1e-9)
    assert np.abs(one.R[-1] - one.R[0]).max() > 0.01


def test_numbers_depend_on_the_seed_of_a_run_alone():
    problem = make_problem(**DECORRELATED)
    one = run(problem, TWO, seeds=40)
    two = run(problem, TWO, seeds=40, workers=3)
    for name in ("Q", "R", "loss"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        np.testing.assert_array_equal(getattr(run(problem, TWO, seeds=3), name), getattr(one, name)[:, :3])
    # Not on when it is looked at either; 100 steps are a chunk of draws.
    often = run(problem, TWO, seeds=40, steps=np.array([0, 3, 50, 99, 100, 101, 250]))
    np.testing.assert_array_equal(often.R[2], one.R[1])
    assert len({*one.R[-1, :, 0, 0]}) == 40


def test_exact_starts():
    record = run(make_problem(**DECORRELATED), TWO, exact_overlaps=True, dimension=10_000, steps=np.array([0]))
    Q, R = TWO.overlaps(make_problem(**DECORRELATED))
    np.testing.assert_allclose(record.Q[0], np.tile(Q, (8, 1, 1)), atol=1e-14)
    np.testing.assert_array_equal(record.R[0], np.tile(R, (8, 1, 1)))
    # Five rows will all be of the first kind, and nothing is left of the second output to be matched.
    pair = mv.initial.Mixture([1.0 - 1e-6, 1e-6], [mv.initial.Point([1.0, 0.0]), mv.initial.Point([0.0, 1.0])])
    with pytest.raises(mv.UnsupportedError, match="exact_overlaps"):
        run(make_problem(**DECORRELATED), pair, exact_overlaps=True, dimension=5)


@pytest.mark.parametrize("own", [False, True])
def test_a_run_that_diverges_says_when(own):
    grows = mv.activations.Polynomial([0.0, 1.0, 0.0, 0.5])
    if own:
        grows = mv.activations.Custom(grows.value, grows.derivative)
    record = run(make_problem(activation=grows), START, steps=np.array([0, 1, 400]), dimension=20)
    assert np.isfinite(record.diverged).all()
    assert (record.diverged > 0.0).all()
    assert (record.diverged * 20 == np.rint(record.diverged * 20)).all()
    np.testing.assert_array_less(np.abs(record.Q[1]), 1e8)


def test_where_it_does_not_apply_the_reason_is_given():
    assert chain_applies(make_problem()) == ""
    assert chain_applies(make_problem(regularizer=mv.regularizers.ElasticNet(0.0, 0.3))) == ""
    assert "RandomMask" in chain_applies(make_problem(augmentation=mv.augmentations.RandomMask(0.7)))
    assert "L1" in chain_applies(make_problem(regularizer=mv.regularizers.L1(0.1)))
    assert "inf" in chain_applies(make_problem(batch_size=np.inf))


def test_every_field_of_the_covariance_loss_reaches_the_compiled_steps():
    """A field that is added to the loss or the problem must be passed on, or keep compiled steps from being used."""
    fields = {field.name for field in dataclasses.fields(mv.losses.Covariance)}
    assert fields == {"decorrelation", "centered", "g", "g_derivative", "stop_gradient"}
    for loss in (mv.losses.Covariance(0.5, g=np.cos), mv.losses.Covariance(stop_gradient=True)):
        assert OrderParameterChain(make_problem(loss=loss), 50).compiled is None
    assert {field.name for field in dataclasses.fields(mv.Problem)} == {
        "hidden", "activation", "learning_rate", "regularizer", "augmentation", "loss", "loadings", "outputs",
        "batch_size", "background_variance", "constraint",
    }  # fmt: skip
