"""The equation in the coordinates of moving boxes, divided among three directions of their grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.plane_table import cell_centres
from mkvlasov.problem.regularizers import GroupLasso, Regularizer
from mkvlasov.solvers.pde.plane.boxes import Boxes, within
from mkvlasov.solvers.pde.plane.rates import Rates
from mkvlasov.solvers.pde.plane.sweep_kernels import IntArray, selling

_FURTHEST = 6.0
"""Standard deviations up to which the reference drift grows like the variance of the density asks for."""


@dataclass(frozen=True, slots=True)
class Parts:
    """For each of three directions v_k: D_k, and the speed affine_k0 + affine_k1 xi_1 + affine_k2 xi_2 + faces_k along it.

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


@dataclass(frozen=True, slots=True)
class Force:
    """What averages over the densities say about psi' (phi' less a part linear in w), for L loadings.

    Attributes
    ----------
    mean : ndarray, shape (L, 2)
        E[psi'].
    gradient : ndarray, shape (L, 2, 2)
        J of the affine fit E[psi'] + J (w - E w).
    rest : ndarray, shape (L,)
        Root mean square of what the fit leaves, in standard deviations of the density.
    virial : ndarray, shape (L, 2)
        E[w_j psi'_j].
    """

    mean: Array
    gradient: Array
    rest: Array
    virial: Array


def no_force(loadings: int) -> Force:
    """Return the averages for psi = 0."""
    return Force(np.zeros((loadings, 2)), np.zeros((loadings, 2, 2)), np.zeros(loadings), np.zeros((loadings, 2)))


def force(regularizer: Regularizer, boxes: Boxes, mass: Array, mean: Array, covariance: Array) -> Force:
    """Average psi' over masses (L, n, n); `mean` and `covariance` are theirs, in the coordinates of the square."""
    loadings, n = mass.shape[0], mass.shape[1]
    w = boxes.nodes(n).reshape(loadings, -1, 2)
    gradient = regularizer.gradient(w)
    weighted = mass.reshape(loadings, -1, 1) * gradient
    average = weighted.sum(axis=1)
    x = cell_centres(n)
    xi = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2)
    crossed = np.swapaxes(weighted, 1, 2) @ xi - average[..., None] * mean[:, None]
    slope = crossed @ np.linalg.inv(covariance)
    rest = gradient - average[:, None] - (xi - mean[:, None]) @ np.swapaxes(slope, 1, 2)
    inverse = np.linalg.inv(boxes.axes)
    scaled = boxes.spread[:, None] * (rest @ np.swapaxes(inverse, 1, 2))
    size = np.sqrt((mass.reshape(loadings, -1) * (scaled * scaled).sum(axis=2)).sum(axis=1).clip(0.0))
    return Force(average, slope @ inverse, size, (weighted * w).sum(axis=1))


def divide(
    start: Boxes, end: Boxes, dt: float, rates: Rates, loadings: Array, regularizer: Regularizer, n: int
) -> Parts:
    """Return the equation in the middle of a time step in which the boxes move from `start` to `end`.

    In the coordinates xi the drift is axes^-1 (b(w) - d origin/dt - d axes/dt xi). A part of it, which keeps a normal
    law of the mean and spread of the box where it is, goes along with the diffusion: each direction for itself then
    keeps that law. The rest is divided among the two heaviest directions, which are a basis of the grid.
    """
    origin, axes = 0.5 * (start.origin + end.origin), 0.5 * (start.axes + end.axes)
    inverse = np.linalg.inv(axes)
    velocity = -(origin @ rates.linear.T) - loadings @ rates.tilt.T - (end.origin - start.origin) / dt
    constant = (inverse @ velocity[..., None])[..., 0]
    matrix = inverse @ (-rates.linear @ axes - (end.axes - start.axes) / dt)
    directions, weights = selling(within(axes, rates.noise))
    v = directions.astype(np.float64)
    inner = np.minimum(end.spread, _FURTHEST) ** 2
    pull = 0.5 * weights[..., None] * v * inner[:, None]
    keep = np.einsum("lki,lkj->lij", v, pull)
    constant = constant - (keep @ end.middle[..., None])[..., 0]
    matrix = matrix + keep
    basis = np.linalg.inv(np.swapaxes(v[:, :2], 1, 2))
    affine = np.empty((3, len(origin), 3))
    affine[:, :, 0] = np.einsum("lki,li->kl", pull, end.middle)
    affine[:, :, 1:] = -np.swapaxes(pull, 0, 1)
    affine[:2, :, 0] += (basis @ constant[..., None])[..., 0].T
    affine[:2, :, 1:] += np.swapaxes(basis @ matrix, 0, 1)
    if regularizer.linear_strength is None:
        middle = Boxes(origin, axes, end.spread, end.middle)
        faces = np.zeros((3, len(origin), n, n))
        for k in range(2):
            slope = _slopes(regularizer, middle, v[:, k], n)
            faces[k] = -rates.tau * np.einsum("lj,labj->lab", (basis @ inverse)[:, k], slope)
    else:
        faces = np.zeros((3, len(origin), 0, 0))
    return Parts(
        np.ascontiguousarray(np.swapaxes(directions, 0, 1)), np.ascontiguousarray(0.5 * weights.T), affine, faces
    )


def _slopes(regularizer: Regularizer, boxes: Boxes, v: Array, n: int) -> Array:
    """Return the gradient of phi on the faces in direction v (L, 2), (L, n, n, 2).

    At a kink it is the difference of phi between the cells, divided by the difference of the weights, which is the
    average of phi' over the way from one cell to the next.
    """
    w = boxes.nodes(n)
    step = (boxes.axes @ v[..., None])[..., 0] * (2.0 / n)
    if not regularizer.kinks or isinstance(regularizer, GroupLasso):
        return regularizer.gradient(w + 0.5 * step[:, None, None])
    step = step[:, None, None]
    difference = regularizer.value((w + step)[..., None]) - regularizer.value(w[..., None])
    still = np.abs(step) < 1e-9 * np.abs(boxes.axes).max(axis=(1, 2))[:, None, None, None]
    return np.where(still, regularizer.gradient(w), difference / np.where(still, 1.0, step))
