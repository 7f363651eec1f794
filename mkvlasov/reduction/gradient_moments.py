"""Averages of the gradient of the regularizer over the densities of a PDE solution, kinks included."""

from __future__ import annotations

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.regularizers import Regularizer
from mkvlasov.problem.tabulated import TabulatedLaw
from mkvlasov.solution_pde import PdeSolution

_BESIDE = 1e-9


def along_densities(solution: PdeSolution) -> tuple[Array, Array, Array, Array]:
    """Return E[w a^T], E[w^2], E[phi'(w) a^T] and E[phi'(w) w] at every stored time.

    Averages are sums over the nodes with their quadrature weights. Where phi' jumps by J at a kink, these sums would
    depend on how the weight of the node there is shared between its sides; that part of phi' is integrated apart,

        E[(J/2) sign(w - kink)] = (J/2) (1 - 2 F(kink)),  F the distribution function.

    Returns
    -------
    R : ndarray, shape (T, 1, K)
    Q : ndarray, shape (T, 1, 1)
    gradient_a : ndarray, shape (T, 1, K)
    gradient_w : ndarray, shape (T, 1, 1)
    """
    w, masses = solution.nodes, solution.densities * solution.quadrature
    smooth, jumps = _without_jumps(solution.problem.regularizer, w)
    mean, second = (masses * w).sum(axis=-1), (masses * w * w).sum(axis=-1)
    slope, virial = (masses * smooth).sum(axis=-1), (masses * smooth * w).sum(axis=-1)
    for kink, jump in jumps:
        sign = 1.0 - 2.0 * _distribution(solution, kink)
        slope += 0.5 * jump * sign
        virial += 0.5 * jump * ((masses * np.abs(w - kink)).sum(axis=-1) + kink * sign)
    loadings, weights = solution.loading_points, solution.loading_weights
    R, gradient_a = ((weights * part) @ loadings for part in (mean, slope))
    Q, gradient_w = (part @ weights for part in (second, virial))
    return R[:, None, :], Q[:, None, None], gradient_a[:, None, :], gradient_w[:, None, None]


def _without_jumps(regularizer: Regularizer, w: Array) -> tuple[Array, list[tuple[float, float]]]:
    """Return phi' at w less its jumps, (J/2) sign(w - kink) each, and the kinks with their jumps."""
    smooth = regularizer.gradient(w[..., None])[..., 0]
    jumps = []
    for kink in regularizer.kinks:
        step = _BESIDE * max(1.0, abs(kink))
        left, right = regularizer.gradient(np.array([[kink - step], [kink + step]]))[:, 0]
        # At the kink itself phi' may be anything between the two.
        smooth = np.where(np.abs(w - kink) <= step, 0.5 * (left + right), smooth)
        smooth = smooth - 0.5 * (right - left) * np.where(np.abs(w - kink) <= step, 0.0, np.sign(w - kink))
        jumps.append((kink, float(right - left)))
    return smooth, jumps


def _distribution(solution: PdeSolution, w: float) -> Array:
    """Return the distribution function of every density at w, shape (T, L)."""
    at = np.array([w])
    tables = zip(solution.nodes, solution.densities, solution.quadrature, strict=True)
    kinks = solution.problem.regularizer.kinks
    return np.array(
        [[TabulatedLaw(*law, kinks=kinks).cdf(at)[0] for law in zip(*rows, strict=True)] for rows in tables]
    )
