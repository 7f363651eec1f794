"""Compiled adaptation of the elements: halve where the polynomial does not suffice, join where it would.

Halving is exact. Joining keeps the values at the ends and the moments up to degree N - 2, so that mass, mean and second
moment survive it. Elements are added beyond an end where the density has arrived. No element reaches across a kink.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mkvlasov._typing import Array
from mkvlasov.solvers.pde.elements.basis import Basis
from mkvlasov.solvers.pde.elements.kernels import IntArray, Mesh, indicators

KEEP, HALVE, JOIN = 0, 1, 2

# Joining makes the last Legendre terms larger by about 2^N; what it leaves must not ask to be halved again.
_JOINED = 0.05

# Where a density arrives at an end, elements are added for this share of the width so far, but not more than so many.
_WIDER, _MOST_ADDED = 0.3, 20


@njit(cache=True, nogil=True, error_model="numpy")
def arrived(basis: Basis, mesh: Mesh, p: Array, loading: int, side: int, limit: float) -> bool:
    """Return whether the density has reached the left (0) or right (1) end of a loading."""
    n = len(basis.nodes)
    e = mesh.first[loading] if side == 0 else mesh.first[loading + 1] - 1
    wall = (n - 1) * (e + side) + loading
    return abs(p[wall]) * mesh.width[e] > 0.05 * limit


@njit(cache=True, nogil=True, error_model="numpy")
def siblings(mesh: Mesh, e: int) -> bool:
    """Return whether e and e + 1 are the two halves of one element."""
    return (
        mesh.piece[e] == mesh.piece[e + 1]
        and mesh.level[e] == mesh.level[e + 1]
        and mesh.number[e] % 2 == 0
        and mesh.number[e + 1] == mesh.number[e] + 1
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _join(basis: Basis, p: Array, result: Array) -> None:
    n = len(basis.nodes)
    for i in range(n):
        value = 0.0
        for j in range(n):
            value += basis.join[0, i, j] * p[j] + basis.join[1, i, j] * p[n - 1 + j]
        result[i] = value


@njit(cache=True, nogil=True, error_model="numpy")
def joinable(basis: Basis, mesh: Mesh, p: Array, estimate: Array, loading: int, e: int, limit: float) -> bool:
    """Return whether e and e + 1 are halves of an element that would suffice."""
    if e + 1 >= mesh.first[loading + 1] or not siblings(mesh, e) or max(estimate[e], estimate[e + 1]) > _JOINED * limit:
        return False
    n = len(basis.nodes)
    at = (n - 1) * e + loading
    joined = np.empty(n)
    _join(basis, p[at : at + 2 * n - 1], joined)
    before = 0.0
    last = 0.0
    for i in range(n):
        before += basis.tail[0, i] * joined[i]
        last += basis.tail[1, i] * joined[i]
    return mesh.width[e] * (abs(before) + abs(last)) < _JOINED * limit


@njit(cache=True, nogil=True, error_model="numpy")
def wants_regrid(basis: Basis, mesh: Mesh, p: Array, limits: Array, coarsen: bool) -> bool:
    """Return whether an element is too coarse, a wall reached, or a pair needlessly fine."""
    estimate = indicators(basis, mesh, p)
    for loading in range(len(limits)):
        for e in range(mesh.first[loading], mesh.first[loading + 1]):
            if estimate[e] > limits[loading]:
                return True
            if coarsen and joinable(basis, mesh, p, estimate, loading, e, limits[loading]):
                return True
        if arrived(basis, mesh, p, loading, 0, limits[loading]) or arrived(basis, mesh, p, loading, 1, limits[loading]):
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _beyond(mesh: Mesh, e: int, side: int, wanted: float, level: IntArray, index: IntArray) -> int:
    """Set level and index of elements to add beyond the end element e, outwards, each as wide as fits; return how many.

    A wider element fits where its neighbour ends at one of its own edges.
    """
    count = 0
    width = mesh.width[e]
    at = mesh.level[e]
    number = mesh.number[e]
    while wanted > 0.0 and count < len(level):
        edge = number + side
        if count and edge % 2 == 0:
            at -= 1
            width *= 2.0
            edge //= 2
        number = edge - 1 + side
        level[count], index[count] = at, number
        wanted -= width
        count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def regrid(basis: Basis, mesh: Mesh, p: Array, limits: Array) -> tuple[Mesh, Array]:
    """Return the adapted elements (slopes left at zero) and the densities on them.

    Parameters
    ----------
    basis, mesh, p
    limits : ndarray, shape (L,)
        Largest error indicator of an element.
    """
    n = len(basis.nodes)
    loadings = len(limits)
    elements = len(mesh.left)
    estimate = indicators(basis, mesh, p)
    action = np.zeros(elements, np.int64)
    extend = np.zeros((loadings, 2), np.int64)
    level = np.zeros((loadings, 2, _MOST_ADDED), np.int64)
    index = np.zeros((loadings, 2, _MOST_ADDED), np.int64)
    first = np.zeros(loadings + 1, np.int64)
    for loading in range(loadings):
        count = 0
        e = mesh.first[loading]
        while e < mesh.first[loading + 1]:
            at = (n - 1) * e + loading
            if estimate[e] > limits[loading]:
                action[e] = HALVE
                count += 2
            else:
                count += 1
                if joinable(basis, mesh, p, estimate, loading, e, limits[loading]):
                    action[e] = JOIN
                    e += 1
                    action[e] = JOIN
            e += 1
        for side in range(2):
            if arrived(basis, mesh, p, loading, side, limits[loading]):
                last = mesh.first[loading + 1] - 1
                span = mesh.left[last] + mesh.width[last] - mesh.left[mesh.first[loading]]
                outermost = mesh.first[loading] if side == 0 else last
                extend[loading, side] = _beyond(
                    mesh, outermost, side, _WIDER * span, level[loading, side], index[loading, side]
                )
                count += extend[loading, side]
        first[loading + 1] = first[loading] + count
    total = first[loadings]
    new = Mesh(
        first,
        np.empty(total),
        np.empty(total),
        np.empty(total, np.int64),
        np.empty(total, np.int64),
        np.empty(total, np.int64),
        np.zeros((total, n)),
    )
    q = np.zeros((n - 1) * total + loadings)
    for loading in range(loadings):
        to = first[loading]
        edge = mesh.left[mesh.first[loading]]
        for k in range(extend[loading, 0]):
            here = to + extend[loading, 0] - 1 - k
            new.level[here], new.number[here] = level[loading, 0, k], index[loading, 0, k]
            new.piece[here] = mesh.piece[mesh.first[loading]]
            new.width[here] = mesh.width[mesh.first[loading]] * 2.0 ** (
                mesh.level[mesh.first[loading]] - level[loading, 0, k]
            )
            edge -= new.width[here]
            new.left[here] = edge
        to += extend[loading, 0]
        e = mesh.first[loading]
        while e < mesh.first[loading + 1]:
            at = (n - 1) * e + loading
            here = (n - 1) * to + loading
            new.piece[to] = mesh.piece[e]
            new.left[to] = mesh.left[e]
            if action[e] == HALVE:
                new.piece[to + 1] = mesh.piece[e]
                half = 0.5 * mesh.width[e]
                new.left[to + 1] = mesh.left[e] + half
                for side in range(2):
                    new.width[to + side] = half
                    new.level[to + side] = mesh.level[e] + 1
                    new.number[to + side] = 2 * mesh.number[e] + side
                    for i in range(n):
                        value = 0.0
                        for j in range(n):
                            value += basis.halves[side, i, j] * p[at + j]
                        q[here + (n - 1) * side + i] = value
                # Ends are copied, so that neighbours agree to the last digit.
                q[here] = p[at]
                q[here + 2 * (n - 1)] = p[at + n - 1]
                to += 2
            elif action[e] == JOIN:
                new.width[to] = 2.0 * mesh.width[e]
                new.level[to] = mesh.level[e] - 1
                new.number[to] = mesh.number[e] // 2
                _join(basis, p[at : at + 2 * n - 1], q[here : here + n])
                e += 1
                to += 1
            else:
                new.width[to] = mesh.width[e]
                new.level[to] = mesh.level[e]
                new.number[to] = mesh.number[e]
                for i in range(n):
                    q[here + i] = p[at + i]
                to += 1
            e += 1
        last = mesh.first[loading + 1] - 1
        edge = mesh.left[last] + mesh.width[last]
        for k in range(extend[loading, 1]):
            here = to + k
            new.level[here], new.number[here] = level[loading, 1, k], index[loading, 1, k]
            new.piece[here] = mesh.piece[last]
            new.width[here] = mesh.width[last] * 2.0 ** (mesh.level[last] - level[loading, 1, k])
            new.left[here] = edge
            edge += new.width[here]
        # The node that was the wall stands for twice the volume now: its mass stays what it was.
        for side in range(2):
            if extend[loading, side]:
                inner = (
                    first[loading] + extend[loading, 0] if side == 0 else first[loading + 1] - extend[loading, 1] - 1
                )
                outer = inner - 1 if side == 0 else inner + 1
                own = new.width[inner]
                q[(n - 1) * max(inner, outer) + loading] *= own / (own + new.width[outer])
    return new, q
