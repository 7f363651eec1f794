"""Losses of a batch and their gradients with respect to the outputs of the two views.

Outputs have shape (..., B, m): the second last axis is the batch.
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
class Loss(Protocol):
    """What the package asks of a loss."""

    def value(self, y1: Array, y2: Array) -> Array:
        """Return F, shape (...), for outputs (..., B, m) of the two views."""

    def output_gradient(self, y1: Array, y2: Array) -> tuple[Array, Array]:
        """Return dF/dy1 and dF/dy2, shapes (..., B, m)."""


@dataclass(frozen=True, eq=False, repr=False)
class Covariance(Value):
    """Covariance of the outputs of two views, with decorrelation of different outputs.

    With C = (1/B) sum_b y_b^(1) y_b^(2)T,

        F = - sum_j C_jj + decorrelation sum_{j != l} g(C_jl),        g(C) = C^2 / 2 unless given.

    Parameters
    ----------
    decorrelation : float
        Weight lambda >= 0 of the second term (without effect for one output).
    centered : bool
        Take C about the means over the batch; needs a batch size of at least 2.
    g : callable, optional
        A function of one's own, entry by entry, from an array to an array of the same shape.
    g_derivative : callable, optional
        g', likewise; by default central differences of order six.
    stop_gradient : bool
        No gradient flows through the second view: alpha^(2) = 0. (In a loss that is symmetrized over the views a
        stop-gradient changes nothing but a factor, which the learning rate takes.)

    Notes
    -----
    docs/theory.md, section 1. The limit knows neither a g of one's own nor the stop-gradient, and says so.
    """

    decorrelation: float = 0.0
    centered: bool = False
    g: Callable[[Array], Array] | None = None
    g_derivative: Callable[[Array], Array] | None = None
    stop_gradient: bool = False

    def __post_init__(self) -> None:
        checked = _checks.number("loss.decorrelation", self.decorrelation, minimum=0.0)
        object.__setattr__(self, "decorrelation", checked)
        object.__setattr__(self, "centered", _checks.flag("loss.centered", self.centered))
        object.__setattr__(self, "stop_gradient", _checks.flag("loss.stop_gradient", self.stop_gradient))
        if self.g is not None:
            _checks.elementwise("loss.g", self.g)
        elif self.g_derivative is not None:
            raise InvalidInput("loss.g_derivative", self.g_derivative, "nothing without g")
        if self.g_derivative is not None:
            _checks.elementwise("loss.g_derivative", self.g_derivative)

    def value(self, y1: Array, y2: Array) -> Array:
        c = self._covariance(*self._centre(y1, y2))
        penalty = 0.5 * c**2 if self.g is None else np.asarray(self.g(c), dtype=np.float64)
        diagonal = np.trace(c, axis1=-2, axis2=-1)
        off = penalty.sum(axis=(-2, -1)) - np.trace(penalty, axis1=-2, axis2=-1)
        return -diagonal + self.decorrelation * off

    def output_gradient(self, y1: Array, y2: Array) -> tuple[Array, Array]:
        first, second = self._output_gradient(*self._centre(y1, y2))
        return first, np.zeros_like(second) if self.stop_gradient else second

    def _output_gradient(self, y1: Array, y2: Array) -> tuple[Array, Array]:
        batch, outputs = y1.shape[-2:]
        # M = dF/dC; the gradient of the centring drops out because centred outputs sum to zero.
        if self.decorrelation and outputs > 1:
            m = self.decorrelation * self._slope(self._covariance(y1, y2))
            m[..., range(outputs), range(outputs)] = -1.0
            return y2 @ np.swapaxes(m, -1, -2) / batch, y1 @ m / batch
        return -y2 / batch, -y1 / batch

    def _slope(self, c: Array) -> Array:
        if self.g is None:
            return c
        if self.g_derivative is not None:
            return np.asarray(self.g_derivative(c), dtype=np.float64)
        step = 0.01
        terms = ((1, 45.0), (2, -9.0), (3, 1.0))
        total = [w * (np.asarray(self.g(c + k * step)) - self.g(c - k * step)) for k, w in terms]
        return np.sum(total, axis=0) / (60.0 * step)

    def _centre(self, y1: Array, y2: Array) -> tuple[Array, Array]:
        if not self.centered:
            return y1, y2
        return y1 - y1.mean(axis=-2, keepdims=True), y2 - y2.mean(axis=-2, keepdims=True)

    @staticmethod
    def _covariance(y1: Array, y2: Array) -> Array:
        return np.swapaxes(y1, -1, -2) @ y2 / y1.shape[-2]


@dataclass(frozen=True, eq=False, repr=False)
class Custom(Value):
    """Loss of one's own: a function of the two outputs of one sample, averaged over the batch.

    Parameters
    ----------
    function : callable
        f(y1, y2) for arrays (..., m), giving an array (...).
    gradient : callable, optional
        (y1, y2) -> (df/dy1, df/dy2), each (..., m). By default central differences of order six.
    """

    function: Callable[[Array, Array], Array]
    gradient: Callable[[Array, Array], tuple[Array, Array]] | None = None

    def __post_init__(self) -> None:
        _checks.function("loss.function", self.function)
        if self.gradient is not None:
            _checks.function("loss.gradient", self.gradient)

    def check(self, outputs: int) -> None:
        """Call the functions once on outputs of the right shape; raise `InvalidInput` if they do not fit."""
        y = np.linspace(-0.5, 0.5, 6 * outputs).reshape(2, 3, outputs)
        allowed = f"a function of two arrays (..., {outputs}) that gives an array (...)"
        try:
            shape = np.shape(self.function(y, y[::-1]))
        except Exception as error:
            raise InvalidInput("loss.function", self.function, f"{allowed} (it raised {error!r})") from error
        if shape != (2, 3):
            raise InvalidInput("loss.function", self.function, f"{allowed} (for (2, 3, {outputs}) it gave {shape})")
        if self.gradient is not None:
            try:
                shapes = tuple(np.shape(g) for g in self.gradient(y, y[::-1]))
            except Exception as error:
                raise InvalidInput("loss.gradient", self.gradient, f"two arrays (it raised {error!r})") from error
            if shapes != (y.shape, y.shape):
                raise InvalidInput("loss.gradient", self.gradient, f"two arrays (..., {outputs}), it gave {shapes}")

    def value(self, y1: Array, y2: Array) -> Array:
        return np.asarray(self.function(y1, y2), dtype=np.float64).mean(axis=-1)

    def output_gradient(self, y1: Array, y2: Array) -> tuple[Array, Array]:
        g1, g2 = self.sample_gradient(y1, y2)
        return g1 / y1.shape[-2], g2 / y1.shape[-2]

    def sample_gradient(self, y1: Array, y2: Array) -> tuple[Array, Array]:
        """Return the gradient of the function of one sample, without the 1/B of the average over the batch."""
        if self.gradient is not None:
            g1, g2 = self.gradient(y1, y2)
            return np.asarray(g1, dtype=np.float64), np.asarray(g2, dtype=np.float64)
        g1, g2 = np.empty_like(y1), np.empty_like(y2)
        for j in range(y1.shape[-1]):
            g1[..., j] = self._difference(y1, y2, 0, j)
            g2[..., j] = self._difference(y1, y2, 1, j)
        return g1, g2

    def _difference(self, y1: Array, y2: Array, view: int, j: int) -> Array:
        step = 0.01
        total = np.zeros(y1.shape[:-1])
        for k, weight in ((1, 45.0), (2, -9.0), (3, 1.0)):
            for sign in (1.0, -1.0):
                moved = [y1, y2]
                moved[view] = moved[view].copy()
                moved[view][..., j] += sign * k * step
                total += sign * weight * self.function(moved[0], moved[1])
        return total / (60.0 * step)
