"""The error estimate is honest, and the accuracy asked for is delivered."""

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit import LimitCoefficients
from mkvlasov.limit.coefficients import _worst

NAMES = ("G", "Gbar", "H", "Lambda", "loss")
SMOOTH = {
    "tanh": mv.activations.Tanh(),
    "sigmoid": mv.activations.Sigmoid(),
    "steep": mv.activations.Custom(
        lambda h: np.tanh(3.0 * h), lambda h: 3.0 / np.cosh(np.clip(3.0 * h, -300, 300)) ** 2
    ),
    "growing": mv.activations.Custom(lambda h: np.sinh(0.4 * h), lambda h: 0.4 * np.cosh(0.4 * h)),
}


def states(m, count=12):
    rng = np.random.default_rng(99)
    for i in range(count):
        W = rng.normal(size=(m, m + 3)) * np.sqrt(10.0 ** rng.uniform(-2, 1) / (m + 3))
        if i % 3 == 0:
            W[:, 2:] = 0.0  # everything is learnt
        yield W @ W.T, W[:, :2]


def problems(activation, m, **options):
    for std, correlation in ((0.0, 0.0), (0.5, -0.6), ([0.3, 0.8], 0.9)):
        yield mv.Problem(
            hidden=mv.hidden.Rademacher(variance=[1.3, 0.6]),
            activation=activation,
            learning_rate=1.0,
            outputs=m,
            augmentation=mv.augmentations.GaussianNoise(std=std, correlation=correlation),
            **options,
        )


def gap(found, expected, terms):
    """Largest relative gap, with the scales that the estimate is relative to."""
    worst = 0.0
    for name, scale in zip(NAMES, terms, strict=True):
        difference = np.abs(getattr(found, name) - getattr(expected, name))
        size = np.maximum(np.maximum(scale[1], 1e-3 * scale[3])[0].reshape(difference.shape), 1e-300)
        worst = max(worst, float((difference / size).max()))
    return worst


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-8])
def test_one_output(name, rtol):
    checked = 0
    for problem in problems(SMOOTH[name], 1):
        fine, limit = LimitCoefficients(problem, rtol=1e-11), LimitCoefficients(problem, rtol=rtol)
        for Q, R in states(1):
            expected, found = fine(Q, R), limit(Q, R)
            if name == "growing" and Q[0, 0] > 3.0:
                continue
            terms, _ = fine._converge_hidden(Q[None], R[None])
            true = gap(found, expected, terms)
            # 1e-10: differentiating twice numerically inside `Custom` costs digits that no quadrature can know of
            assert true <= max(found.error, 1e-10), (Q, R, true, found.error)
            assert true <= rtol
            assert found.error <= rtol
            checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 4, "loss": mv.losses.Covariance(decorrelation=0.8)}], ids=["plain", "batch"]
)
def test_two_outputs(options):
    for problem in problems("tanh", 2, **options):
        fine, limit = LimitCoefficients(problem, rtol=1e-11), LimitCoefficients(problem, rtol=1e-6)
        for Q, R in states(2, 5):
            if Q.max() > 2.0:
                continue
            expected, found = fine(Q, R), limit(Q, R)
            terms, _ = fine._converge_hidden(Q[None], R[None])
            true = gap(found, expected, terms)
            assert true <= max(found.error, 1e-12)
            assert true <= 1e-6
            assert found.error <= 1e-6


