"""Two outputs with weights as large as Q = 10: equal views, where a dense grid in two dimensions is an exact reference.

With equal views h^(1) = h^(2) = R c + g and T = eta everywhere, so G = eta Gbar, Gbar = E[(alpha_1 + alpha_2) g^T] V^-1
by Stein's lemma with V = eta (Q - R R^T), and Lambda = tau^2 eta E[(alpha_1 + alpha_2)(alpha_1 + alpha_2)^T].
"""

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.limit.coefficients import LimitCoefficients

Q = np.array([[10.0, 2.0], [2.0, 6.0]])
STATES = {
    "informative": np.array([[2.1, -0.4], [0.3, 1.7]]),
    "one output nearly all signal": np.array([[3.1, 0.3], [0.6, 0.4]]),
}


def dense_grid(problem, R, eta, tau):
    """Return (value, mean absolute value of what is averaged) of Gbar, H, Lambda on a grid of 1001 x 1001 nodes."""
    z = np.linspace(-8.5, 8.5, 1001)
    weight = np.exp(-0.5 * z**2)
    weight = np.outer(weight, weight) / weight.sum() ** 2
    V = eta * (Q - R @ R.T)
    root = np.linalg.cholesky(V)
    first, second = np.meshgrid(z, z, indexing="ij")
    g = np.stack([first, second], axis=-1) @ root.T
    sums = [0.0] * 6
    atoms, probabilities, _ = problem.hidden.nodes(1)
    for c, p in zip(atoms, probabilities, strict=True):
        h = (g + R @ c)[..., None, :]  # a batch of one sample
        alpha = sum(problem.alpha(h, h))[..., 0, :]
        stein = np.linalg.solve(V, g[..., None])[..., 0]
        terms = (
            alpha[..., :, None] * stein[..., None, :],
            alpha[..., :, None] * c,
            tau**2 * eta * alpha[..., :, None] * alpha[..., None, :],
        )
        for i, term in enumerate(terms):
            sums[2 * i] += p * np.einsum("xy,xyij->ij", weight, term)
            sums[2 * i + 1] += p * np.einsum("xy,xyij->ij", weight, np.abs(term))
    Gbar, size_G, H, size_H, Lambda, size_Lambda = sums
    return (Gbar, size_G), (H - eta * Gbar @ R, size_H + eta * size_G @ np.abs(R)), (Lambda, size_Lambda)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("decorrelation", [0.0, 0.7])
def test_coefficients_meet_the_default_accuracy(state, decorrelation):
    eta, tau, R = 0.8, 0.5, STATES[state]
    problem = mv.Problem(
        hidden=mv.hidden.Rademacher([2.0, 1.0]),
        activation="tanh",
        learning_rate=tau,
        outputs=2,
        loss=mv.losses.Covariance(decorrelation),
        background_variance=eta,
    )
    c = LimitCoefficients(problem, rtol=1e-8)(Q, R)
    reference = dense_grid(problem, R, eta, tau)
    for value, (exact, size) in zip((c.Gbar, c.H, c.Lambda), reference, strict=True):
        assert (np.abs(value - exact) <= 1e-8 * size).all()
    np.testing.assert_allclose(c.G, eta * c.Gbar, rtol=0.0, atol=1e-8 * reference[0][1].max())
    assert c.error <= 1e-8
