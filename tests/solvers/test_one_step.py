"""One literal SGD step, drawn many times, against the limit coefficients: theory against algorithm with no time loop.

For Gaussian noise these relations are exact at every N, so nothing but sampling error enters. With x = W, U fixed,

    N E[delta R]         = -tau [ (G + kappa) R + H ],          delta R = delta W^T U / sqrt(N),
    E[delta W^T W]       = -tau [ (G + kappa) Q + H R^T ],
    N Cov(delta W row)   = Lambda                               for the part of delta W orthogonal to U and W,

because the views, given the pre-activations, are those projections plus independent noise of covariance T = eta + S.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.order_parameters import overlaps
from mkvlasov.problem import augmentations, hidden, losses, regularizers
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solvers.sgd.literal import draw_views, sgd_increment

DIMENSION = 16
DRAWS = 60_000
BLOCK = 4000
THRESHOLD = 4.0
SEEDS = range(20)


@dataclass(frozen=True)
class Statistics:
    """Three moments of one step with the standard errors of their estimates."""

    feature: np.ndarray
    weight: np.ndarray
    complement: np.ndarray

    def flat(self) -> np.ndarray:
        # Lambda is symmetric: count its entries once.
        upper = np.triu_indices(len(self.complement))
        return np.concatenate([self.feature.ravel(), self.weight.ravel(), self.complement[upper]])


def random_problem(seed: int) -> tuple[Problem, np.ndarray, np.ndarray]:
    """Return a problem with weights (m, N) and features (K, N); the first fields run through all combinations."""
    rng = np.random.default_rng([2406, 6909, seed])
    outputs, batch = 1 + seed % 2, (1, 4)[(seed // 2) % 2]
    activation = ("tanh", "erf", "relu", "sigmoid", "softplus")[seed % 5]
    features = int(rng.integers(1, 3))
    variance = rng.uniform(1.5, 4.0, features)
    law = (
        hidden.Rademacher(variance),
        hidden.Gaussian(variance),
        hidden.Sparse(variance, 2.5),
        hidden.Laplace(variance),
    )[(seed // 4) % 4]
    correlation = rng.choice([-1.0, 1.0]) * rng.uniform(0.2, 0.9)
    problem = Problem(
        hidden=law,
        activation=activation,
        learning_rate=rng.uniform(0.2, 1.0),
        regularizer=regularizers.L2(rng.uniform(0.0, 0.5)),
        augmentation=augmentations.GaussianNoise(rng.uniform(0.3, 1.2, 2), correlation),
        loss=losses.Covariance(decorrelation=rng.uniform(0.3, 1.0) if outputs == 2 else 0.0),
        outputs=outputs,
        batch_size=batch,
        background_variance=rng.uniform(0.4, 1.5),
    )
    orthonormal = np.linalg.qr(rng.standard_normal((DIMENSION, features)))[0].T
    signal = rng.choice([-1.0, 1.0], (outputs, features)) * rng.uniform(0.4, 0.9, (outputs, features))
    weights = rng.uniform(0.6, 1.0) * rng.standard_normal((outputs, DIMENSION))
    return problem, weights + np.sqrt(DIMENSION) * signal @ orthonormal, orthonormal


def measure(problem: Problem, weights: np.ndarray, features: np.ndarray, seed: int) -> tuple[Statistics, Statistics]:
    """Return the means of the three statistics over literal steps, and their standard errors."""
    rng = np.random.default_rng([1, seed])
    basis = np.linalg.qr(np.concatenate([features, weights]).T)[0]
    total: dict[str, list[np.ndarray]] = {"feature": [], "weight": [], "complement": []}
    for _ in range(DRAWS // BLOCK):
        views = draw_views(problem, features, rng, BLOCK)
        step = sgd_increment(problem, np.broadcast_to(weights, (BLOCK, *weights.shape)), views, problem.rate(0.0))
        rest = step - (step @ basis) @ basis.T
        total["feature"].append(np.sqrt(DIMENSION) * step @ features.T)
        total["weight"].append(step @ weights.T)
        total["complement"].append(rest @ rest.swapaxes(-1, -2) * DIMENSION / (DIMENSION - basis.shape[1]))
    drawn = {name: np.concatenate(parts) for name, parts in total.items()}
    means = Statistics(**{name: values.mean(axis=0) for name, values in drawn.items()})
    errors = Statistics(**{name: values.std(axis=0) / np.sqrt(DRAWS) for name, values in drawn.items()})
    return means, errors


def predict(
    problem: Problem, Q: np.ndarray, R: np.ndarray, G: np.ndarray, H: np.ndarray, Lambda: np.ndarray
) -> Statistics:
    tau, kappa = problem.rate(0.0), problem.regularizer.linear_strength
    decay = G + kappa * np.eye(len(G))
    return Statistics(-tau * (decay @ R + H), -tau * (decay @ Q + H @ R.T), Lambda)


def terms_of_the_limit(problem: Problem, Q: np.ndarray, R: np.ndarray, seed: int) -> dict[str, tuple[np.ndarray, ...]]:
    """Estimate every term of G, H and Lambda from the law of the pre-activations (docs/theory.md, section 2).

    Written without the limit's code; good to a few per cent, which is all that dropping a term needs.
    """
    rng = np.random.default_rng([2, seed])
    m, batch, eta, S = problem.outputs, int(problem.batch_size), problem.background_variance, problem.noise_covariance
    tau, T = problem.rate(0.0), problem.background_variance + problem.noise_covariance
    c = problem.hidden.sample(rng, (DRAWS // 3, batch))
    covariance = np.kron(np.ones((2, 2)), eta * (Q - R @ R.T)) + np.kron(S, Q)
    noise = rng.standard_normal((DRAWS // 3, batch, 2 * m)) @ np.linalg.cholesky(covariance).T
    h = [c @ R.T + noise[..., :m], c @ R.T + noise[..., m:]]
    alpha = problem.alpha(*h)
    derivative = np.zeros((2, 2, m, m))
    step = 0.02
    for view in range(2):
        for output in range(m):
            # Exchangeable samples: B times the derivative of the first sample's alpha by its own pre-activation.
            shift = np.zeros((batch, m))
            shift[0, output] = step
            up, down = (problem.alpha(*(h[v] + s * shift * (v == view) for v in range(2))) for s in (1.0, -1.0))
            for v in range(2):
                derivative[v, view, :, output] = batch * (up[v] - down[v])[:, 0].mean(axis=0) / (2.0 * step)
    zero_g, zero_h = np.zeros((m, m)), np.zeros_like(R)
    terms = {}
    for v in range(2):
        for w in range(2):
            terms[f"G: T_{v + 1}{w + 1} D_{v + 1}{w + 1}"] = (T[v, w] * derivative[v, w], zero_h, zero_g)
        terms[f"H: E[alpha^({v + 1}) c]"] = (zero_g, (alpha[v].swapaxes(-1, -2) @ c).mean(axis=0), zero_g)
    terms["H: eta Gbar R"] = (zero_g, -eta * derivative.sum(axis=(0, 1)) @ R, zero_g)
    for v, w in ((0, 0), (0, 1), (1, 1)):
        product = (alpha[v].swapaxes(-1, -2) @ alpha[w]).mean(axis=0)
        both = product if v == w else product + product.T
        terms[f"Lambda: T_{v + 1}{w + 1}"] = (zero_g, zero_h, tau**2 * T[v, w] * both)
    return terms


@pytest.fixture(scope="module")
def deviations() -> list[dict[str, np.ndarray]]:
    """Per problem: deviations in standard errors of the measured step from the prediction, with a term dropped.

    The key "" is the whole prediction.
    """
    table = []
    for seed in SEEDS:
        problem, weights, features = random_problem(seed)
        Q, R = overlaps(weights.T, np.sqrt(DIMENSION) * features.T)
        # Standard errors are at least 1e-3 of the largest term here, so 1e-4 is a tenth of them.
        c = LimitCoefficients(problem, rtol=1e-4)(Q, R)
        means, errors = measure(problem, weights, features, seed)
        G, H, Lambda = c.G, c.H, c.Lambda
        candidates = {"": (G, H, Lambda)}
        for name, (g, h, diffusion) in terms_of_the_limit(problem, Q, R, seed).items():
            candidates[name] = (G - g, H - h, Lambda - diffusion)
        if problem.batch_size > 1:
            candidates["Lambda: batch factor"] = (G, H, problem.batch_size * Lambda)
        table.append(
            {
                name: (means.flat() - predict(problem, Q, R, *pieces).flat()) / errors.flat()
                for name, pieces in candidates.items()
            }
        )
    return table


def test_one_step_agrees_with_the_limit_coefficients(deviations: list[dict[str, np.ndarray]]) -> None:
    worst = [float(np.abs(row[""]).max()) for row in deviations]
    assert max(worst) < THRESHOLD, worst


def test_deviations_of_one_step_are_those_of_sampling(deviations: list[dict[str, np.ndarray]]) -> None:
    # Were the standard errors too large, the test above could not fail: the mean of z^2 is 1 within 4 of its errors.
    # Entries of one problem are correlated, at most fully: then it averages over one number per problem.
    squares = np.array([np.mean(row[""] ** 2) for row in deviations])
    assert abs(squares.mean() - 1.0) < 4.0 * squares.std() / np.sqrt(len(squares))
    assert squares.mean() > 0.4


def test_dropping_any_one_term_is_noticed(deviations: list[dict[str, np.ndarray]]) -> None:
    names = {name for row in deviations for name in row if name}
    assert len(names) == 4 + 3 + 3 + 1
    for name in sorted(names):
        rows = [row for row in deviations if name in row]
        size = np.array([np.abs(row[name] - row[""]).max() for row in rows])
        noticed = np.array([np.abs(row[name]).max() > THRESHOLD for row in rows])
        # A term that moves a statistic by twice the threshold is missed with a probability below 1e-4.
        visible = size > 2.0 * THRESHOLD
        assert noticed[visible].all(), name
        assert visible.mean() > 0.7, (name, size.round(1).tolist())
