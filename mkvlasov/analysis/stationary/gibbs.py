"""Gibbs densities p(w) ~ exp(-beta [G w^2 / 2 + s w + phi(w)]) on the line (docs/theory.md, section 6).

Panels are halved until the exponent varies little on each, so that Gauss-Lobatto rules are exact to rounding whatever
the shape: spikes at kinks, deep wells, bends. Panels end at kinks and bends, and where a density is below the rounding
of its integral there are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.density import Density
from mkvlasov.problem.regularizers import Regularizer

NODES = 16
"""Gauss-Lobatto nodes per panel: exact to degree 29."""
VARIATION = 10.0
"""Largest total variation of the exponent on a panel."""
_NEGLIGIBLE = 45.0
"""Exponents this far above the smallest one count for nothing: exp(-45) = 3e-20."""
_RESOLVED = 1e-7
"""Last Legendre coefficients of a density on a panel, over its peak there: from degree 30 on they are then 1e-14."""
_REACH = np.concatenate([[0.0], np.geomspace(1e-12, 1e12, 145)])
_FAR = 1e100
"""Where the sign of the drift says whether a density confines."""
_LEVELS = 60
_MOST_PANELS = 100
"""Panels per density that may have to be halved at a time: more is rounding that no panel resolves."""


@dataclass(frozen=True)
class GibbsDensities:
    """Densities of S energies on panels of their own.

    Attributes
    ----------
    count : int
        S.
    owner : ndarray of int, shape (P,)
        The energy that a panel belongs to; ascending, and the panels of one from left to right.
    left, right : ndarray, shape (P,)
    w, phi : ndarray, shape (P, n)
        Nodes and phi there.
    rule, mass : ndarray, shape (P, n)
        Quadrature weights of the nodes, and their probabilities: weights times density.
    """

    count: int
    owner: npt.NDArray[np.int64]
    left: Array
    right: Array
    w: Array
    phi: Array
    rule: Array
    mass: Array

    def moments(self) -> Array:
        """Return the means of w, w^2, w^3, w^4, phi, w phi and w^2 phi, shape (7, S)."""
        starts = np.searchsorted(self.owner, np.arange(self.count))
        result = np.empty((7, self.count))
        for rows, weighted in ((range(4), self.mass * self.w), (range(4, 7), self.mass * self.phi)):
            for row in rows:
                result[row] = np.add.reduceat(weighted.sum(axis=1), starts)
                weighted = weighted * self.w
        return result

    def panels_of(self, index: int) -> slice:
        """Return which panels belong to an energy."""
        return slice(*np.searchsorted(self.owner, [index, index + 1]).tolist())


def confined(regularizer: Regularizer, G: Array, s: Array) -> npt.NDArray[np.bool_]:
    """Return whether G w^2 / 2 + s w + phi(w) grows without bound on both sides, shape (S,)."""
    ends = np.array([-_FAR, _FAR])
    with np.errstate(over="ignore", invalid="ignore"):
        slope = G[:, None] * ends + s[:, None] + regularizer.gradient(ends[:, None])[:, 0]
        return np.asarray((slope[:, 0] < 0.0) & (slope[:, 1] > 0.0))


def gibbs_densities(
    regularizer: Regularizer, beta: Array, G: Array, s: Array, *, variation: float = VARIATION
) -> GibbsDensities | None:
    """Return densities ~ exp(-beta [G w^2 / 2 + s w + phi(w)]) of S energies, or None if some are too wide or narrow.

    Parameters
    ----------
    regularizer : Regularizer
        phi, of one entry.
    beta, G, s : ndarray, shape (S,)
        Such that all are `confined`.
    variation : float
        Largest total variation of the exponent on a panel.
    """
    breaks = np.array(sorted({*regularizer.kinks, *regularizer.bends}))
    panels = _first_panels(regularizer, breaks, beta, G, s)
    if panels is None:
        return None
    owner, left, right, least = panels
    x, weights, _ = lobatto()
    done: list[tuple[Array, ...]] = []
    for _ in range(_LEVELS):
        half = 0.5 * (right - left)[:, None]
        w = left[:, None] + half * (x + 1.0)
        w[:, -1] = right  # not its rounded value: neighbours share their end
        phi = regularizer.value(w[..., None])
        energy = beta[owner, None] * (0.5 * G[owner, None] * w * w + s[owner, None] * w + phi)
        low = energy.min(axis=1)
        np.minimum.at(least, owner, low)
        step = np.diff(energy, axis=1)
        # In a valley between nodes the exponent may be lower than at any of them, by a step to the next one at most.
        valley = (step[:, :-1] < 0.0) & (step[:, 1:] > 0.0)
        lower = np.where(valley, np.maximum(-step[:, :-1], step[:, 1:]), 0.0).max(axis=1)
        needed = low - lower - least[owner] < _NEGLIGIBLE
        fine = needed & (np.abs(step).sum(axis=1) <= variation)
        fine[fine] = _resolved(energy[fine] - low[fine, None])
        done.append(tuple(part[fine] for part in (owner, left, right, w, phi, energy, half * weights)))
        split = needed & ~fine
        if not split.any():
            break
        if split.sum() > _MOST_PANELS * len(beta):
            return None
        middle = 0.5 * (left[split] + right[split])
        owner = np.repeat(owner[split], 2)
        left = np.stack([left[split], middle], axis=1).ravel()
        right = np.stack([middle, right[split]], axis=1).ravel()
    else:
        return None
    return _normalised(len(beta), [np.concatenate(parts) for parts in zip(*done, strict=True)])


@dataclass(frozen=True, eq=False, init=False)
class GibbsDensity(Density):
    """The density ~ exp(-beta [G w^2 / 2 + s w + phi(w)]) on points that resolve it; `pdf` is exact in between.

    Attributes
    ----------
    w, p, weights, kinks
        As for `Density`.
    regularizer : Regularizer
        phi.
    beta, G, s : float
    """

    regularizer: Regularizer
    beta: float
    G: float
    s: float

    def __init__(
        self, points: tuple[Array, Array, Array], regularizer: Regularizer, beta: float, G: float, s: float
    ) -> None:
        super().__init__(*points, kinks=regularizer.kinks)
        for name, value in (("regularizer", regularizer), ("beta", beta), ("G", G), ("s", s)):
            object.__setattr__(self, name, value)

    def _pdf(self, w: Array) -> Array:
        peak = int(self.p.argmax())
        return np.asarray(self.p[peak] * np.exp(self._exponent(self.w[peak : peak + 1]) - self._exponent(w)))

    def _exponent(self, w: Array) -> Array:
        return self.beta * (0.5 * self.G * w * w + self.s * w + self.regularizer.value(w[:, None]))


def gibbs_density(regularizer: Regularizer, *, beta: float, G: float, s: float) -> GibbsDensity | None:
    """Return one density, or None if nothing confines it or it is too wide or narrow for numbers."""
    beta_, G_, s_ = np.array([beta]), np.array([G]), np.array([s])
    found = gibbs_densities(regularizer, beta_, G_, s_) if confined(regularizer, G_, s_)[0] else None
    if found is None:
        return None
    # Neighbouring panels share a point.
    w, place = np.unique(found.w, return_inverse=True)
    weights, mass = np.zeros(len(w)), np.zeros(len(w))
    np.add.at(weights, place.ravel(), found.rule.ravel())
    np.add.at(mass, place.ravel(), found.mass.ravel())
    return GibbsDensity((w, mass / weights, weights), regularizer, beta, G, s)


def _normalised(count: int, panels: list[Array]) -> GibbsDensities:
    order = np.lexsort((panels[1], panels[0]))
    owner, left, right, w, phi, energy, weights = (part[order] for part in panels)
    starts = np.searchsorted(owner, np.arange(count))
    least = np.minimum.reduceat(energy.min(axis=1), starts)
    mass = np.exp(least[owner, None] - energy) * weights
    total = np.add.reduceat(mass.sum(axis=1), starts)
    return GibbsDensities(count, owner.astype(np.int64), left, right, w, phi, weights, mass / total[owner, None])


def _resolved(energy: Array) -> npt.NDArray[np.bool_]:
    """Return whether polynomials on the nodes resolve exp(-energy), shape (P,)."""
    highest = np.exp(-energy) @ _highest_coefficients()
    return np.asarray((np.abs(highest) <= _RESOLVED).all(axis=1))


def _first_panels(
    regularizer: Regularizer, breaks: Array, beta: Array, G: Array, s: Array
) -> tuple[npt.NDArray[np.int64], Array, Array, Array] | None:
    """Return panels between the breaks and the ends of each density, and the smallest exponent seen so far."""
    grid = np.unique(np.concatenate([-_REACH, _REACH, breaks]))
    with np.errstate(over="ignore", invalid="ignore"):
        energy = _energy(regularizer, beta, G, s, grid[None])
    least = energy.min(axis=1)
    near = energy - least[:, None] < _NEGLIGIBLE
    if near[:, [0, -1]].any() or not np.isfinite(least).all():
        return None
    # One grid point beyond the last one that counts, and no less than the breaks.
    first = np.maximum(near.argmax(axis=1) - 1, 0)
    last = np.minimum(len(grid) - near[:, ::-1].argmax(axis=1), len(grid) - 1)
    ends = np.stack([grid[first], grid[last]], axis=1)
    inner = np.broadcast_to(breaks, (len(beta), len(breaks)))
    points = np.sort(np.concatenate([ends, np.clip(inner, ends[:, :1], ends[:, 1:])], axis=1), axis=1)
    left, right = points[:, :-1].ravel(), points[:, 1:].ravel()
    owner = np.repeat(np.arange(len(beta)), points.shape[1] - 1)
    kept = right > left
    return owner[kept], left[kept], right[kept], least


def _energy(regularizer: Regularizer, beta: Array, G: Array, s: Array, w: Array) -> Array:
    phi = regularizer.value(w[..., None])
    return beta[:, None] * (0.5 * G[:, None] * w * w + s[:, None] * w + phi)


@lru_cache(maxsize=1)
def lobatto() -> tuple[Array, Array, Array]:
    """Return nodes and weights of the Gauss-Lobatto rule on [-1, 1], and its matrix of differentiation."""
    basis = np.polynomial.legendre.Legendre.basis(NODES - 1)
    x = np.concatenate([[-1.0], np.sort(basis.deriv().roots().real), [1.0]])
    for _ in range(3):  # Newton's method on the roots: the companion matrix is exact to some 1e-14
        x[1:-1] -= basis.deriv()(x[1:-1]) / basis.deriv(2)(x[1:-1])
    weights = 2.0 / (NODES * (NODES - 1) * basis(x) ** 2)
    gap = x[:, None] - x + np.eye(NODES)
    derivative = basis(x)[:, None] / basis(x) / gap
    np.fill_diagonal(derivative, 0.0)
    np.fill_diagonal(derivative, -derivative.sum(axis=1))
    return x, weights, derivative


@lru_cache(maxsize=1)
def _highest_coefficients() -> Array:
    """Return the matrix (n, 2) from values on the nodes to their last two Legendre coefficients."""
    x, weights, _ = lobatto()
    values = np.polynomial.legendre.legvander(x, NODES - 1)[:, -2:]
    scaled = weights[:, None] * values
    return scaled / (scaled * values).sum(axis=0)
