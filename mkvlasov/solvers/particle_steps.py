"""One time step of the particle system, for one block of particles: an exact linear step and the regularizer's flow.

With the coefficients frozen over a step, the motion splits into

    dw = (A w + B a) dt + noise of covariance Lambda dt        (Gaussian: solved exactly, correlated noise included)
    dw = - tau phi'(w) dt                                      (no noise: solved exactly where the flow is known)

and the Strang composition half linear, full flow, half linear is of weak order two. It ends with noise, so that an L1
penalty leaves no particles piled up at exactly zero, which would be an artefact of the splitting.
Weights of a block have shape (m, n), loadings (K, n).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.linalg import expm

from mkvlasov._typing import Array
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.regularizers import L1, DoubleWell, ElasticNet, GroupLasso, Regularizer

Flow = Callable[[Array, float], Array]
"""(w (..., m), s) -> the solution of dw/ds = -phi'(w) after s."""


@dataclass(frozen=True)
class LinearStep:
    """w -> propagator w + loading a + noise xi with xi ~ N(0, I): exact over a step with frozen coefficients.

    Attributes
    ----------
    propagator, noise : ndarray, shape (..., m, m)
    loading : ndarray, shape (..., m, K)
    """

    propagator: Array
    loading: Array
    noise: Array

    def of_run(self, run: int) -> LinearStep:
        """Return the step of one run."""
        return LinearStep(self.propagator[run], self.loading[run], self.noise[run])


def exact_linear_step(A: Array, B: Array, diffusion: Array, step: float) -> LinearStep:
    """Solve dw = (A w + B a) dt + N(0, diffusion dt) over `step`.

    One matrix exponential gives all three: for the blocks

        exp( [[A, Lambda, B], [0, -A^T, 0], [0, 0, 0]] dt ) = [[e^(A dt), X, int e^(A s) ds B], [., ., .], ...],

    the covariance of the noise is X e^(A dt)^T (Van Loan 1978).

    Parameters
    ----------
    A, diffusion : ndarray, shape (..., m, m)
    B : ndarray, shape (..., m, K)
    """
    m, k = B.shape[-2:]
    block = np.zeros((*B.shape[:-2], 2 * m + k, 2 * m + k))
    block[..., :m, :m] = A
    block[..., :m, m : 2 * m] = diffusion
    block[..., :m, 2 * m :] = B
    block[..., m : 2 * m, m : 2 * m] = -np.swapaxes(A, -1, -2)
    solved = expm(step * block)
    propagator = solved[..., :m, :m]
    covariance = solved[..., :m, m : 2 * m] @ np.swapaxes(propagator, -1, -2)
    return LinearStep(propagator, solved[..., :m, 2 * m :], square_root(0.5 * (covariance + _transposed(covariance))))


def move(
    weights: Array, loadings: Array, linear: LinearStep, noise: Sequence[Array], flow: Flow | None, span: float
) -> Array:
    """Return the weights (m, n) after one step.

    Parameters
    ----------
    linear : LinearStep
        Over half the step if there is a flow, over the whole step otherwise.
    noise : sequence of ndarray, shape (m, n)
        Standard normals: two with a flow, one without.
    flow : callable or None
        Flow of the regularizer.
    span : float
        tau times the time step.
    """
    drift = linear.loading @ loadings
    moved = linear.propagator @ weights + drift + linear.noise @ noise[0]
    if flow is None:
        return moved
    moved = flow(moved.T, span).T
    return linear.propagator @ moved + drift + linear.noise @ noise[1]


def split_regularizer(regularizer: Regularizer) -> tuple[float, Flow | None]:
    """Return the strength kappa of a linear part of phi', and the flow of the rest (None if there is none).

    The flow is exact for L1, GroupLasso (their proximal operators), ElasticNet (whose L2 part goes into kappa) and
    DoubleWell. Elsewhere it is of second order: two proximal half steps extrapolated against a full one, or, without
    a proximal operator, the explicit midpoint rule, which wants a smooth phi and steps below 1 / (tau phi'').
    """
    if regularizer.linear_strength is not None:
        return regularizer.linear_strength, None
    if isinstance(regularizer, ElasticNet):
        return regularizer.l2, L1(regularizer.l1).proximal
    if isinstance(regularizer, (L1, GroupLasso)):
        return 0.0, regularizer.proximal
    if isinstance(regularizer, DoubleWell):
        return 0.0, partial(_double_well_flow, regularizer.strength)
    if regularizer.has_proximal:
        return 0.0, partial(_extrapolated_proximal, regularizer)
    return 0.0, partial(_explicit_midpoint, regularizer)


def _double_well_flow(strength: float, w: Array, span: float) -> Array:
    """Solve dw/ds = -strength (w^2 - 1) w: logistic growth of w^2."""
    grown = np.expm1(2.0 * strength * span)
    return w * np.sqrt((1.0 + grown) / (1.0 + grown * w * w))


def _extrapolated_proximal(regularizer: Regularizer, w: Array, span: float) -> Array:
    """Implicit Euler steps, extrapolated to second order; exact where the flow is a shift, as for Huber's arms."""
    halves = regularizer.proximal(regularizer.proximal(w, 0.5 * span), 0.5 * span)
    return 2.0 * halves - regularizer.proximal(w, span)


def _explicit_midpoint(regularizer: Regularizer, w: Array, span: float) -> Array:
    middle = w - 0.5 * span * regularizer.gradient(w)
    return w - span * regularizer.gradient(middle)


def _transposed(matrix: Array) -> Array:
    return np.swapaxes(matrix, -1, -2)
