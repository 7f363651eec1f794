"""G, H, Lambda and the loss against literal averages over dense grids."""

from itertools import pairwise

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.limit import LimitCoefficients

NAMES = ("G", "Gbar", "H", "Lambda", "loss")


def scalar_state(rng, features, q):
    R = rng.normal(size=(1, features))
    R *= np.sqrt(q * rng.uniform(0.1, 0.9) / (R @ R.T)[0, 0])
    return np.array([[q]]), R


def make(activation="tanh", *, variance=(1.5, 0.7), noise=(0.5, -0.6), hidden=None, **options):
    return mv.Problem(
        hidden=hidden or mv.hidden.Rademacher(variance=list(variance)),
        activation=activation,
        learning_rate=0.4,
        augmentation=mv.augmentations.GaussianNoise(std=noise[0], correlation=noise[1]),
        **options,
    )


def assert_equal(coefficients, expected, scale, rtol):
    for name in NAMES:
        gap = np.abs(getattr(coefficients, name) - getattr(expected, name)).max()
        assert gap <= rtol * scale, (name, gap)


SMOOTH = [
    mv.activations.Tanh(),
    mv.activations.Erf(),
    mv.activations.Sigmoid(),
    mv.activations.Softplus(),
    mv.activations.Identity(),
    mv.activations.Polynomial([0.1, 1.0, 0.3, -0.2]),
    mv.activations.Custom(lambda h: np.sin(h) + 0.3 * h),
]


