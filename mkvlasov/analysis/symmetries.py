"""Symmetries of the closed system: which changes of sign and exchanges turn solutions into solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.analysis.newton import scales
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.entries import Entries

_SAME = 1e-6
"""States closer than this, relative to their scale, are one."""
_EQUIVARIANT = 1e-6
_MOST_COPIES = 5000
_MOST_PRODUCTS = 400
_SAME_STATE = 1e-4
"""A bifurcation point counts as symmetric within this part of its scale, to which it is located at least."""
_MOVED = 0.1
"""Null vectors of unit length are moved by this much, or not at all."""


@dataclass(frozen=True)
class Symmetry:
    """The map R -> A R B^T, Q -> A Q A^T.

    Attributes
    ----------
    name : str
    outputs : ndarray, shape (m, m)
        A.
    features : ndarray, shape (K, K)
        B.
    """

    name: str
    outputs: Array
    features: Array

    def __call__(self, entries: Entries, x: Array) -> Array:
        """Return the images of states (..., d), or of rates."""
        Q, R = entries.unpack(x)
        A, B = self.outputs, self.features
        return entries.pack(A @ Q @ A.T, A @ R @ B.T)


@dataclass(frozen=True)
class Symmetries:
    """Generators of the symmetries that a closed system has.

    Attributes
    ----------
    entries : Entries
    discrete : tuple of Symmetry
    rotated : tuple of tuples of int
        Sets of features that can be rotated into each other (Gaussian hidden variables of equal variance).
    """

    entries: Entries
    discrete: tuple[Symmetry, ...]
    rotated: tuple[tuple[int, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """In words."""
        rotations = (f"rotations of features {', '.join(map(str, block))}" for block in self.rotated)
        return (*(symmetry.name for symmetry in self.discrete), *rotations)

    def copies(self, x: Array) -> Array:
        """Return the state (d,) and its distinct images (n, d), the one with the largest overlaps first.

        States that rotations connect are represented by one of them.
        """
        found = [self.unrotated(x)]
        for state in found:  # grows while it is read
            for symmetry in self.discrete:
                image = self.unrotated(symmetry(self.entries, state))
                if not any(same(self.entries, image, known) for known in found):
                    found.append(image)
            if len(found) > _MOST_COPIES:
                break
        tolerance = _SAME * scales(self.entries, x)
        rounded = [tuple((state / tolerance).round().tolist()) for state in found]
        return np.array([found[i] for i in sorted(range(len(found)), key=rounded.__getitem__, reverse=True)])

    def is_rotated(self, x: Array) -> bool:
        """Whether rotations move this state, so that it is one of a continuum."""
        _, R = self.entries.unpack(x)
        size = scales(self.entries, x)[0]
        return any(bool((np.abs(R[:, list(block)]) > _SAME * size).any()) for block in self.rotated)

    def invariants(self, x: Array) -> Array:
        """Return coordinates (..., c) of states (..., d) that rotations leave alone and that tell other states apart.

        R of features that can be rotated enters by its products R R^T.
        """
        _, R = self.entries.unpack(x)
        blocks = [R[..., list(block)] for block in self.rotated]
        grams = [(block @ block.mT).reshape(*x.shape[:-1], -1) for block in blocks]
        return np.concatenate([x[..., self._unrotated_entries], *grams], axis=-1)

    def invariant_scales(self, x: Array) -> Array:
        """Return the natural sizes of the `invariants` of states (n, d)."""
        size = scales(self.entries, x)
        number = len(self.rotated) * self.entries.outputs**2
        return np.concatenate([size[:, self._unrotated_entries], np.repeat(size[:, -1:], number, axis=1)], axis=-1)

    @property
    def _unrotated_entries(self) -> list[int]:
        rotated = {feature for block in self.rotated for feature in block}
        k, n = self.entries.features, self.entries.overlaps
        return [i for i in range(self.entries.size) if i >= n or i % k not in rotated]

    def broken(self, x: Array, directions: Array) -> tuple[tuple[str, ...], bool]:
        """Return the symmetries of a state (d,) that directions (n, d) lack, and whether one reverses all of these.

        The simplest ones: products of several generators only where no generator or shorter product is broken.
        """
        size = scales(self.entries, x)
        names: list[tuple[int, str]] = []
        reversed_ = False
        for length, symmetry in self._products():
            if not same(self.entries, symmetry(self.entries, x), x, _SAME_STATE):
                continue
            images = symmetry(self.entries, directions)
            # Null vectors of one symmetry type are mapped among themselves, so compare what spans them.
            if np.abs((images - directions) / size).max(initial=0.0) > _MOVED:
                names.append((length, symmetry.name))
                reversed_ |= bool(np.abs((images + directions) / size).max() <= _MOVED)
        shortest = min((length for length, _ in names), default=0)
        found = [name for length, name in names if length == shortest]
        for block, name in zip(self.rotated, self.names[len(self.discrete) :], strict=True):
            moved = np.abs(self.entries.unpack(directions)[1][..., list(block)]).max(initial=0.0)
            if moved > _MOVED and not np.abs(self.entries.unpack(x)[1][:, list(block)]).max() > _SAME_STATE * size[0]:
                found.append(name)
        return tuple(found), reversed_

    def _products(self) -> list[tuple[int, Symmetry]]:
        """Return products of generators with their lengths, shortest first, without the identity."""
        unit = Symmetry("", np.eye(self.entries.outputs), np.eye(self.entries.features))
        found = [(0, unit)]
        known = {_key(unit)}
        for length, symmetry in found:  # grows while it is read
            for generator in self.discrete:
                product = Symmetry(
                    f"{symmetry.name} with {generator.name}" if length else generator.name,
                    generator.outputs @ symmetry.outputs,
                    generator.features @ symmetry.features,
                )
                if _key(product) not in known and len(found) < _MOST_PRODUCTS:
                    known.add(_key(product))
                    found.append((length + 1, product))
        return found[1:]

    def unrotated(self, x: Array) -> Array:
        """Rotate every block of features so that its overlaps are lower triangular with a diagonal >= 0."""
        Q, R = self.entries.unpack(x)
        R = R.copy()
        for block in self.rotated:
            index = list(block)
            lower = np.linalg.qr(R[:, index].T)[1].T
            signs = np.where(np.diagonal(lower) < 0.0, -1.0, 1.0)
            R[:, index] = 0.0
            R[:, index[: lower.shape[1]]] = lower * signs
        return self.entries.pack(Q, R)


def same(entries: Entries, x: Array, y: Array, tolerance: float = _SAME) -> bool:
    """Return whether two states (d,) agree to a tolerance relative to their scale."""
    return bool((np.abs(x - y) <= tolerance * np.maximum(scales(entries, x), scales(entries, y))).all())


def find_symmetries(
    closed: ClosedRates, tau: float, *, also: Callable[[Symmetry], bool] = lambda symmetry: True
) -> Symmetries:
    """Return the symmetries among sign changes, exchanges and rotations, found by trying them on generic states.

    A map is one if rates at images are images of rates. That asks the coefficients themselves, whatever the reasons:
    the law of c, the activation, the loss. What maps more than rates has to pass another test, `also`.
    """
    entries = closed.entries
    m, k = entries.outputs, entries.features
    rng = np.random.default_rng(0)  # any generic states do
    W = rng.normal(size=(2, m, m + 2))
    R = rng.normal(size=(2, m, k)) * 0.7
    Q = 0.3 * W @ W.mT + R @ R.mT
    if closed.problem.constraint == "sphere":
        inverse = 1.0 / np.sqrt(np.diagonal(Q, axis1=-2, axis2=-1))
        Q, R = Q * inverse[:, :, None] * inverse[:, None, :], R * inverse[:, :, None]
    x = entries.pack(Q, R)
    f = closed.rates(x, tau)

    def holds(symmetry: Symmetry) -> bool:
        gap = closed.rates(symmetry(entries, x), tau) - symmetry(entries, f)
        return bool(np.abs(gap).max() <= _EQUIVARIANT * np.abs(f).max()) and also(symmetry)

    one, unit = np.eye(m), np.eye(k)
    found = [s for i in range(k) if holds(s := Symmetry(f"sign of feature {i}", one, _flip(k, i)))]
    every = len(found) == k
    if not every and holds(s := Symmetry("sign of all features", one, -unit)):
        found.append(s)
        every = True
    rotated = []
    for i, j in combinations(range(k), 2):
        if holds(Symmetry("", one, _rotation(k, i, j))):
            rotated.append((i, j))
            continue
        plain = Symmetry(f"exchange of features {i} and {j}", one, _exchange(k, i, j))
        signed = Symmetry(f"{plain.name} with a sign", one, _exchange(k, i, j) @ _flip(k, i) @ _flip(k, j))
        found += [s for s in (plain, signed) if holds(s)][:1]
    signs = [] if m == 1 and every else [Symmetry(f"sign of output {j}", _flip(m, j), unit) for j in range(m)]
    flips = [s for s in signs if holds(s)]
    if not flips and m > 1 and not every and holds(s := Symmetry("sign of all outputs", -one, unit)):
        flips = [s]
    exchanges = [
        Symmetry(f"exchange of outputs {i} and {j}", _exchange(m, i, j), unit) for i, j in combinations(range(m), 2)
    ]
    found += flips + [s for s in exchanges if holds(s)]
    return Symmetries(entries, tuple(found), _connected(rotated))


def _key(symmetry: Symmetry) -> tuple[int, ...]:
    """Return a signed permutation of R as integers."""
    return tuple(np.kron(symmetry.outputs, symmetry.features).round().astype(int).ravel().tolist())


def _flip(n: int, i: int) -> Array:
    matrix = np.eye(n)
    matrix[i, i] = -1.0
    return matrix


def _exchange(n: int, i: int, j: int) -> Array:
    matrix = np.eye(n)
    matrix[[i, j]] = matrix[[j, i]]
    return matrix


def _rotation(n: int, i: int, j: int) -> Array:
    matrix = np.eye(n)
    matrix[i, i] = matrix[j, j] = np.cos(1.0)
    matrix[i, j], matrix[j, i] = -np.sin(1.0), np.sin(1.0)
    return matrix


def _connected(pairs: list[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """Return the sets that pairs connect."""
    blocks: list[set[int]] = []
    for pair in pairs:
        touched = [block for block in blocks if block & set(pair)]
        blocks = [block for block in blocks if block not in touched] + [set(pair).union(*touched)]
    return tuple(tuple(sorted(block)) for block in blocks)
