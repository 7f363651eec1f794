"""Graded tensor meshes that follow the densities: for regularizers with kinks, whose ridges lie along the axes.

The nodes of every axis are spread such that the third root of the curvature of the marginal density is shared out
evenly, which suits a method of second order; they move along with the density, and the equation takes their velocity
into account.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.conditional import ConditionalLaw
from mkvlasov.problem.plane_table import PlaneTable
from mkvlasov.problem.regularizers import Regularizer
from mkvlasov.solvers.pde.plane.graded_kernels import axis_rates, flow, implicit, mixed
from mkvlasov.solvers.pde.plane.grid import Frames, Moved, State, pace
from mkvlasov.solvers.pde.plane.rates import Rates

_MARGIN = 1.08
"""Width of a mesh over the reach of the density."""
_SMOOTHING = 4
"""Passes of smoothing over the wanted density of nodes, per 32 nodes."""
_EVEN = 0.3
"""Share of the nodes that is spread evenly."""
_PACE = 3.0
"""How much faster nodes go to where they should be than the densities change."""
_THETA = 0.5 + np.sqrt(3.0) / 6.0
"""Of the scheme of Hundsdorfer and Verwer: of second order, and stable for every correlation of the noise."""


@dataclass(frozen=True, slots=True)
class Meshes:
    """Tensor meshes of L loadings at a time.

    Attributes
    ----------
    nodes : ndarray, shape (L, 2, n)
        Increasing values of w_1 and of w_2; cells end half-way between them.
    """

    nodes: Array

    @property
    def widths(self) -> Array:
        """Widths of the cells, shape (L, 2, n); the outer cells reach as far beyond their nodes as before them."""
        gaps = np.diff(self.nodes, axis=2)
        return 0.5 * (np.concatenate([gaps[..., :1], gaps], axis=2) + np.concatenate([gaps, gaps[..., -1:]], axis=2))

    def weights(self, n: int) -> Array:
        """Return the weights at the nodes, shape (L, n, n, 2)."""
        first = np.broadcast_to(self.nodes[:, 0, :, None], (len(self.nodes), n, n))
        return np.stack([first, np.broadcast_to(self.nodes[:, 1, None, :], first.shape)], axis=-1)

    def moments(self, mass: Array) -> tuple[Array, Array]:
        """Return means (L, 2) and covariances (L, 2, 2) of the weights for masses (L, n, n)."""
        marginals = np.stack([mass.sum(axis=2), mass.sum(axis=1)], axis=1)
        mean = (marginals * self.nodes).sum(axis=2)
        away = self.nodes - mean[..., None]
        covariance = np.empty((len(mass), 2, 2))
        covariance[:, 0, 0], covariance[:, 1, 1] = (marginals * away * away).sum(axis=2).T
        covariance[:, 0, 1] = covariance[:, 1, 0] = np.einsum("li,lij,lj->l", away[:, 0], mass, away[:, 1])
        return mean, covariance

    def follow(self, state: State, moved: Moved, noise: Array, tail: float, dt: float) -> Meshes:
        """Return meshes on the way to where the marginal densities want them."""
        marginals = np.stack([state.mass.sum(axis=2), state.mass.sum(axis=1)], axis=1)
        wanted = spread_nodes(self.nodes, marginals / self.widths, marginals, tail)
        return Meshes(self.nodes + (1.0 - np.exp(-_PACE * dt * pace(state, moved, noise))) * (wanted - self.nodes))

    def advance(
        self,
        end: Meshes,
        mass: Array,
        dt: float,
        rates: Rates,
        loadings: Array,
        regularizer: Regularizer,
        positive: bool,
    ) -> Array:
        """Return the masses after dt: the scheme of Hundsdorfer and Verwer, implicit along one axis at a time."""
        middle = Meshes(0.5 * (self.nodes + end.nodes))
        widths = middle.widths
        velocity = (end.nodes - self.nodes) / dt
        tilt = loadings @ rates.tilt.T
        penalty = None if regularizer.linear_strength is not None else regularizer.value(middle.weights(mass.shape[1]))
        parts = []
        for axis in range(2):
            w = middle.nodes[:, axis]
            face, passing = 0.5 * (w[:, 1:] + w[:, :-1]), 0.5 * (velocity[:, axis, 1:] + velocity[:, axis, :-1])
            speed = -(rates.linear[axis, axis] * face + tilt[:, axis, None] + passing)
            across = -rates.linear[axis, 1 - axis] * middle.nodes[:, 1 - axis]
            faces = np.repeat(across[:, None, :], w.shape[1] - 1, axis=1)
            if penalty is not None:
                turned = penalty if axis == 0 else np.swapaxes(penalty, 1, 2)
                faces -= rates.tau * np.diff(turned, axis=1) / np.diff(w, axis=1)[:, :, None]
            parts.append(
                (
                    w.copy(),
                    widths[:, axis].copy(),
                    widths[:, 1 - axis].copy(),
                    0.5 * rates.noise[axis, axis],
                    speed,
                    faces,
                )
            )
        rows, columns = axis_rates(mass, *parts[0]), axis_rates(_turned(mass), *parts[1])
        correlated = parts[0][1], parts[1][1], float(rates.noise[0, 1])

        def changes(at: Array) -> tuple[Array, Array, Array]:
            return flow(at, *rows), _turned(flow(_turned(at), *columns)), mixed(at, *correlated)

        def corrected(begin: Array, first: Array, second: Array) -> Array:
            along = implicit(begin - _THETA * dt * first, *rows, _THETA * dt)
            return _turned(implicit(_turned(along - _THETA * dt * second), *columns, _THETA * dt))

        first, second, both = changes(mass)
        explicit = mass + dt * (first + second + both)
        predicted = corrected(explicit, first, second)
        last = changes(predicted)
        better = explicit + 0.5 * dt * (sum(last) - first - second - both)
        return corrected(better, last[0], last[1])

    def scaled(self, factors: Array) -> Meshes:
        """Return the meshes of the weights multiplied by factors (2,)."""
        return Meshes(factors[:, None] * self.nodes)

    def coarsened(self) -> Meshes:
        """Return meshes of which every cell is made of two."""
        return Meshes(0.5 * (self.nodes[..., ::2] + self.nodes[..., 1::2]))

    def frames(self, n: int) -> Frames:
        """Return where the cells are."""
        widths, count = self.widths, len(self.nodes)
        areas = widths[:, 0, :, None] * widths[:, 1, None, :]
        return Frames(np.zeros((count, 2)), np.tile(np.eye(2), (count, 1, 1)), self.nodes, areas)


def _turned(values: Array) -> Array:
    return np.ascontiguousarray(np.swapaxes(values, 1, 2))


def _suits(table: PlaneTable, n: int) -> bool:
    """Return whether the cells of a table are a mesh along the axes of the plane."""
    upright = not table.axes[[0, 1], [1, 0]].any() and (np.diag(table.axes) > 0.0).all()
    return bool(upright and table.coordinates.shape[1] == n)


def first_meshes(laws: Sequence[ConditionalLaw], n: int, tail: float) -> Meshes:
    """Return meshes for initial laws."""
    tables = [law for law in laws if isinstance(law, PlaneTable)]
    if len(tables) == len(laws) and all(_suits(table, n) for table in tables):
        return Meshes(np.array([law.origin[:, None] + np.diag(law.axes)[:, None] * law.coordinates for law in tables]))
    nodes = np.empty((len(laws), 2, n))
    for row, law in zip(nodes, laws, strict=True):
        for axis in range(2):
            marginal = law.marginal(axis)
            low, high = marginal.ends(tail)
            margin = 0.5 * (_MARGIN - 1.0) * (high - low)
            row[axis] = np.linspace(low - margin, high + margin, n)
    meshes = Meshes(nodes)
    for _ in range(20):
        p = np.array(
            [[law.marginal(axis).pdf(meshes.nodes[i, axis]) for axis in range(2)] for i, law in enumerate(laws)]
        )
        wanted = spread_nodes(meshes.nodes, p, p * meshes.widths, tail)
        meshes = Meshes(meshes.nodes + 0.5 * (wanted - meshes.nodes))
    return meshes


def spread_nodes(nodes: Array, p: Array, mass: Array, tail: float) -> Array:
    """Return nodes (..., n) that share out the third root of the curvature of densities p (..., n) evenly.

    They reach as far as all but a `tail` of the mass on either side, with a margin; beyond the old nodes, as needed.
    """
    n = nodes.shape[-1]
    gaps = np.diff(nodes, axis=-1)
    slope = np.diff(p, axis=-1) / gaps
    bend = np.zeros_like(p)
    bend[..., 1:-1] = np.abs(np.diff(slope, axis=-1)) / (0.5 * (gaps[..., 1:] + gaps[..., :-1]))
    wish = np.cbrt(bend)
    for _ in range(max(_SMOOTHING * n // 32, 2)):
        padded = np.concatenate([wish[..., :1], wish, wish[..., -1:]], axis=-1)
        wish = 0.25 * padded[..., :-2] + 0.5 * wish + 0.25 * padded[..., 2:]
    size = np.abs(mass)
    result = np.empty_like(nodes)
    for at in np.ndindex(nodes.shape[:-1]):
        w, share = nodes[at], wish[at]
        first = int((np.cumsum(size[at]) > tail).argmax())
        last = n - 1 - int((np.cumsum(size[at][::-1]) > tail).argmax())
        low, high = w[first], w[last]
        margin = 0.5 * (_MARGIN - 1.0) * (high - low)
        low, high = low - margin, high + margin
        steps = 0.5 * (share[1:] + share[:-1]) * np.diff(w)
        total = max(float(steps.sum()), 1e-300)
        grown = np.concatenate([[0.0], np.cumsum(steps)]) / total
        inside = np.linspace(low, high, 4 * n)
        level = (1.0 - _EVEN) * np.interp(inside, w, grown) + _EVEN * np.linspace(0.0, 1.0, 4 * n)
        level = (level - level[0]) / (level[-1] - level[0])
        result[at] = np.interp(np.linspace(0.0, 1.0, n), level, inside)
    return result
