"""Planes through the states of the closed system: which states are shown, and whether trajectories stay in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.analysis.initial_overlaps import feasible
from mkvlasov.limit.derivatives import ClosedRates

WHOLE, INVARIANT, SLAVED, HELD = "whole", "invariant", "slaved", "held"

_LEVELS = 16
_ITERATIONS = 60
_EXACT = 1e-14
_STILL = 1e-9


@dataclass(frozen=True, eq=False)
class Section:
    """States that two entries of (R, Q) parametrize.

    Attributes
    ----------
    closed : ClosedRates
    tau : float
    names : pair of str
    shown : ndarray of int, shape (2,)
        The places of the two entries.
    x : ndarray, shape (d,)
        The other entries.
    slaved : bool
        Whether Q, of one output, is where dQ/dt = 0: the largest such Q at which dQ/dt falls through zero.
    largest : float
        The largest Q to look at for that.
    """

    closed: ClosedRates
    tau: float
    names: tuple[str, str]
    shown: npt.NDArray[np.int64]
    x: Array
    slaved: bool
    largest: float

    def lift(self, u: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Return the states (S, d) at points (S, 2) of the plane, and which of them there are (S,)."""
        x = np.broadcast_to(self.x, (len(u), len(self.x))).copy()
        x[:, self.shown] = u
        if self.slaved:
            return self._with_slaved(x)
        Q, R = self.closed.entries.unpack(x)
        return x, feasible(Q, R) & (np.diagonal(Q, axis1=-2, axis2=-1) > 0.0).all(axis=-1)

    def rates(self, u: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Return the rates (S, d) at points (S, 2), zero where there is no state, and where there is one (S,)."""
        x, exists = self.lift(u)
        f = np.zeros_like(x)
        if exists.any():
            f[exists] = self.closed.rates(x[exists], self.tau)
        return f, exists

    def kind(self, f: Array, exists: npt.NDArray[np.bool_]) -> str:
        """Return how trajectories and the section go together, read off what `rates` gives all over the section."""
        others = np.setdiff1d(self.closed.free, self.shown)
        if not len(others):
            return WHOLE
        if self.slaved:  # dQ/dt = 0 holds by construction, and does not keep trajectories there
            return SLAVED
        scale = np.abs(f[exists][:, self.shown]).max(initial=0.0)
        if exists.any() and np.abs(f[exists][:, others]).max() <= _STILL * scale:
            return INVARIANT
        return HELD

    def holds(self, x: Array) -> bool:
        """Return whether a state (d,) lies in the section."""
        lifted, exists = self.lift(x[None, self.shown])
        return bool(exists[0] and np.abs(lifted[0] - x).max() <= 1e-6 * max(np.abs(x).max(), 1e-300))

    def _with_slaved(self, x: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
        last = x.shape[1] - 1
        learnt = (x[:, :last] ** 2).sum(axis=1)

        def rate(which: npt.NDArray[np.int64], q: Array) -> Array:
            states = x[which].copy()
            states[:, last] = q
            return self.closed.rates(states, self.tau)[:, last]

        lowest = np.maximum(learnt, 1e-3 * self.largest)
        levels = lowest * (np.maximum(self.largest, lowest) / lowest) ** np.linspace(0.0, 1.0, _LEVELS)[:, None]
        every = np.arange(len(x))
        f = np.array([rate(every, level) for level in levels])
        falls = (f[:-1] > 0.0) & (f[1:] <= 0.0)
        exists = falls.any(axis=0) & (learnt < self.largest)
        k = _LEVELS - 2 - falls[::-1].argmax(axis=0)
        which = np.flatnonzero(exists)
        k = k[which]
        x[which, last] = find_roots(
            lambda q, some: rate(which[some], q), levels[k, which], levels[k + 1, which], f[k, which], f[k + 1, which]
        )
        return x, exists


def find_roots(f: Callable[[Array, npt.NDArray[np.int64]], Array], a: Array, b: Array, fa: Array, fb: Array) -> Array:
    """Return zeros between brackets a, b (S,) with values of opposite signs, by the Illinois rule.

    `f` takes points and the indices of their brackets.
    """
    a, b, fa, fb = a.copy(), b.copy(), fa.copy(), fb.copy()
    left = np.flatnonzero(fb != 0.0)
    enough = _EXACT * np.maximum(np.abs(fa), np.abs(fb))
    for _ in range(_ITERATIONS):
        if not len(left):
            break
        c = (a[left] * fb[left] - b[left] * fa[left]) / (fb[left] - fa[left])
        fc = f(c, left)
        step = np.abs(c - b[left])
        crosses = np.sign(fc) != np.sign(fb[left])
        a[left[crosses]], fa[left[crosses]] = b[left[crosses]], fb[left[crosses]]
        fa[left[~crosses]] *= 0.5
        b[left], fb[left] = c, fc
        left = left[(np.abs(fc) > enough[left]) & (step > _EXACT * np.abs(c))]
    return b
