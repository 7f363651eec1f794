"""Errors of order parameters and densities, and what a tolerance and the coefficients add to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.solution_pde import CoefficientHistory


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors at the output times: Q (T,), R (T, K), densities in L1, mean over the loadings (T,)."""

    Q: Array
    R: Array
    density: Array

    def __add__(self, other: Errors) -> Errors:
        return Errors(self.Q + other.Q, self.R + other.R, self.density + other.density)


def tolerance_errors(rtol: float, Q: Array, R: Array) -> Errors:
    """Return what the tolerance allows at overlaps Q (T,), R (T, K)."""
    scale = np.abs(Q)
    return Errors(rtol * scale, rtol * np.sqrt(scale)[:, None] * np.ones(R.shape[1]), np.full(len(Q), rtol))


def coefficient_errors(history: CoefficientHistory, relative: Array, Q: Array, R: Array, t: Array) -> Errors:
    """Return what relative errors of the limit coefficients do to the moments, added up over time at worst.

    Parameters
    ----------
    history : CoefficientHistory
        At S steps.
    relative : ndarray, shape (S,)
        Relative error of the coefficients.
    Q, R : ndarray, shapes (S,) and (S, K)
    t : ndarray, shape (T,)
        Output times.
    """
    size_q, size_r = np.abs(Q), np.linalg.norm(R, axis=1)
    linear, tilt = np.abs(history.linear), np.linalg.norm(history.tilt, axis=1)
    per_q = 2.0 * relative * (linear * size_q + tilt * size_r + history.diffusion)
    grown_q, grown_r = (
        np.interp(t, history.t, _integral(history.t, each)) for each in (per_q, relative * (linear * size_r + tilt))
    )
    return Errors(grown_q, grown_r[:, None] * np.ones(R.shape[1]), np.zeros(len(t)))


def _integral(times: Array, values: Array) -> Array:
    return np.concatenate([[0.0], np.cumsum(0.5 * (values[1:] + values[:-1]) * np.diff(times))])
