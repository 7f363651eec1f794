"""Zeros of the closed right-hand side within the admissible states, from many starts at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.entries import Entries

_COARSE, _FINE = 1e-3, 1e-5
"""Steps of differences over the scale of the state: in a search, and at the end."""
_SEARCHED = 1e-6
"""Newton step, relative to the scale of the state, at which the search hands over to the polish."""
_POLISHED = 1e-12
ACCEPTED = 1e-7
"""A polished step that noise of the coefficients holds up is accepted below this; its size enters the error."""
_ITERATIONS, _POLISHES = 60, 12
_FRACTIONS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3)
_KEPT = 0.05
"""A step leaves at least this part of the smallest eigenvalue of Q - R R^T."""
_NULL = 1e-8
"""Singular values below this part of the largest one are directions along which nothing changes."""

_REACH = 0.1
"""s above, in scaled variables."""
_ALONG = 1e-4
_STRETCHED = 20.0

CONVERGED, DIVERGED, VANISHED, STALLED = "converged", "diverged", "vanished", "stalled"


class Found(NamedTuple):
    """States (S, d), and how each search ended (S,): CONVERGED, DIVERGED, VANISHED or STALLED."""

    x: Array
    ended: np.ndarray


@dataclass(frozen=True, eq=False)
class Deflation:
    """The factor M(x) = prod_i (1 + s^2 / |x - x_i|^2) that keeps a search away from known zeros x_i.

    Attributes
    ----------
    known : ndarray, shape (n, c)
        Coordinates of the zeros.
    sizes : ndarray, shape (n, c)
        Their scales, in which distances are measured.
    coordinates : function of states (S, d), returning (S, c)
        The same for all zeros of a continuum.
    """

    known: Array
    sizes: Array
    coordinates: Callable[[Array], Array]

    @classmethod
    def of_none(cls) -> Deflation:
        """Return the factor 1."""
        return cls(np.zeros((0, 0)), np.zeros((0, 0)), lambda x: np.zeros((len(x), 0)))

    def factor(self, x: Array) -> Array:
        """Return M (S,) at states (S, d)."""
        gaps = (self.coordinates(x)[:, None] - self.known) / self.sizes
        squares = np.maximum((gaps**2).sum(axis=-1), 1e-300)
        return np.prod(1.0 + _REACH**2 / squares, axis=-1)

    def stretch(self, x: Array, step: Array) -> Array:
        """Return the numbers (S,) 1 / (1 - M' . step / M) by which Newton's steps are multiplied, bounded."""
        if not len(self.known):
            return np.ones(len(x))
        h = _ALONG
        slope = (np.log(self.factor(x + h * step)) - np.log(self.factor(x - h * step))) / (2.0 * h)
        rest = 1.0 - slope
        return np.clip(1.0 / np.where(np.abs(rest) > 1.0 / _STRETCHED, rest, 1.0 / _STRETCHED), -_STRETCHED, _STRETCHED)


def scales(entries: Entries, x: Array) -> Array:
    """Return natural sizes (..., d) of the entries of states: sqrt(q) for R and q for Q, q the largest Q_jj."""
    Q, _ = entries.unpack(x)
    q = np.diagonal(Q, axis1=-2, axis2=-1).max(axis=-1)
    q = np.where(q > 0.0, q, 1.0)[..., None]
    return np.where(np.arange(entries.size) < entries.overlaps, np.sqrt(q), q)


def search(
    closed: ClosedRates,
    starts: Array,
    tau: float,
    bounds: tuple[float, float],
    deflation: Deflation | None = None,
) -> Found:
    """Follow Newton's method from many starts, with coarse differences and Broyden's updates in between.

    Steps are shortened until Q - R R^T stays positive and the scaled residual falls. With deflation the residual is
    multiplied by a factor that grows towards known zeros; Newton's step is then that of the residual alone times a
    number (Farrell, Birkisson and Funke, 2015), so that nothing else changes.

    Parameters
    ----------
    closed : ClosedRates
        Of low accuracy; `polish` does the rest.
    starts : ndarray, shape (S, d)
        With Q - R R^T positive.
    tau : float
    bounds : pair of floats
        A search ends where the largest Q_jj is below the first (VANISHED) or above the second (DIVERGED).
    deflation : Deflation, optional
    """
    entries, free = closed.entries, closed.free
    deflation = deflation or Deflation.of_none()
    x = starts.copy()
    ended = np.full(len(x), STALLED, dtype=object)
    left = np.arange(len(x))
    f = closed.rates(x, tau)
    J = np.zeros((len(x), len(free), len(free)))
    stale = np.ones(len(x), dtype=bool)
    for _ in range(_ITERATIONS):
        if not len(left):
            break
        renew = left[stale[left]]
        if len(renew):
            J[renew] = _slopes(closed, x[renew], f[renew], tau, _COARSE)
        fresh = stale.copy()
        stale[renew] = False
        size = scales(entries, x[left])
        step = np.zeros_like(size)
        step[:, free] = _newton_step(J[left], f[left][:, free], size[:, free])
        step *= deflation.stretch(x[left], step)[:, None]
        new, f_new, moved = _shortened(closed, x[left], f[left], step, size, tau, deflation)
        change = (new - x[left])[:, free]
        gain = _merit(f_new, size) / np.maximum(_merit(f[left], size), 1e-300)
        done = moved & (np.abs(step / size).max(axis=-1) <= _SEARCHED)
        # Where no shortened step helps, a derivative that was updated is taken anew; one that was new gives up.
        stuck = ~moved & fresh[left]
        stale[left] = ~moved | (gain > 0.3)
        correction = f_new[:, free] - f[left][:, free] - np.einsum("sij,sj->si", J[left], change)
        weighted = change / size[:, free] ** 2
        norm = np.maximum((change * weighted).sum(axis=-1), 1e-300)[:, None, None]
        J[left] += correction[:, :, None] * weighted[:, None, :] / norm
        x[left], f[left] = new, f_new
        q = scales(entries, new)[:, -1]
        done |= stuck & (_merit(f_new, size) <= _SEARCHED * tau)
        for reason, where in ((DIVERGED, q > bounds[1]), (VANISHED, q < bounds[0]), (CONVERGED, done)):
            ended[left[where]] = reason
        left = left[~(stuck | done | (q > bounds[1]) | (q < bounds[0]))]
    return Found(x, ended)


def polish(closed: ClosedRates, x: Array, tau: float) -> Found:
    """Refine approximate zeros (S, d), one after the other, with accurate differences."""
    entries, free = closed.entries, closed.free
    x = x.copy()
    ended = np.full(len(x), STALLED, dtype=object)
    for s in range(len(x)):
        state, before, inverse = x[s : s + 1], np.inf, None
        best, smallest = state, np.inf
        for _ in range(_POLISHES):
            size = scales(entries, state)
            f = closed.rates(state, tau)
            if inverse is None:
                inverse = _inverse(_slopes(closed, state, f, tau, _FINE), size[:, free])
            step = np.zeros_like(state)
            step[:, free] = -np.einsum("sij,sj->si", inverse, f[:, free])
            length = float(np.abs(step / size).max())
            if length < smallest:
                best, smallest = state, length
            if length <= _POLISHED or (length > 0.5 * before and length <= ACCEPTED):
                break
            if length > 0.1 * before:
                inverse = None
            state = _admitted(entries, state + step, closed.problem.constraint == "sphere")
            before = length
        x[s] = best[0]
        if smallest <= ACCEPTED:
            ended[s] = CONVERGED
    return Found(x, ended)


def error_of(jacobian: Array, size: Array, unknown: Array) -> Array:
    """Return the first-order error (n,) of a zero that rates or errors of rates (n,) cause; the scale is size (n,)."""
    return np.abs(_inverse(jacobian[None], size[None])[0]) @ np.abs(unknown)


def smallest_eigenvalue(entries: Entries, x: Array) -> Array:
    """Return the smallest eigenvalue (...) of Q - R R^T."""
    Q, R = entries.unpack(x)
    least: Array = np.linalg.eigvalsh(Q - R @ R.mT)[..., 0].astype(np.float64)
    return least


def _slopes(closed: ClosedRates, x: Array, f: Array, tau: float, step: float) -> Array:
    """Return one-sided differences of the rates by the free entries, (S, n, n), directed away from the boundary."""
    entries, free = closed.entries, closed.free
    Q, R = entries.unpack(x)
    P = entries.pack(Q - R @ R.mT, R)
    rows, columns = entries.triangle
    inward = np.where(x > 0.0, -1.0, 1.0)
    off = np.where(P[:, entries.overlaps :] > 0.0, -1.0, 1.0)
    inward[:, entries.overlaps :] = np.where(rows == columns, 1.0, off)
    changes = (step * inward * scales(entries, x))[:, free]
    moved = np.repeat(x[:, None], len(free), axis=1)
    moved[:, range(len(free)), free] += changes
    values = closed.rates(moved, tau)[:, :, free]
    return np.swapaxes((values - f[:, None, free]) / changes[:, :, None], -1, -2)


def _inverse(J: Array, size: Array) -> Array:
    """Return pseudo-inverses (S, n, n) in scaled variables, zero along directions without change."""
    scaled = J * size[:, None, :] / size[:, :, None]
    return np.linalg.pinv(scaled, rcond=_NULL) * size[:, :, None] / size[:, None, :]


def _newton_step(J: Array, f: Array, size: Array) -> Array:
    return -np.einsum("sij,sj->si", _inverse(J, size), f)


def _merit(f: Array, size: Array) -> Array:
    return np.linalg.norm(f / size, axis=-1)


def _shortened(
    closed: ClosedRates, x: Array, f: Array, step: Array, size: Array, tau: float, deflation: Deflation
) -> tuple[Array, Array, np.ndarray]:
    """Return the first of the shortened steps that is admissible and lowers the residual; whether there is one."""
    new, f_new, moved = x.copy(), f.copy(), np.zeros(len(x), dtype=bool)
    before = _merit(f, size) * deflation.factor(x)
    least = smallest_eigenvalue(closed.entries, x)
    open_ = np.arange(len(x))
    for fraction in _FRACTIONS:
        trial = x[open_] + fraction * step[open_]
        q = scales(closed.entries, trial)[:, -1]
        kept = smallest_eigenvalue(closed.entries, trial) >= _KEPT * least[open_] - 1e-14 * q
        tried = open_[kept]
        if not len(tried):
            continue
        values = closed.rates(trial[kept], tau)
        merit = _merit(values, size[tried]) * deflation.factor(trial[kept])
        lower = merit <= (1.0 - 1e-3 * fraction) * before[tried]
        chosen = tried[lower]
        new[chosen], f_new[chosen], moved[chosen] = trial[kept][lower], values[lower], True
        open_ = np.setdiff1d(open_, chosen)
        if not len(open_):
            break
    return new, f_new, moved


def _admitted(entries: Entries, x: Array, on_sphere: bool) -> Array:
    """Return states (S, d) with the negative part of Q - R R^T cut off, on the sphere scaled back to Q_jj = 1."""
    Q, R = entries.unpack(x)
    values, vectors = np.linalg.eigh(Q - R @ R.mT)
    if values.min() >= 0.0:
        return x
    Q = R @ R.mT + (vectors * np.maximum(values, 0.0)[:, None, :]) @ vectors.mT
    if on_sphere:
        inverse = 1.0 / np.sqrt(np.diagonal(Q, axis1=-2, axis2=-1))
        Q, R = Q * inverse[:, :, None] * inverse[:, None, :], R * inverse[:, :, None]
    return entries.pack(Q, R)
