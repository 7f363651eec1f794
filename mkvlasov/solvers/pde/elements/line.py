"""The compiled time loop of the spectral elements, for problems whose coefficients are compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

from mkvlasov._typing import Array
from mkvlasov.limit.line_kernels import rates as coefficients
from mkvlasov.solvers.pde.elements.basis import Basis
from mkvlasov.solvers.pde.elements.kernels import Mesh
from mkvlasov.solvers.pde.elements.march import (
    DIFFUSION,
    ERROR,
    GO_ON,
    LINEAR,
    LOSS,
    TAU,
    TILT,
    Progress,
    Settings,
    attempt,
    finite,
    propose,
)


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate_line(times: Array, y: Array, data: tuple[Array, tuple[Array, ...]]) -> Array:
    """Return the rates that `elements_rates.CoupledTable` gives, from compiled coefficients.

    `data` holds tau, the curvature of phi, whether weights stay on the sphere, the largest Q; and the data of
    the coefficients.
    """
    numbers, line = data
    tau, curvature, sphere, largest = numbers[0], numbers[1], numbers[2], numbers[3]
    features = y.shape[1] - 2
    result = np.empty((len(times), TILT + features))
    R = np.empty(features)
    usable = finite(y)
    for s in range(len(times)):
        usable = usable and y[s, 0] <= 10.0 * largest
    for s in range(len(times)):
        if not usable:
            for k in range(result.shape[1]):
                result[s, k] = np.nan
            continue
        square = 0.0
        for k in range(features):
            R[k] = y[s, 1 + k]
            square += R[k] * R[k]
        # Extrapolated moments may leave the set Q >= |R|^2 by the error of the extrapolation.
        Q = max(y[s, 0], square)
        G, _, H, Lambda, loss, error = coefficients(Q, R, line)
        Lambda *= tau * tau
        linear = tau * (G + curvature)
        if sphere > 0.0:
            virial = y[s, features + 1]
            for k in range(features):
                virial += H[k] * R[k]
            linear += 0.5 * (Lambda - 2.0 * (linear * Q + tau * virial)) / max(Q, 1e-300)
        result[s, LINEAR] = linear
        result[s, TAU] = tau
        # Rounding may leave a tiny negative number where the diffusion vanishes.
        result[s, DIFFUSION] = 0.5 * max(Lambda, 0.0)
        result[s, LOSS] = loss
        result[s, ERROR] = error
        for k in range(features):
            result[s, TILT + k] = tau * H[k]
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def march_line(
    data: tuple[Array, tuple[Array, ...]],
    settings: Settings,
    basis: Basis,
    mesh: Mesh,
    progress: Progress,
    p: Array,
    target: float,
) -> tuple[int, Array]:
    """Step with compiled coefficients until something has to be done; return what, and the densities."""
    while True:
        plan = propose(settings, basis, mesh, progress, p, target)
        rates = evaluate_line(plan.times, plan.predicted, data)
        reason, p = attempt(settings, basis, mesh, progress, p, target, plan, rates)
        if reason != GO_ON:
            return reason, p
