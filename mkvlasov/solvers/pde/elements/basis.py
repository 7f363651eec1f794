"""One spectral element: Gauss-Lobatto nodes, its matrices, and how to halve it or join two halves."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre

from mkvlasov._typing import Array


class Basis(NamedTuple):
    """Polynomials of degree N on [-1, 1], given by their values at n = N + 1 Gauss-Lobatto nodes.

    Attributes
    ----------
    nodes, weights : ndarray, shape (n,)
        Quadrature, exact for degrees up to 2 N - 1.
    drift : ndarray, shape (n, n)
        weights[j] l_i'(node j): test function i against the value at node j.
    stiffness : ndarray, shape (n, n)
        Integrals of l_i' l_j'.
    tail : ndarray, shape (2, n)
        From values to the last two Legendre coefficients.
    halves : ndarray, shape (2, n, n)
        From values to the values on the left and right half.
    join : ndarray, shape (2, n, n)
        From the values on two halves to those of one element, with the same ends and the same moments 0 to N - 2.
    shape : tuple of int
        n zeros: its length is known when kernels are compiled, so that their inner loops are unrolled.
    """

    nodes: Array
    weights: Array
    drift: Array
    stiffness: Array
    tail: Array
    halves: Array
    join: Array
    shape: tuple[int, ...]


@cache
def basis(degree: int) -> Basis:
    """Return the basis of a degree >= 4."""
    n = degree + 1
    top = np.zeros(n)
    top[degree] = 1.0
    inner = np.sort(legendre.legroots(legendre.legder(top)).real)
    nodes = np.concatenate([[-1.0], 0.5 * (inner - inner[::-1]), [1.0]])
    weights = 2.0 / (degree * n * legendre.legval(nodes, top) ** 2)
    values = legendre.legvander(nodes, degree)
    # From nodal values to Legendre coefficients; the quadrature of P_N^2 is 2 / N instead of 2 / (2 N + 1).
    norms = np.append(2.0 / (2.0 * np.arange(degree) + 1.0), 2.0 / degree)
    modal = values.T * weights / norms[:, None]
    derivative = legendre.legval(nodes, legendre.legder(np.eye(n))).T @ modal
    # The derivative of one vanishes to the last digit, so that mass is conserved to rounding.
    derivative -= np.diag(derivative.sum(axis=1))
    left, right = 0.5 * (nodes - 1.0), 0.5 * (nodes + 1.0)
    halves = np.stack([legendre.legvander(side, degree) @ modal for side in (left, right)])
    return Basis(
        nodes=nodes,
        weights=weights,
        drift=np.ascontiguousarray((weights[:, None] * derivative).T),
        stiffness=np.ascontiguousarray((derivative.T * weights) @ derivative),
        tail=np.ascontiguousarray(modal[-2:]),
        halves=np.ascontiguousarray(halves),
        join=np.ascontiguousarray(_join(nodes, weights)),
        shape=(0,) * n,
    )


def _join(nodes: Array, weights: Array) -> Array:
    degree = len(nodes) - 1
    # Test functions: Legendre polynomials up to N - 2, as many as there are inner nodes.
    wide = (legendre.legvander(nodes, degree - 2) * weights[:, None]).T
    result = np.zeros((2, degree + 1, degree + 1))
    result[0, 0, 0] = result[1, degree, degree] = 1.0
    for half, at in enumerate((0.5 * (nodes - 1.0), 0.5 * (nodes + 1.0))):
        given = 0.5 * (legendre.legvander(at, degree - 2) * weights[:, None]).T
        end = 0 if half == 0 else degree
        given[:, end] -= wide[:, end]
        result[half, 1:degree] = np.linalg.solve(wide[:, 1:degree], given)
    return result
