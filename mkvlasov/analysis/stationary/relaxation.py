"""Relaxation of the weights of one loading towards their Gibbs density: modes of a self-adjoint operator.

For fixed coefficients a perturbation f p of the density p follows df/dt = L f, L f = (Lambda / 2) (p f')' / p, which is
self-adjoint and not positive with the weight p. Its modes on the panels of the density, by polynomials that are
continuous across them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve_banded, cholesky_banded

from mkvlasov._typing import Array
from mkvlasov.analysis.stationary.gibbs import NODES, GibbsDensities, lobatto

_STEPS = 9
"""Steps of the block Lanczos method: 27 modes, of which the slow ones are exact."""
_SHIFT = 0.01
"""Over the rate Lambda / (2 Var w), the slowest one where the drift is linear."""
_NOTHING = 1e-10
_SHORT = 1e-13
"""Height over the peak at which the shorter range ends."""


@dataclass(frozen=True)
class Modes:
    """How w, w^2 and V of one loading relax: modes that give their response to slow changes exactly.

    Attributes
    ----------
    rates : ndarray, shape (n,)
        Ascending: minus the eigenvalues of the slow modes, and means over several of the fast ones.
    w, q, V : ndarray, shape (n,)
        Coefficients of w, w^2 and V in the orthonormal modes.
    rounding : float
        Absolute error of the rates by rounding.
    """

    rates: Array
    w: Array
    q: Array
    V: Array
    rounding: float


def relaxation_modes(
    densities: GibbsDensities, index: int, *, G: float, s: float, Lambda: float, beta: float
) -> tuple[Modes, Modes]:
    """Return the modes of one of the densities, the one ~ exp(-beta V), V = G w^2 / 2 + s w + phi(w), and cruder ones.

    The cruder ones are fewer, on a shorter range of weights: where tails are exponential the spectrum is a continuum,
    and its modes depend on where the range ends.
    """
    every = np.arange(len(densities.owner))[densities.panels_of(index)]
    height = (densities.mass[every] / densities.rule[every]).max(axis=1)
    near = every[height > _SHORT * height.max()]
    return (
        _krylov(densities, every, _STEPS, (G, s, Lambda, beta)),
        _krylov(densities, near, _STEPS - 2, (G, s, Lambda, beta)),
    )


def _krylov(
    densities: GibbsDensities, panels: npt.NDArray[np.int64], steps: int, energy: tuple[float, float, float, float]
) -> Modes:
    """Return the modes on some panels by the block Lanczos method.

    The unknown is u = f sqrt(p), as smooth as the density; the form is (Lambda / 2) |u' + beta V' u / 2|^2.
    """
    G, s, Lambda, beta = energy
    w, phi, mass = densities.w[panels], densities.phi[panels], densities.mass[panels]
    half = 0.5 * (densities.right - densities.left)[panels][:, None]
    _, weights, derivative = lobatto()
    V = 0.5 * G * w * w + s * w + phi
    # The slope of V by its polynomial on the panel: at kinks, that of this side.
    forms = derivative + np.eye(len(weights)) * (0.5 * beta * (V @ derivative.T))[:, None]
    local = 0.5 * Lambda * np.einsum("pki,pk,pkj->pij", forms, weights / half, forms, optimize=True)
    place = _places(densities.left[panels], densities.right[panels])
    size = int(place[-1, -1]) + 1
    length, probability = np.zeros(size), np.zeros(size)
    np.add.at(length, place, weights * half)
    np.add.at(probability, place, mass)
    probability /= probability.sum()
    root, measure = np.sqrt(probability), np.sqrt(length)
    local /= measure[place][:, :, None] * measure[place][:, None, :]
    rows, columns = np.broadcast_to(place[:, :, None], local.shape), np.broadcast_to(place[:, None, :], local.shape)
    lower = rows >= columns
    banded = np.zeros((NODES, size))
    np.add.at(banded, (rows[lower] - columns[lower], columns[lower]), local[lower])
    functions = np.empty((size, 3))
    functions[place] = np.stack([w, w * w, V], axis=-1)
    wanted = root[:, None] * (functions - probability @ functions)
    # The density itself does not relax. A small shift makes the operator invertible, and its mode is taken out.
    shift = _SHIFT * 0.5 * Lambda / max(float(wanted[:, 0] @ wanted[:, 0]), 1e-300)
    factor = banded.copy()
    factor[0] += shift
    factor = cholesky_banded(factor, lower=True)
    basis, block = np.zeros((size, 0)), wanted / np.linalg.norm(wanted, axis=0)
    images = []
    for _ in range(steps):
        for _ in range(2):  # once more, for the rounding of the first time
            block = block - root[:, None] * (root @ block) - basis @ (basis.T @ block)
        vectors, sizes, _ = np.linalg.svd(block, full_matrices=False)
        vectors = vectors[:, sizes > _NOTHING]
        if not vectors.shape[1]:
            break
        vectors, _ = np.linalg.qr(vectors - root[:, None] * (root @ vectors) - basis @ (basis.T @ vectors))
        basis = np.concatenate([basis, vectors], axis=1)
        images.append(cho_solve_banded((factor, True), vectors))
        block = images[-1] / np.linalg.norm(images[-1], axis=0)
    inverse = basis.T @ np.concatenate(images, axis=1)
    times, turn = np.linalg.eigh(0.5 * (inverse + inverse.T))
    rates = np.maximum(1.0 / np.maximum(times, 1e-300) - shift, 0.0)[::-1]
    coefficients = (turn.T @ (basis.T @ wanted))[::-1]
    w_, q_, V_ = coefficients.T
    return Modes(rates, w_, q_, V_, float(np.finfo(float).eps * banded[0].max()))


def _places(left: Array, right: Array) -> np.ndarray:
    """Return the numbers (P, n) of the nodes of panels from left to right; panels that touch share one."""
    apart = np.concatenate([[0], np.cumsum(left[1:] != right[:-1])])
    return np.arange(len(left))[:, None] * (NODES - 1) + apart[:, None] + np.arange(NODES)
