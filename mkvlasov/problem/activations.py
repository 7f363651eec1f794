"""Activations sigma: outputs of the one-layer model are y = sigma(h).

Besides its values an activation gives two derivatives and, where it is not smooth, the positions of its kinks with
the jump of the derivative there: sigma'' = `second_derivative` + sum of jump * delta(h - position).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.polynomial import polynomial
from scipy import special

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.problem.value import Value

Kinks = tuple[tuple[float, float], ...]


@runtime_checkable
class Activation(Protocol):
    """What the package asks of an activation; all functions act entry by entry."""

    @property
    def kinks(self) -> Kinks:
        """Pairs (position, jump of sigma'); empty for a smooth activation."""

    def value(self, h: Array) -> Array:
        """Return sigma(h)."""

    def derivative(self, h: Array) -> Array:
        """Return sigma'(h)."""

    def second_derivative(self, h: Array) -> Array:
        """Return sigma''(h) away from kinks."""


class _Smooth(Value):
    __slots__ = ()

    @property
    def kinks(self) -> Kinks:
        return ()


@dataclass(frozen=True, eq=False, repr=False)
class Identity(_Smooth):
    """Linear model, sigma(h) = h. Weights grow for ever, or blow up, without enough regularization."""

    def value(self, h: Array) -> Array:
        return h

    def derivative(self, h: Array) -> Array:
        return np.ones_like(h)

    def second_derivative(self, h: Array) -> Array:
        return np.zeros_like(h)


@dataclass(frozen=True, eq=False, repr=False)
class Tanh(_Smooth):
    """Hyperbolic tangent, sigma(h) = tanh(h)."""

    def value(self, h: Array) -> Array:
        return np.tanh(h)

    def derivative(self, h: Array) -> Array:
        y = np.tanh(h)
        return 1.0 - y * y

    def second_derivative(self, h: Array) -> Array:
        y = np.tanh(h)
        return -2.0 * y * (1.0 - y * y)


@dataclass(frozen=True, eq=False, repr=False)
class Erf(_Smooth):
    """Error function, sigma(h) = erf(h / sqrt 2); its Gaussian integrals are known in closed form."""

    def value(self, h: Array) -> Array:
        return special.erf(h / np.sqrt(2.0))

    def derivative(self, h: Array) -> Array:
        return np.sqrt(2.0 / np.pi) * np.exp(-0.5 * h * h)

    def second_derivative(self, h: Array) -> Array:
        return -h * self.derivative(h)


@dataclass(frozen=True, eq=False, repr=False)
class Sigmoid(_Smooth):
    """Logistic function, sigma(h) = 1 / (1 + exp(-h)); its outputs have a mean, so think of a centred loss."""

    def value(self, h: Array) -> Array:
        return special.expit(h)

    def derivative(self, h: Array) -> Array:
        y = special.expit(h)
        return y * (1.0 - y)

    def second_derivative(self, h: Array) -> Array:
        y = special.expit(h)
        return y * (1.0 - y) * (1.0 - 2.0 * y)


@dataclass(frozen=True, eq=False, repr=False)
class Softplus(_Smooth):
    """Smooth rectifier, sigma(h) = log(1 + exp(h))."""

    def value(self, h: Array) -> Array:
        return np.logaddexp(0.0, h)

    def derivative(self, h: Array) -> Array:
        return special.expit(h)

    def second_derivative(self, h: Array) -> Array:
        y = special.expit(h)
        return y * (1.0 - y)


@dataclass(frozen=True, eq=False, repr=False)
class LeakyReLU(Value):
    """Rectifier with a slope on the negative side: sigma(h) = h for h > 0, slope * h otherwise."""

    slope: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "slope", _checks.number("activation.slope", self.slope))

    @property
    def kinks(self) -> Kinks:
        return ((0.0, 1.0 - self.slope),) if self.slope != 1.0 else ()

    def value(self, h: Array) -> Array:
        return np.where(h > 0.0, h, self.slope * h)

    def derivative(self, h: Array) -> Array:
        return np.where(h > 0.0, 1.0, self.slope)

    def second_derivative(self, h: Array) -> Array:
        return np.zeros_like(h)


