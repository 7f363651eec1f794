"""Runge-Kutta methods of the spectral elements: explicit first stage, then diagonally implicit, L-stable."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mkvlasov._typing import Array


class Tableau(NamedTuple):
    """Coefficients of s stages; the last row of `a` gives the result.

    Attributes
    ----------
    c : ndarray, shape (s,)
    a : ndarray, shape (s, s)
        Zero first row, constant diagonal `gamma` below it.
    error : ndarray, shape (s,)
        b minus the weights of the embedded method.
    gamma : float
    order : int
        Of the result; the embedded method is of one order less.
    """

    c: Array
    a: Array
    error: Array
    gamma: float
    order: int


def _tableau(c: list[float], rows: list[list[float]], embedded: list[float], order: int) -> Tableau:
    a = np.zeros((len(c), len(c)))
    for i, row in enumerate(rows):
        a[i + 1, : i + 2] = row
    return Tableau(np.array(c), a, a[-1] - np.array(embedded), float(a[-1, -1]), order)


_G = 1767732205903 / 4055673282236

ESDIRK3 = _tableau(
    [0.0, 2.0 * _G, 0.6, 1.0],
    [
        [_G, _G],
        [2746238789719 / 10658868560708, -640167445237 / 6845629431997, _G],
        [
            1471266399579 / 7840856788654,
            -4482444167858 / 7529755066697,
            11266239266428 / 11593286722821,
            _G,
        ],
    ],
    [
        2756255671327 / 12835298489170,
        -10771552573575 / 22201958757719,
        9247589265047 / 10645013368117,
        2193209047091 / 5459859503100,
    ],
    3,
)
"""Order 3, stage order 2: ARK3(2)4L[2]SA of Kennedy and Carpenter, Applied Numerical Mathematics 44, 2003."""

ESDIRK4 = _tableau(
    [0.0, 0.5, 0.332, 0.62, 0.85, 1.0],
    [
        [0.25, 0.25],
        [8611 / 62500, -1743 / 31250, 0.25],
        [5012029 / 34652500, -654441 / 2922500, 174375 / 388108, 0.25],
        [15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768, 2285395 / 8070912, 0.25],
        [82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211, 0.25],
    ],
    [
        4586570599 / 29645900160,
        0.0,
        178811875 / 945068544,
        814220225 / 1159782912,
        -3700637 / 11593932,
        61727 / 225920,
    ],
    4,
)
"""Order 4, stage order 2: ARK4(3)6L[2]SA of the same paper."""