@pytest.mark.parametrize("activation", SMOOTH, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize(("batch", "centered"), [(1, False), (4, False), (np.inf, False), (4, True), (np.inf, True)])
def test_one_output_matches_a_dense_grid(reference, activation, batch, centered):
    rng = np.random.default_rng(11)
    hidden = mv.hidden.Discrete([[-1.0, 0.5], [2.0, 0.5], [0.0, -0.75]], [0.4, 0.2, 0.4])
    problem = make(
        activation,
        hidden=hidden,
        noise=([0.5, 0.9], -0.4),
        batch_size=batch,
        loss=mv.losses.Covariance(centered=centered),
        background_variance=0.6,
    )
    Q, R = scalar_state(rng, 2, 0.8)
    expected = reference(problem, Q, R, 121, reach=9.0)
    found = LimitCoefficients(problem)(Q, R)
    # The largest entry is below the sums of absolute values of terms that the promise is about.
    scale = max(np.abs(getattr(expected, name)).max() for name in NAMES)
    assert_equal(found, expected, scale, 1e-8)
    assert found.error <= 1e-8


@pytest.mark.parametrize("q", [0.05, 1.0, 10.0])
@pytest.mark.parametrize("correlation", [0.99, 0.3, -0.95])
def test_one_output_from_small_to_large_weights(reference, q, correlation):
    problem = make(noise=(0.7, correlation), hidden=mv.hidden.Sparse(variance=[1.2], kurtosis=[3.0]))
    Q, R = scalar_state(np.random.default_rng(3), 1, q)
    # The spacing of the reference times the largest deviation (about 3.9) has to stay below 0.1.
    expected = reference(problem, Q, R, 701, reach=8.0)
    found = LimitCoefficients(problem)(Q, R)
    for name in NAMES:
        gap = np.abs(getattr(found, name) - getattr(expected, name)).max()
        # Stein's lemma in the reference divides rounding by the smallest eigenvalue of the covariance.
        assert gap <= 1e-8 * max(np.abs(getattr(expected, name)).max(), 1e-3 * np.abs(expected.Gbar).max()), name


TWO_OUTPUTS = [
    {"batch_size": 1},
    {"batch_size": 1, "loss": mv.losses.Covariance(decorrelation=0.7)},
    {"batch_size": 4, "loss": mv.losses.Covariance(decorrelation=0.7)},
    {"batch_size": np.inf, "loss": mv.losses.Covariance(decorrelation=0.7)},
    {"batch_size": 3, "loss": mv.losses.Covariance(centered=True)},
]


@pytest.mark.parametrize("options", TWO_OUTPUTS, ids=lambda o: f"{o['batch_size']}-{o.get('loss', '')}")
@pytest.mark.parametrize("views", ["alike", "different"])
def test_two_outputs_match_a_dense_grid(reference, options, views):
    std = 0.4 if views == "alike" else [0.3, 0.6]
    activation = (
        mv.activations.Sigmoid() if options.get("loss", mv.losses.Covariance()).centered else mv.activations.Tanh()
    )
    problem = make(activation, variance=(1.5,), noise=(std, -0.5), outputs=2, background_variance=0.8, **options)
    Q, R = np.array([[0.35, 0.08], [0.08, 0.25]]), np.array([[0.3], [-0.2]])
    # 26 nodes per variable on [-6, 6]: spacing 0.48 times deviations below 0.8, truncation near 1e-9.
    expected = reference(problem, Q, R, 26, reach=6.0)
    found = LimitCoefficients(problem)(Q, R)
    for name in NAMES:
        # The reference is good to 2e-9: with 34 nodes on [-6.5, 6.5] it moves that much closer.
        assert (
            np.abs(getattr(found, name) - getattr(expected, name)).max() <= 1e-8 * np.abs(getattr(expected, name)).max()
        )
    assert found.error <= 1e-8


@pytest.mark.parametrize("name", ["uniform", "laplace"])
def test_continuous_hidden_laws(name):
    x, w = np.polynomial.legendre.leggauss(40)
    if name == "uniform":
        hidden = mv.hidden.Uniform(variance=[1.5])
        points, weights = x * np.sqrt(3.0 * 1.5), w / 2.0
    else:
        hidden = mv.hidden.Laplace(variance=[0.8])
        # panels on each side of zero, up to where the density is 1e-20 of its peak
        edges = np.linspace(0.0, 46.0 * np.sqrt(0.8 / 2.0), 9)
        half = np.concatenate([a + (b - a) * (x + 1.0) / 2.0 for a, b in pairwise(edges)])
        density = np.tile(w, 8) * np.exp(-np.sqrt(2.0 / 0.8) * half)
        points, weights = np.concatenate([-half, half]), np.tile(density, 2) / (2.0 * density.sum())
    Q, R = scalar_state(np.random.default_rng(5), 1, 1.0)
    found = LimitCoefficients(make(hidden=hidden))(Q, R)
    expected = LimitCoefficients(make(hidden=mv.hidden.Discrete(points, weights)))(Q, R)
    assert found.error <= 1e-8
    for entry in NAMES:
        gap = np.abs(getattr(found, entry) - getattr(expected, entry)).max()
        # both sides have errors of 1e-8 of sums of absolute values, which are a few times the entries
        assert gap <= 5e-8 * np.abs(getattr(expected, entry)).max(), entry


def test_states_are_evaluated_independently_of_their_neighbours():
    rng = np.random.default_rng(8)
    problem = make(outputs=2, batch_size=4, loss=mv.losses.Covariance(decorrelation=0.5))
    states = []
    for q in (0.01, 0.5, 1.0, 4.0, 1.0, 0.2):
        root = rng.normal(size=(2, 4)) * np.sqrt(q / 4.0)
        states.append((root @ root.T, root[:, :2] * 0.8))
    Q, R = (np.array(x).reshape(3, 2, *x[0].shape) for x in zip(*states, strict=True))
    limit = LimitCoefficients(problem)
    together = limit(Q, R)
    assert together.loss.shape == (3, 2)
    for i in np.ndindex(3, 2):
        alone = limit(Q[i], R[i])
        for name in NAMES:
            np.testing.assert_allclose(getattr(together, name)[i], getattr(alone, name), rtol=1e-10, atol=1e-13)


def test_infinite_batch_is_the_limit_of_large_ones():
    Q, R = np.array([[1.0, 0.2], [0.2, 0.8]]), np.array([[0.3, 0.2], [-0.1, 0.4]])
    loss = mv.losses.Covariance(decorrelation=0.7)
    flow = LimitCoefficients(make(outputs=2, batch_size=np.inf, loss=loss))(Q, R)
    large = LimitCoefficients(make(outputs=2, batch_size=10**7, loss=loss))(Q, R)
    assert not flow.Lambda.any()
    for name in NAMES:
        # differences are of order 1 / B
        np.testing.assert_allclose(getattr(large, name), getattr(flow, name), atol=1e-6)


def test_rate_enters_lambda_squared_at_its_time():
    problem = make()
    schedule = mv.Problem(
        hidden=problem.hidden,
        activation="tanh",
        learning_rate=lambda t: 0.4 / (1.0 + t),
        augmentation=problem.augmentation,
    )
    Q, R = np.array([[1.0]]), np.array([[0.3, 0.2]])
    limit = LimitCoefficients(schedule)
    np.testing.assert_allclose(limit(Q, R, 1.0).Lambda, limit(Q, R, 0.0).Lambda / 4.0, rtol=1e-14)
    np.testing.assert_allclose(limit(Q, R, 0.0).Lambda, LimitCoefficients(problem)(Q, R).Lambda, rtol=1e-14)
