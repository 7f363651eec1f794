"""One step of the particle system: the exact linear part, the flows of the regularizers, their composition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad_vec, solve_ivp
from scipy.linalg import expm

from mkvlasov.problem import regularizers
from mkvlasov.solvers.particles.steps import LinearStep, exact_linear_step, split_regularizer


def random_step(rng: np.random.Generator, span: float, m: int = 2, k: int = 3) -> tuple[LinearStep, tuple]:
    A, B, root = (rng.standard_normal(shape) for shape in ((1, m, m), (1, m, k), (1, m, m)))
    coefficients = A, B, root @ np.swapaxes(root, -1, -2)
    return exact_linear_step(*coefficients, span), coefficients


def test_linear_step_solves_the_ornstein_uhlenbeck_equation() -> None:
    step, (A, B, diffusion) = random_step(np.random.default_rng(1), 0.7)
    A, B, diffusion = A[0], B[0], diffusion[0]
    np.testing.assert_allclose(step.propagator[0], expm(0.7 * A), atol=1e-13)
    np.testing.assert_allclose(step.loading[0], quad_vec(lambda s: expm(s * A) @ B, 0.0, 0.7)[0], atol=1e-12)
    covariance = quad_vec(lambda s: expm(s * A) @ diffusion @ expm(s * A).T, 0.0, 0.7)[0]
    np.testing.assert_allclose(step.covariance[0], covariance, atol=1e-12)


def test_linear_step_without_or_with_singular_diffusion() -> None:
    A, B = np.array([[[-0.4, 0.1], [0.0, -0.2]]]), np.ones((1, 2, 1))
    assert not exact_linear_step(A, B, np.zeros((1, 2, 2)), 0.3).covariance.any()
    tiny = exact_linear_step(np.zeros((1, 2, 2)), B, np.ones((1, 2, 2)), 0.3)
    np.testing.assert_allclose(tiny.covariance[0], np.full((2, 2), 0.3), atol=1e-14)


def test_two_steps_in_a_row_are_one() -> None:
    rng = np.random.default_rng(2)
    (first, _), (second, _) = random_step(rng, 0.2), random_step(rng, 0.3)
    both = second.after(first)
    w, a, P = rng.standard_normal(2), rng.standard_normal(3), second.propagator[0]
    moved = P @ (first.propagator[0] @ w + first.loading[0] @ a) + second.loading[0] @ a
    np.testing.assert_allclose(both.propagator[0] @ w + both.loading[0] @ a, moved, atol=1e-13)
    np.testing.assert_allclose(both.covariance[0], P @ first.covariance[0] @ P.T + second.covariance[0], atol=1e-13)


def test_overlaps_after_a_linear_step_are_the_mean_over_its_noise() -> None:
    rng = np.random.default_rng(3)
    step, _ = random_step(rng, 0.4)
    w, a = rng.standard_normal((2, 50)), rng.standard_normal((3, 50))
    moved = step.propagator[0] @ w + step.loading[0] @ a
    Q, R = step.overlaps((w @ w.T / 50)[None], (w @ a.T / 50)[None], (a @ a.T / 50)[None])
    np.testing.assert_allclose(Q[0], moved @ moved.T / 50 + step.covariance[0], atol=1e-12)
    np.testing.assert_allclose(R[0], moved @ a.T / 50, atol=1e-12)


def smooth(w: np.ndarray) -> np.ndarray:
    return np.log(np.cosh(w))


EXACT = [regularizers.GroupLasso(0.6), regularizers.DoubleWell(0.9)]
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


def flow_of(regularizer: regularizers.Regularizer) -> Callable[[np.ndarray, float], np.ndarray]:
    split = split_regularizer(regularizer)
    assert split.linear == 0.0
    assert split.kink == 0.0
    assert split.flow is not None
    return split.flow


@pytest.mark.parametrize("regularizer", EXACT, ids=repr)
def test_flows_that_are_known_are_exact(regularizer: regularizers.Regularizer) -> None:
    rest = descend(regularizer.gradient, POINTS, 0.8)
    np.testing.assert_allclose(flow_of(regularizer)(POINTS, 0.8), rest, atol=1e-8)


def test_weights_that_a_kink_catches_stay_there() -> None:
    assert not flow_of(regularizers.GroupLasso(0.6))(np.array([[0.05, -0.04], [0.0, 0.0]]), 0.2).any()


@pytest.mark.parametrize("regularizer", SECOND_ORDER, ids=["Huber", "Custom"])
def test_other_flows_are_of_second_order(regularizer: regularizers.Regularizer) -> None:
    flow = flow_of(regularizer)
    inner = 0.2 * POINTS
    errors = [np.abs(flow(inner, span) - descend(regularizer.gradient, inner, span)).max() for span in (0.04, 0.02)]
    # Spans short against 1 / phi'' (0.8 here): a local error of third order falls by 8 when the step is halved.
    assert errors[0] / errors[1] == pytest.approx(8.0, rel=0.2)


def test_hubers_arms_are_shifts() -> None:
    flow = flow_of(regularizers.Huber(0.6, 0.5))
    np.testing.assert_allclose(flow(np.array([[2.0], [-2.0]]), 0.5), [[1.7], [-1.7]], atol=1e-14)


@pytest.mark.parametrize(
    ("regularizer", "linear", "kink"),
    [
        (regularizers.Zero(), 0.0, 0.0),
        (regularizers.L2(0.4), 0.4, 0.0),
        (regularizers.L1(0.0), 0.0, 0.0),
        (regularizers.L1(0.6), 0.0, 0.6),
        (regularizers.ElasticNet(0.6, 0.3), 0.3, 0.6),
    ],
)
def test_regularizers_without_flow_are_their_linear_part_and_their_kink(
    regularizer: regularizers.Regularizer, linear: float, kink: float
) -> None:
    split = split_regularizer(regularizer)
    assert (split.linear, split.kink, split.flow) == (linear, kink, None)
    assert split.is_linear == (kink == 0.0)
    np.testing.assert_allclose(regularizer.gradient(POINTS), linear * POINTS + kink * np.sign(POINTS), atol=1e-14)
