"""Rates of change of the order parameters, given the limit coefficients (docs/theory.md, sections 3, 4 and 9)."""

from __future__ import annotations

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.limit.coefficients import Coefficients


def moment_rates(
    coefficients: Coefficients,
    Q: Array,
    R: Array,
    *,
    tau: float,
    phi_a: Array,
    phi_w: Array,
    constraint: str | None = None,
) -> tuple[Array, Array]:
    """Return dQ/dt and dR/dt.

        dR/dt = -tau (G R + H + E[phi'(w) a^T]),
        dQ/dt = -tau (G Q + H R^T + E[phi'(w) w^T] + transposed) + Lambda,

    and on the sphere the drift of w_j gains -(1/2) (dQ_jj/dt of the above) w_j / Q_jj.

    Parameters
    ----------
    coefficients : Coefficients
        At (Q, R) and the time in question; Lambda contains tau^2.
    Q : ndarray, shape (..., m, m)
    R : ndarray, shape (..., m, K)
    tau : float
    phi_a : ndarray, shape (..., m, K)
        E[phi'(w) a^T]; kappa R if phi is quadratic.
    phi_w : ndarray, shape (..., m, m)
        E[phi'(w) w^T]; kappa Q if phi is quadratic.
    constraint : None or "sphere"

    Returns
    -------
    dQ : ndarray, shape (..., m, m)
    dR : ndarray, shape (..., m, K)
    """
    dR = -tau * (coefficients.G @ R + coefficients.H + phi_a)
    half = -tau * (coefficients.G @ Q + coefficients.H @ np.swapaxes(R, -1, -2) + phi_w)
    dQ = half + np.swapaxes(half, -1, -2) + coefficients.Lambda
    if constraint == "sphere":
        rate = sphere_rate(dQ, Q)
        dR = dR + rate[..., None] * R
        dQ = dQ + (rate[..., None] + rate[..., None, :]) * Q
    return dQ, dR


def sphere_rate(dQ: Array, Q: Array) -> Array:
    """Return the rate -(1/2) (dQ_jj/dt) / Q_jj that the constraint adds to the growth of w_j, shape (..., m).

    Parameters
    ----------
    dQ : ndarray, shape (..., m, m)
        Rate of change of Q without the constraint.
    Q : ndarray, shape (..., m, m)
    """
    return np.asarray(-0.5 * np.diagonal(dQ, axis1=-2, axis2=-1) / np.diagonal(Q, axis1=-2, axis2=-1))
