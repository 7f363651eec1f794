"""Compiled inner loops of the particle system against NumPy and the known law of the kinked diffusion."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr
from scipy.stats import norm

from mkvlasov.problem import regularizers
from mkvlasov.solvers.particles.kernels import (
    add_overlaps,
    fill_exponentials,
    fill_normals,
    kinked_diffusion,
    linear_step,
)


def sfc64(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


def test_random_numbers_are_those_of_numpy_bit_by_bit() -> None:
    drawn, again = np.empty((2, 5000)), sfc64(1)
    rng = sfc64(1)
    for fill, numpy_fill in ((fill_normals, again.standard_normal), (fill_exponentials, again.standard_exponential)):
        fill(rng, drawn)
        np.testing.assert_array_equal(drawn, numpy_fill((2, 5000)))


@pytest.mark.parametrize(("m", "k"), [(1, 1), (1, 3), (3, 2)])
def test_a_block_is_moved_and_summed_as_matrices_are(m: int, k: int) -> None:
    rng = np.random.default_rng(2)
    w, a, noise = (rng.standard_normal((rows, n)) for rows, n in ((m, 90), (k, 90), (m, 40)))
    P, root, C = (rng.standard_normal((m, columns)) for columns in (m, m, k))
    block = slice(30, 70)
    moved = linear_step(w, a, 30, noise, P, C, root)
    np.testing.assert_allclose(moved, P @ w[:, block] + C @ a[:, block] + root @ noise, atol=1e-13)
    Q, R = np.ones((m, m)), np.ones((m, k))
    add_overlaps(moved, a, 30, Q, R)
    np.testing.assert_allclose(Q, 1.0 + moved @ moved.T, atol=1e-12)
    np.testing.assert_allclose(R, 1.0 + moved @ a[:, block].T, atol=1e-12)


def density_of_the_kinked_diffusion(w: float, start: float, theta: float, t: float) -> float:
    """Transition density of dw = -theta sign(w) dt + dB, start >= 0 (Karatzas and Shreve, section 6.5)."""
    tail = theta * np.exp(-2.0 * theta * abs(w)) * ndtr((theta * t - start - abs(w)) / np.sqrt(t))
    if w >= 0.0:
        return norm.pdf(start - w, theta * t, np.sqrt(t)) + tail
    return np.exp(2.0 * theta * start) * norm.pdf(start - w, -theta * t, np.sqrt(t)) + tail


@pytest.mark.parametrize(("start", "theta", "t"), [(0.3, 1.0, 0.5), (-1.0, 2.0, 0.7), (0.0, 0.5, 1.0)])
def test_the_kinked_diffusion_is_exact_in_law(start: float, theta: float, t: float) -> None:
    n, rng = 400_000, np.random.default_rng(3)
    w = np.full((1, n), start)
    kinked_diffusion(w, theta * t, t, rng.standard_normal((1, n)), rng.standard_exponential((1, n)))
    # From a negative start it is the mirror image.
    w = w if start >= 0.0 else -w
    edges = np.linspace(-2.0, 2.0, 41)
    known = (abs(start), theta, t)
    mass = np.array([quad(density_of_the_kinked_diffusion, *bin_, known)[0] for bin_ in pairwise(edges)])
    counts = np.histogram(w, edges)[0]
    usual = n * mass > 25.0
    z = (counts - n * mass)[usual] / np.sqrt(n * mass * (1.0 - mass))[usual]
    # 40 bins: 4 standard errors are exceeded with a probability of 3e-3.
    assert np.abs(z).max() < 4.0
    assert usual.sum() > 20


def test_the_kinked_diffusion_keeps_the_laplace_law() -> None:
    # Stationary for dw = -theta sign(w) dt + dB: density theta exp(-2 theta |w|), here in a single long step.
    n, theta, rng = 200_000, 25.0, np.random.default_rng(4)
    w = rng.laplace(scale=0.5 / theta, size=(1, n))
    kinked_diffusion(w, 0.1 * theta, 0.1, rng.standard_normal((1, n)), rng.standard_exponential((1, n)))
    sizes = np.sort(np.abs(w[0])) * 2.0 * theta
    distance = np.abs(1.0 - np.exp(-sizes) - (np.arange(n) + 0.5) / n).max()
    # Kolmogorov and Smirnov: 2 / sqrt(n) is exceeded with a probability of 7e-4.
    assert distance < 2.0 / np.sqrt(n)
    assert abs(np.sign(w).mean()) < 4.0 / np.sqrt(n)


def test_without_noise_the_kinked_diffusion_is_the_soft_threshold() -> None:
    rng = np.random.default_rng(5)
    w = rng.standard_normal((2, 300))
    expected = regularizers.L1(0.6).proximal(w, 0.5)
    kinked_diffusion(w, 0.3, 0.0, rng.standard_normal((2, 300)), rng.standard_exponential((2, 300)))
    np.testing.assert_allclose(w, expected, atol=1e-15)


def test_weights_that_are_not_finite_stay_so() -> None:
    w = np.array([[np.nan, np.inf, -np.inf]])
    kinked_diffusion(w, 0.1, 0.2, np.zeros((1, 3)), np.ones((1, 3)))
    assert not np.isfinite(w).any()
