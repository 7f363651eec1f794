"""Densities on the line as results: averages, distribution function, quantiles, the mass of an interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import InvalidInput
from mkvlasov.problem.conditional import ConditionalLaw, GaussianMixture, invert
from mkvlasov.problem.tabulated import TabulatedLaw, trapezoidal

_EXACT_POINTS = 801
_EXACT_TAIL = 1e-15
_REACH = 8.5
"""Standard deviations beyond which a normal law has no mass in double precision."""


@dataclass(frozen=True, eq=False)
class Density:
    """A density p(w | a) on points of the line.

    Averages are sums over the points; in between, the density is interpolated by limited cubics and scaled to the mass
    of that sum, so that the distribution function increases from 0 to it (negative values, which an accurate method
    may leave where the density vanishes, count as zero there).

    Attributes
    ----------
    w, p : ndarray, shape (n,)
        Increasing points and the density there.
    weights : ndarray, shape (n,)
        Quadrature weights of the points: ``weights @ p`` is the mass. Trapezoidal if not given.
    kinks : tuple of float
        Points at which the density may bend, such as where phi has kinks; it is not smoothed there.
    """

    w: Array
    p: Array
    weights: Array
    kinks: tuple[float, ...]

    def __init__(self, w: Array, p: Array, weights: Array | None = None, kinks: tuple[float, ...] = ()) -> None:
        object.__setattr__(self, "w", w)
        object.__setattr__(self, "p", p)
        object.__setattr__(self, "weights", trapezoidal(w) if weights is None else weights)
        object.__setattr__(self, "kinks", kinks)

    def mean_of(self, function: Callable[[Array], Array]) -> float:
        """Return the mean of a function of w, which takes and returns arrays of shape (n,)."""
        return float(self.weights @ (self.p * applied(function, self.w)))

    def pdf(self, w: ArrayLike) -> Array:
        """Return the density at w, of the same shape, interpolated between the points; zero beyond them."""
        at = _checks.array("w", w)
        return self._pdf(at.ravel()).reshape(at.shape)

    def cdf(self, w: ArrayLike) -> Array:
        """Return the mass to the left of w, of the same shape."""
        return self._distribution(_checks.array("w", w))

    def quantile(self, q: ArrayLike) -> Array:
        """Return the weights w with the fractions q of the mass to their left; q within [0, 1], any shape."""
        fractions = fractions_of("q", q)
        return self._inverse(fractions.ravel()).reshape(fractions.shape)

    def mass(self, low: float, high: float) -> float:
        """Return the mass between two weights: with ``low = -high`` the share of weights that are nearly zero."""
        return float(np.diff(self._distribution(interval(low, high)))[0])

    @cached_property
    def _law(self) -> TabulatedLaw:
        return TabulatedLaw(self.w, self.p, self.weights, kinks=self.kinks)

    def _pdf(self, w: Array) -> Array:
        return self._law.pdf(w)

    def _distribution(self, w: Array) -> Array:
        return self._law.cdf(w.ravel()).reshape(w.shape)

    def _inverse(self, q: Array) -> Array:
        return self._law.quantile(q)


@dataclass(frozen=True, eq=False, init=False)
class ExactDensity(Density):
    """The density of a mixture of Gaussians on points; all but the points are those of the whole law.

    Attributes
    ----------
    w, p, weights
        As for `Density`, at the points that were asked for.
    law : GaussianMixture
        With one output.
    """

    law: GaussianMixture

    def __init__(self, law: GaussianMixture, w: Array) -> None:
        super().__init__(w, law.pdf(w))
        object.__setattr__(self, "law", law)

    def mean_of(self, function: Callable[[Array], Array]) -> float:
        """Return the mean of a function of w, by the trapezoidal rule on every component.

        Exact to rounding where the function is smooth on the scale of the components; to some 1e-5 where it has kinks.
        """
        z = np.linspace(-_REACH, _REACH, 1001)
        bell = np.exp(-0.5 * z * z)
        bell /= bell.sum()
        total = 0.0
        for share, mean, variance in zip(
            self.law.weights, self.law.means[:, 0], self.law.covariances[:, 0, 0], strict=True
        ):
            total += float(share * (bell @ applied(function, mean + np.sqrt(variance) * z)))
        return total

    def _pdf(self, w: Array) -> Array:
        return self.law.pdf(w)

    def _distribution(self, w: Array) -> Array:
        return self.law.cdf(w.ravel()).reshape(w.shape)

    def _inverse(self, q: Array) -> Array:
        return invert(self.law.cdf, q, *self.law.ends(1e-300))


def density_of_law(law: ConditionalLaw, w: Array | None) -> Density:
    """Return the density of a law of one output, at the points w (n,) or at 801 that cover it."""
    if w is None:
        w = np.linspace(*law.ends(_EXACT_TAIL), _EXACT_POINTS)
    return ExactDensity(law, w) if isinstance(law, GaussianMixture) else Density(w, law.pdf(w))


def applied(function: Callable[[Array], Array], w: Array) -> Array:
    """Return a user's function at the points w (n,); a constant counts as a function."""
    allowed = "a function from an array (n,) to finite numbers of the same shape"
    given = _checks.function_of("function", function, 1, allowed)(w)
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInput("function", function, allowed) from None
    if values.shape not in ((), w.shape) or not np.isfinite(values).all():
        raise InvalidInput("function", function, allowed)
    return np.broadcast_to(values, w.shape)


def fractions_of(field: str, value: ArrayLike) -> Array:
    """Return an array of numbers within [0, 1]."""
    fractions = _checks.array(field, value, minimum=0.0)
    if (fractions > 1.0).any():
        raise InvalidInput(field, value, "fractions within [0, 1]")
    return fractions


def interval(low: float, high: float) -> Array:
    """Return the ends of an interval, shape (2,)."""
    ends = np.array([_checks.number("low", low), _checks.number("high", high)])
    if ends[0] > ends[1]:
        raise InvalidInput("high", high, f"a number >= low = {low:g}")
    return ends
