"""A law in the plane given by its density on the cells of a tensor grid, affinely mapped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.tabulated import TabulatedLaw
from mkvlasov.problem.value import Value

if TYPE_CHECKING:
    from scipy.interpolate import RectBivariateSpline

_NOISE_REACH = 8.0
"""Standard deviations of noise by which a table grows."""
_MOST_CELLS = 512
"""Of a blurred table, per direction."""


def cell_centres(n: int) -> Array:
    """Return the middles of n equal cells of [-1, 1]."""
    return np.asarray((np.arange(n) + 0.5) * (2.0 / n) - 1.0, dtype=np.float64)


@dataclass(frozen=True, eq=False, repr=False)
class PlaneTable(Value):
    """Law of two weights, w = origin + axes xi, with a density on the cells of a tensor grid of xi.

    Moments are sums over the cells; between their centres the density is interpolated by cubic splines.

    Attributes
    ----------
    origin, axes : ndarray, shapes (2,) and (2, 2)
    coordinates : ndarray, shape (2, n)
        Increasing values of xi_1 and xi_2 at the centres of the cells, which end half-way between them.
    p : ndarray, shape (n, n)
        Density, with respect to w, at the centres of the cells.
    """

    origin: Array
    axes: Array
    coordinates: Array
    p: Array

    @property
    def w(self) -> Array:
        """Centres of the cells, shape (n, n, 2)."""
        return self.origin + np.stack(np.meshgrid(*self.coordinates, indexing="ij"), axis=-1) @ self.axes.T

    @cached_property
    def edges(self) -> Array:
        """Ends of the cells in xi, shape (2, n + 1); the outer cells reach as far beyond their centres as before."""
        x = self.coordinates
        middles = 0.5 * (x[:, 1:] + x[:, :-1])
        first, last = 2.0 * x[:, :1] - middles[:, :1], 2.0 * x[:, -1:] - middles[:, -1:]
        return np.concatenate([first, middles, last], axis=1)

    @property
    def is_uniform(self) -> bool:
        """Whether all cells have the same size."""
        gaps = np.diff(self.coordinates, axis=1)
        return bool(np.ptp(gaps, axis=1).max() <= 1e-9 * gaps.mean())

    @cached_property
    def masses(self) -> Array:
        """Masses of the cells, shape (n, n)."""
        first, second = np.diff(self.edges, axis=1)
        return self.p * np.outer(first, second) * float(abs(np.linalg.det(self.axes)))

    @property
    def mean(self) -> Array:
        """E[w], shape (2,)."""
        return np.einsum("ij,ijk->k", self.masses, self.w)

    @property
    def second_moment(self) -> Array:
        """E[w w^T], shape (2, 2)."""
        w = self.w.reshape(-1, 2)
        return (self.masses.reshape(-1, 1) * w).T @ w

    @property
    def is_smooth(self) -> bool:
        """Whether there is a density without jumps: so it is taken to be."""
        return True

    def pdf(self, w: Array) -> Array:
        """Return the density at w (k, 2), zero outside of the cells."""
        xi = np.linalg.solve(self.axes, (w - self.origin).T)
        low, high = self.edges[:, :1], self.edges[:, -1:]
        inside = ((xi >= low) & (xi <= high)).all(axis=0)
        return np.where(inside, self._spline.ev(*np.clip(xi, low, high)), 0.0)

    @cached_property
    def _spline(self) -> RectBivariateSpline:
        from scipy.interpolate import RectBivariateSpline

        return RectBivariateSpline(self.coordinates[0], self.coordinates[1], self.p)

    def affine(self, A: Array, shift: Array, P: Array) -> PlaneTable:
        """Return the law of A w + shift + N(0, P); A and P are (2, 2), shift is (2,)."""
        p = self.p / abs(np.linalg.det(A))
        moved = PlaneTable(A @ self.origin + shift, A @ self.axes, self.coordinates, p)
        return moved._blurred(P) if P.any() else moved

    def _blurred(self, P: Array) -> PlaneTable:
        """Convolve with N(0, P) by its Fourier transform, on uniform cells that have room for the noise."""
        inverse = np.linalg.inv(self.axes)
        noise = inverse @ P @ inverse.T
        std = np.sqrt(np.maximum(np.diagonal(noise), 0.0))
        low, high = self.edges[:, 0], self.edges[:, -1]
        half = 0.5 * (high - low) + _NOISE_REACH * std
        finest = np.minimum(np.diff(self.coordinates, axis=1).min(axis=1), np.where(std > 0.0, std, np.inf))
        cells = int(min(2.0 * np.ceil((half / finest).max()), _MOST_CELLS))
        box = PlaneTable(
            self.origin + self.axes @ (0.5 * (low + high)),
            self.axes * half,
            np.tile(cell_centres(cells), (2, 1)),
            np.zeros((cells, cells)),
        )
        p = self.pdf(box.w.reshape(-1, 2)).reshape(cells, cells)
        k = 2.0 * np.pi * np.fft.fftfreq(cells, 2.0 / cells)
        k1, k2 = k[:, None] / half[0], k[None, : cells // 2 + 1] / half[1]
        power = noise[0, 0] * k1**2 + 2.0 * noise[0, 1] * k1 * k2 + noise[1, 1] * k2**2
        p = np.fft.irfft2(np.fft.rfft2(p) * np.exp(-0.5 * power), s=(cells, cells))
        blurred = PlaneTable(box.origin, box.axes, box.coordinates, p)
        return PlaneTable(box.origin, box.axes, box.coordinates, p * (self.masses.sum() / blurred.masses.sum()))

    def marginal(self, output: int) -> TabulatedLaw:
        """Return the law of one of the weights.

        Along the sides of the grid the masses are added up. Across, on uniform cells, the rows of cells are shifted to
        common nodes by cubic interpolation, which keeps the mass and the first three moments.
        """
        own = self.axes[output]
        if own[1 - output] == 0.0:
            mass, widths = self.masses.sum(axis=1 - output), np.diff(self.edges[output]) * abs(own[output])
            w = self.origin[output] + own[output] * self.coordinates[output]
            order = slice(None) if own[output] > 0.0 else slice(None, None, -1)
            return TabulatedLaw(w[order], (mass / widths)[order], widths[order])
        if not self.is_uniform:
            return self._blurred(np.zeros((2, 2))).marginal(output)
        return self._slanted_marginal(output)

    def _slanted_marginal(self, output: int) -> TabulatedLaw:
        along = int(np.abs(self.axes[output]).argmax())
        rows = self.p.T if along == 0 else self.p  # one row per cell across
        n = len(rows)
        reach, across = self.axes[output, along], self.axes[output, 1 - along]
        gap = self.coordinates[along, 1] - self.coordinates[along, 0]
        step = abs(reach) * gap
        rows = rows if reach > 0.0 else rows[:, ::-1]
        shifts = across * self.coordinates[1 - along] / step
        first = np.floor(shifts).astype(int)
        part = shifts - first
        low = first.min() - 1
        density = np.zeros(n + int(first.max() - first.min()) + 3)
        shares = (
            -part * (part - 1.0) * (part - 2.0) / 6.0,
            (part + 1.0) * (part - 1.0) * (part - 2.0) / 2.0,
            -(part + 1.0) * part * (part - 2.0) / 2.0,
            (part + 1.0) * part * (part - 1.0) / 6.0,
        )
        for row, begin, *share in zip(rows, first - 1 - low, *shares, strict=True):
            for k, each in enumerate(share):
                density[begin + k : begin + k + n] += each * row
        begin = self.origin[output] + min(reach * self.coordinates[along, 0], reach * self.coordinates[along, -1])
        w = begin + step * (np.arange(len(density)) + low)
        side = (
            abs(float(np.linalg.det(self.axes)))
            * gap
            * (self.coordinates[1 - along, 1] - self.coordinates[1 - along, 0])
        )
        return TabulatedLaw(w, density * (side / step), np.full(len(w), step))

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        """Draw n independent rows, shape (n, 2): uniformly within a cell, scaled to the variances of the table."""
        chances = np.maximum(self.masses, 0.0)
        chances = chances / chances.sum()
        which = np.unravel_index(rng.choice(chances.size, size=n, p=chances.ravel()), chances.shape)
        widths = np.diff(self.edges, axis=1)
        xi = np.empty((n, 2))
        for axis in range(2):
            x, share = self.coordinates[axis], chances.sum(axis=1 - axis)
            mean = share @ x
            variance, added = share @ (x - mean) ** 2, share @ widths[axis] ** 2 / 12.0
            drawn = x[which[axis]] + (rng.random(n) - 0.5) * widths[axis][which[axis]]
            xi[:, axis] = mean + (drawn - mean) * np.sqrt(variance / (variance + added))
        return self.origin + xi @ self.axes.T

    def cdf(self, w: Array) -> Array:
        """Distribution functions are for one output: raises ValueError."""
        raise ValueError("distribution functions need one output: take that of marginal(output)")

    def ends(self, tail: float) -> tuple[float, float]:
        """Intervals are for one output: raises ValueError."""
        raise ValueError("an interval needs one output: take that of marginal(output)")
