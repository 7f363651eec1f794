"""An independent reference: literal averages over dense grids in all 2 m pre-activations, D from Stein's lemma."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest


def law(problem, Q, R, hidden_covariance):
    """Covariance (2m, 2m) of the pre-activations given a point of the hidden law."""
    learnt = R @ R.T
    shared = R @ hidden_covariance @ R.T + problem.background_variance * (Q - learnt)
    return np.kron(np.ones((2, 2)), shared) + np.kron(problem.noise_covariance, Q)


def grid(dimension, n, reach):
    x = np.linspace(-reach, reach, n)
    w = np.exp(-0.5 * x**2)
    w /= w.sum()
    points = np.stack([g.ravel() for g in np.meshgrid(*[x] * dimension, indexing="ij")], axis=-1)
    weights = np.prod(np.stack([g.ravel() for g in np.meshgrid(*[w] * dimension, indexing="ij")], axis=-1), axis=-1)
    keep = weights > 1e-17
    return points[keep], weights[keep]


def effective_gradient(problem, y1, y2, d1, d2, mu, mean):
    """B times the expectation of alpha over the rest of the batch, written with explicit sums."""
    m, B, strength = problem.outputs, problem.batch_size, problem.loss.decorrelation
    own = 0.0 if np.isinf(B) else 1.0 / B
    a1, a2 = np.zeros_like(y1), np.zeros_like(y2)
    if problem.loss.centered:
        return -d1 * (1.0 - own) * (y2 - mean[1]), -d2 * (1.0 - own) * (y1 - mean[0])
    for j in range(m):
        a1[:, j] -= d1[:, j] * y2[:, j]
        a2[:, j] -= d2[:, j] * y1[:, j]
        for other in range(m):
            if other != j:
                c12 = own * y1[:, j] * y2[:, other] + (1.0 - own) * mu[j, other]
                c21 = own * y1[:, other] * y2[:, j] + (1.0 - own) * mu[other, j]
                a1[:, j] += strength * d1[:, j] * c12 * y2[:, other]
                a2[:, j] += strength * d2[:, j] * c21 * y1[:, other]
    return a1, a2


def hermite_grid(dimension, order):
    """Gauss-Hermite points, exact for polynomials of degree 2 order - 1."""
    x, w = np.polynomial.hermite_e.hermegauss(order)
    points = np.stack([g.ravel() for g in np.meshgrid(*[x] * dimension, indexing="ij")], axis=-1)
    weights = np.ones(1)
    for _ in range(dimension):
        weights = np.multiply.outer(weights, w / w.sum()).ravel()
    return points, weights


def brute_force(problem, Q, R, n, reach=7.5):
    """Return G, Gbar, H, Lambda and the loss at a nonsingular state; reach None takes Gauss-Hermite points."""
    m, B, strength = problem.outputs, problem.batch_size, problem.loss.decorrelation
    eta, sigma = problem.background_variance, problem.activation
    own = 0.0 if np.isinf(B) else 1.0 / B
    nodes = problem.hidden.nodes(60)
    covariance = law(problem, Q, R, nodes.covariance)
    root = np.linalg.cholesky(covariance)
    x, w = hermite_grid(2 * m, n) if reach is None else grid(2 * m, n, reach)
    g = x @ root.T

    def outputs(c):
        h = np.tile(R @ c, 2) + g
        y, d = sigma.value(h), sigma.derivative(h)
        return y[:, :m], y[:, m:], d[:, :m], d[:, m:]

    mu, mean, moment = np.zeros((m, m)), np.zeros((2, m)), np.zeros((m, m, m, m))
    own_cov = np.zeros((2, m, m))
    for c, p in zip(nodes.points, nodes.weights, strict=True):
        y1, y2, _, _ = outputs(c)
        mu += p * (y1 * w[:, None]).T @ y2
        mean += p * np.stack([w @ y1, w @ y2])
        own_cov += p * np.stack([(y * w[:, None]).T @ y for y in (y1, y2)])
        for j, other, k, i in itertools.product(range(m), repeat=4):
            moment[j, other, k, i] += p * np.sum(w * y1[:, j] * y2[:, other] * y1[:, k] * y2[:, i])
    cov_x = moment - np.einsum("jl,ki->jlki", mu, mu)
    own_cov = own_cov - np.einsum("vj,vk->vjk", mean, mean)
    cross = mu - np.outer(mean[0], mean[1])

    D, E_ac, E_aa = np.zeros((2 * m, 2 * m)), np.zeros((m, R.shape[1])), np.zeros((2 * m, 2 * m))
    for c, p in zip(nodes.points, nodes.weights, strict=True):
        y1, y2, d1, d2 = outputs(c)
        a = np.concatenate(effective_gradient(problem, y1, y2, d1, d2, mu, mean), axis=1)
        D += p * np.linalg.solve(covariance, (g * w[:, None]).T @ a).T
        E_ac += p * np.outer((w @ a)[:m] + (w @ a)[m:], c)
        E_aa += p * (a * w[:, None]).T @ a
        spread = own * (1.0 - own)
        slopes = [d1, d2]
        for j, k in itertools.product(range(m), repeat=2):
            if problem.loss.centered:
                E_aa[j, k] += p * spread * np.sum(w * d1[:, j] * d1[:, k]) * own_cov[1][j, k]
                E_aa[m + j, m + k] += p * spread * np.sum(w * d2[:, j] * d2[:, k]) * own_cov[0][j, k]
                mixed = p * spread * np.sum(w * d1[:, j] * d2[:, k]) * cross[k, j]
                E_aa[j, m + k] += mixed
                E_aa[m + k, j] += mixed
                continue
            for other, i in itertools.product(range(m), repeat=2):
                if other == j or i == k:
                    continue
                f = p * spread * strength**2
                E_aa[j, k] += (
                    f * cov_x[j, other, k, i] * np.sum(w * slopes[0][:, j] * slopes[0][:, k] * y2[:, other] * y2[:, i])
                )
                E_aa[m + j, m + k] += (
                    f * cov_x[other, j, i, k] * np.sum(w * slopes[1][:, j] * slopes[1][:, k] * y1[:, other] * y1[:, i])
                )
                mixed = (
                    f * cov_x[j, other, i, k] * np.sum(w * slopes[0][:, j] * y1[:, i] * y2[:, other] * slopes[1][:, k])
                )
                E_aa[j, m + k] += mixed
                E_aa[m + k, j] += mixed
    T = eta + problem.noise_covariance
    blocks = [(slice(m), slice(m)), (slice(m), slice(m, None)), (slice(m, None), slice(m)), (slice(m, None),) * 2]
    G = sum(t * D[b] for t, b in zip(T.ravel(), blocks, strict=True))
    Gbar = sum(D[b] for b in blocks)
    H = E_ac + Gbar @ R @ (nodes.covariance - eta * np.eye(R.shape[1]))
    Lambda = own * problem.rate(0.0) ** 2 * sum(t * E_aa[b] for t, b in zip(T.ravel(), blocks, strict=True))
    if problem.loss.centered:
        loss = -(1.0 - own) * np.trace(cross)
    else:
        off = ~np.eye(m, dtype=bool)
        second = own * np.einsum("jljl->jl", moment) + (1.0 - own) * mu**2
        loss = -np.trace(mu) + 0.5 * strength * second[off].sum()
    return SimpleNamespace(G=G, Gbar=Gbar, H=H, Lambda=Lambda, loss=loss)


@pytest.fixture(scope="session")
def reference():
    """Return the function that computes the reference at one state."""
    return brute_force
