"""Equations F(x, p) = 0 in scaled variables, with their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput

_DIFFERENCE = 1e-3
"""Step of differences in scaled variables: of order four, 1e-12 of truncation beside 1e-13 of rounding."""
_CENTRAL = {-2: 1.0 / 12.0, -1: -2.0 / 3.0, 1: 2.0 / 3.0, 2: -1.0 / 12.0}
_FORWARD = {0: -25.0 / 12.0, 1: 4.0, 2: -3.0, 3: 4.0 / 3.0, 4: -0.25}


@dataclass(frozen=True, kw_only=True)
class Equation:
    """F(x, p) = 0 with the scales in which lengths are measured.

    Attributes
    ----------
    residual : function of x (d,) and p
        F, shape (d,).
    jacobian : function of x (d,) and p, optional
        dF/dx and dF/dp, shapes (d, d) and (d,); by default central differences (near the bounds one-sided ones by p).
    bounds : pair of floats
        Smallest and largest p. Neither function is called beyond.
    scale : ndarray, shape (d,)
        Natural sizes of the entries of x.
    logarithmic : bool
        Whether lengths along the parameter are measured in log p; the bounds are one unit apart in any case.
    admissible : function of x (d,) and p
        Whether a zero counts.
    """

    residual: Callable[[Array, float], Array]
    jacobian: Callable[[Array, float], tuple[Array, Array]] | None = None
    bounds: tuple[float, float]
    scale: Array
    logarithmic: bool = False
    admissible: Callable[[Array, float], bool] = field(default=lambda x, p: True)

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not (np.isfinite([low, high]).all() and low < high and (low > 0.0 or not self.logarithmic)):
            positive = " > 0" if self.logarithmic else ""
            raise InvalidInput("bounds", self.bounds, f"two increasing finite numbers{positive}")

    def pack(self, x: Array, p: float) -> Array:
        """Return the scaled point (d + 1,): x over its scale, and p as a number from 0 to 1."""
        low, high = self._axis
        return np.append(x / self.scale, ((np.log(p) if self.logarithmic else p) - low) / (high - low))

    def unpack(self, u: Array) -> tuple[Array, float]:
        """Return x (d,) and p of a scaled point; p is kept within the bounds."""
        low, high = self._axis
        p = low + u[-1] * (high - low)
        return u[:-1] * self.scale, float(np.clip(np.exp(p) if self.logarithmic else p, *self.bounds))

    def value(self, u: Array) -> Array:
        """Return F at a scaled point."""
        return self.residual(*self.unpack(u))

    def matrix(self, u: Array) -> Array:
        """Return the derivative of F by the scaled variables, shape (d, d + 1)."""
        if self.jacobian is None:
            return self._differences(u)
        x, p = self.unpack(u)
        by_x, by_p = self.jacobian(x, p)
        low, high = self._axis
        return np.column_stack([by_x * self.scale, by_p * (high - low) * (p if self.logarithmic else 1.0)])

    def _differences(self, u: Array) -> Array:
        moves = _DIFFERENCE * np.eye(len(u))
        inward = moves[-1] if u[-1] < 0.5 else -moves[-1]
        room = 2.0 * _DIFFERENCE <= u[-1] <= 1.0 - 2.0 * _DIFFERENCE
        stencils = [(_CENTRAL, move) for move in moves[:-1]]
        stencils.append((_CENTRAL, moves[-1]) if room else (_FORWARD, inward))
        columns = [sum(w * self.value(u + k * move) for k, w in rule.items()) / move.sum() for rule, move in stencils]
        return np.column_stack(columns)

    @cached_property
    def _axis(self) -> tuple[float, float]:
        low, high = np.log(self.bounds) if self.logarithmic else self.bounds
        return float(low), float(high)
