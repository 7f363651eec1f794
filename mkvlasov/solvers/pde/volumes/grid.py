"""Meshes that move with the densities, one per loading, and what is read off and put on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import special

from mkvlasov._typing import Array
from mkvlasov.problem.conditional import ConditionalLaw, GaussianMixture
from mkvlasov.solvers.pde.volumes.fluxes import volumes

TAIL = 1e-13
"""Mass of a density that a mesh may leave out on either side."""

# A normal law has this mass beyond so many standard deviations.
REACH = -float(special.ndtri(TAIL))


_RESOLVED = 1e-3
"""A density whose samples on a mesh sum to one so closely is resolved by it."""


class Mesh(Protocol):
    """Where the nodes are at every time, shape (L, n)."""

    def at(self, t: float) -> Array:
        """Return the nodes at time t."""


def _bracket(times: Array, t: float) -> tuple[int, float]:
    """Return the index of the interval that holds t, and how far into it t lies, in [0, 1]."""
    if len(times) == 1:
        return 0, 0.0
    i = int(np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2))
    return i, float(np.clip((t - times[i]) / (times[i + 1] - times[i]), 0.0, 1.0))


@dataclass(frozen=True)
class UniformMesh:
    """Equidistant nodes between ends (S, L) that move linearly between the key times (S,)."""

    times: Array
    low: Array
    high: Array
    cells: int

    def at(self, t: float) -> Array:
        """Return the nodes at time t, shape (L, cells + 1)."""
        i, part = _bracket(self.times, t)
        j = min(i + 1, len(self.times) - 1)
        low = (1.0 - part) * self.low[i] + part * self.low[j]
        high = (1.0 - part) * self.high[i] + part * self.high[j]
        return equidistant(low, high, self.cells)


@dataclass(frozen=True)
class GradedMesh:
    """Nodes (S, L, n) given at the key times (S,), moving linearly in between."""

    times: Array
    nodes: Array

    def at(self, t: float) -> Array:
        """Return the nodes at time t, shape (L, n)."""
        i, part = _bracket(self.times, t)
        j = min(i + 1, len(self.times) - 1)
        nodes: Array = (1.0 - part) * self.nodes[i] + part * self.nodes[j]
        return nodes


def equidistant(low: Array, high: Array, cells: int) -> Array:
    """Return nodes (L, cells + 1) from ends (L,)."""
    fraction = np.linspace(0.0, 1.0, cells + 1)
    return low[:, None] * (1.0 - fraction) + high[:, None] * fraction


def deposit(law: ConditionalLaw, nodes: Array) -> Array:
    """Return the masses (n,) that the law of one weight leaves on the nodes (n,)."""
    mass = _deposit_mixture(law, nodes) if isinstance(law, GaussianMixture) else _deposit_density(law, nodes)
    return mass / mass.sum()


def _deposit_density(law: ConditionalLaw, nodes: Array) -> Array:
    """Sample a density that the mesh resolves; else give every node the mass of its control volume."""
    sampled = law.pdf(nodes) * volumes(np.diff(nodes)[None])[0]
    if abs(sampled.sum() - 1.0) < _RESOLVED:
        return sampled
    edges = law.cdf(0.5 * (nodes[1:] + nodes[:-1]))
    return np.diff(edges, prepend=0.0, append=1.0)


def _deposit_mixture(law: GaussianMixture, nodes: Array) -> Array:
    """Return the masses (n,), not scaled to one, that a mixture leaves on the nodes.

    Components that the mesh resolves are sampled at the nodes (the trapezoidal rule, spectrally accurate on smooth
    meshes) and rescaled to their exact mass; narrow ones and point masses are shared linearly between neighbours,
    which keeps mass and mean exact.
    """
    spacing = np.diff(nodes)
    mean = law.means[:, 0]
    std = np.sqrt(np.maximum(law.covariances[:, 0, 0], 0.0))
    inside = np.clip(mean, nodes[0], nodes[-1])
    left = np.clip(np.searchsorted(nodes, inside - 4.0 * std) - 1, 0, len(spacing) - 1)
    right = np.clip(np.searchsorted(nodes, inside + 4.0 * std) - 1, 0, len(spacing) - 1)
    widest = np.array([spacing[i : j + 1].max() for i, j in zip(left, right, strict=True)])
    # The trapezoidal rule errs by exp(-2 (pi std / h)^2): 1e-17 from here on.
    resolved = std >= 1.4 * widest
    mass = np.zeros(len(nodes))
    if resolved.any():
        z = (nodes[:, None] - mean[resolved]) / std[resolved]
        values = np.exp(-0.5 * z * z) * volumes(spacing[None])[0][:, None]
        mass += (values / values.sum(axis=0)) @ law.weights[resolved]
    if not resolved.all():
        narrow = ~resolved
        mass += _shared(nodes, spacing, inside[narrow], std[narrow]) @ law.weights[narrow]
    return mass


def _shared(nodes: Array, spacing: Array, mean: Array, std: Array) -> Array:
    """Return the integrals of the hat functions against normal densities, shape (n, J)."""
    distance = nodes[:, None] - mean
    positive = std > 0.0
    z = distance / np.where(positive, std, 1.0)
    smooth = distance * special.ndtr(z) + std * np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    # Second integral of the density: max(w - mean, 0) for a point mass.
    ramp = np.where(positive, smooth, np.maximum(distance, 0.0))
    slope = np.diff(ramp, axis=0) / spacing[:, None]
    edge = np.zeros((1, len(mean)))
    share = np.diff(np.concatenate([edge, slope, edge + 1.0]), axis=0)
    share = np.maximum(share, 0.0)
    return share / share.sum(axis=0)


def density_ends(nodes: Array, mass: Array) -> tuple[Array, Array]:
    """Return, per loading, between which w all but the tails of the masses lie: two arrays (L,)."""
    low = _left_end(nodes, mass)
    high = -_left_end(-nodes[:, ::-1], mass[:, ::-1])
    return low, high


def _left_end(nodes: Array, mass: Array) -> Array:
    cumulative = np.maximum(np.cumsum(np.maximum(mass, 0.0), axis=1), 1e-300)
    edges = np.concatenate([nodes[:, :1], 0.5 * (nodes[:, 1:] + nodes[:, :-1]), nodes[:, -1:]], axis=1)
    i = np.argmax(cumulative > TAIL, axis=1)
    rows = np.arange(len(nodes))
    before = np.where(i > 0, cumulative[rows, i - 1], 1e-300)
    part = np.log(TAIL / before) / np.log(cumulative[rows, i] / before)
    return edges[rows, i] + np.clip(part, 0.0, 1.0) * (edges[rows, i + 1] - edges[rows, i])