def test_lambda_for_two_rectified_outputs_has_an_honest_error():
    problem = mv.Problem(
        hidden=mv.hidden.Gaussian(variance=[1.3, 0.6]), activation="relu", learning_rate=1.0, outputs=2,
        augmentation=mv.augmentations.GaussianNoise(std=0.5, correlation=-0.6),
    )  # fmt: skip
    limit = LimitCoefficients(problem)
    single = LimitCoefficients(
        mv.Problem(hidden=problem.hidden, activation="relu", learning_rate=1.0, augmentation=problem.augmentation)
    )
    for Q, R in states(2, 6):
        found = limit(Q, R)
        assert 1e-8 < found.error < 0.2
        for j in (0, 1):
            # without decorrelation the diagonal entries are those of one output, which quadrature gives
            exact = single(Q[j : j + 1, j : j + 1], R[j : j + 1])
            assert abs(found.Lambda[j, j] - exact.Lambda[0, 0]) <= found.error * 10.0 * exact.Lambda[0, 0]
            np.testing.assert_allclose(found.G[j, j], exact.G[0, 0], rtol=1e-8)
            np.testing.assert_allclose(found.H[j], exact.H[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("noise", [(0.5, -0.6), (0.0, 0.0), ([0.3, 0.7], 1.0), (0.02, 0.0)])
def test_custom_loss_that_is_the_covariance(activation, noise):
    options = {
        "hidden": mv.hidden.Rademacher(variance=[1.5, 0.7]), "activation": activation, "learning_rate": 0.4,
        "batch_size": 2,
        "augmentation": mv.augmentations.GaussianNoise(std=noise[0], correlation=noise[1]),
    }  # fmt: skip
    literal = mv.losses.Custom(lambda a, b: -(a * b).sum(axis=-1))
    with_gradient = mv.losses.Custom(lambda a, b: -(a * b).sum(axis=-1), lambda a, b: (-b, -a))
    Q, R = np.array([[1.2]]), np.array([[0.4, -0.3]])
    expected = LimitCoefficients(mv.Problem(**options))(Q, R)
    for loss in (literal, with_gradient):
        found = LimitCoefficients(mv.Problem(loss=loss, **options))(Q, R)
        for name in NAMES:
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-8, atol=1e-9)
        assert found.error <= 1e-8


@pytest.mark.parametrize("std", [0.5, 0.05])  # regular, and too close to equal views for Stein's lemma
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_custom_loss_with_two_outputs_is_sampled(activation, std):
    options = {
        "hidden": mv.hidden.Rademacher(variance=[1.5]), "activation": activation, "learning_rate": 0.4, "outputs": 2,
        "augmentation": mv.augmentations.GaussianNoise(std=std, correlation=-0.6),
    }  # fmt: skip
    loss = mv.losses.Custom(lambda a, b: -(a * b).sum(axis=-1), lambda a, b: (-b, -a))
    Q, R = np.array([[1.0, 0.3], [0.3, 0.7]]), np.array([[0.4], [-0.3]])
    expected = LimitCoefficients(mv.Problem(**options))(Q, R)
    found = LimitCoefficients(mv.Problem(loss=loss, **options))(Q, R)
    assert 1e-8 < found.error < 0.1
    for name in NAMES:
        size = np.abs(getattr(expected, name)).max()
        assert np.abs(getattr(found, name) - getattr(expected, name)).max() <= 2.0 * found.error * size, name


def test_accuracy_of_sampled_coefficients_is_deterministic():
    problem = mv.Problem(hidden=mv.hidden.Gaussian(variance=[1.3]), activation="relu", learning_rate=1.0, outputs=2)
    Q, R = np.eye(2), np.full((2, 1), 0.3)
    first, second = (LimitCoefficients(problem)(Q, R) for _ in range(2))
    np.testing.assert_array_equal(first.Lambda, second.Lambda)


def test_constant_preactivation_on_a_kink_is_refused():
    problem = mv.Problem(hidden=mv.hidden.Rademacher(variance=[1.0]), activation="relu", learning_rate=1.0)
    with pytest.raises(UnsupportedError, match="kink"):
        LimitCoefficients(problem)(np.zeros((1, 1)), np.zeros((1, 1)))
    # but not where it is constant elsewhere
    assert LimitCoefficients(problem)(np.ones((1, 1)), np.ones((1, 1))).error <= 1e-8


def test_centred_decorrelation_is_refused():
    problem = mv.Problem(
        hidden=mv.hidden.Rademacher(variance=[1.0]), activation="tanh", learning_rate=1.0, outputs=2, batch_size=4,
        loss=mv.losses.Covariance(decorrelation=0.5, centered=True),
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="decorrelation"):
        LimitCoefficients(problem)


def test_states_that_do_not_fit_are_refused():
    problem = mv.Problem(hidden=mv.hidden.Rademacher(variance=[1.0]), activation="tanh", learning_rate=1.0)
    limit = LimitCoefficients(problem)
    for Q, R, name in (
        (np.eye(2), np.ones((2, 1)), "Q"),
        (np.eye(1), np.ones((1, 2)), "R"),
        (np.eye(1) * np.nan, np.ones((1, 1)), "Q"),
    ):
        with pytest.raises(InvalidInput, match=f"^{name}:"):
            limit(Q, R)
    for rtol in (0.0, 1.0, np.nan, "small"):
        with pytest.raises(InvalidInput, match=r"^rtol:"):
            LimitCoefficients(problem, rtol=rtol)


def test_inadmissible_state_is_reported_in_the_error():
    problem = mv.Problem(hidden=mv.hidden.Rademacher(variance=[1.0]), activation="tanh", learning_rate=1.0)
    limit = LimitCoefficients(problem)
    outside, edge = limit(np.array([[1.0]]), np.array([[1.1]])), limit(np.array([[1.21]]), np.array([[1.1]]))
    assert outside.error > 0.1
    np.testing.assert_allclose(outside.G, edge.G)


def test_scale_of_the_error_is_the_sum_of_terms():
    problem = next(problems("tanh", 1))
    limit = LimitCoefficients(problem)
    terms, error = limit._converge_hidden(np.ones((1, 1, 1)), np.full((1, 1, 2), 0.3))
    for values in terms:
        assert (np.abs(values[0]) <= values[1] * (1 + 1e-12)).all()
        assert (values[1] <= values[3] * (1 + 1e-12)).all()
        assert (values[1] <= values[2]).all()
    assert error == _worst(terms)
