"""Derivatives of the closed right-hand side against an exactly solvable case and independent extrapolation."""

from itertools import pairwise

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.limit.derivatives import ClosedRates, parameter_derivative

ETA, TAU, KAPPA = 0.8, 0.4, 2.5
S1, S2, RHO = 0.5, 0.7, -0.4
VARIANCE = np.array([0.6, 0.3])


def linear_problem(**changes):
    fields = {
        "hidden": mv.hidden.Rademacher(VARIANCE),
        "activation": "identity",
        "learning_rate": TAU,
        "regularizer": mv.regularizers.L2(KAPPA),
        "augmentation": mv.augmentations.GaussianNoise(std=[S1, S2], correlation=RHO),
        "background_variance": ETA,
    }
    return mv.Problem(**{**fields, **changes})


def linear_rates(q, r, *, tau=TAU, kappa=KAPPA, eta=ETA, s1=S1, s2=S2, rho=RHO, variance=VARIANCE):
    """Right-hand side for the identity, one output, no batch: polynomials in everything (docs/theory.md, section 3).

    alpha_1 = -h_2, alpha_2 = -h_1, E h_v h_v' = eta q + S_vv' q + (<c^2> - eta) . r^2.
    """
    s11, s22, s12 = s1 * s1, s2 * s2, rho * s1 * s2
    excess = np.dot(variance - eta, r * r)
    h11, h22, h12 = ((eta + s) * q + excess for s in (s11, s22, s12))
    dr = tau * (2.0 * (variance + s12) - kappa) * r
    noise = tau**2 * ((eta + s11) * h22 + (eta + s22) * h11 + 2.0 * (eta + s12) * h12)
    return np.array([*dr, 2.0 * tau * (2.0 * h12 - kappa * q) + noise])


def complex_step(function):
    """Derivative of an analytic function at zero, exact to rounding."""
    return function(1e-30j).imag / 1e-30


def test_jacobian_of_the_linear_model_is_exact():
    closed = ClosedRates(linear_problem())
    states = np.array([[0.3, -0.2, 1.0], [0.0, 0.0, 0.4], [0.5, 0.5, 0.5], [0.6, 0.0, 0.3600001]])
    jacobian = closed.jacobian(states, TAU)
    for x, found in zip(states, jacobian.value, strict=True):
        exact = [complex_step(lambda h, x=x, e=e: linear_rates(x[2] + h * e[2], x[:2] + h * e[:2])) for e in np.eye(3)]
        # Polynomials of degree 2 are differentiated without truncation: only the noise of the coefficients is left.
        np.testing.assert_allclose(found, np.array(exact).T, rtol=0, atol=1e-8)
    assert jacobian.error.max() < 1e-7


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("learning_rate", {"tau": TAU}),
        ("regularizer.strength", {"kappa": KAPPA}),
        ("background_variance", {"eta": ETA}),
        ("augmentation.std[1]", {"s2": S2}),
        ("augmentation.std", {"s1": S1, "s2": S2}),
        ("augmentation.correlation", {"rho": RHO}),
        ("hidden.variance[1]", {"variance": VARIANCE}),
    ],
)
def test_parameter_derivatives_of_the_linear_model(name, argument):
    q, r = 1.0, np.array([0.3, -0.2])
    direction = np.array([0.0, 1.0]) if name.startswith("hidden") else 1.0
    exact = complex_step(lambda h: linear_rates(q, r, **{k: v + h * direction for k, v in argument.items()}))
    found = parameter_derivative(linear_problem(), name, np.array([*r, q]))
    np.testing.assert_allclose(found.value, exact, rtol=0, atol=1e-8)
    assert found.error.max() < 1e-7


def test_one_sided_derivative_at_the_end_of_the_range():
    problem = linear_problem(augmentation=mv.augmentations.GaussianNoise(std=[S1, S2], correlation=-1.0))
    exact = complex_step(lambda h: linear_rates(1.0, np.array([0.3, -0.2]), rho=-1.0 + h))
    found = parameter_derivative(problem, "augmentation.correlation", np.array([0.3, -0.2, 1.0]))
    np.testing.assert_allclose(found.value, exact, rtol=0, atol=1e-7)


