"""What the time steps ask of grids that follow densities, and what is measured of the masses on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.regularizers import Regularizer
from mkvlasov.solvers.pde.plane.rates import Averages, Rates


@dataclass(frozen=True, slots=True)
class Frames:
    """Where the cells of L loadings are: w = origin + axes xi, with xi on a tensor grid.

    Attributes
    ----------
    origin, axes : ndarray, shapes (L, 2) and (L, 2, 2)
    coordinates : ndarray, shape (L, 2, n)
        Values of xi_1 and of xi_2.
    areas : ndarray, shape (L, n, n)
        Of the cells, in the plane of w.
    """

    origin: Array
    axes: Array
    coordinates: Array
    areas: Array


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


@dataclass(frozen=True, slots=True)
class Moved:
    """How the densities move: velocity of their means (L, 2), and its affine fit around them (L, 2, 2)."""

    velocity: Array
    gradient: Array


@dataclass(frozen=True, slots=True)
class State:
    """Masses (L, n, n) on a grid at a time, and what is measured of them.

    Attributes
    ----------
    t : float
    grid : Grid
    mass : ndarray, shape (L, n, n)
    mean, covariance : ndarray, shapes (L, 2) and (L, 2, 2)
        Of the weights.
    force : Force
    averages : Averages
    """

    t: float
    grid: Grid
    mass: Array
    mean: Array
    covariance: Array
    force: Force
    averages: Averages


class Grid(Protocol):
    """A grid per loading that moves; over a time step its coordinates move linearly in time."""

    def weights(self, n: int) -> Array:
        """Return the weights w at the n x n cells, shape (L, n, n, 2)."""

    def moments(self, mass: Array) -> tuple[Array, Array]:
        """Return means (L, 2) and covariances (L, 2, 2) of the weights for masses (L, n, n)."""

    def follow(self, state: State, moved: Moved, noise: Array, tail: float, dt: float) -> Self:
        """Return where the grid should be after dt, for noise Lambda (2, 2), but for a `tail` of the mass."""

    def advance(
        self, end: Self, mass: Array, dt: float, rates: Rates, loadings: Array, regularizer: Regularizer, positive: bool
    ) -> Array:
        """Return the masses after dt, while the grid moves to `end`."""

    def scaled(self, factors: Array) -> Self:
        """Return the grid in which every cell is where its weights are after multiplication by factors (2,)."""

    def coarsened(self) -> Self:
        """Return the grid for half as many cells per direction."""

    def frames(self, n: int) -> Frames:
        """Return where the cells are."""


def no_force(loadings: int) -> Force:
    """Return the averages for psi = 0."""
    return Force(np.zeros((loadings, 2)), np.zeros((loadings, 2, 2)), np.zeros(loadings), np.zeros((loadings, 2)))


def force(regularizer: Regularizer, w: Array, mass: Array, mean: Array, covariance: Array) -> Force:
    """Average psi' over masses (L, n, n) at weights w (L, n, n, 2) with given moments."""
    loadings = len(mass)
    w, shares = w.reshape(loadings, -1, 2), mass.reshape(loadings, -1, 1)
    gradient = regularizer.gradient(w)
    weighted = shares * gradient
    average = weighted.sum(axis=1)
    away = w - mean[:, None]
    inverse = np.linalg.inv(covariance)
    slope = np.swapaxes(weighted, 1, 2) @ away @ inverse
    rest = gradient - average[:, None] - away @ np.swapaxes(slope, 1, 2)
    squared = (shares * rest * (rest @ inverse)).sum(axis=(1, 2))
    return Force(average, slope, np.sqrt(squared.clip(0.0)), (weighted * w).sum(axis=1))


def pace(state: State, moved: Moved, noise: Array) -> float:
    """Return how fast the densities change, per unit of time: the fastest of them."""
    turn = np.linalg.norm(moved.gradient, axis=(1, 2))
    widening = 0.25 * np.trace(np.linalg.solve(state.covariance, noise), axis1=1, axis2=2)
    return float((turn + widening).max() + np.abs(moved.velocity).max() / np.sqrt(np.trace(state.averages.Q)))
