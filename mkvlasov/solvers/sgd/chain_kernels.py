"""Compiled steps of the (Q, R) chain (`solvers.chain`): every random number is given, so nothing here draws.

Source: docs/theory.md, section 8, "The order parameters as a Markov chain".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from mkvlasov._typing import Array
from mkvlasov.solvers.sgd.alpha_kernels import activate, factorize, loss_gradient


class Compiled(NamedTuple):
    """What one step needs to know of the problem, as numbers.

    Attributes
    ----------
    activation : int
        Its code.
    parameters : ndarray, shape (n,)
        Of the activation.
    decorrelation : float
        lambda.
    centered, sphere : bool
    strength : float
        kappa.
    proximal : bool
        Whether L2 shrinks the weights after the gradient step instead of being part of it.
    dimension : int
        N.
    noise : ndarray, shape (2, p)
        Factor of S.
    views : ndarray, shape (2, q)
        Factor of T = eta + S.
    largest : float
        Mean square of an output's weights beyond which a run counts as diverged.
    """

    activation: int
    parameters: Array
    decorrelation: float
    centered: bool
    sphere: bool
    strength: float
    proximal: bool
    dimension: int
    noise: Array
    views: Array
    largest: float


@njit(cache=True, nogil=True, error_model="numpy")
def advance(
    compiled: Compiled,
    R: Array,
    P: Array,
    diverged: Array,
    hidden: Array,
    normals: Array,
    squares: Array,
    rates: Array,
    part: tuple[int, int],
    step: int,
) -> None:
    """Advance every run by the steps [part[0], part[1]) of its draws, in place; a run that diverges stays where it is.

    Parameters
    ----------
    compiled : Compiled
    R : ndarray, shape (runs, m, K)
    P : ndarray, shape (runs, m, m)
        Q - R R^T.
    diverged : ndarray, shape (runs,)
        Time at which the run diverged; runs where it is finite are left alone.
    hidden : ndarray, shape (runs, steps, B, K)
    normals : ndarray, shape (runs, steps, B K p + B m q + m (m - 1) / 2)
        Standard normals: for the noise along the features, for the views along the weights off the features, for the
        Wishart matrix below its diagonal.
    squares : ndarray, shape (runs, steps, columns)
        Diagonal of the Bartlett factor squared: chi-square variables.
    rates : ndarray, shape (steps,)
    part : (int, int)
    step : int
        Number in the run of the first step of that part.
    """
    activation, parameters, decorrelation, centered, sphere = compiled[:5]
    strength, proximal, dimension, noise, views, largest = compiled[5:]
    runs, m, features = R.shape
    batch = hidden.shape[2]
    noise_rank, view_rank, columns = noise.shape[1], views.shape[1], squares.shape[2]
    root, bartlett = np.zeros((m, m)), np.zeros((m, m))
    moved, rest, gram, chol = np.zeros((m, m)), np.zeros((m, m)), np.zeros((m, m)), np.zeros((m, m))
    along, across = np.zeros((2, batch, features)), np.zeros((2, batch, m))
    y, slope, alpha = np.zeros((2, batch, m)), np.zeros((2, batch, m)), np.zeros((2, batch, m))
    mixed = np.zeros((m, view_rank))
    for run in range(runs):
        if math.isfinite(diverged[run]):
            continue
        r, p = R[run], P[run]
        for s in range(part[0], part[1]):
            z, position = normals[run, s], 0
            gain = rates[s] / dimension
            if proximal:
                kept = 1.0 / (1.0 + gain * strength)
                gain *= kept
            else:
                kept = 1.0 - gain * strength
            factorize(p, root)
            for b in range(batch):
                for k in range(features):
                    for v in range(2):
                        along[v, b, k] = hidden[run, s, b, k]
                    for i in range(noise_rank):
                        for v in range(2):
                            along[v, b, k] += noise[v, i] * z[position]
                        position += 1
                for j in range(m):
                    across[0, b, j] = 0.0
                    across[1, b, j] = 0.0
                    for i in range(view_rank):
                        for v in range(2):
                            across[v, b, j] += views[v, i] * z[position]
                        position += 1
                for v in range(2):
                    for j in range(m):
                        h = 0.0
                        for k in range(features):
                            h += r[j, k] * along[v, b, k]
                        for i in range(j + 1):
                            h += root[j, i] * across[v, b, i]
                        y[v, b, j], slope[v, b, j] = activate(activation, parameters, h)
            loss_gradient(y, decorrelation, centered, gram, alpha)
            for v in range(2):
                for b in range(batch):
                    for j in range(m):
                        alpha[v, b, j] *= slope[v, b, j]
            # A^T (I x T) A, by the factor of T: sums of squares, which rounding cannot make negative.
            gram[:] = 0.0
            for b in range(batch):
                for j in range(m):
                    for i in range(view_rank):
                        mixed[j, i] = views[0, i] * alpha[0, b, j] + views[1, i] * alpha[1, b, j]
                for j in range(m):
                    for n in range(j + 1):
                        for i in range(view_rank):
                            gram[j, n] += mixed[j, i] * mixed[n, i]
            factorize(gram, chol)
            for j in range(m):
                for n in range(j):
                    bartlett[j, n] = z[position] if n < columns else 0.0
                    position += 1
                bartlett[j, j] = math.sqrt(squares[run, s, j]) if j < columns else 0.0
            for j in range(m):
                for n in range(m):
                    moved[j, n] = kept * root[j, n]
                    for b in range(batch):
                        moved[j, n] -= gain * (alpha[0, b, j] * across[0, b, n] + alpha[1, b, j] * across[1, b, n])
                    rest[j, n] = 0.0
                    for i in range(n, j + 1):
                        rest[j, n] += gain * chol[j, i] * bartlett[i, n]
            for j in range(m):
                for k in range(features):
                    r[j, k] *= kept
                    for b in range(batch):
                        r[j, k] -= gain * (alpha[0, b, j] * along[0, b, k] + alpha[1, b, j] * along[1, b, k])
                for n in range(j + 1):
                    total = 0.0
                    for i in range(m):
                        total += moved[j, i] * moved[n, i] + rest[j, i] * rest[n, i]
                    p[j, n] = total
                    p[n, j] = total
            size = 0.0
            for j in range(m):
                square = p[j, j]
                for k in range(features):
                    square += r[j, k] * r[j, k]
                # Not a number must not be lost in a maximum.
                size += square
                if sphere:
                    scale = 1.0 / math.sqrt(square)
                    for k in range(features):
                        r[j, k] *= scale
                    for n in range(m):
                        p[j, n] *= scale
                        p[n, j] *= scale
            if not size < largest:
                diverged[run] = (step + s - part[0] + 1) / dimension
                break
