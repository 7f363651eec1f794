"""The equation in the coordinates of moving boxes, divided among three directions of their grids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.regularizers import GroupLasso, Regularizer
from mkvlasov.solvers.pde.plane.rates import Rates
from mkvlasov.solvers.pde.plane.sweep_kernels import IntArray, selling

if TYPE_CHECKING:
    from mkvlasov.solvers.pde.plane.boxes import Boxes

_FURTHEST = 6.0
"""Standard deviations up to which the reference drift grows like the variance of the density asks for."""


@dataclass(frozen=True, slots=True)
class Parts:
    """For each of three directions v_k: D_k, and the speed affine_k0 + affine_k1 xi_1 + affine_k2 xi_2 + faces_k.

    Attributes
    ----------
    directions : ndarray of int, shape (3, L, 2)
    diffusion : ndarray, shape (3, L)
    affine : ndarray, shape (3, L, 3)
    faces : ndarray, shape (3, L, n, n)
        Or (3, L, 0, 0) for an affine drift.
    """

    directions: IntArray
    diffusion: Array
    affine: Array
    faces: Array


def within(axes: Array, matrix: Array) -> Array:
    """Return axes^-1 matrix axes^-T: a diffusion matrix in the coordinates of the square."""
    inverse = np.linalg.inv(axes)
    return inverse @ matrix @ np.swapaxes(inverse, 1, 2)


def divide(
    boxes: Boxes, speed: tuple[Array, Array], rates: Rates, loadings: Array, regularizer: Regularizer, n: int
) -> Parts:
    """Return the equation in boxes whose origins (L, 2) and axes (L, 2, 2) move with the given speed.

    In the coordinates xi the drift is axes^-1 (b(w) - d origin/dt - d axes/dt xi). A part of it, which keeps a normal
    law of the mean and spread of the box where it is, goes along with the diffusion: each direction for itself then
    keeps that law. The rest is divided among the two heaviest directions, which are a basis of the grid.
    """
    inverse = np.linalg.inv(boxes.axes)
    velocity = -(boxes.origin @ rates.linear.T) - loadings @ rates.tilt.T - speed[0]
    constant = (inverse @ velocity[..., None])[..., 0]
    matrix = inverse @ (-rates.linear @ boxes.axes - speed[1])
    directions, weights = selling(within(boxes.axes, rates.noise))
    v = directions.astype(np.float64)
    inner = np.minimum(boxes.spread, _FURTHEST) ** 2
    pull = 0.5 * weights[..., None] * v * inner[:, None]
    keep = np.einsum("lki,lkj->lij", v, pull)
    constant = constant - (keep @ boxes.middle[..., None])[..., 0]
    matrix = matrix + keep
    basis = np.linalg.inv(np.swapaxes(v[:, :2], 1, 2))
    affine = np.empty((3, len(loadings), 3))
    affine[:, :, 0] = np.einsum("lki,li->kl", pull, boxes.middle)
    affine[:, :, 1:] = -np.swapaxes(pull, 0, 1)
    affine[:2, :, 0] += (basis @ constant[..., None])[..., 0].T
    affine[:2, :, 1:] += np.swapaxes(basis @ matrix, 0, 1)
    if regularizer.linear_strength is None:
        faces = np.zeros((3, len(loadings), n, n))
        for k in range(2):
            slope = _slopes(regularizer, boxes, v[:, k], n)
            faces[k] = -rates.tau * np.einsum("lj,labj->lab", (basis @ inverse)[:, k], slope)
    else:
        faces = np.zeros((3, len(loadings), 0, 0))
    return Parts(
        np.ascontiguousarray(np.swapaxes(directions, 0, 1)), np.ascontiguousarray(0.5 * weights.T), affine, faces
    )


def _slopes(regularizer: Regularizer, boxes: Boxes, v: Array, n: int) -> Array:
    """Return the gradient of phi on the faces in direction v (L, 2), (L, n, n, 2).

    At a kink it is the difference of phi between the cells, divided by the difference of the weights, which is the
    average of phi' over the way from one cell to the next.
    """
    w = boxes.weights(n)
    step = (boxes.axes @ v[..., None])[..., 0] * (2.0 / n)
    if not regularizer.kinks or isinstance(regularizer, GroupLasso):
        return regularizer.gradient(w + 0.5 * step[:, None, None])
    step = step[:, None, None]
    difference = regularizer.value((w + step)[..., None]) - regularizer.value(w[..., None])
    still = np.abs(step) < 1e-9 * np.abs(boxes.axes).max(axis=(1, 2))[:, None, None, None]
    return np.where(still, regularizer.gradient(w), difference / np.where(still, 1.0, step))
