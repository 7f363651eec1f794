"""The error estimate is honest, and the accuracy asked for is delivered."""

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit import LimitCoefficients
from mkvlasov.limit.coefficients import _worst
from mkvlasov.limit.piecewise_linear import linear_groups
from mkvlasov.limit.sampled import sampled_groups
from mkvlasov.limit.views import view_law

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


@pytest.mark.parametrize("activation", [mv.activations.ReLU(), mv.activations.LeakyReLU(-0.3)], ids=repr)
@pytest.mark.parametrize("noise", [(0.5, -0.6), ([0.3, 0.9], 0.7), (0.0, 0.0)], ids=str)
@pytest.mark.parametrize("loss", [{"centered": True}, {"decorrelation": 0.7}], ids=lambda x: next(iter(x)))
def test_moments_on_orthants_agree_with_sampling_whose_error_is_honest(activation, noise, loss):
    problem = mv.Problem(
        hidden=mv.hidden.Discrete([-1.0, 2.0], [2.0 / 3.0, 1.0 / 3.0]), activation=activation, learning_rate=1.0,
        outputs=3, batch_size=4, loss=mv.losses.Covariance(**loss),
        augmentation=mv.augmentations.GaussianNoise(std=noise[0], correlation=noise[1]),
    )  # fmt: skip
    rng = np.random.default_rng(4)
    W = rng.normal(size=(3, 6)) * 0.4
    Q, R = W @ W.T, W[:, :1]
    law, _ = view_law(Q[None], R[None], problem.hidden.nodes(1), problem.noise_covariance, 1.0)
    plan = LimitCoefficients(problem)._limit._plan
    offsets = np.tile(rng.uniform(size=3), (2, 1, 1)) if "centered" in loss else np.zeros((2, 1, 3))
    exact = linear_groups(activation, law, plan.groups, offsets=offsets, rtol=1e-8, effort=0)
    drawn = sampled_groups(activation, law, plan.groups, offsets=offsets, rtol=1e-3)
    for a, b in zip(exact, drawn, strict=True):
        # three standard errors from 8 scramblings: four times that is beyond chance for all of some 500 products
        assert (np.abs(a[0] - b[0]) <= 4.0 * (b[2] - b[1]) + 1e-12).all()
        assert (np.abs(a[0]) <= a[3] * (1.0 + 1e-12)).all()
        assert ((a[2] - a[1]) <= 1e-8 * a[3]).all()


class Bent:
    """tanh above zero, a tenth of it below: a kink between curves, for which no rule is known."""

    kinks = ((0.0, 0.9),)

    def value(self, h):
        return np.where(h > 0.0, 1.0, 0.1) * np.tanh(h)

    def derivative(self, h):
        return np.where(h > 0.0, 1.0, 0.1) / np.cosh(np.clip(h, -300.0, 300.0)) ** 2

    def second_derivative(self, h):
        return -2.0 * np.tanh(h) * self.derivative(h)


def test_kinks_between_curves_are_sampled_and_say_so():
    options = {"hidden": mv.hidden.Gaussian(variance=[1.3]), "activation": Bent(), "learning_rate": 1.0}
    limit = LimitCoefficients(mv.Problem(**options, outputs=2))
    Q, R = np.array([[1.0, 0.4], [0.4, 0.8]]), np.array([[0.3], [0.5]])
    found, again = limit(Q, R), limit(Q, R)
    np.testing.assert_array_equal(found.Lambda, again.Lambda)
    assert 1e-5 < found.error < 0.05
    # Equal views: alpha_1 = alpha_2, and the second moment of their sum by a sum over a fine grid.
    x = np.linspace(-8.0, 8.0, 3201)
    w = np.exp(-0.5 * x**2)
    root = np.linalg.cholesky(Q - R @ R.T + 1.3 * R @ R.T)
    h1, h2 = root[0, 0] * x[:, None], root[1, 0] * x[:, None] + root[1, 1] * x
    slopes = [Bent().value(h) * Bent().derivative(h) for h in (h1, h2)]
    exact = 4.0 * np.sum(np.outer(w, w) * slopes[0] * slopes[1]) / w.sum() ** 2
    assert abs(found.Lambda[0, 1] - exact) <= found.error * np.abs(found.Lambda).max()


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
