"""A law on the line given by its density on nodes: interpolated, integrated, inverted, blurred by noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from mkvlasov._typing import Array
from mkvlasov.problem.conditional import GaussianMixture, invert
from mkvlasov.problem.value import Value

if TYPE_CHECKING:
    from scipy.interpolate import PPoly

_JUMP = 1e-6
"""A density that ends at more than this share of its peak ends with a jump."""
_NEGLIGIBLE = 1e-8
"""Gaps between nodes do not matter where the density is below this share of its peak."""
_WIDE_NOISE = 1.0
"""Noise of so many gaps between nodes is resolved by them: to 1e-8 if uniform, to 1e-5 in elements of degree 8."""
_ON_NODE = 1e-12
"""Distance up to which a kink is on a node."""
_PIECES = 8
"""Linear pieces of the interpolant between two nodes."""


def trapezoidal(w: Array) -> Array:
    """Return the weights of the trapezoidal rule on increasing nodes, shape (n,)."""
    weights = np.zeros_like(w)
    weights[:-1] += 0.5 * np.diff(w)
    weights[1:] += 0.5 * np.diff(w)
    return weights


@dataclass(frozen=True, eq=False, repr=False)
class TabulatedLaw(Value):
    """Law of one weight: the density on the nodes interpolated by cubics, and Gaussian noise added to the weight.

    Moments are sums over the nodes. The interpolant is the cubic spline, of fourth order where the density is smooth,
    with slopes limited such that it is monotone where its nodes are and never negative: a spike stays one, and the
    distribution function increases. A negative density counts as zero. It is scaled to the mass that the sum over the
    nodes has.

    Attributes
    ----------
    w, p, weights : ndarray, shape (n,)
        Increasing nodes, density there, quadrature weights.
    noise : float
        Standard deviation of the noise.
    kinks : tuple of float
        Where the density may bend: at those that are nodes, the splines of the two sides have slopes of their own.
    """

    w: Array
    p: Array
    weights: Array
    noise: float = 0.0
    kinks: tuple[float, ...] = ()

    @cached_property
    def mass(self) -> float:
        """Total mass, one for a law."""
        return float(self.weights @ self.p)

    @property
    def mean(self) -> Array:
        """E[w], shape (1,)."""
        return np.array([(self.weights * self.p) @ self.w])

    @property
    def second_moment(self) -> Array:
        """E[w^2], shape (1, 1)."""
        return np.array([[(self.weights * self.p) @ self.w**2 + self.noise**2]])

    @property
    def is_smooth(self) -> bool:
        """Whether the density has no jump at the ends of the table."""
        return self.noise > 0.0 or float(max(self.p[0], self.p[-1])) <= _JUMP * float(self.p.max())

    def affine(self, A: Array, shift: Array, P: Array) -> TabulatedLaw | GaussianMixture:
        """Return the law of A w + shift + N(0, P); A and P are (1, 1), shift is (1,)."""
        scale, noise = float(A[0, 0]), float(np.sqrt(max(A[0, 0] ** 2 * self.noise**2 + P[0, 0], 0.0)))
        if scale == 0.0:
            return GaussianMixture(np.ones(1), shift[None], np.array([[[noise**2]]]))
        order = slice(None) if scale > 0.0 else slice(None, None, -1)
        w, p, weights = scale * self.w + shift, self.p / abs(scale), self.weights * abs(scale)
        kinks = tuple(scale * kink + float(shift[0]) for kink in self.kinks)
        return TabulatedLaw(w[order], p[order], weights[order], noise, kinks)

    def marginal(self, output: int) -> TabulatedLaw:
        """Return the law itself, which has one output."""
        return self

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        """Draw n independent weights, shape (n, 1)."""
        drawn = self._table_quantile(rng.random(n) * self.mass)
        return (drawn + self.noise * rng.standard_normal(n))[:, None]

    def ends(self, tail: float) -> tuple[float, float]:
        """Return an interval that holds all but at most the mass `tail` on either side."""
        reach = -self.noise * float(special.ndtri(0.5 * tail)) if self.noise else 0.0
        part = 0.5 * tail if self.noise else tail
        lacking = [np.cumsum(np.maximum(self.weights * self.p, 0.0)[::step]) <= part for step in (1, -1)]
        # The cell that exceeds the tail belongs to the interval with both of its nodes.
        first, last = (max(int(few.sum()) - 1, 0) for few in lacking)
        return float(self.w[first]) - reach, float(self.w[len(self.w) - 1 - last]) + reach

    def pdf(self, w: Array) -> Array:
        """Return the density at w (n,)."""
        if self.noise:
            return np.maximum(self._blurred(w, order=1), 0.0)
        inside = (w >= self.w[0]) & (w <= self.w[-1])
        return np.where(inside, self._curve(np.clip(w, self.w[0], self.w[-1])), 0.0)

    def cdf(self, w: Array) -> Array:
        """Return the mass to the left of w (n,)."""
        if self.noise:
            return np.clip(self._blurred(w, order=2), 0.0, self.mass)
        return np.clip(self._cumulative(np.clip(w, self.w[0], self.w[-1])), 0.0, self.mass)

    def quantile(self, q: Array) -> Array:
        """Return the smallest weights (n,) with the fractions q of the mass to their left."""
        if self.noise:
            low, high = self.ends(1e-17)
            return invert(self.cdf, q * self.mass, low, high)
        return self._table_quantile(q * self.mass)

    @cached_property
    def _curve(self) -> PPoly:
        from scipy.interpolate import CubicHermiteSpline, CubicSpline, PPoly  # take a while to load

        p = np.maximum(self.p, 0.0)
        bends = [i for kink in self.kinks for i in np.flatnonzero(np.abs(self.w - kink) <= _ON_NODE)]
        ends = [0, *sorted({int(i) for i in bends if 0 < i < len(p) - 1}), len(p) - 1]
        pieces = []
        for first, last in pairwise(ends):
            w, here = self.w[first : last + 1], p[first : last + 1]
            slopes = _limited(CubicSpline(w, here)(w, 1), w, here)
            pieces.append(CubicHermiteSpline(w, here, slopes).c)
        curve = PPoly(np.concatenate(pieces, axis=1), self.w)
        curve.c = curve.c * (self.mass / float(curve.integrate(self.w[0], self.w[-1])))
        return curve

    @cached_property
    def _cumulative(self) -> PPoly:
        return self._curve.antiderivative()

    def _table_quantile(self, reached: Array) -> Array:
        at_nodes = np.maximum.accumulate(self._cumulative(self.w))
        right = np.clip(np.searchsorted(at_nodes, reached, side="left"), 1, len(self.w) - 1)
        return invert(self._cumulative, reached, self.w[right - 1], self.w[right])

    def _blurred(self, w: Array, *, order: int) -> Array:
        """Return the density (order 1) or distribution function (2) of the table with the noise.

        Where the noise is wide beside the gaps between the nodes, and the table does not end with a jump, by the
        quadrature of the table, as accurate as that.
        Else the interpolant is taken piecewise linearly on finer nodes: a sum of ramps that start there, and steps at
        the ends, each integrated in closed form.
        """
        ends_smoothly = max(self.p[0], self.p[-1]) <= _JUMP * self.p.max()
        dense = np.maximum(self.p[:-1], self.p[1:]) > _NEGLIGIBLE * self.p.max()
        if ends_smoothly and self.noise >= _WIDE_NOISE * np.diff(self.w)[dense].max():
            x = (w[:, None] - self.w) / self.noise
            kernel = special.ndtr(x) if order == 2 else np.exp(-0.5 * x * x) / (np.sqrt(2.0 * np.pi) * self.noise)
            return kernel @ (self.weights * self.p)
        pieces = np.arange(_PIECES) / _PIECES
        fine = np.append((self.w[:-1, None] + np.diff(self.w)[:, None] * pieces).ravel(), self.w[-1])
        p = np.maximum(self._curve(fine), 0.0)
        bends = np.diff(np.diff(p) / np.diff(fine), prepend=0.0, append=0.0)
        x = (w[:, None] - fine) / self.noise
        below, bell = special.ndtr(x), np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)
        # Repeated integrals of the normal distribution function.
        ramp = self.noise * (x * below + bell)
        if order == 1:
            step, bent = below, ramp
        else:
            step, bent = ramp, 0.5 * self.noise**2 * ((x * x + 1.0) * below + x * bell)
        scale = self.mass / float(trapezoidal(fine) @ p)
        return scale * (p[0] * step[:, 0] - p[-1] * step[:, -1] + bent @ bends)


def _limited(slopes: Array, w: Array, p: Array) -> Array:
    """Return slopes of a cubic through p >= 0 cut to what keeps it monotone with its nodes, and not negative.

    Hyman, SIAM J. Sci. Stat. Comput. 4, 1983: at most three times the smaller of the secants beside a node.
    """
    secants = np.diff(p) / np.diff(w)
    left, right = np.append(secants[:1], secants), np.append(secants, secants[-1:])
    steepest = 3.0 * np.minimum(np.abs(left), np.abs(right))
    limited = np.clip(slopes, -steepest, steepest)
    limited[(left * right > 0.0) & (limited * left < 0.0)] = 0.0
    # A cubic with ends p >= 0 stays so if it falls from them by no more than three times themselves.
    widths = np.diff(w)
    lowest = -3.0 * p / np.append(widths, np.inf)
    highest = 3.0 * p / np.append(np.inf, widths)
    return np.clip(limited, lowest, highest)
