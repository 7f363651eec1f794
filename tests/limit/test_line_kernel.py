"""Compiled coefficients of one output: against the NumPy engine, high precision, closed forms, and their own error."""

import itertools
import subprocess
import sys

import mpmath
import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.errors import UnsupportedError
from mkvlasov.limit import LimitCoefficients
from mkvlasov.limit.coefficients import _worst

NAMES = ("G", "Gbar", "H", "Lambda", "loss")
ACTIVATIONS = (
    mv.activations.Identity(),
    mv.activations.Tanh(),
    mv.activations.Erf(),
    mv.activations.Softplus(),
    mv.activations.Sigmoid(),
    mv.activations.Polynomial([0.1, 1.0, 0.3, -0.2]),
)
HIDDEN = (
    mv.hidden.Rademacher(variance=[1.5, 0.7]),
    mv.hidden.Gaussian(variance=[1.3, 0.6]),
    mv.hidden.Discrete([[-1.0, 0.5], [2.0, 0.5], [0.0, -0.75]], [0.4, 0.2, 0.4]),
)
NOISES = ((0.0, 0.0), (0.5, -0.6), ([0.3, 0.8], 0.9), (0.5, -1.0), ([0.3, 0.8], 1.0), ([0.5, 0.0], 0.0))
BATCHES = ((1, False), (4, True), (3, False), (np.inf, True))


def problem_with(activation, hidden, noise, batch, centered, **options):
    return mv.Problem(
        hidden=hidden, activation=activation, learning_rate=1.0, batch_size=batch, background_variance=0.8,
        loss=mv.losses.Covariance(centered=centered),
        augmentation=mv.augmentations.GaussianNoise(std=noise[0], correlation=noise[1]), **options,
    )  # fmt: skip


def random_state(rng, share, largest=1.0):
    """Return a state with |R|^2 the given share of Q, Q between 1e-3 and ten to the power of `largest`."""
    q = 10.0 ** rng.uniform(-3.0, largest)
    R = rng.normal(size=(1, 2))
    return np.array([[q]]), R * np.sqrt(q * share / (R @ R.T)[0, 0])


def gaps(found, terms):
    """Return the gap of every coefficient to those of the NumPy engine, relative to what the error is relative to."""
    for name, exact in zip(NAMES, terms, strict=True):
        scale = np.maximum(np.maximum(exact[1], 1e-3 * exact[3]), 1e-300)[0]
        gap = np.abs(getattr(found, name).reshape(scale.shape) - exact[0, 0])
        yield float((gap / scale).max())


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-8])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_against_the_numpy_engine_with_an_honest_error(activation, rtol):
    rng = np.random.default_rng(31)
    for hidden, noise, (batch, centered) in itertools.product(HIDDEN, NOISES, BATCHES):
        problem = problem_with(activation, hidden, noise, batch, centered)
        limit, fine = LimitCoefficients(problem, rtol=rtol), LimitCoefficients(problem, rtol=1e-12)
        share = rng.choice([0.3, 1.0, 1.0 - 1e-10])  # generic, everything learnt, nearly so
        Q, R = random_state(rng, share)
        found = limit(Q, R)
        terms, _ = fine._converge_hidden(Q[None], R[None])
        assert found.error <= rtol
        for gap in gaps(found, terms):
            # 3e-13: rounding in the reference, where views nearly determine each other
            assert gap <= found.error + 3e-13, (problem, Q, R)


def mp_pair(f, k, mean, s1, s2, r):
    """Return E[f(mean + s1 x) k(mean + s2 x')] for correlation r < 1, in high precision."""
    rest = mpmath.sqrt(1 - r**2)
    reach, step = mpmath.mpf(8), mpmath.mpf(1) / 4
    count = int(reach / step)
    x = [step * i for i in range(-count, count + 1)]
    w = [step * mpmath.npdf(a) for a in x]
    # trapezoidal rule: exp(-2 pi (pi / 2) / (0.25 s)) = 1e-17 for tanh at s = 1, and 1e-14 outside of the nodes
    return mpmath.fsum(
        wa * f(mean + s1 * a) * mpmath.fsum(wb * k(mean + s2 * (r * a + rest * b)) for b, wb in zip(x, w, strict=True))
        for a, wa in zip(x, w, strict=True)
    )


