import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.limit import Coefficients, closure_obstacles, moment_rates, sphere_rate


def coefficients(rng, m, features):
    G, Gbar, root = rng.normal(size=(3, m, m))
    return Coefficients(
        G=G, Gbar=Gbar, H=rng.normal(size=(m, features)), Lambda=root @ root.T, loss=np.array(0.0), error=np.array(0.0)
    )


@pytest.mark.parametrize("m", [1, 2, 3])
def test_rates_are_those_of_a_linear_stochastic_equation(m):
    # Euler-Maruyama of dw = -tau (G w + H a + kappa w) dt + Lambda^(1/2) dB changes E w w^T and E w a^T by these rates.
    rng = np.random.default_rng(1)
    c = coefficients(rng, m, 2)
    tau, kappa, dt = 0.3, 0.7, 1e-6
    W = rng.normal(size=(m, 4))
    Q, R = W @ W.T, W[:, :2]
    joint = np.block([[Q, R], [R.T, np.eye(2)]])
    step = np.eye(m + 2)
    step[:m, :m] -= dt * tau * (c.G + kappa * np.eye(m))
    step[:m, m:] -= dt * tau * c.H
    moved = step @ joint @ step.T
    moved[:m, :m] += dt * c.Lambda
    dQ, dR = moment_rates(c, Q, R, tau=tau, phi_a=kappa * R, phi_w=kappa * Q)
    np.testing.assert_allclose(dQ, (moved - joint)[:m, :m] / dt, atol=1e-4)
    np.testing.assert_allclose(dR, (moved - joint)[:m, m:] / dt, atol=1e-4)


def test_the_sphere_keeps_the_diagonal_and_only_rescales_columns():
    rng = np.random.default_rng(2)
    c = coefficients(rng, 2, 2)
    W = rng.normal(size=(2, 5))
    W /= np.sqrt((W**2).sum(axis=1, keepdims=True))
    Q, R = W @ W.T, W[:, :2]
    phi_a, phi_w = rng.normal(size=(2, 2)), rng.normal(size=(2, 2))
    free_q, free_r = moment_rates(c, Q, R, tau=0.4, phi_a=phi_a, phi_w=phi_w)
    dQ, dR = moment_rates(c, Q, R, tau=0.4, phi_a=phi_a, phi_w=phi_w, constraint="sphere")
    np.testing.assert_allclose(np.diag(dQ), 0.0, atol=1e-14)
    # rescaling after a free step: w_j / sqrt(Q_jj), to first order in the step
    dt = 1e-6
    scale = 1.0 / np.sqrt(np.diag(Q + dt * free_q))
    np.testing.assert_allclose(dR, ((R + dt * free_r) * scale[:, None] - R) / dt, atol=1e-4)
    np.testing.assert_allclose(dQ, ((Q + dt * free_q) * np.outer(scale, scale) - Q) / dt, atol=1e-4)
    np.testing.assert_allclose(sphere_rate(free_q, Q), (scale - 1.0) / dt, atol=1e-4)


def test_rates_are_batched_over_states():
    rng = np.random.default_rng(3)
    alone = [coefficients(rng, 2, 3) for _ in range(4)]
    stacked = Coefficients(*(np.stack([getattr(c, name) for c in alone]) for name in Coefficients.__slots__))
    Q, R = rng.normal(size=(4, 2, 2)), rng.normal(size=(4, 2, 3))
    for constraint in (None, "sphere"):
        dQ, dR = moment_rates(stacked, Q, R, tau=0.4, phi_a=R, phi_w=Q, constraint=constraint)
        for i, c in enumerate(alone):
            q, r = moment_rates(c, Q[i], R[i], tau=0.4, phi_a=R[i], phi_w=Q[i], constraint=constraint)
            np.testing.assert_allclose(dQ[i], q)
            np.testing.assert_allclose(dR[i], r)


@pytest.mark.parametrize(
    ("regularizer", "closes"),
    [
        (mv.regularizers.Zero(), True),
        (mv.regularizers.L2(0.3), True),
        (mv.regularizers.L1(0.3), False),
        (mv.regularizers.ElasticNet(0.1, 0.2), False),
        (mv.regularizers.Huber(0.3, 1.0), False),
        (mv.regularizers.DoubleWell(0.3), False),
        (mv.regularizers.GroupLasso(0.3), False),
    ],
    ids=repr,
)
def test_moments_close_for_quadratic_regularizers_only(regularizer, closes):
    for constraint in (None, "sphere"):
        problem = mv.Problem(
            hidden=mv.hidden.Rademacher(variance=[1.0]), activation="tanh", learning_rate=lambda t: 1.0 / (1.0 + t),
            regularizer=regularizer, constraint=constraint,
        )  # fmt: skip
        obstacles = closure_obstacles(problem)
        assert (obstacles == ()) is closes
        assert all("phi'" in text for text in obstacles)
