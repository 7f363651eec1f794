"""Every kind of piece goes through all routes that apply, and the routes agree.

Short runs at small N: their power is what the comparison prints, so they find a piece that is wrong or ignored along
one route (a mask taken for no noise, a regularizer left out), not a coefficient that is off by a percent. The seed
was fixed before looking.
"""

import dataclasses

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov import activations, augmentations, hidden, initial, loadings, losses, regularizers, schedules


def problem(**changes):
    fields = {
        "hidden": hidden.Rademacher(3.0),
        "activation": "tanh",
        "learning_rate": 0.4,
        "augmentation": augmentations.GaussianNoise(0.5, -0.3),
    }
    return mv.Problem(**{**fields, **changes})


def rows(n=40):
    """A sample of weights and loadings, as trained weights would be."""
    rng = np.random.default_rng(5)
    a = rng.standard_normal((n, 1))
    a /= np.sqrt((a**2).mean())
    return 0.5 * a + rng.standard_normal((n, 1)), a


def dissimilarity(y1, y2):
    return ((y1 - y2) ** 2).sum(axis=-1) - 0.5 * (y1 * y2).sum(axis=-1)


START = initial.Gaussian(1.0, 0.4)
RECTIFIED = {"hidden": hidden.Rademacher(1.0), "learning_rate": 0.2, "regularizer": regularizers.L2(4.0)}
THREE_ATOMS = hidden.Discrete([[2.0, 0, 1], [-2, 1, 0], [0, -1, -1]], [1 / 3, 1 / 3, 1 / 3])
LOG_COSH = regularizers.Custom(lambda w: 0.3 * np.log(np.cosh(w)), lambda w: 0.3 * np.tanh(w))
CASES = {
    "mask": (problem(augmentation=augmentations.RandomMask(0.7)), START),
    "complementary masks": (problem(augmentation=augmentations.RandomMask(0.5, 0.0)), START),
    "equal views": (problem(augmentation=augmentations.GaussianNoise(0.0)), START),
    "equal noise, weak background": (
        problem(augmentation=augmentations.GaussianNoise(0.6, 1.0), background_variance=0.5),
        START,
    ),
    "no background": (problem(background_variance=0.0, regularizer=regularizers.L2(0.1)), START),
    "sphere": (problem(constraint="sphere"), START),
    "sphere with L1": (
        problem(constraint="sphere", regularizer=regularizers.L1(0.2), loadings=loadings.Sparse(0.3)),
        START,
    ),
    "relu": (problem(activation="relu", **RECTIFIED), START),
    "leaky relu": (problem(activation=activations.LeakyReLU(0.2), **RECTIFIED), START),
    "centred sigmoid": (
        problem(activation="sigmoid", batch_size=4, loss=losses.Covariance(centered=True), learning_rate=2.0),
        START,
    ),
    "softplus": (problem(activation="softplus", learning_rate=0.1, regularizer=regularizers.L2(3.0)), START),
    "erf, two strengths of noise": (
        problem(activation="erf", augmentation=augmentations.GaussianNoise([0.2, 0.9], 0.5)),
        START,
    ),
    "identity": (
        problem(
            activation="identity", hidden=hidden.Gaussian(0.5), learning_rate=0.2, regularizer=regularizers.L2(3.0)
        ),
        START,
    ),
    "polynomial, uniform law": (
        problem(
            activation=activations.Polynomial([0, 1, 0, -0.05]),
            hidden=hidden.Uniform(1.0),
            learning_rate=0.2,
            regularizer=regularizers.L2(1.0),
        ),
        START,
    ),
    "custom activation": (problem(activation=activations.Custom(np.arctan)), START),
    "custom loss": (problem(loss=losses.Custom(dissimilarity), batch_size=2), START),
    "schedule and batch": (problem(learning_rate=schedules.PowerDecay(0.8, 2.0), batch_size=2), START),
    "infinite batch": (problem(batch_size=np.inf, regularizer=regularizers.L2(0.1)), START),
    "Laplace law": (problem(hidden=hidden.Laplace(3.0)), START),
    "Huber, two Gaussian features": (
        problem(hidden=hidden.Gaussian([3.0, 2.0]), regularizer=regularizers.Huber(0.4, 0.5)),
        initial.Gaussian(1.0, [0.4, 0.1]),
    ),
    "elastic net, sparse law and loadings": (
        problem(
            hidden=hidden.Sparse([3.0, 3.0], [1.0, 5.0]),
            loadings=loadings.Sparse(0.3),
            regularizer=regularizers.ElasticNet(0.1, 0.1),
        ),
        initial.Gaussian(1.0, [0.4, 0.4]),
    ),
    "double well": (problem(regularizer=regularizers.DoubleWell(0.5)), START),
    "custom regularizer": (problem(regularizer=LOG_COSH), START),
    "group lasso, two outputs": (
        problem(outputs=2, regularizer=regularizers.GroupLasso(0.3), loadings=loadings.Rademacher()),
        initial.Gaussian(1.0, [[0.5], [0.3]]),
    ),
    "two outputs, three dependent features": (
        problem(outputs=2, hidden=THREE_ATOMS, loss=losses.Covariance(0.5), batch_size=3),
        initial.Gaussian([[1.0, 0.2], [0.2, 0.8]], [[0.4, 0.1, 0.0], [0.0, 0.2, 0.3]]),
    ),
    "point start": (problem(regularizer=regularizers.L2(0.2), loadings=loadings.Sparse(0.4)), initial.Point(0.7)),
    "mixture start with L1": (
        problem(regularizer=regularizers.L1(0.2)),
        initial.Mixture([0.4, 0.6], [initial.Gaussian(0.5, 0.5), initial.Gaussian(1.5, 0.0)]),
    ),
    "empirical start": (problem(), initial.Empirical(*rows())),
}


@pytest.mark.parametrize("name", CASES)
def test_routes_agree(name):
    report = mv.validate(*CASES[name], 2.0, times=11, dimension=600, runs=12, particles=5000, rng=77, progress=False)
    assert report.passed, str(report)
    closes = CASES[name][0].regularizer.linear_strength is not None
    expected = {"particles"} | ({"ode"} if closes else set())
    expected |= {"pde"} if CASES[name][0].outputs == 1 else set()
    expected |= {"sgd"} if np.isfinite(CASES[name][0].batch_size) else set()
    assert set(report.solutions) == expected


LEFT_OUT = {
    "mask": {"augmentation": augmentations.GaussianNoise(0.0)},
    "complementary masks": {"augmentation": augmentations.RandomMask(0.5)},
    "sphere": {"constraint": None},
    "centred sigmoid": {"loss": losses.Covariance()},
    "schedule and batch": {"learning_rate": 0.8},
    "two outputs, three dependent features": {"loss": losses.Covariance()},
    "double well": {"regularizer": regularizers.Zero()},
    "mixture start with L1": {"regularizer": regularizers.Zero()},
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_piece_left_out_is_noticed(name):
    """The negative control: particles of the problem without the piece against SGD of the problem with it."""
    whole, start = CASES[name]
    without = dataclasses.replace(whole, **LEFT_OUT[name])
    t = np.linspace(0.0, 2.0, 11)
    theory = mv.simulate_particles(without, start, t_eval=t, particles=5000, runs=12, rng=78, progress=False)
    sgd = mv.simulate_sgd(whole, start, t_eval=t, dimension=600, runs=12, rng=79, exact_overlaps=True, progress=False)
    assert not mv.compare(theory, sgd).passed
