"""Compiled kernels of the spectral elements: one time step of all loadings, moments, error indicators.

The unknowns are nodal values of the densities, one loading after the other; neighbouring elements share a node. With
Gauss-Lobatto quadrature the mass matrix is diagonal. In coordinates x of a loading (w = shift + scale x) the equation
dp/dt = d/dx [ b p ] + D d^2 p/dx^2, b = c0 + c1 x + c2 phi', reads, tested with the nodal polynomials v_i,

    M_i dp_i/dt = - sum_j weights_j v_i'(x_j) b_j p_j - D sum_j (v_i', v_j') p_j .

Tested with 1, x, x^2 it gives the moment equations exactly: mass is conserved, and for an affine drift the moments obey
the closed ordinary differential equations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from mkvlasov._typing import Array
from mkvlasov.solvers.pde.elements.basis import Basis

IntArray = npt.NDArray[np.int64]


class Mesh(NamedTuple):
    """Elements of all L loadings, E in all, loading after loading, from left to right.

    Attributes
    ----------
    first : ndarray of int, shape (L + 1,)
        The elements of loading l are first[l] ... first[l + 1] - 1; their nodes start at N first[l] + l.
    left, width : ndarray, shape (E,)
        In the coordinates x of the loading.
    level, number, piece : ndarray of int, shape (E,)
        The element is number `number` of those that halving `level` times gives on a piece between breaks.
    slope : ndarray, shape (E, n)
        phi' at the nodes, from inside the element.
    """

    first: IntArray
    left: Array
    width: Array
    level: IntArray
    number: IntArray
    piece: IntArray
    slope: Array


@njit(cache=True, nogil=True, error_model="numpy")
def nodal_weights(basis: Basis, mesh: Mesh) -> Array:
    """Return the quadrature weights of all nodes (the diagonal mass matrix)."""
    n = len(basis.nodes)
    loadings = len(mesh.first) - 1
    result = np.zeros((n - 1) * len(mesh.left) + loadings)
    for loading in range(loadings):
        for e in range(mesh.first[loading], mesh.first[loading + 1]):
            at = (n - 1) * e + loading
            for i in range(n):
                result[at + i] += 0.5 * mesh.width[e] * basis.weights[i]
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def node_positions(basis: Basis, mesh: Mesh) -> Array:
    """Return the positions x of all nodes."""
    n = len(basis.nodes)
    loadings = len(mesh.first) - 1
    result = np.empty((n - 1) * len(mesh.left) + loadings)
    for loading in range(loadings):
        for e in range(mesh.first[loading], mesh.first[loading + 1]):
            at = (n - 1) * e + loading
            for i in range(n):
                result[at + i] = mesh.left[e] + 0.5 * mesh.width[e] * (1.0 + basis.nodes[i])
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def moments(basis: Basis, mesh: Mesh, frame: Array, p: Array) -> Array:
    """Return, per loading, E[1], E[w], E[w^2], E[phi'], E[w phi'], shape (L, 5)."""
    n = len(basis.nodes)
    loadings = len(mesh.first) - 1
    result = np.zeros((loadings, 5))
    for loading in range(loadings):
        shift, scale = frame[loading, 0], frame[loading, 1]
        for e in range(mesh.first[loading], mesh.first[loading + 1]):
            at = (n - 1) * e + loading
            for i in range(n):
                mass = 0.5 * mesh.width[e] * basis.weights[i] * p[at + i]
                w = shift + scale * (mesh.left[e] + 0.5 * mesh.width[e] * (1.0 + basis.nodes[i]))
                slope = mesh.slope[e, i]
                result[loading, 0] += mass
                result[loading, 1] += mass * w
                result[loading, 2] += mass * w * w
                result[loading, 3] += mass * slope
                result[loading, 4] += mass * w * slope
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def order_parameters(per_loading: Array, loadings: Array, weights: Array) -> Array:
    """Return (Q, R_1, ..., R_K, E[w phi']) from the moments of the loadings."""
    features = loadings.shape[1]
    y = np.zeros(features + 2)
    for loading in range(len(weights)):
        y[0] += weights[loading] * per_loading[loading, 2]
        for k in range(features):
            y[1 + k] += weights[loading] * per_loading[loading, 1] * loadings[loading, k]
        y[features + 1] += weights[loading] * per_loading[loading, 4]
    return y


@njit(cache=True, nogil=True, error_model="numpy")
def apply(basis: Basis, mesh: Mesh, drift: Array, p: Array) -> Array:
    """Return M dp/dt; `drift` (L, 4) holds c0, c1, c2 and D of every loading."""
    n = len(basis.nodes)
    loadings = len(mesh.first) - 1
    result = np.zeros(len(p))
    for loading in range(loadings):
        c0, c1, c2, diffusion = drift[loading, 0], drift[loading, 1], drift[loading, 2], drift[loading, 3]
        for e in range(mesh.first[loading], mesh.first[loading + 1]):
            at = (n - 1) * e + loading
            h = mesh.width[e]
            spread = 2.0 * diffusion / h
            for j in range(n):
                x = mesh.left[e] + 0.5 * h * (1.0 + basis.nodes[j])
                b = c0 + c1 * x + c2 * mesh.slope[e, j]
                for i in range(n):
                    result[at + i] -= (basis.drift[i, j] * b + spread * basis.stiffness[i, j]) * p[at + j]
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def _factorize(basis: Basis, mesh: Mesh, loading: int, step: float, drift: Array, b: Array, lu: Array) -> None:
    """Factorize M - step A of loading loading, element after element, into lu (elements, n, n)."""
    n = len(basis.shape)
    c0, c1, c2, diffusion = drift[0], drift[1], drift[2], drift[3]
    carried = 0.0
    last = mesh.first[loading + 1] - 1
    for e in range(mesh.first[loading], mesh.first[loading + 1]):
        h = mesh.width[e]
        m = lu[e - mesh.first[loading]]
        spread = step * 2.0 * diffusion / h
        for j in range(n):
            x = mesh.left[e] + 0.5 * h * (1.0 + basis.nodes[j])
            b[j] = step * (c0 + c1 * x + c2 * mesh.slope[e, j])
        for i in range(n):
            for j in range(n):
                m[i, j] = basis.drift[i, j] * b[j] + spread * basis.stiffness[i, j]
            m[i, i] += 0.5 * h * basis.weights[i]
        m[0, 0] += carried
        for k in range(n - 1):
            inverse = 1.0 / m[k, k]
            m[k, k] = inverse
            for i in range(k + 1, n):
                factor = m[i, k] * inverse
                m[i, k] = factor
                for j in range(k + 1, n):
                    m[i, j] -= factor * m[k, j]
        carried = m[n - 1, n - 1]
        if e == last:
            m[n - 1, n - 1] = 1.0 / carried


@njit(cache=True, nogil=True, error_model="numpy")
def _solve(basis: Basis, lu: Array, elements: int, right: Array) -> None:
    """Overwrite the right-hand side of one loading with the solution."""
    n = len(basis.shape)
    for e in range(elements):
        at = (n - 1) * e
        for k in range(n - 1):
            value = right[at + k]
            for i in range(k + 1, n):
                right[at + i] -= lu[e, i, k] * value
    right[(n - 1) * elements] *= lu[elements - 1, n - 1, n - 1]
    for e in range(elements - 1, -1, -1):
        at = (n - 1) * e
        for k in range(n - 2, -1, -1):
            value = right[at + k]
            for j in range(k + 1, n):
                value -= lu[e, k, j] * right[at + j]
            right[at + k] = value * lu[e, k, k]


@njit(cache=True, nogil=True, error_model="numpy")
def advance(
    basis: Basis,
    mesh: Mesh,
    size: Array,
    a: Array,
    error_weights: Array,
    dt: float,
    drifts: Array,
    start: Array,
    p: Array,
) -> tuple[Array, Array]:
    """Return the densities after one Runge-Kutta step, and the estimate of the error made in it.

    Parameters
    ----------
    basis, mesh
    size : ndarray
        Nodal weights M.
    a, error_weights : ndarray, shapes (s, s) and (s,)
        Of the tableau.
    dt : float
    drifts : ndarray, shape (s - 1, L, 4)
        c0, c1, c2, D of every loading at the stages after the first.
    start : ndarray
        M dp/dt at the beginning: the first stage.
    p : ndarray
    """
    n = len(basis.nodes)
    loadings = len(mesh.first) - 1
    stages = len(error_weights)
    most = 0
    for loading in range(loadings):
        most = max(most, mesh.first[loading + 1] - mesh.first[loading])
    lu = np.empty((most, n, n))
    b = np.empty(n)
    rates = np.empty((stages, (n - 1) * most + 1))
    right = np.empty((n - 1) * most + 1)
    value = np.empty((n - 1) * most + 1)
    result = np.empty(len(p))
    error = np.empty(len(p))
    gamma = dt * a[stages - 1, stages - 1]
    for loading in range(loadings):
        elements = mesh.first[loading + 1] - mesh.first[loading]
        at = (n - 1) * mesh.first[loading] + loading
        count = (n - 1) * elements + 1
        for i in range(count):
            rates[0, i] = start[at + i]
        for s in range(1, stages):
            for i in range(count):
                right[i] = size[at + i] * p[at + i]
            for r in range(s):
                factor = dt * a[s, r]
                for i in range(count):
                    right[i] += factor * rates[r, i]
            for i in range(count):
                value[i] = right[i]
            _factorize(basis, mesh, loading, gamma, drifts[s - 1, loading], b, lu)
            _solve(basis, lu, elements, value)
            for i in range(count):
                rates[s, i] = (size[at + i] * value[i] - right[i]) / gamma
        before = 0.0
        after = 0.0
        for i in range(count):
            before += size[at + i] * p[at + i]
            after += size[at + i] * value[i]
        for i in range(count):
            # Rounding errors of long steps on small elements would add up in the mass.
            result[at + i] = value[i] * (before / after)
            right[i] = 0.0
        for s in range(stages):
            factor = dt * error_weights[s]
            for i in range(count):
                right[i] += factor * rates[s, i]
        # One more solve damps the stiff part of the estimate, which the method itself damps too.
        _solve(basis, lu, elements, right)
        for i in range(count):
            error[at + i] = right[i]
    return result, error


@njit(cache=True, nogil=True, error_model="numpy")
def l1_norms(mesh: Mesh, size: Array, error: Array) -> Array:
    """Return the L1 norm per loading, (L,)."""
    loadings = len(mesh.first) - 1
    result = np.zeros(loadings)
    degree = (len(error) - loadings) // len(mesh.left)
    for loading in range(loadings):
        for i in range(degree * mesh.first[loading] + loading, degree * mesh.first[loading + 1] + loading + 1):
            result[loading] += size[i] * abs(error[i])
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def indicators(basis: Basis, mesh: Mesh, p: Array) -> Array:
    """Return, per element, the estimated L1 norm of what its polynomial leaves out (the last two Legendre terms)."""
    n = len(basis.nodes)
    result = np.empty(len(mesh.left))
    for loading in range(len(mesh.first) - 1):
        for e in range(mesh.first[loading], mesh.first[loading + 1]):
            at = (n - 1) * e + loading
            before = 0.0
            last = 0.0
            for i in range(n):
                before += basis.tail[0, i] * p[at + i]
                last += basis.tail[1, i] * p[at + i]
            result[e] = 0.5 * mesh.width[e] * (abs(before) + abs(last))
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def wall_mass(basis: Basis, mesh: Mesh, p: Array) -> float:
    """Return the largest mass at an end of the elements, in the worst loading."""
    n = len(basis.nodes)
    result = 0.0
    for loading in range(len(mesh.first) - 1):
        begin, end = mesh.first[loading], mesh.first[loading + 1]
        share = 0.5 * basis.weights[0]
        result = max(result, abs(p[(n - 1) * begin + loading]) * mesh.width[begin] * share)
        result = max(result, abs(p[(n - 1) * end + loading]) * mesh.width[end - 1] * share)
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def values_at(basis: Basis, mesh: Mesh, p: Array, loading: int, x: Array) -> Array:
    """Return the density of loading loading at increasing x (in its coordinates); zero beyond the elements."""
    n = len(basis.nodes)
    result = np.zeros(len(x))
    factors = np.ones(n)
    for i in range(n):
        for j in range(n):
            if j != i:
                factors[i] /= basis.nodes[i] - basis.nodes[j]
    e = mesh.first[loading]
    last = mesh.first[loading + 1] - 1
    for k in range(len(x)):
        while e < last and x[k] > mesh.left[e] + mesh.width[e]:
            e += 1
        place = 2.0 * (x[k] - mesh.left[e]) / mesh.width[e] - 1.0
        if abs(place) > 1.0 + 1e-12:
            continue
        at = (n - 1) * e + loading
        above = 0.0
        below = 0.0
        for i in range(n):
            gap = place - basis.nodes[i]
            if gap == 0.0:
                above, below = p[at + i], 1.0
                break
            above += factors[i] / gap * p[at + i]
            below += factors[i] / gap
        result[k] = above / below
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def distances(
    basis: Basis, mesh: Mesh, frame: Array, p: Array, other_mesh: Mesh, other_frame: Array, other_p: Array
) -> Array:
    """Return the L1 distance of two solutions for every loading, (L,), by the quadrature of the first."""
    degree = len(basis.nodes) - 1
    size = nodal_weights(basis, mesh)
    x = node_positions(basis, mesh)
    loadings = len(mesh.first) - 1
    result = np.zeros(loadings)
    for loading in range(loadings):
        at = degree * mesh.first[loading] + loading
        count = degree * (mesh.first[loading + 1] - mesh.first[loading]) + 1
        stretch = frame[loading, 1] / other_frame[loading, 1]
        there = np.empty(count)
        for i in range(count):
            there[i] = (frame[loading, 0] - other_frame[loading, 0]) / other_frame[loading, 1] + stretch * x[at + i]
        other = values_at(basis, other_mesh, other_p, loading, there)
        for i in range(count):
            result[loading] += size[at + i] * abs(p[at + i] - stretch * other[i])
    return result
