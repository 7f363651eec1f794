"""Boxes that follow the densities: coordinates w = origin + axes xi of the square [-1, 1]^2, one per loading.

Over a time step the coordinates move linearly in time. Where they go is a free choice, which the equation in the moving
coordinates takes into account; it is made such that mean and covariance of a density, moved by the part of the drift
that is affine in w and by the diffusion, stay where they are in the square. What is left to solve for is the shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.plane_table import cell_centres
from mkvlasov.problem.regularizers import Regularizer
from mkvlasov.solvers.pde.plane.drift import divide, within
from mkvlasov.solvers.pde.plane.grid import Frames, Moved, State, pace
from mkvlasov.solvers.pde.plane.rates import Rates
from mkvlasov.solvers.pde.plane.sweep_kernels import sweep

_MARGIN = 1.1
"""Size of a box over the reach of the density in it."""
_TOLERATED = 0.04
"""Relative change of the reach from which a box is resized."""
_GROWTH, _DECAY = 4.0, 1.0
"""Largest relative changes of a size while the density changes once; too small a box holds mass back."""


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

    def weights(self, n: int) -> Array:
        """Return the centres of the cells, shape (L, n, n, 2)."""
        x = cell_centres(n)
        xi = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1)
        return self.origin[:, None, None] + xi @ np.swapaxes(self.axes, 1, 2)[:, None]

    def moments(self, mass: Array) -> tuple[Array, Array]:
        """Return means (L, 2) and covariances (L, 2, 2) of the weights for masses (L, n, n)."""
        shape = shape_of(mass, 0.0)
        mean = self.origin + (self.axes @ shape.mean[..., None])[..., 0]
        return mean, self.axes @ shape.covariance @ np.swapaxes(self.axes, 1, 2)

    def follow(self, state: State, moved: Moved, noise: Array, tail: float, dt: float) -> Boxes:
        """Return the boxes in which mean and covariance will be where they were, but for changes of the reach."""
        shape = shape_of(state.mass, tail)
        step = dt * moved.gradient
        eye = np.eye(2)
        half, whole = eye + 0.5 * step + step @ step / 8.0, eye + step + 0.5 * step @ step
        mean = state.mean + dt * (moved.velocity + 0.5 * (step @ moved.velocity[..., None])[..., 0])
        predicted = whole @ self.axes
        added = dt * within(predicted, half @ noise @ np.swapaxes(half, 1, 2))
        spread, middle = self._resized(shape, dt * pace(state, moved, noise))
        # axes = predicted K with K diag(1 / spread^2) K^T the covariance predicted: K is near the identity.
        root = square_root(spread[:, :, None] * (shape.covariance + added) * spread[:, None, :])
        axes = predicted @ (root / spread[:, :, None] * spread[:, None, :])
        return Boxes(mean - (axes @ middle[..., None])[..., 0], axes, spread, middle)

    def advance(
        self,
        end: Boxes,
        mass: Array,
        dt: float,
        rates: Rates,
        loadings: Array,
        regularizer: Regularizer,
        positive: bool,
    ) -> Array:
        """Return the masses after dt: Strang splitting over three directions."""
        middle = Boxes(0.5 * (self.origin + end.origin), 0.5 * (self.axes + end.axes), end.spread, end.middle)
        speed = (end.origin - self.origin) / dt, (end.axes - self.axes) / dt
        parts = divide(middle, speed, rates, loadings, regularizer, mass.shape[1])
        mass = mass.copy()
        for k, share in ((0, 0.5), (1, 0.5), (2, 1.0), (1, 0.5), (0, 0.5)):
            sweep(mass, parts.directions[k], parts.diffusion[k], parts.affine[k], parts.faces[k], share * dt, positive)
        return mass

    def scaled(self, factors: Array) -> Boxes:
        """Return the boxes of the weights multiplied by factors (2,)."""
        return Boxes(factors * self.origin, factors[:, None] * self.axes, self.spread, self.middle)

    def coarsened(self) -> Boxes:
        """Return the same boxes, which know no cells."""
        return self

    def frames(self, n: int) -> Frames:
        """Return where the cells are."""
        coordinates = np.broadcast_to(cell_centres(n), (len(self.origin), 2, n))
        area = np.abs(np.linalg.det(self.axes)) * (2.0 / n) ** 2
        return Frames(self.origin, self.axes, coordinates, np.broadcast_to(area[:, None, None], (len(area), n, n)))

    def _resized(self, shape: Shape, time: float) -> tuple[Array, Array]:
        wanted, middle = sizes(shape)
        growth, decay = _GROWTH * min(time, 0.3), _DECAY * min(time, 0.3)
        ratio = np.clip(wanted / self.spread, 1.0 - decay, 1.0 + growth)
        change = np.where(np.abs(wanted / self.spread - 1.0) > _TOLERATED, ratio, 1.0)
        shift = middle - self.middle
        shift = np.where(np.abs(shift) > _TOLERATED, np.clip(shift, -growth, growth), 0.0)
        return self.spread * change, self.middle + shift


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
