"""Self-consistent Gibbs densities of one output: order parameters that reproduce themselves (theory.md, section 6).

Given (Q, R), the stationary densities are p(w | a) ~ exp(-(2 tau / Lambda) [G w^2 / 2 + (H . a) w + phi(w)]).
Stationary states of the PDE are zeros of the moments of these densities minus (Q, R). The unknowns are the cosines
R / sqrt(Q) and log Q, so that Q stays positive, and the residual is the difference of these same numbers: without
scale, and finite up to where the densities cease to exist. On the sphere Q is one, and the unknown in its place is the
total linear drift G', multiplier included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.analysis.stationary.gibbs import confined, gibbs_densities
from mkvlasov.analysis.stationary.slices import Slices, levels, slices
from mkvlasov.limit.coefficients import Coefficients, LimitCoefficients
from mkvlasov.limit.derivatives import ClosedRates, Derivative
from mkvlasov.limit.entries import Entries
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.regularizers import Zero

_ROUNDING = 1e-13
_MOST_DENSITIES = 4000
"""Densities that are made at a time: some 10 kB each."""


@dataclass(frozen=True)
class Moments:
    """Moments of the Gibbs densities of S states, and their derivatives by G, H and Lambda.

    Attributes
    ----------
    value : ndarray, shape (S, K + 1)
        E[w a], E[w^2]; not a number where there are no densities.
    slope : ndarray, shape (S, K + 1, K + 2)
        By G, H_1, ..., H_K, Lambda.
    """

    value: Array
    slope: Array


class SelfConsistency:
    """The equations of the stationary states of a problem with one output.

    Parameters
    ----------
    problem : Problem
        With a constant learning rate.
    rtol : float
        Accuracy of the coefficients.
    """

    def __init__(self, problem: Problem, rtol: float = 1e-11) -> None:
        self.problem = problem
        self.tau = problem.rate(0.0)
        self.entries = Entries(1, problem.n_features)
        self.on_sphere = problem.constraint == "sphere"
        self.limit = LimitCoefficients(problem, rtol)
        self.unregularized = ClosedRates(replace(problem, regularizer=Zero()), rtol)

    @cached_property
    def levels(self) -> range:
        """Levels of the quadrature over the loadings."""
        return levels(self.problem.loadings, self.problem.n_features)

    def overlaps(self, y: Array) -> Array:
        """Return the entries (R, Q) (..., K + 1) of unknowns (..., K + 1)."""
        Q = np.ones_like(y[..., -1:]) if self.on_sphere else np.exp(y[..., -1:])
        return np.concatenate([y[..., :-1] * np.sqrt(Q), Q], axis=-1)

    def unknowns(self, x: Array) -> Array:
        """Return the unknowns of entries (R, Q); on the sphere with the G' of Gaussian densities."""
        Q = x[..., -1:]
        if not self.on_sphere:
            return np.concatenate([x[..., :-1] / np.sqrt(Q), np.log(Q)], axis=-1)
        Lambda = self.fields(x)[..., -1:]
        spread = np.maximum(1.0 - (x[..., :-1] ** 2).sum(axis=-1, keepdims=True), 1e-3)
        return np.concatenate([x[..., :-1], Lambda / (2.0 * self.tau * spread)], axis=-1)

    def coefficients(self, x: Array) -> Coefficients:
        """Return the limit coefficients at entries (..., K + 1)."""
        return self.limit(*self.entries.unpack(x))

    def fields(self, x: Array) -> Array:
        """Return G, H and Lambda of the limit, shape (..., K + 2), at entries (..., K + 1)."""
        c = self.coefficients(x)
        # Where G vanishes exactly, a sign that rounding leaves would decide whether phi alone confines.
        G = np.where(np.abs(c.G) <= _ROUNDING * np.abs(c.Gbar), 0.0, c.G)
        return np.concatenate([G[..., 0], c.H[..., 0, :], c.Lambda[..., 0]], axis=-1)

    def field_slopes(self, x: Array) -> Derivative:
        """Return the derivatives of the fields by the entries, shape (..., K + 2, K + 1), with their error."""
        return self.unregularized.derivative(self.fields, x)

    def acting(self, y: Array) -> Array:
        """Return the G (on the sphere G'), H and Lambda that act at unknowns (..., K + 1), shape (..., K + 2)."""
        fields = self.fields(self.overlaps(y))
        if self.on_sphere:
            fields[..., 0] = y[..., -1]
        return fields

    def acting_slopes(self, y: Array) -> Array:
        """Return the derivatives of `acting` by the unknowns, shape (..., K + 2, K + 1)."""
        x = self.overlaps(y)
        slopes = self.field_slopes(x).value
        Q, R = x[..., -1], x[..., :-1]
        by_y = np.zeros((*y.shape, y.shape[-1]))
        index = np.arange(y.shape[-1] - 1)
        by_y[..., index, index] = np.sqrt(Q)[..., None]
        if not self.on_sphere:
            by_y[..., :-1, -1], by_y[..., -1, -1] = 0.5 * R, Q
        result = slopes @ by_y
        if self.on_sphere:
            result[..., 0, :] = np.eye(y.shape[-1])[-1]
        return result

    def slices(self, fields: Array, level: int) -> Slices:
        """Return the loadings of S states by their tilt."""
        return slices(self.problem.loadings, fields[:, 1:-1], level, even=self._is_even)

    def has_densities(self, fields: Array) -> npt.NDArray[np.bool_]:
        """Return whether fields (S, K + 2) confine the weights of every loading and make them diffuse, shape (S,)."""
        s = self.slices(fields, self.levels[0]).s
        inside = confined(self.problem.regularizer, np.repeat(fields[:, 0], s.shape[1]), s.ravel())
        return inside.reshape(s.shape).all(axis=1) & (fields[:, -1] > 0.0) & np.isfinite(fields).all(axis=1)

    def moments(self, fields: Array, level: int) -> Moments:
        """Return the moments of the densities in fields (S, K + 2), with derivatives."""
        n = fields.shape[1]
        value, slope = np.full((len(fields), n - 1), np.nan), np.full((len(fields), n - 1, n), np.nan)
        exist = np.flatnonzero(self.has_densities(fields))
        if len(exist):
            chunk = max(1, _MOST_DENSITIES // self.slices(fields[exist[:1]], level).s.shape[1])
            for start in range(0, len(exist), chunk):
                part = exist[start : start + chunk]
                value[part], slope[part] = self._moments(fields[part], level)
        return Moments(value, slope)

    def residual(self, y: Array, level: int) -> tuple[Array, Array]:
        """Return the residual (S, K + 1) and its derivative (S, K + 1, K + 1); not numbers without densities."""
        moments = self.moments(self.acting(y), level)
        M = moments.value
        size = np.sqrt(M[:, -1:])
        current = y.copy()
        if self.on_sphere:
            current[:, -1] = 0.0
        f = np.concatenate([M[:, :-1] / size, np.log(M[:, -1:])], axis=1) - current
        by_m = np.zeros((*M.shape, M.shape[1]))
        index = np.arange(M.shape[1] - 1)
        by_m[:, index, index] = 1.0 / size
        by_m[:, :-1, -1] = -0.5 * M[:, :-1] / size**3
        by_m[:, -1, -1] = 1.0 / M[:, -1]
        own = np.eye(M.shape[1])
        if self.on_sphere:
            own[-1, -1] = 0.0
        return f, by_m @ moments.slope @ self.acting_slopes(y) - own

    @cached_property
    def _is_even(self) -> bool:
        w = np.linspace(0.0, 3.0, 301)[1:, None] ** 2
        regularizer = self.problem.regularizer
        breaks = {*regularizer.kinks, *regularizer.bends}
        same = np.abs(regularizer.value(w) - regularizer.value(-w)) <= 1e-14 * np.abs(regularizer.value(w))
        return bool(same.all()) and breaks == {-value for value in breaks}

    def _moments(self, fields: Array, level: int) -> tuple[Array, Array]:
        states, n = fields.shape
        G, Lambda = fields[:, 0], fields[:, -1]
        tilts = self.slices(fields, level)
        count = tilts.s.shape[1]
        beta = 2.0 * self.tau / Lambda
        densities = gibbs_densities(
            self.problem.regularizer, np.repeat(beta, count), np.repeat(G, count), tilts.s.ravel()
        )
        if densities is None:
            return np.full((states, n - 1), np.nan), np.full((states, n - 1, n), np.nan)
        w1, w2, w3, w4, p0, p1, p2 = densities.moments().reshape(7, states, count)
        # V = G w^2 / 2 + s w + phi, and the covariances of w and w^2 with w, w^2 / 2 and V.
        g, s = G[:, None], tilts.s
        c11, c12, c22 = w2 - w1 * w1, w3 - w1 * w2, w4 - w2 * w2
        v1 = 0.5 * g * c12 + s * c11 + p1 - w1 * p0
        v2 = 0.5 * g * c22 + s * c12 + p2 - w2 * p0
        weight, first, second = tilts.gram[..., 0, 0], tilts.gram[..., 0, 1:], tilts.gram[..., 1:, 1:]
        value = np.concatenate([np.einsum("sl,slk->sk", w1, first), (weight * w2).sum(axis=1)[:, None]], axis=1)
        slope = np.empty((states, n - 1, n))
        slope[:, :-1, 0] = -0.5 * np.einsum("sl,slk->sk", c12, first)
        slope[:, :-1, 1:-1] = -np.einsum("sl,slkj->skj", c11, second)
        slope[:, :-1, -1] = np.einsum("sl,slk->sk", v1, first) / Lambda[:, None]
        slope[:, -1, 0] = -0.5 * (weight * c22).sum(axis=1)
        slope[:, -1, 1:-1] = -np.einsum("sl,slk->sk", c12, first)
        slope[:, -1, -1] = (weight * v2).sum(axis=1) / Lambda
        return value, slope * beta[:, None, None]
