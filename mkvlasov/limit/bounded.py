"""Expectations that travel with bounds, so that sums and products of them know their error.

A bounded array has a leading axis of length 4: the value; its magnitude; magnitude + estimated error; and its natural
size, the product of the L2 norms of the factors under the expectation. Sums and products are formed alike in all four
rows, with the absolute values of the coefficients in the last three. Row 1 of a result is then the sum of the absolute
values of its terms, and row 2 - row 1 bounds its error to first order.
"""

from __future__ import annotations

import numpy as np

from mkvlasov._typing import Array


def bounded(value: Array, error: Array, size: Array) -> Array:
    """Stack values with their bounds, (...) -> (4, ...)."""
    magnitude = np.abs(value)
    result = np.empty((4, *np.shape(value)))
    result[0] = value
    result[1] = magnitude
    result[2] = magnitude + error
    result[3] = size
    return result


def coefficient(value: Array | float) -> Array:
    """Return an exact coefficient as a bounded array, (...) -> (4, ...)."""
    value = np.asarray(value, dtype=np.float64)
    magnitude = np.abs(value)
    return np.stack([value, magnitude, magnitude, magnitude])


def relative_error(result: Array) -> Array:
    """Return the worst error of entries (4, S, n) relative to the sums of the absolute values of their terms, (S,).

    Where cancellations by symmetry make all the terms vanish, a thousandth of their natural size replaces them.
    """
    scale = np.maximum(np.maximum(result[1], 1e-3 * result[3]), 1e-300)
    return np.asarray(((result[2] - result[1]) / scale).max(axis=-1))