@dataclass(frozen=True, eq=False, repr=False)
class ReLU(Value):
    """Rectifier, sigma(h) = max(h, 0)."""

    @property
    def kinks(self) -> Kinks:
        return ((0.0, 1.0),)

    def value(self, h: Array) -> Array:
        return np.maximum(h, 0.0)

    def derivative(self, h: Array) -> Array:
        return np.where(h > 0.0, 1.0, 0.0)

    def second_derivative(self, h: Array) -> Array:
        return np.zeros_like(h)


@dataclass(frozen=True, eq=False, repr=False)
class Polynomial(_Smooth):
    """Polynomial activation with ascending coefficients: sigma(h) = sum_n coefficients[n] h^n."""

    coefficients: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", _checks.array("activation.coefficients", self.coefficients, ndim=1))

    def value(self, h: Array) -> Array:
        return np.asarray(polynomial.polyval(h, self.coefficients), dtype=np.float64)

    def derivative(self, h: Array) -> Array:
        return polynomial.polyval(h, polynomial.polyder(self.coefficients)) + np.zeros_like(h)

    def second_derivative(self, h: Array) -> Array:
        return polynomial.polyval(h, polynomial.polyder(self.coefficients, 2)) + np.zeros_like(h)


@dataclass(frozen=True, eq=False, repr=False)
class Custom(_Smooth):
    """Activation of one's own, smooth: a vectorized function and optionally its derivative.

    Derivatives that are not given are taken by central differences of order six (step 0.02, absolute error near
    1e-11 for a function that varies on the scale 1); give `derivative` where that is not good enough.

    Parameters
    ----------
    function : callable
        sigma, from an array to an array of the same shape.
    derivative : callable, optional
        sigma', likewise.
    """

    function: Callable[[Array], Array]
    derivative_function: Callable[[Array], Array] | None = None

    def __init__(self, function: Callable[[Array], Array], derivative: Callable[[Array], Array] | None = None) -> None:
        object.__setattr__(self, "function", _checks.elementwise("activation.function", function))
        checked = None if derivative is None else _checks.elementwise("activation.derivative", derivative)
        object.__setattr__(self, "derivative_function", checked)

    def value(self, h: Array) -> Array:
        return np.asarray(self.function(h), dtype=np.float64)

    def derivative(self, h: Array) -> Array:
        if self.derivative_function is None:
            return _central_difference(self.value, h)
        return np.asarray(self.derivative_function(h), dtype=np.float64)

    def second_derivative(self, h: Array) -> Array:
        if self.derivative_function is None:
            return _second_central_difference(self.value, h)
        return _central_difference(self.derivative, h)


_STEP = 0.02
"""Balances the truncation h^6 f^(7) / 140 and the rounding 1e-16 / h of the differences below."""


def _central_difference(f: Callable[[Array], Array], h: Array) -> Array:
    weights = ((1, 45.0), (2, -9.0), (3, 1.0))
    return sum(w * (f(h + k * _STEP) - f(h - k * _STEP)) for k, w in weights) / (60.0 * _STEP)  # type: ignore[return-value]


def _second_central_difference(f: Callable[[Array], Array], h: Array) -> Array:
    weights = ((1, 270.0), (2, -27.0), (3, 2.0))
    neighbours = sum(w * (f(h + k * _STEP) + f(h - k * _STEP)) for k, w in weights)
    return (neighbours - 490.0 * f(h)) / (180.0 * _STEP**2)


NAMED: dict[str, Activation] = {
    "identity": Identity(),
    "tanh": Tanh(),
    "erf": Erf(),
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "softplus": Softplus(),
    "sigmoid": Sigmoid(),
}
"""Activations that can be given by name."""


def from_name(value: object) -> Activation:
    """Return the activation that a user means by a name or an object."""
    if isinstance(value, str):
        if value not in NAMED:
            known = ", ".join(repr(name) for name in NAMED)
            raise InvalidInput("activation", value, f"one of {known}, or an activation object")
        return NAMED[value]
    if isinstance(value, type) or not isinstance(value, Activation):
        known = ", ".join(repr(name) for name in NAMED)
        raise InvalidInput("activation", value, f"one of {known}, or an activation object")
    return value