CASES = {
    "tanh": ({"activation": "tanh"}, [0.5, 0.3, 1.2]),
    "nearly learnt": ({"activation": "tanh"}, [0.9, 0.3, 0.9 + 2e-4]),
    "sphere": ({"activation": "erf", "constraint": "sphere"}, [0.5, 0.3, 1.0]),
    "kinks": ({"activation": "relu"}, [0.5, 0.3, 1.2]),
    "continuous": ({"activation": "tanh", "hidden": mv.hidden.Laplace([2.0])}, [0.5, 1.2]),
    "two outputs": ({"activation": "tanh", "outputs": 2}, [0.5, 0.3, -0.1, 0.4, 1.2, 0.1, 0.9]),
    "two outputs, rank one": ({"activation": "tanh", "outputs": 2}, [0.5, 0.3, 0.0, 0.4, 1.2, 0.12, 0.16]),
}


@pytest.mark.parametrize("case", CASES)
def test_jacobian_against_extrapolated_differences(case):
    """Romberg extrapolation of plain central differences with other steps, along random admissible directions."""
    changes, x = CASES[case]
    problem, x = linear_problem(**changes), np.array(x)
    closed = ClosedRates(problem)
    jacobian = closed.jacobian(x, TAU)
    rng = np.random.default_rng(7)
    m = problem.outputs
    Q, R = closed.entries.unpack(x)
    P = Q - R @ R.T
    for _ in range(4):
        turn, grow = rng.normal(size=R.shape), rng.normal(size=(m, m))

        # Move R by s turn and P by congruence, which keeps it positive semidefinite: a curve through x.
        def curve(s, turn=turn, grow=grow):
            r, a = R + 0.3 * s * turn, np.eye(m) + 0.3 * s * grow
            return closed.entries.pack(a @ P @ a.T + r @ r.T, r)

        tangent = (curve(1.0) - curve(-1.0)) / 2.0  # exact, as the curve is quadratic in s
        steps = 0.15 / 1.6 ** np.arange(6)
        table = [(closed.rates(curve(s), TAU) - closed.rates(curve(-s), TAU)) / (2 * s) for s in steps]
        for k in range(1, len(steps)):
            table = [b + (b - a) / (1.6 ** (2 * k) - 1.0) for a, b in pairwise(table)]
        np.testing.assert_allclose(jacobian.value @ tangent, table[0], rtol=0, atol=1e-7)


def test_half_curvature_of_a_quadratic_right_hand_side():
    closed = ClosedRates(linear_problem())
    x, root = np.array([0.3, -0.2, 1.0]), np.random.default_rng(3).normal(size=(3, 3))
    sigma = root @ root.T
    found = closed.half_curvature(x, TAU, sigma)
    # Only Q'' by R is not zero: 2 (4 tau + tau^2 sum T) (<c_k^2> - eta).
    total = 4 * ETA + S1**2 + S2**2 + 2 * RHO * S1 * S2
    second = 2.0 * (4.0 * TAU + TAU**2 * total) * (VARIANCE - ETA)
    expected = [0.0, 0.0, 0.5 * second @ np.diag(sigma)[:2]]
    np.testing.assert_allclose(found.value, expected, rtol=0, atol=1e-7)


def test_names_that_are_no_parameters_are_refused():
    for name in ("regularizer.power", "hidden.variance[5]", "activation", "batch_size", "outputs", "a b"):
        with pytest.raises(mv.InvalidInput, match="name"):
            parameter_derivative(linear_problem(), name, np.array([0.3, -0.2, 1.0]))
    with pytest.raises(mv.ClosureError):
        ClosedRates(linear_problem(regularizer=mv.regularizers.L1(0.1)))
