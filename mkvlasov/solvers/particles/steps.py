"""One time step of the particle system: an exact linear step, and the exact flow of what the regularizer adds to it.

With the coefficients frozen over a step, the motion splits into

    dw = (A w + B a) dt + N(0, (Lambda - D) dt)                (Gaussian: solved exactly, correlated noise included)
    dw = - tau psi'(w) dt + N(0, D dt)                         (psi: phi without its quadratic part)

and the Strang composition half linear, full flow, half linear is of weak order two. Under L1 the flow takes along as
much noise as acts on every entry alone, D = (smallest eigenvalue of Lambda) I, since the reflected motion at the kink
is then solved exactly in law: the spike that an L1 penalty makes at zero, of width Lambda / (2 tau strength), asks for
no short steps. Elsewhere D = 0 and the flow has no noise. The last half of a step and the first half of the next make
up one linear step, so every particle is touched once per step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.linalg import expm

from mkvlasov._typing import Array
from mkvlasov.problem.regularizers import L1, DoubleWell, ElasticNet, GroupLasso, Regularizer

Flow = Callable[[Array, float], Array]
"""(w (..., m), s) -> the solution of dw/ds = -phi'(w) after s."""


@dataclass(frozen=True)
class LinearStep:
    """w -> propagator w + loading a + N(0, covariance): exact over a step with frozen coefficients.

    Attributes
    ----------
    propagator, covariance : ndarray, shape (runs, m, m)
    loading : ndarray, shape (runs, m, K)
    """

    propagator: Array
    loading: Array
    covariance: Array

    def after(self, before: LinearStep) -> LinearStep:
        """Return the step that does `before` first and this one then."""
        return LinearStep(
            self.propagator @ before.propagator,
            self.propagator @ before.loading + self.loading,
            self.propagator @ before.covariance @ _transposed(self.propagator) + self.covariance,
        )

    def overlaps(self, Q: Array, R: Array, loadings: Array) -> tuple[Array, Array]:
        """Return what the step makes of Q and R in the mean over its noise.

        Parameters
        ----------
        Q, R, loadings : ndarray, shapes (runs, m, m), (runs, m, K), (runs, K, K)
            Means of w w^T, w a^T and a a^T.
        """
        moved = self.propagator @ R + self.loading @ loadings
        cross = self.propagator @ R @ _transposed(self.loading)
        spread = self.propagator @ Q @ _transposed(self.propagator)
        affine = self.loading @ loadings @ _transposed(self.loading)
        return spread + cross + _transposed(cross) + affine + self.covariance, moved


def exact_linear_step(A: Array, B: Array, diffusion: Array, step: float) -> LinearStep:
    """Solve dw = (A w + B a) dt + N(0, diffusion dt) over `step`.

    One matrix exponential gives all three: for the blocks

        exp( [[A, Lambda, B], [0, -A^T, 0], [0, 0, 0]] dt ) = [[e^(A dt), X, int e^(A s) ds B], [., ., .], ...],

    the covariance of the noise is X e^(A dt)^T (Van Loan 1978).

    Parameters
    ----------
    A, diffusion : ndarray, shape (runs, m, m)
    B : ndarray, shape (runs, m, K)
    """
    m, k = B.shape[-2:]
    block = np.zeros((*B.shape[:-2], 2 * m + k, 2 * m + k))
    block[..., :m, :m] = A
    block[..., :m, m : 2 * m] = diffusion
    block[..., :m, 2 * m :] = B
    block[..., m : 2 * m, m : 2 * m] = -_transposed(A)
    solved = expm(step * block)
    propagator = solved[..., :m, :m]
    covariance = solved[..., :m, m : 2 * m] @ _transposed(propagator)
    return LinearStep(propagator, solved[..., :m, 2 * m :], 0.5 * (covariance + _transposed(covariance)))


@dataclass(frozen=True)
class Split:
    """phi' in parts: linear w + kink sign(w) + the gradient that `flow` descends.

    Attributes
    ----------
    linear, kink : float
    flow : callable or None
        At most one of kink and flow is there.
    """

    linear: float = 0.0
    kink: float = 0.0
    flow: Flow | None = None

    @property
    def is_linear(self) -> bool:
        return not self.kink and self.flow is None


def split_regularizer(regularizer: Regularizer) -> Split:
    """Split a regularizer into parts that are solved one by one.

    The flow is exact for GroupLasso (its proximal operator) and DoubleWell. Elsewhere it is of second order: two
    proximal half steps extrapolated against a full one, or, without a proximal operator, the explicit midpoint rule,
    which wants a smooth phi and steps below 1 / (tau phi'').
    """
    if regularizer.linear_strength is not None:
        return Split(linear=regularizer.linear_strength)
    if isinstance(regularizer, ElasticNet):
        return Split(linear=regularizer.l2, kink=regularizer.l1)
    if isinstance(regularizer, L1):
        return Split(kink=regularizer.strength)
    if isinstance(regularizer, GroupLasso):
        return Split(flow=regularizer.proximal)
    if isinstance(regularizer, DoubleWell):
        return Split(flow=partial(_double_well_flow, regularizer.strength))
    if regularizer.has_proximal:
        return Split(flow=partial(_extrapolated_proximal, regularizer))
    return Split(flow=partial(_explicit_midpoint, regularizer))


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
