"""Elements for initial laws, phi' on elements, and snapshots of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.problem.regularizers import Regularizer
from mkvlasov.solvers.pde.elements.basis import Basis
from mkvlasov.solvers.pde.elements.kernels import IntArray, Mesh

TAIL = 1e-12
"""Mass that the first elements leave out on either side."""

_ROOTS = 4
_DEEPEST = 40
_SAFE = 0.2


class LineLaw(Protocol):
    """Law on the line with a density."""

    @property
    def mean(self) -> Array:
        """E[w], shape (1,)."""

    @property
    def second_moment(self) -> Array:
        """E[w^2], shape (1, 1)."""

    def pdf(self, w: Array) -> Array:
        """Return the density."""

    def cdf(self, w: Array) -> Array:
        """Return the distribution function."""

    def ends(self, tail: float) -> tuple[float, float]:
        """Return an interval that leaves out at most the mass `tail` on either side."""


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Elements of one loading."""

    left: Array
    width: Array
    level: IntArray
    number: IntArray
    piece: IntArray

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> _Pieces:
        return _Pieces(self.left[rows], self.width[rows], self.level[rows], self.number[rows], self.piece[rows])


def initial_elements(
    basis: Basis,
    laws: Sequence[LineLaw],
    frame: Array,
    breaks: tuple[float, ...],
    limits: Array,
) -> tuple[Mesh, Array]:
    """Return elements fine enough for the densities of the laws, and their nodal values.

    An element is halved while its polynomial is not accurate enough or misses the mass that the distribution function
    says it has. Slopes of phi are left at zero.

    Parameters
    ----------
    basis : Basis
    laws : sequence of L laws of w
    frame : ndarray, shape (L, 2)
        Coordinates: w = shift + scale x.
    breaks : tuple of float
        Values of w at which elements must end.
    limits : ndarray, shape (L,)
        Largest error indicator of an element.
    """
    parts, values = [], []
    for law, (shift, scale), limit in zip(laws, frame, limits, strict=True):
        pieces, p = _fitted(basis, law, shift, scale, breaks, _SAFE * limit)
        parts.append(pieces)
        values.append(p)
    first = np.concatenate([[0], np.cumsum([len(part.left) for part in parts])])
    mesh = Mesh(
        first=first,
        left=np.concatenate([part.left for part in parts]),
        width=np.concatenate([part.width for part in parts]),
        level=np.concatenate([part.level for part in parts]),
        number=np.concatenate([part.number for part in parts]),
        piece=np.concatenate([part.piece for part in parts]),
        slope=np.zeros((first[-1], len(basis.nodes))),
    )
    return mesh, np.concatenate(values)


def _roots(low: float, high: float, breaks: Sequence[float]) -> _Pieces:
    """Return elements of about equal width that cover [low, high] and, where there are several, all breaks.

    Elements are counted from a point, near or far, so that one ends there whenever they come to reach so far.
    """
    if len(breaks) > 1:
        low, high = min(low, breaks[0]), max(high, breaks[-1])
    width = (high - low) / _ROOTS
    origin = breaks[0] if breaks else 0.5 * (low + high)
    last = breaks[-1] if breaks else origin
    left, right = int(np.floor((low - origin) / width)), int(np.ceil((high - last) / width))
    if origin == last:
        rows = [(origin + width * i, width, i, 0) for i in range(left, right)]
    else:
        rows = [(origin + width * i, width, i, 0) for i in range(left, 0)]
        for number, (a, b) in enumerate(pairwise(breaks)):
            count = int(np.ceil((b - a) / width))
            rows += [(a + (b - a) / count * i, (b - a) / count, i, number + 1) for i in range(count)]
        rows += [(last + width * i, width, i, len(breaks)) for i in range(right)]
    lefts, widths, index, piece = (np.array(column) for column in zip(*rows, strict=True))
    return _Pieces(lefts, widths, np.zeros(len(lefts), np.int64), index, piece)


def _fitted(
    basis: Basis, law: LineLaw, shift: float, scale: float, breaks: tuple[float, ...], limit: float
) -> tuple[_Pieces, Array]:
    low, high = ((end - shift) / scale for end in law.ends(TAIL))
    waiting = _roots(low, high, [(point - shift) / scale for point in breaks])
    done: list[tuple[_Pieces, Array]] = []
    for depth in range(_DEEPEST + 1):
        x = waiting.left[:, None] + 0.5 * waiting.width[:, None] * (1.0 + basis.nodes)
        p = scale * law.pdf((shift + scale * x).ravel()).reshape(x.shape)
        edges = np.column_stack([waiting.left, waiting.left + waiting.width])
        mass = np.diff(law.cdf((shift + scale * edges).ravel()).reshape(edges.shape), axis=1)[:, 0]
        missing = np.abs(0.5 * waiting.width * (p @ basis.weights) - mass)
        tail = 0.5 * waiting.width * np.abs(p @ basis.tail.T).sum(axis=1)
        fine = (np.maximum(missing, tail) <= limit) | (depth == _DEEPEST)
        done.append((waiting.take(fine), p[fine]))
        if fine.all():
            break
        rest = waiting.take(~fine)
        half = 0.5 * rest.width
        waiting = _Pieces(
            np.column_stack([rest.left, rest.left + half]).ravel(),
            np.repeat(half, 2),
            np.repeat(rest.level + 1, 2),
            np.column_stack([2 * rest.number, 2 * rest.number + 1]).ravel(),
            np.repeat(rest.piece, 2),
        )
    pieces = _Pieces(*(np.concatenate([getattr(part, name) for part, _ in done]) for name in _Pieces.__slots__))
    order = np.argsort(pieces.left)
    p = np.concatenate([values for _, values in done])[order]
    p = np.append(p[:, :-1].ravel(), p[-1, -1])
    pieces = pieces.take(order)
    return pieces, p / _mass(basis, pieces.width, p)


