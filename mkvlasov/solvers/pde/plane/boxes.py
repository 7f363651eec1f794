"""Boxes that follow the densities: coordinates w = origin + axes xi of the square [-1, 1]^2, one per loading.

Over a time step the coordinates move linearly in time. Where they go is a free choice, which the equation in the moving
coordinates takes into account; it is made such that mean and covariance of a density, moved by the part of the drift
that is affine in w and by the diffusion, stay where they are in the square. What is left to solve for is then the shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.plane_table import cell_centres

_MARGIN = 1.1
"""Size of a box over the reach of the density in it."""
_TOLERATED = 0.04
"""Relative change of the reach from which a box is resized."""
_GROWTH, _DECAY = 0.12, 0.03
"""Largest relative changes of a size per step; too large a box costs cells, too small a one holds mass back."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of L loadings at a time.

    Attributes
    ----------
    origin, axes : ndarray, shapes (L, 2) and (L, 2, 2)
        w = origin + axes xi.
    spread : ndarray, shape (L, 2)
        Half the width of the box in standard deviations of the density, along its axes.
    middle : ndarray, shape (L, 2)
        Where in the square the mean of the density is kept.
    """

    origin: Array
    axes: Array
    spread: Array
    middle: Array

    def nodes(self, n: int) -> Array:
        """Return the centres of the cells, shape (L, n, n, 2)."""
        x = cell_centres(n)
        return self.at(np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1))

    def at(self, xi: Array) -> Array:
        """Return the weights w (L, n, n, 2) at points of the square (n, n, 2) or (L, n, n, 2)."""
        return self.origin[:, None, None] + xi @ np.swapaxes(self.axes, 1, 2)[:, None]

    def cell_areas(self, n: int) -> Array:
        """Return the areas of the cells, shape (L,)."""
        return np.abs(np.linalg.det(self.axes)) * (2.0 / n) ** 2


@dataclass(frozen=True, slots=True)
class Shape:
    """What the masses in the square [-1, 1]^2 look like, for L loadings.

    Attributes
    ----------
    mean, covariance : ndarray, shapes (L, 2) and (L, 2, 2)
    low, high : ndarray, shape (L, 2)
        Between which all but a tail of the mass is, along every axis.
    """

    mean: Array
    covariance: Array
    low: Array
    high: Array


def shape_of(mass: Array, tail: float) -> Shape:
    """Measure masses (L, n, n)."""
    n = mass.shape[1]
    x = cell_centres(n)
    marginals = np.stack([mass.sum(axis=2), mass.sum(axis=1)], axis=1)
    mean = marginals @ x
    covariance = np.empty((len(mass), 2, 2))
    covariance[:, 0, 1] = covariance[:, 1, 0] = (x @ mass) @ x - mean[:, 0] * mean[:, 1]
    for axis in range(2):
        away = x - mean[:, axis, None]
        covariance[:, axis, axis] = (marginals[:, axis] * away * away).sum(axis=1)
    size = np.abs(marginals)
    first = (np.cumsum(size, axis=2) > tail).argmax(axis=2)
    last = n - 1 - (np.cumsum(size[..., ::-1], axis=2) > tail).argmax(axis=2)
    return Shape(mean, covariance, x[first] - 1.0 / n, x[last] + 1.0 / n)


def sizes(shape: Shape) -> tuple[Array, Array]:
    """Return half the width of a box in standard deviations, and the place of the mean in it, that suit a shape."""
    std = np.sqrt(np.maximum(np.diagonal(shape.covariance, axis1=1, axis2=2), 1e-300))
    below, above = (shape.mean - shape.low) / std * _MARGIN, (shape.high - shape.mean) / std * _MARGIN
    return 0.5 * (below + above), (below - above) / (below + above)


def follow(boxes: Boxes, shape: Shape, drift: Array, gradient: Array, noise: Array, dt: float) -> Boxes:
    """Return the boxes after a time step.

    Parameters
    ----------
    boxes : Boxes
    shape : Shape
        Of the masses in them.
    drift, gradient : ndarray, shapes (L, 2) and (L, 2, 2)
        Mean velocity of the weights, and the matrix A of the affine fit A (w - mean) of the velocity around it.
    noise : ndarray, shape (2, 2)
        Lambda.
    dt : float
    """
    step = dt * gradient
    eye = np.eye(2)
    half, moved = eye + 0.5 * step + step @ step / 8.0, eye + step + 0.5 * step @ step
    mean = boxes.origin + (boxes.axes @ shape.mean[..., None])[..., 0]
    mean = mean + dt * (drift + 0.5 * (step @ drift[..., None])[..., 0])
    predicted = moved @ boxes.axes
    added = dt * within(predicted, half @ noise @ np.swapaxes(half, 1, 2))
    spread, middle = _resized(boxes, shape)
    # axes = predicted K with K diag(1 / spread^2) K^T the covariance predicted: K is near the identity.
    scaled = spread[:, :, None] * (shape.covariance + added) * spread[:, None, :]
    root = square_root(scaled)
    axes = predicted @ (root / spread[:, :, None] * spread[:, None, :])
    return Boxes(mean - (axes @ middle[..., None])[..., 0], axes, spread, middle)


def within(axes: Array, matrix: Array) -> Array:
    """Return axes^-1 matrix axes^-T: a diffusion matrix in the coordinates of the square."""
    inverse = np.linalg.inv(axes)
    return inverse @ matrix @ np.swapaxes(inverse, 1, 2)


def _resized(boxes: Boxes, shape: Shape) -> tuple[Array, Array]:
    wanted, middle = sizes(shape)
    ratio = np.clip(wanted / boxes.spread, 1.0 - _DECAY, 1.0 + _GROWTH)
    change = np.where(np.abs(wanted / boxes.spread - 1.0) > _TOLERATED, ratio, 1.0)
    shift = np.clip(middle - boxes.middle, -_GROWTH, _GROWTH)
    shift = np.where(np.abs(shift) > _TOLERATED, shift, 0.0)
    return boxes.spread * change, boxes.middle + shift