def test_against_high_precision():
    """Every term by its definition, a sum over the atoms of c, at 30 digits."""
    problem = problem_with("tanh", mv.hidden.Rademacher(variance=[1.0]), ([0.4, 0.7], -0.5), 1, False)
    Q, R = np.array([[0.7]]), np.array([[0.6]])
    with mpmath.workdps(30):
        eta, rest = mpmath.mpf(0.8), mpmath.mpf(0.7) - mpmath.mpf(0.6) ** 2
        S = [[mpmath.mpf(float(x)) for x in row] for row in problem.noise_covariance]
        v11, v22, v12 = (eta * rest + s * mpmath.mpf(0.7) for s in (S[0][0], S[1][1], S[0][1]))
        s1, s2 = mpmath.sqrt(v11), mpmath.sqrt(v22)

        def d(h):
            return 1 / mpmath.cosh(h) ** 2

        def s(h):
            return -2 * mpmath.tanh(h) * d(h)

        def dy(h):
            return d(h) * mpmath.tanh(h)

        def dd(h):
            return d(h) ** 2

        def yy(h):
            return mpmath.tanh(h) ** 2

        y, r = mpmath.tanh, v12 / (s1 * s2)
        pairs = ((s, y), (y, s), (d, d), (d, y), (y, d), (dd, yy), (yy, dd), (dy, dy), (y, y))
        # A sample and its negative contribute the same.
        E = [mp_pair(f, k, mpmath.mpf(0.6), s1, s2, r) for f, k in pairs]
        T = [[eta + S[0][0], eta + S[0][1]], [eta + S[0][1], eta + S[1][1]]]
        G = -(T[0][0] * E[0] + T[1][1] * E[1] + 2 * T[0][1] * E[2])
        Gbar = -(E[0] + E[1] + 2 * E[2])
        H = -(E[3] + E[4]) - eta * Gbar * mpmath.mpf(0.6)
        Lambda = T[0][0] * E[5] + T[1][1] * E[6] + 2 * T[0][1] * E[7]
        expected = [float(x) for x in (G, Gbar, H, Lambda, -E[8])]
    found = LimitCoefficients(problem, rtol=1e-12)(Q, R)
    assert found.error <= 1e-12
    for name, value in zip(NAMES, expected, strict=True):
        assert float(np.squeeze(getattr(found, name))) == pytest.approx(value, rel=1e-12), name


def test_kernel_from_a_compiled_loop_and_stacked_states_agree():
    from numba import njit

    from mkvlasov.limit.line_kernels import rates

    @njit
    def last(Q, R, data):
        total = 0.0
        for i in range(len(Q)):
            G, _, H, _, _, _ = rates(Q[i], R[i], data)
            total += G + H[0]
        return total

    problem = problem_with("tanh", HIDDEN[0], (0.5, -0.6), 1, False)
    limit = LimitCoefficients(problem, rtol=1e-7)
    states = [random_state(np.random.default_rng(i), 0.4) for i in range(5)]
    Q, R = np.stack([q for q, _ in states]), np.stack([r for _, r in states])
    stacked = limit(Q, R)
    kernel = limit.line_kernel()
    assert kernel.rates is rates
    assert last(Q[:, 0, 0], R[:, 0], kernel.data) == pytest.approx(
        float((stacked.G[:, 0, 0] + stacked.H[:, 0, 0]).sum())
    )
    for i, (q, r) in enumerate(states):
        one = limit(q, r)
        for name in (*NAMES, "error"):
            np.testing.assert_array_equal(getattr(one, name), getattr(stacked, name)[i])
    # axes in any order, and none at all
    np.testing.assert_array_equal(limit(Q[::-1], R[::-1]).H, stacked.H[::-1])
    assert limit(Q[:0], R[:0]).H.shape == (0, 1, 2)


