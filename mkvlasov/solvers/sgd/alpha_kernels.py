"""Compiled gradients of the built-in loss and activations, and factors of covariances; shared by compiled methods."""

from __future__ import annotations

import math

from numba import njit

from mkvlasov._typing import Array

IDENTITY, TANH, ERF, SIGMOID, SOFTPLUS, LEAKY_RELU, POLYNOMIAL = range(7)
"""Codes of the activations; the last two have parameters: the slope, the ascending coefficients."""

_jit = njit(cache=True, nogil=True, error_model="numpy")


@_jit
def activate(code: int, parameters: Array, h: float) -> tuple[float, float]:
    """Return sigma(h) and sigma'(h)."""
    if code == TANH:
        y = math.tanh(h)
        return y, 1.0 - y * y
    if code == ERF:
        return math.erf(h * math.sqrt(0.5)), math.sqrt(2.0 / math.pi) * math.exp(-0.5 * h * h)
    if code == SIGMOID:
        y = 1.0 / (1.0 + math.exp(-h))
        return y, y * (1.0 - y)
    if code == SOFTPLUS:
        return max(h, 0.0) + math.log1p(math.exp(-abs(h))), 1.0 / (1.0 + math.exp(-h))
    if code == LEAKY_RELU:
        slope = 1.0 if h > 0.0 else parameters[0]
        return slope * h, slope
    if code == POLYNOMIAL:
        y, slope = 0.0, 0.0
        for i in range(len(parameters) - 1, -1, -1):
            slope = slope * h + y
            y = y * h + parameters[i]
        return y, slope
    return h, 1.0


@_jit
def factorize(matrix: Array, lower: Array) -> None:
    """Write the Cholesky factor of a positive semidefinite matrix; columns without variance beyond rounding are 0."""
    m = len(matrix)
    lower[:] = 0.0
    for j in range(m):
        pivot = matrix[j, j]
        for k in range(j):
            pivot -= lower[j, k] * lower[j, k]
        if pivot <= 1e-14 * matrix[j, j]:
            continue
        lower[j, j] = math.sqrt(pivot)
        for i in range(j + 1, m):
            entry = matrix[i, j]
            for k in range(j):
                entry -= lower[i, k] * lower[j, k]
            lower[i, j] = entry / lower[j, j]


@_jit
def loss_gradient(y: Array, decorrelation: float, centered: bool, covariance: Array, gradient: Array) -> None:
    """Write dF/dy (2, B, m) of the covariance loss for outputs y (2, B, m), which are centred in place if asked for.

    `covariance` (m, m) is scratch.
    """
    _, batch, m = y.shape
    if centered:
        for v in range(2):
            for j in range(m):
                mean = 0.0
                for b in range(batch):
                    mean += y[v, b, j]
                mean /= batch
                for b in range(batch):
                    y[v, b, j] -= mean
    if decorrelation == 0.0 or m == 1:
        for b in range(batch):
            for j in range(m):
                gradient[0, b, j] = -y[1, b, j] / batch
                gradient[1, b, j] = -y[0, b, j] / batch
        return
    for j in range(m):
        for c in range(m):
            total = 0.0
            for b in range(batch):
                total += y[0, b, j] * y[1, b, c]
            covariance[j, c] = -1.0 if j == c else decorrelation * total / batch
    for b in range(batch):
        for j in range(m):
            first, second = 0.0, 0.0
            for c in range(m):
                first += covariance[j, c] * y[1, b, c]
                second += covariance[c, j] * y[0, b, c]
            gradient[0, b, j] = first / batch
            gradient[1, b, j] = second / batch
