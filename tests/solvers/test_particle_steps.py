"""One step of the particle system: the exact linear part, the flows of the regularizers, their composition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad_vec, solve_ivp
from scipy.linalg import expm

from mkvlasov.problem import regularizers
from mkvlasov.solvers.particle_steps import exact_linear_step, split_regularizer


def test_linear_step_solves_the_ornstein_uhlenbeck_equation() -> None:
    rng = np.random.default_rng(1)
    A, B = rng.standard_normal((2, 2)), rng.standard_normal((2, 3))
    root = rng.standard_normal((2, 2))
    step = exact_linear_step(A[None], B[None], (root @ root.T)[None], 0.7).of_run(0)
    np.testing.assert_allclose(step.propagator, expm(0.7 * A), atol=1e-13)
    np.testing.assert_allclose(step.loading, quad_vec(lambda s: expm(s * A) @ B, 0.0, 0.7)[0], atol=1e-12)
    covariance = quad_vec(lambda s: expm(s * A) @ root @ root.T @ expm(s * A).T, 0.0, 0.7)[0]
    np.testing.assert_allclose(step.noise @ step.noise.T, covariance, atol=1e-12)


def test_linear_step_without_or_with_singular_diffusion() -> None:
    A, B = np.array([[-0.4, 0.1], [0.0, -0.2]]), np.ones((2, 1))
    assert not exact_linear_step(A, B, np.zeros((2, 2)), 0.3).noise.any()
    tiny = exact_linear_step(np.zeros((2, 2)), B, np.ones((2, 2)), 0.3)
    np.testing.assert_allclose(tiny.noise @ tiny.noise.T, np.full((2, 2), 0.3), atol=1e-14)
    # Diffusion extrapolated to just below zero counts as none.
    assert np.isfinite(exact_linear_step(A, B, -1e-9 * np.eye(2), 0.3).noise).all()


def smooth(w: np.ndarray) -> np.ndarray:
    return np.log(np.cosh(w))


EXACT = [
    regularizers.L1(0.6),
    regularizers.ElasticNet(0.6, 0.3),
    regularizers.GroupLasso(0.6),
    regularizers.DoubleWell(0.9),
]
SECOND_ORDER = [regularizers.Huber(0.6, 0.5), regularizers.Custom(smooth, np.tanh)]


def descend(gradient: Callable[[np.ndarray], np.ndarray], w: np.ndarray, span: float) -> np.ndarray:
    solved = solve_ivp(
        lambda s, flat: -gradient(flat.reshape(w.shape)).ravel(),
        (0.0, span),
        w.ravel(),
        rtol=1e-10,
        atol=1e-12,
        method="DOP853",
    )
    return solved.y[:, -1].reshape(w.shape)


# Away from kinks during the whole flow, so that the reference integration is exact too.
POINTS = np.array([[1.3, -0.9], [-2.1, 0.8], [0.7, 1.5]])


@pytest.mark.parametrize("regularizer", EXACT, ids=repr)
def test_flows_that_are_known_are_exact(regularizer: regularizers.Regularizer) -> None:
    kappa, flow = split_regularizer(regularizer)
    assert flow is not None
    rest = descend(lambda w: regularizer.gradient(w) - kappa * w, POINTS, 0.8)
    np.testing.assert_allclose(flow(POINTS, 0.8), rest, atol=1e-8)


@pytest.mark.parametrize("regularizer", EXACT[:3], ids=repr)
def test_weights_that_a_kink_catches_stay_there(regularizer: regularizers.Regularizer) -> None:
    _, flow = split_regularizer(regularizer)
    assert flow is not None
    assert not flow(np.array([[0.05, -0.04], [0.0, 0.0]]), 0.2).any()


@pytest.mark.parametrize("regularizer", SECOND_ORDER, ids=["Huber", "Custom"])
def test_other_flows_are_of_second_order(regularizer: regularizers.Regularizer) -> None:
    kappa, flow = split_regularizer(regularizer)
    assert flow is not None
    assert kappa == 0.0
    inner = 0.2 * POINTS
    errors = [np.abs(flow(inner, span) - descend(regularizer.gradient, inner, span)).max() for span in (0.04, 0.02)]
    # Spans short against 1 / phi'' (0.8 here): a local error of third order falls by 8 when the step is halved.
    assert errors[0] / errors[1] == pytest.approx(8.0, rel=0.2)


def test_hubers_arms_are_shifts() -> None:
    _, flow = split_regularizer(regularizers.Huber(0.6, 0.5))
    assert flow is not None
    np.testing.assert_allclose(flow(np.array([[2.0], [-2.0]]), 0.5), [[1.7], [-1.7]], atol=1e-14)


@pytest.mark.parametrize(
    ("regularizer", "strength"), [(regularizers.Zero(), 0.0), (regularizers.L2(0.4), 0.4), (regularizers.L1(0.0), 0.0)]
)
def test_linear_regularizers_have_no_flow(regularizer: regularizers.Regularizer, strength: float) -> None:
    assert split_regularizer(regularizer) == (strength, None)
