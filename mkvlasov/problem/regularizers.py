"""Regularizers phi of the weights: value, gradient and proximal operator.

Weights have shape (..., m). Except for `GroupLasso`, phi acts entry by entry and the penalty of a row is the sum over
its entries. The proximal operator is prox(w, step) = argmin_u phi(u) + |u - w|^2 / (2 step).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.problem.value import Value


@runtime_checkable
class Regularizer(Protocol):
    """What the package asks of a regularizer."""

    @property
    def kinks(self) -> tuple[float, ...]:
        """Values of an entry where phi' jumps."""

    @property
    def bends(self) -> tuple[float, ...]:
        """Values of an entry where phi' bends: phi'' jumps, but phi' does not."""

    @property
    def linear_strength(self) -> float | None:
        """kappa if phi'(w) = kappa w exactly (then the moments close), else None."""

    @property
    def has_proximal(self) -> bool:
        """Whether `proximal` exists."""

    def value(self, w: Array) -> Array:
        """Return the penalty of each row, (..., m) -> (...)."""

    def gradient(self, w: Array) -> Array:
        """Return phi'(w), (..., m) -> (..., m); at a kink the subgradient 0 or the middle one."""

    def proximal(self, w: Array, step: float) -> Array:
        """Return the proximal operator, (..., m) -> (..., m)."""


class _Base(Value):
    __slots__ = ()

    @property
    def kinks(self) -> tuple[float, ...]:
        return ()

    @property
    def bends(self) -> tuple[float, ...]:
        return ()

    @property
    def linear_strength(self) -> float | None:
        return None

    @property
    def has_proximal(self) -> bool:
        return True


@dataclass(frozen=True, eq=False, repr=False)
class _Strength(_Base):
    """Regularizers with one strength >= 0."""

    strength: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", _checks.number("regularizer.strength", self.strength, minimum=0.0))


@dataclass(frozen=True, eq=False, repr=False)
class _KinkedAtZero(_Strength):
    """Regularizers proportional to a norm."""

    @property
    def kinks(self) -> tuple[float, ...]:
        return (0.0,) if self.strength else ()

    @property
    def linear_strength(self) -> float | None:
        return None if self.strength else 0.0


@dataclass(frozen=True, eq=False, repr=False)
class Zero(_Base):
    """No regularizer."""

    @property
    def linear_strength(self) -> float | None:
        return 0.0

    def value(self, w: Array) -> Array:
        return np.zeros(w.shape[:-1])

    def gradient(self, w: Array) -> Array:
        return np.zeros_like(w)

    def proximal(self, w: Array, step: float) -> Array:
        return w


@dataclass(frozen=True, eq=False, repr=False)
class L1(_KinkedAtZero):
    """phi(w) = strength |w|: drives weights to exactly zero."""

    def value(self, w: Array) -> Array:
        return self.strength * np.abs(w).sum(axis=-1)

    def gradient(self, w: Array) -> Array:
        return self.strength * np.sign(w)

    def proximal(self, w: Array, step: float) -> Array:
        return np.sign(w) * np.maximum(np.abs(w) - step * self.strength, 0.0)


@dataclass(frozen=True, eq=False, repr=False)
class L2(_Strength):
    """phi(w) = strength w^2 / 2: weight decay; the moments close."""

    @property
    def linear_strength(self) -> float | None:
        return self.strength

    def value(self, w: Array) -> Array:
        return 0.5 * self.strength * (w * w).sum(axis=-1)

    def gradient(self, w: Array) -> Array:
        return self.strength * w

    def proximal(self, w: Array, step: float) -> Array:
        return w / (1.0 + step * self.strength)


@dataclass(frozen=True, eq=False, repr=False)
class ElasticNet(_Base):
    """phi(w) = l1 |w| + l2 w^2 / 2."""

    l1: float
    l2: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "l1", _checks.number("regularizer.l1", self.l1, minimum=0.0))
        object.__setattr__(self, "l2", _checks.number("regularizer.l2", self.l2, minimum=0.0))

    @property
    def kinks(self) -> tuple[float, ...]:
        return (0.0,) if self.l1 else ()

    @property
    def linear_strength(self) -> float | None:
        return None if self.l1 else self.l2

    def value(self, w: Array) -> Array:
        return (self.l1 * np.abs(w) + 0.5 * self.l2 * w * w).sum(axis=-1)

    def gradient(self, w: Array) -> Array:
        return self.l1 * np.sign(w) + self.l2 * w

    def proximal(self, w: Array, step: float) -> Array:
        return np.sign(w) * np.maximum(np.abs(w) - step * self.l1, 0.0) / (1.0 + step * self.l2)


@dataclass(frozen=True, eq=False, repr=False)
class Huber(_Base):
    """Quadratic below delta, slope `strength` beyond.

    phi(w) = strength w^2 / (2 delta) for |w| <= delta, strength (|w| - delta / 2) otherwise.
    """

    strength: float
    delta: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", _checks.number("regularizer.strength", self.strength, minimum=0.0))
        delta = _checks.array("regularizer.delta", self.delta, ndim=0, minimum=0.0, exclusive=True)
        object.__setattr__(self, "delta", float(delta))

    @property
    def bends(self) -> tuple[float, ...]:
        return (-self.delta, self.delta) if self.strength else ()

    @property
    def linear_strength(self) -> float | None:
        return None if self.strength else 0.0

    def value(self, w: Array) -> Array:
        size = np.abs(w)
        inner, outer = 0.5 * size * size / self.delta, size - 0.5 * self.delta
        return self.strength * np.where(size <= self.delta, inner, outer).sum(axis=-1)

    def gradient(self, w: Array) -> Array:
        return self.strength * np.clip(w / self.delta, -1.0, 1.0)

    def proximal(self, w: Array, step: float) -> Array:
        shift = step * self.strength
        inner, outer = w / (1.0 + shift / self.delta), w - shift * np.sign(w)
        return np.where(np.abs(w) <= self.delta + shift, inner, outer)


