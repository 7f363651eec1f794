"""Compiled steps of the built-in regularizers, by gradient or proximal operator, in the precision of the weights."""

from __future__ import annotations

import math

from numba import njit

from mkvlasov._typing import Array

NO_PENALTY, ENTRIES, ROWS, ENTRIES_PROXIMAL, ROWS_PROXIMAL, DOUBLE_WELL_PROXIMAL, OTHER_PENALTY = range(7)
"""What is done to the weights beyond a linear map, by gradient unless the name says so; the last not here."""

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


@_jit
def _clip(x: float, one: float) -> float:
    return one if x > one else (x if x > -one else -one)


@_jit
def penalize_entries(strengths: Array, gain: float, old: Array, new: Array) -> None:
    """Subtract gain phi'(old) for phi' = linear w + cubic w^3 + slope clip(w inverse)."""
    one, step = old.dtype.type(1.0), old.dtype.type(gain)
    linear, cubic, slope, inverse = step * strengths[0], step * strengths[1], step * strengths[2], strengths[3]
    for i in range(len(old)):
        w = old[i]
        new[i] -= (linear + cubic * w * w) * w + slope * _clip(w * inverse, one)


@_jit
def shrink_entries(strengths: Array, gain: float, new: Array) -> None:
    """Apply the proximal operator of l1 |w|, rounded off within delta (Huber), + l2 w^2 / 2."""
    one, step = new.dtype.type(1.0), new.dtype.type(gain)
    shift = step * strengths[0]
    width = strengths[2] + shift
    # Without delta what lies within the width becomes exactly zero.
    inner, scale = (strengths[2] / width if width > 0.0 else one), one / (one + step * strengths[1])
    for i in range(len(new)):
        v = new[i]
        new[i] = scale * (v - shift if v > width else (v + shift if v < -width else inner * v))


@_jit
def penalize_rows(strength: float, gain: float, old: Array, new: Array, first: int, last: int) -> None:
    """Subtract gain times the gradient of strength ||w||, for old (m, N) and new (m, >= last - first)."""
    for i in range(last - first):
        square = 0.0
        for j in range(len(old)):
            square += old[j, first + i] ** 2
        shift = gain * strength / math.sqrt(square) if square > 0.0 else 0.0
        for j in range(len(old)):
            new[j, i] -= shift * old[j, first + i]


@_jit
def shrink_rows(strength: float, gain: float, new: Array, count: int) -> None:
    """Apply the proximal operator of strength ||w|| to the first rows of weights in new (m, >= count)."""
    for i in range(count):
        square = 0.0
        for j in range(len(new)):
            square += new[j, i] ** 2
        norm, shift = math.sqrt(square), gain * strength
        kept = 1.0 - shift / norm if norm > shift else 0.0
        for j in range(len(new)):
            new[j, i] *= kept


@_jit
def settle_in_wells(strength: float, gain: float, new: Array) -> None:
    """Apply the proximal operator of strength (w^2 - 1)^2 / 4: the one real root of u^3 + p u = v / k."""
    k = gain * strength
    if k == 0.0:
        return
    p = (1.0 - k) / k
    for i in range(len(new)):
        angle = math.asinh(1.5 * new[i] / (k * p) * math.sqrt(3.0 / p)) / 3.0
        new[i] = 2.0 * math.sqrt(p / 3.0) * math.sinh(angle)
