"""Densities of two weights as results: averages, values anywhere, marginals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.density import Density
from mkvlasov.errors import InvalidInput
from mkvlasov.problem.plane_table import PlaneTable


@dataclass(frozen=True, eq=False)
class PlaneDensity:
    """A joint density p(w_1, w_2 | a) on cells, w = origin + axes xi with xi on a tensor grid.

    Averages are sums over the cells. In between, the density is interpolated by cubic splines; an accurate method may
    leave small negative values where it vanishes.

    Attributes
    ----------
    origin, axes : ndarray, shapes (2,) and (2, 2)
    coordinates : ndarray, shape (2, n)
        Increasing values of xi_1 and xi_2 at the centres of the cells, which end half-way between them.
    p : ndarray, shape (n, n)
        Density at the centres of the cells.
    """

    origin: Array
    axes: Array
    coordinates: Array
    p: Array

    @cached_property
    def law(self) -> PlaneTable:
        """The same as a law, which can be moved, blurred and drawn from."""
        return PlaneTable(self.origin, self.axes, self.coordinates, self.p)

    @cached_property
    def w(self) -> Array:
        """Centres of the cells, shape (n, n, 2)."""
        return self.law.w

    @property
    def masses(self) -> Array:
        """Masses of the cells, shape (n, n)."""
        return self.law.masses

    @property
    def mean(self) -> Array:
        """E[w | a], shape (2,)."""
        return self.law.mean

    @property
    def covariance(self) -> Array:
        """Cov[w | a], shape (2, 2)."""
        mean = self.mean
        return self.law.second_moment - np.outer(mean, mean)

    def mean_of(self, function: Callable[[Array], Array]) -> float:
        """Return the mean of a function of w, which takes an array (n, n, 2) and returns one of shape (n, n)."""
        allowed = "a function from an array (n, n, 2) to finite numbers of shape (n, n)"
        values = np.asarray(_checks.function_of("function", function, 1, allowed)(self.w), dtype=np.float64)
        if values.shape not in ((), self.p.shape) or not np.isfinite(values).all():
            raise InvalidInput("function", function, allowed)
        return float((self.masses * values).sum())

    def pdf(self, w: ArrayLike) -> Array:
        """Return the density at points w (..., 2), shape (...); zero outside of the cells."""
        at = _checks.array("w", w)
        if at.shape[-1:] != (2,):
            raise InvalidInput("w", w, "points of the plane: an array of shape (..., 2)")
        return self.law.pdf(at.reshape(-1, 2)).reshape(at.shape[:-1])

    def marginal(self, output: int) -> Density:
        """Return the density of one of the two weights, output 0 or 1."""
        output = _checks.integer("output", output, minimum=0, maximum=1)
        table = self.law.marginal(output)
        return Density(table.w, table.p, table.weights)