@pytest.mark.parametrize(
    "hidden", [mv.hidden.Uniform([1.5, 0.4]), mv.hidden.Laplace([0.8])], ids=["uniform", "laplace"]
)
@pytest.mark.parametrize("rtol", [1e-4, 1e-9])
def test_continuous_hidden_laws_are_refined_as_by_the_numpy_engine(hidden, rtol):
    features = hidden.n_features
    problem = problem_with("tanh", hidden, (0.5, -0.6), 1, False)
    Q, R = np.array([[1.1]]), np.full((1, features), 0.7 / np.sqrt(features))
    found = LimitCoefficients(problem, rtol=rtol)(Q, R)
    terms, error = LimitCoefficients(problem, rtol=rtol)._converge_hidden(Q[None], R[None])
    # the same nodes of the hidden law: the same change from order to order
    assert found.error == pytest.approx(error[0], rel=0.05, abs=0.1 * rtol)
    fine, _ = LimitCoefficients(problem, rtol=1e-11)._converge_hidden(Q[None], R[None])
    assert max(gaps(found, fine)) <= found.error
    assert max(gaps(found, terms)) <= rtol


def test_where_there_is_no_kernel():
    options = {"hidden": HIDDEN[0], "learning_rate": 1.0}
    for problem in (
        mv.Problem(activation="relu", **options),
        mv.Problem(activation=mv.activations.Custom(np.tanh), **options),
        mv.Problem(activation="tanh", outputs=2, **options),
        mv.Problem(activation="tanh", loss=mv.losses.Custom(lambda a, b: -(a * b).sum(axis=-1)), **options),
    ):
        assert LimitCoefficients(problem).line_kernel() is None


def test_states_far_out_are_evaluated_or_said_to_be_inaccurate():
    limit = LimitCoefficients(problem_with("tanh", HIDDEN[0], (0.5, -0.6), 1, False), rtol=1e-6)
    # tanh of a very large argument is a sign: E y y' = (2 / pi) arcsin r, the mean being small against the deviations
    Q, R = np.array([[1e6]]), np.array([[1e-3, 0.0]])
    found = limit(Q, R)
    r = (0.8 - 0.15) / (0.8 + 0.25)
    # the width of the step is 1e-3 of the deviation, and the first correction is of that order
    assert float(found.loss) == pytest.approx(-2.0 / np.pi * np.arcsin(r), rel=3e-3)
    assert found.error < 1e-3
    growing = LimitCoefficients(
        problem_with(mv.activations.Polynomial([0.0, 1.0, 0.0, 1.0]), HIDDEN[0], (0.5, 0.0), 1, False)
    )
    with pytest.raises(UnsupportedError, match="not finite"):
        growing(np.array([[1e120]]), np.array([[0.0, 0.0]]))


def test_scale_of_the_error_is_that_of_the_numpy_engine():
    """What the compiled error is relative to cannot be seen from outside; a state that violates Q >= R R^T shows it."""
    limit = LimitCoefficients(problem_with("tanh", HIDDEN[0], (0.5, -0.6), 1, False))
    Q, R = np.array([[1.0]]), np.array([[1.1, 0.0]])
    terms, error = limit._converge_hidden(Q[None], R[None])
    assert _worst(terms)[0] <= 1e-8
    assert limit(Q, R).error == pytest.approx(error[0], rel=1e-12)


def test_numba_is_imported_only_when_coefficients_are_evaluated():
    program = (
        "import sys, mkvlasov as mv; from mkvlasov.limit import LimitCoefficients;"
        "limit = LimitCoefficients(mv.Problem(hidden=mv.hidden.Gaussian([1.0]), activation='tanh', learning_rate=1.0));"
        "assert 'numba' not in sys.modules; limit.line_kernel(); assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
