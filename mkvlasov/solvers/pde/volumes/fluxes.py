"""Fluxes between neighbouring nodes, and the tridiagonal operator of one Fokker-Planck equation per loading.

For dp/dt = d/dw [ U' p + D dp/dw ] the probability flux through the edge between the nodes i and i + 1, at distance
h, is written as

    J = ( f p_i - g p_{i+1} ) / h,      f - g = -u,      u = U_{i+1} - U_i,

so that the potential U enters as a difference only (a kink of U at a node costs no order) and a flux is one function
from (u, D) to (f, g). Positivity holds wherever f >= 0 and g >= 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mkvlasov._typing import Array

Flux = Callable[[Array, float], tuple[Array, Array]]


def exponential_flux(u: Array, diffusion: float) -> tuple[Array, Array]:
    """Return f = D B(u / D), g = D B(-u / D), B(z) = z / (e^z - 1): positive, exact at zero flux.

    As D -> 0 it becomes the upwind flux. It adds the diffusion u^2 / (12 D), of second order in the spacing
    (Scharfetter and Gummel, IEEE Trans. Electron Devices 16, 1969).
    """
    size = np.abs(u)
    with np.errstate(over="ignore"):
        # The floors keep D = 0 and u = 0 from becoming 0 / 0. B is taken at positive arguments only: B(-z) = B(z) + z
        # without cancellation.
        z = np.maximum(size / max(diffusion, 1e-300), 1e-300)
        against = np.where(z > 1e-5, size / np.expm1(z), diffusion * (1.0 - 0.5 * z))
    along = against + size
    uphill = u > 0.0
    return np.where(uphill, against, along), np.where(uphill, along, against)


def central_flux(u: Array, diffusion: float) -> tuple[Array, Array]:
    """Return D -+ u / 2: exact moments for an affine drift on a uniform grid, but not positive where |u| > 2 D."""
    return diffusion - 0.5 * u, diffusion + 0.5 * u


class Scheme(NamedTuple):
    """A flux, and what it asks of meshes and readings.

    Attributes
    ----------
    flux : Flux
    positive : bool
        Whether the flux is, so that negative masses are rounding or overshoot and are removed.
    graded : bool
        Whether meshes are graded towards the kinks of phi; uniform otherwise.
    """

    flux: Flux
    positive: bool
    graded: bool


EXPONENTIAL = Scheme(exponential_flux, positive=True, graded=True)
CENTRAL = Scheme(central_flux, positive=False, graded=False)


class Tridiagonal(NamedTuple):
    """Operator of d(masses)/dt for every loading: diagonals of shape (L, n), (L, n - 1) above and below."""

    lower: Array
    diagonal: Array
    upper: Array

    def apply(self, mass: Array) -> Array:
        """Return d(masses)/dt, shape (L, n)."""
        result = self.diagonal * mass
        result[:, :-1] += self.upper * mass[:, 1:]
        result[:, 1:] += self.lower * mass[:, :-1]
        return result


def assemble(nodes: Array, difference: Array, diffusion: float, flux: Flux) -> Tridiagonal:
    """Return the finite-volume operator on the masses of the control volumes around the nodes.

    Parameters
    ----------
    nodes : ndarray, shape (L, n)
    difference : ndarray, shape (L, n - 1)
        Potential differences u between neighbours, the motion of the mesh included.
    diffusion : float
        D >= 0.
    flux : function (u, D) -> (f, g)

    Returns
    -------
    Tridiagonal
        Its columns sum to zero: mass is conserved. Walls let nothing through.
    """
    spacing = np.diff(nodes, axis=1)
    size = volumes(spacing)
    f, g = flux(difference, diffusion)
    right = f / (spacing * size[:, :-1])
    left = g / (spacing * size[:, 1:])
    diagonal = np.zeros_like(nodes)
    diagonal[:, :-1] -= right
    diagonal[:, 1:] -= left
    return Tridiagonal(right, diagonal, left)


def volumes(spacing: Array) -> Array:
    """Return the control volumes (L, n) between midpoints, given the distances (L, n - 1) of the nodes."""
    size = np.zeros((len(spacing), spacing.shape[1] + 1))
    size[:, :-1] += 0.5 * spacing
    size[:, 1:] += 0.5 * spacing
    return size
