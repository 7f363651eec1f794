"""Fixed directions in the space of trajectories: smooth in time, chosen before any data are seen.

A trajectory of d entries at T times is a point in R^(T d); with n runs only fewer than n directions can be judged
together. What theories get wrong (a rate, a moment, a noise) changes trajectories smoothly, on the scale of the
dynamics: averages over time against the first Legendre polynomials.
"""

from __future__ import annotations

import numpy as np

from mkvlasov._typing import Array

_SHAPES = 3
"""Legendre polynomials per entry: mean, trend, bend."""


def time_shapes(t: Array, most: int = _SHAPES) -> Array:
    """Return weights (s, T) that average a function of time against Legendre polynomials, s <= min(most, T)."""
    if len(t) == 1:
        return np.ones((1, 1))
    span = t[-1] - t[0]
    steps = np.diff(t)
    widths = 0.5 * (np.concatenate([steps, [0.0]]) + np.concatenate([[0.0], steps])) / span
    count = min(most, len(t))
    return np.polynomial.legendre.legvander(2.0 * (t - t[0]) / span - 1.0, count - 1).T * widths


def trajectory_directions(t: Array, entries: int, most: int) -> Array:
    """Return directions (p, T, d): every entry against every shape in time, the simplest shapes first, p <= most.

    Parameters
    ----------
    t : ndarray, shape (T,)
    entries : int
        d.
    most : int
        How many directions the number of runs allows; at least one is returned.
    """
    shapes = time_shapes(t)
    count = min(len(shapes) * entries, max(1, most))
    found = np.zeros((count, len(t), entries))
    for index in range(count):
        found[index, :, index % entries] = shapes[index // entries]
    return found


def affordable(freedom: float) -> int:
    """Return how many directions to judge together with these degrees of freedom of the spread.

    A third of them: Hotelling's law then loses a third of the runs to the unknown covariance.
    """
    return max(1, int((freedom + 1.0) / 3.0)) if np.isfinite(freedom) else 10**6
