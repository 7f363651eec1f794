"""Compiled inner loops of the particle system: what NumPy would need many passes over memory for.

Weights have shape (m, P) and loadings (K, P), C-contiguous, of one run. A kernel works on the block of particles that
starts at `first` and is as long as its buffers; inner loops run over particles, so that they vectorize.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from mkvlasov._typing import Array


@njit(cache=True, nogil=True)
def fill_normals(generator: np.random.Generator, out: Array) -> None:
    """Fill `out` (m, n) with the very numbers of ``generator.standard_normal``, in a third of its time."""
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[j, i] = generator.standard_normal()


@njit(cache=True, nogil=True)
def fill_exponentials(generator: np.random.Generator, out: Array) -> None:
    """Fill `out` (m, n) with the numbers of ``generator.standard_exponential``."""
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[j, i] = generator.standard_exponential()


@njit(cache=True, nogil=True, fastmath={"contract"})
def kinked_diffusion(moved: Array, shift: float, variance: float, normals: Array, exponentials: Array) -> None:
    """Solve dw = - c sign(w) ds + sqrt(D) dB exactly in law, in place, for every entry of `moved` (m, n).

    |w| is a Brownian motion with drift -c, reflected at zero: the end of the unreflected path less its minimum, where
    that is below zero. Given both ends the minimum is a known function of an exponential variable, whatever the drift.
    Once zero has been touched both signs are as likely; the coin is a late digit of the exponential variable.

    Parameters
    ----------
    shift, variance : float
        c and D times the span.
    normals, exponentials : ndarray, shape (m, n)
        Standard ones: of the increment; of the minimum and the sign.
    """
    scale = math.sqrt(variance)
    for j in range(moved.shape[0]):
        row, increments, depths = moved[j], normals[j], exponentials[j]
        for i in range(len(row)):
            start = abs(row[i])
            end = start - shift + scale * increments[i]
            minimum = 0.5 * (start + end - math.sqrt((start - end) ** 2 + 2.0 * variance * depths[i]))
            digits = depths[i] * 1048576.0
            coin = digits - math.floor(digits) - 0.5
            touched = minimum < 0.0
            row[i] = math.copysign(end - minimum if touched else end, coin if touched else row[i])


@njit(cache=True, nogil=True, fastmath={"contract"})
def linear_step(
    weights: Array, loadings: Array, first: int, noise: Array, propagator: Array, loading: Array, root: Array
) -> Array:
    """Return propagator w + loading a + root noise of a block, shape (m, n) like the noise.

    Parameters
    ----------
    propagator, root : ndarray, shape (m, m)
    loading : ndarray, shape (m, K)
    """
    m, n = noise.shape
    moved = np.zeros((m, n))
    for j in range(m):
        # Slices, whose indices the compiler need not check for a sign, are twice as fast.
        row = moved[j]
        for other in range(m):
            factor, w = propagator[j, other], weights[other, first : first + n]
            scale, normals = root[j, other], noise[other]
            for i in range(n):
                row[i] += factor * w[i] + scale * normals[i]
        for k in range(loading.shape[1]):
            slope, a = loading[j, k], loadings[k, first : first + n]
            for i in range(n):
                row[i] += slope * a[i]
    return moved


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def add_overlaps(moved: Array, loadings: Array, first: int, Q: Array, R: Array) -> None:
    """Add the sums of w w^T and of w a^T over the block `moved` (m, n) to Q (m, m) and R (m, K)."""
    m, n = moved.shape
    for j in range(m):
        row = moved[j]
        for other in range(j + 1):
            w, total = moved[other], 0.0
            for i in range(n):
                total += row[i] * w[i]
            Q[j, other] += total
            if other < j:
                Q[other, j] += total
        for k in range(loadings.shape[0]):
            a, total = loadings[k, first : first + n], 0.0
            for i in range(n):
                total += row[i] * a[i]
            R[j, k] += total