def _mass(basis: Basis, width: Array, p: Array) -> float:
    degree = len(basis.nodes) - 1
    inner = p[:-1].reshape(-1, degree) @ basis.weights[:-1] + p[degree::degree] * basis.weights[-1]
    return float(0.5 * width @ inner)


def slopes(regularizer: Regularizer, basis: Basis, mesh: Mesh) -> Array:
    """Return phi' at the nodes of elements at rest, shape (E, n), at breaks from inside the element."""
    # Evaluated a hair inside the element: at its ends phi' may jump.
    inside = np.clip(basis.nodes, -1.0 + 1e-9, 1.0 - 1e-9)
    w = mesh.left[:, None] + 0.5 * mesh.width[:, None] * (1.0 + inside)
    return np.ascontiguousarray(regularizer.gradient(w[..., None])[..., 0])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Densities at one time: nodes, values and quadrature weights of every loading."""

    mesh: Mesh
    frame: Array
    p: Array


def tabulate(basis: Basis, snapshots: Sequence[Snapshot], loadings: int) -> tuple[Array, Array, Array]:
    """Return nodes, densities and quadrature weights of w, each (T, L, n) with the same n for all.

    Elements are halved, which changes nothing, until every loading has as many as the one that needs most.
    """
    if not snapshots:
        return np.empty((0, loadings, 1)), np.empty((0, loadings, 1)), np.empty((0, loadings, 1))
    degree = len(basis.nodes) - 1
    counts = np.concatenate([np.diff(snapshot.mesh.first) for snapshot in snapshots])
    most = int(counts.max())
    left, width, values = _halved(
        basis,
        np.concatenate([snapshot.mesh.left for snapshot in snapshots]),
        np.concatenate([snapshot.mesh.width for snapshot in snapshots]),
        np.concatenate([_values(snapshot, degree) for snapshot in snapshots]),
        counts,
        most,
    )
    shift, scale = np.concatenate([snapshot.frame for snapshot in snapshots]).T[..., None]
    left, width = left.reshape(-1, most), width.reshape(-1, most)
    x = left[..., None] + 0.5 * width[..., None] * (1.0 + basis.nodes[:-1])
    size = 0.5 * width[..., None] * basis.weights
    weights = np.zeros((len(counts), most * degree + 1))
    weights[:, :-1] = size[..., :-1].reshape(len(counts), -1)
    weights[:, degree::degree] += size[..., -1]
    nodes = np.column_stack([x.reshape(len(counts), -1), left[:, -1] + width[:, -1]])
    values = values.reshape(len(counts), most, -1)
    densities = np.column_stack([values[..., :-1].reshape(len(counts), -1), values[:, -1, -1]])
    shape = (len(snapshots), loadings, -1)
    return (shift + scale * nodes).reshape(shape), (densities / scale).reshape(shape), (scale * weights).reshape(shape)


def _values(snapshot: Snapshot, degree: int) -> Array:
    """Return the nodal values of all elements, (E, n)."""
    first = snapshot.mesh.first
    loading = np.repeat(np.arange(len(first) - 1), np.diff(first))
    at = degree * np.arange(first[-1]) + loading
    return snapshot.p[at[:, None] + np.arange(degree + 1)]


def _halved(
    basis: Basis, left: Array, width: Array, values: Array, counts: IntArray, most: int
) -> tuple[Array, Array, Array]:
    """Halve the widest elements of every group until each has `most`; counts (groups,) of elements, group after group.

    `values` holds the nodal values, (elements, n).
    """
    while (counts < most).any():
        group = np.repeat(np.arange(len(counts)), counts)
        begin = np.cumsum(counts) - counts
        widest = np.lexsort((-width, group))
        chosen = np.zeros(len(left), dtype=bool)
        chosen[widest] = np.arange(len(left)) - begin[group] < (most - counts)[group]
        # The right halves, each behind its left half.
        twice = np.repeat(np.arange(len(left)), 1 + chosen)
        right = np.append(False, twice[1:] == twice[:-1])
        first = np.where(chosen[:, None], values @ basis.halves[0].T, values)
        values = np.where(right[:, None], (values @ basis.halves[1].T)[twice], first[twice])
        width = np.where(chosen, 0.5 * width, width)[twice]
        left = left[twice] + np.where(right, width, 0.0)
        counts = np.minimum(2 * counts, most)
    return left, width, values
