"""A law in the plane given by its density on the cells of a parallelogram."""

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
_FINEST_NOISE = 1.5
"""Noise of fewer cells than this is not resolved by them: the table gets finer cells."""
_MOST_CELLS = 512


def cell_centres(n: int) -> Array:
    """Return the middles of n equal cells of [-1, 1]."""
    return (np.arange(n) + 0.5) * (2.0 / n) - 1.0


@dataclass(frozen=True, eq=False, repr=False)
class PlaneTable(Value):
    """Law of two weights: w = origin + axes xi, with a density on n x n cells of the square xi in [-1, 1]^2.

    Moments are sums over the cells; between their centres the density is interpolated by cubic splines.

    Attributes
    ----------
    origin, axes : ndarray, shapes (2,) and (2, 2)
    p : ndarray, shape (n, n)
        Density, with respect to w, at the centres of the cells.
    """

    origin: Array
    axes: Array
    p: Array

    @property
    def w(self) -> Array:
        """Centres of the cells, shape (n, n, 2)."""
        x = cell_centres(len(self.p))
        return self.origin + np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1) @ self.axes.T

    @property
    def cell_area(self) -> float:
        """Area of a cell: times the sum of the densities it is the mass."""
        return float(abs(np.linalg.det(self.axes))) * (2.0 / len(self.p)) ** 2

    @property
    def mean(self) -> Array:
        """E[w], shape (2,)."""
        return self.cell_area * np.einsum("ij,ijk->k", self.p, self.w)

    @property
    def second_moment(self) -> Array:
        """E[w w^T], shape (2, 2)."""
        w = self.w.reshape(-1, 2)
        return self.cell_area * (self.p.reshape(-1, 1) * w).T @ w

    @property
    def is_smooth(self) -> bool:
        """Whether there is a density without jumps: so it is taken to be."""
        return True

    def pdf(self, w: Array) -> Array:
        """Return the density at w (k, 2), zero outside of the parallelogram."""
        xi = np.linalg.solve(self.axes, (w - self.origin).T)
        inside = (np.abs(xi) <= 1.0).all(axis=0)
        return np.where(inside, self._spline.ev(*np.clip(xi, -1.0, 1.0)), 0.0)

    @cached_property
    def _spline(self) -> RectBivariateSpline:
        from scipy.interpolate import RectBivariateSpline

        x = cell_centres(len(self.p))
        return RectBivariateSpline(x, x, self.p)

    def affine(self, A: Array, shift: Array, P: Array) -> PlaneTable:
        """Return the law of A w + shift + N(0, P); A and P are (2, 2), shift is (2,)."""
        moved = PlaneTable(A @ self.origin + shift, A @ self.axes, self.p / abs(np.linalg.det(A)))
        return moved._blurred(P) if P.any() else moved

    def _blurred(self, P: Array) -> PlaneTable:
        """Convolve with N(0, P) by its Fourier transform, on a box that has room for the noise."""
        inverse = np.linalg.inv(self.axes)
        noise = inverse @ P @ inverse.T
        std = np.sqrt(np.maximum(np.diagonal(noise), 0.0))
        n = len(self.p)
        size = 1.0 + _NOISE_REACH * std
        fine = float(min(std[std > 0.0], default=1.0))
        wanted = max(n * float(size.max()), _FINEST_NOISE * 2.0 * float(size.max()) / fine)
        cells = int(min(2.0 * np.ceil(0.5 * wanted), max(_MOST_CELLS, n)))
        box = PlaneTable(self.origin, self.axes * size, np.zeros((cells, cells)))
        p = self.pdf(box.w.reshape(-1, 2)).reshape(cells, cells)
        k = 2.0 * np.pi * np.fft.fftfreq(cells, 2.0 / cells)
        k1, k2 = k[:, None] / size[0], k[None, : cells // 2 + 1] / size[1]
        power = noise[0, 0] * k1**2 + 2.0 * noise[0, 1] * k1 * k2 + noise[1, 1] * k2**2
        p = np.fft.irfft2(np.fft.rfft2(p) * np.exp(-0.5 * power), s=(cells, cells))
        return PlaneTable(box.origin, box.axes, p * (self.p.sum() * self.cell_area / (p.sum() * box.cell_area)))

    def marginal(self, output: int) -> TabulatedLaw:
        """Return the law of one of the weights.

        The rows of cells are shifted to common nodes by cubic interpolation, which keeps the mass and the first three
        moments.
        """
        along = int(np.abs(self.axes[output]).argmax())
        rows = self.p.T if along == 0 else self.p  # one row per cell across
        n = len(rows)
        reach, across = self.axes[output, along], self.axes[output, 1 - along]
        step = abs(reach) * 2.0 / n
        rows = rows if reach > 0.0 else rows[:, ::-1]
        shifts = across * cell_centres(n) / step
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
        w = self.origin[output] + step * (np.arange(len(density)) + low - 0.5 * (n - 1))
        return TabulatedLaw(w, density * (self.cell_area / step), np.full(len(w), step))

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        """Draw n independent rows, shape (n, 2): uniformly within a cell, scaled to the variances of the table."""
        cells = len(self.p)
        chances = np.maximum(self.p, 0.0).ravel()
        which = rng.choice(chances.size, size=n, p=chances / chances.sum())
        x = cell_centres(cells)
        xi = np.stack([x[which // cells], x[which % cells]], axis=1)
        xi += rng.uniform(-1.0, 1.0, size=(n, 2)) / cells
        shares = (chances / chances.sum()).reshape(cells, cells)
        marginals = np.stack([shares.sum(axis=1), shares.sum(axis=0)])
        mean = marginals @ x
        variance = (marginals * (x - mean[:, None]) ** 2).sum(axis=1)
        xi = mean + (xi - mean) * np.sqrt(variance / (variance + 1.0 / (3.0 * cells**2)))
        return self.origin + xi @ self.axes.T