@dataclass(frozen=True, eq=False, repr=False)
class DoubleWell(_Strength):
    """phi(w) = strength (w^2 - 1)^2 / 4: drives weights to +1 or -1."""

    @property
    def linear_strength(self) -> float | None:
        return None if self.strength else 0.0

    def value(self, w: Array) -> Array:
        return 0.25 * self.strength * ((w * w - 1.0) ** 2).sum(axis=-1)

    def gradient(self, w: Array) -> Array:
        return self.strength * (w * w - 1.0) * w

    def proximal(self, w: Array, step: float) -> Array:
        """Solve u + k (u^3 - u) = w, k = step * strength < 1 (beyond, the operator is not single-valued)."""
        k = step * self.strength
        if k >= 1.0:
            raise InvalidInput("step", step, f"a number below 1 / strength = {1.0 / self.strength:g}")
        if k == 0.0:
            return w
        p = (1.0 - k) / k
        # The one real root of u^3 + p u = w / k.
        return 2.0 * np.sqrt(p / 3.0) * np.sinh(np.arcsinh(1.5 * w / (k * p) * np.sqrt(3.0 / p)) / 3.0)


@dataclass(frozen=True, eq=False, repr=False)
class GroupLasso(_KinkedAtZero):
    """phi(row) = strength ||row||: drives whole rows of the weights to zero; for one output the same as `L1`."""

    def value(self, w: Array) -> Array:
        return self.strength * np.linalg.norm(w, axis=-1)

    def gradient(self, w: Array) -> Array:
        norm = np.linalg.norm(w, axis=-1, keepdims=True)
        return self.strength * w / np.where(norm > 0.0, norm, 1.0)

    def proximal(self, w: Array, step: float) -> Array:
        norm = np.linalg.norm(w, axis=-1, keepdims=True)
        kept = np.maximum(norm - step * self.strength, 0.0)
        return w * (kept / np.where(norm > 0.0, norm, 1.0))


@dataclass(frozen=True, eq=False, repr=False)
class Custom(_Base):
    """Regularizer of one's own, entry by entry and smooth.

    Parameters
    ----------
    value : callable
        phi, from an array to an array of the same shape.
    gradient : callable
        phi', likewise; must be the derivative of `value` (checked at a few points).
    proximal : callable, optional
        prox(w, step), likewise.
    """

    value_function: Callable[[Array], Array]
    gradient_function: Callable[[Array], Array]
    proximal_function: Callable[[Array, float], Array] | None = None

    def __init__(
        self,
        value: Callable[[Array], Array],
        gradient: Callable[[Array], Array],
        proximal: Callable[[Array, float], Array] | None = None,
    ) -> None:
        object.__setattr__(self, "value_function", _checks.function("regularizer.value", value))
        object.__setattr__(self, "gradient_function", _checks.function("regularizer.gradient", gradient))
        if proximal is not None:
            _checks.function("regularizer.proximal", proximal)
        object.__setattr__(self, "proximal_function", proximal)
        _check_gradient(value, gradient)

    @property
    def has_proximal(self) -> bool:
        return self.proximal_function is not None

    def value(self, w: Array) -> Array:
        return np.asarray(self.value_function(w), dtype=np.float64).sum(axis=-1)

    def gradient(self, w: Array) -> Array:
        return np.asarray(self.gradient_function(w), dtype=np.float64)

    def proximal(self, w: Array, step: float) -> Array:
        if self.proximal_function is None:
            raise InvalidInput("regularizer.proximal", None, "a proximal operator (none was given to Custom)")
        return np.asarray(self.proximal_function(w, step), dtype=np.float64)


def _check_gradient(value: Callable[[Array], Array], gradient: Callable[[Array], Array]) -> None:
    """Compare phi' with differences of phi at points where a typical phi has no kink."""
    w = np.array([[-1.37, -0.71, -0.23], [0.31, 0.83, 1.59]])
    step = 1e-5
    allowed = "the derivative of value, for an array of any shape"
    try:
        difference = (np.asarray(value(w + step)) - np.asarray(value(w - step))) / (2.0 * step)
        given = np.asarray(gradient(w), dtype=np.float64)
    except Exception as error:
        raise InvalidInput("regularizer.gradient", gradient, f"{allowed} (it raised {error!r})") from error
    fits = given.shape == w.shape == difference.shape
    if not fits or not np.allclose(given, difference, rtol=1e-4, atol=1e-5 * (1.0 + np.abs(difference).max())):
        raise InvalidInput(
            "regularizer.gradient",
            gradient,
            f"{allowed} (at w = {w.ravel().tolist()} it is {given.tolist()}, differences of value give "
            f"{difference.tolist()})",
        )
