"""The limit coefficients G, H, Lambda as functions of the order parameters (docs/theory.md, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import UnsupportedError
from mkvlasov.limit.bounded import relative_error
from mkvlasov.limit.covariance import CovarianceLimit, Terms
from mkvlasov.limit.custom import CustomLimit
from mkvlasov.limit.line import LineKernel, evaluate_states, has_line_kernel, line_kernel
from mkvlasov.limit.views import folded, view_law
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.hidden import HiddenNodes
from mkvlasov.problem.losses import Covariance, Custom

_HIDDEN_ORDERS = (6, 9, 13, 19, 28, 40, 58, 84)
_HIDDEN_POINTS = 20_000
"""Stop refining a continuous hidden law beyond this many nodes, whatever the error that is left."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Drift and diffusion of the limit at given order parameters.

    Attributes
    ----------
    G, Gbar : ndarray, shape (..., m, m)
        G = sum_vv' T_vv' D_vv' and Gbar = sum_vv' D_vv', D_vv' = E[d alpha^(v) / d h^(v')T], T = eta + S.
    H : ndarray, shape (..., m, K)
        E[sum_v alpha^(v) c^T] - eta Gbar R.
    Lambda : ndarray, shape (..., m, m)
        tau(t)^2 sum_vv' T_vv' E[sum_b alpha_b^(v) alpha_b^(v')T].
    loss : ndarray, shape (...)
        E F.
    error : ndarray, shape (...)
        Estimated error of the worst entry of G, Gbar, H, Lambda and the loss, each relative to the sum of the absolute
        values of the terms it consists of (per point of the hidden law, pair of views and pair of outputs; for sampled
        averages the terms are the samples), or to a thousandth of their natural size where symmetry removes them all.
        Not less than the relative size of the negative part of Q - R R^T, which is cut off.
    """

    G: Array
    Gbar: Array
    H: Array
    Lambda: Array
    loss: Array
    error: Array


class LimitCoefficients:
    """Evaluates the limit coefficients of a problem: d mu/dt = div[tau (G w + H a + phi') mu] + div div[Lambda mu] / 2.

    Parameters
    ----------
    problem : Problem
    rtol : float
        Accuracy wanted, relative to the sum of the absolute values of the terms of each entry. Met for one output, and
        for any number of outputs with the covariance loss and an activation that is smooth or two straight lines (ReLU,
        LeakyReLU). For several outputs with other kinks, or with a `Custom` loss, quasi-Monte Carlo gives Lambda (with
        a `Custom` loss all of them) with an honest `Coefficients.error` of 1e-3 or so.

    Raises
    ------
    UnsupportedError
        For a centred covariance with decorrelation, and losses other than `Covariance` and `Custom`.

    Notes
    -----
    docs/theory.md, section 3. Smooth activations: Mehler's formula from trapezoidal nodes (spectral accuracy, nothing
    singular for equal views or vanishing variances). Kinks: piecewise Gauss-Legendre rules, and for Lambda of several
    outputs moments on orthants.
    """

    def __init__(self, problem: Problem, rtol: float = 1e-8) -> None:
        self._problem = problem
        self._rtol = _checks.number("rtol", rtol, minimum=1e-12, maximum=0.1)
        self._limit: CovarianceLimit | CustomLimit
        if isinstance(problem.loss, Covariance):
            self._limit = CovarianceLimit(problem)
        elif isinstance(problem.loss, Custom):
            self._limit = CustomLimit(problem)
        else:
            raise UnsupportedError(f"loss: the limit of {problem.loss!r} is not known; use Covariance or Custom")

        self._noise = problem.noise_covariance
        self._hidden_nodes: dict[int, HiddenNodes] = {}

    @property
    def rtol(self) -> float:
        """Accuracy wanted."""
        return self._rtol

    def line_kernel(self) -> LineKernel | None:
        """Return the compiled coefficients for loops that are compiled themselves, or None where there are none.

        There are for one output, the covariance loss (centred or not, any batch) and the smooth activations of
        `mkvlasov.activations` other than `Custom`. See `mkvlasov.limit.line.LineKernel` for what to do with them.

        Returns
        -------
        LineKernel or None
        """
        return self._kernel

    @cached_property
    def _kernel(self) -> LineKernel | None:
        problem = self._problem
        if not has_line_kernel(problem):
            return None
        return line_kernel(problem, self._rtol, [self._nodes(order) for order in self._hidden_orders()])

    def __call__(self, Q: ArrayLike, R: ArrayLike, t: float = 0.0) -> Coefficients:
        """Return the coefficients at order parameters (Q, R) and time t.

        Parameters
        ----------
        Q : array, shape (..., m, m)
        R : array, shape (..., m, K)
            Leading axes are states; each state is evaluated independently of its neighbours.
        t : float
            Only the learning rate depends on it.

        Returns
        -------
        Coefficients

        Raises
        ------
        InvalidInput
            If shapes do not fit or entries are not finite.
        UnsupportedError
            If a pre-activation sits on a kink of the activation with certainty.
        """
        Q, R = _checks.overlaps(Q, R, self._problem.outputs, self._problem.n_features)
        lead = Q.shape[:-2]
        flat_q, flat_r = Q.reshape(-1, *Q.shape[-2:]), R.reshape(-1, *R.shape[-2:])
        if self._kernel is not None:
            *parts, error = evaluate_states(self._kernel, flat_q, flat_r)
        else:
            terms, error = self._converge_hidden(flat_q, flat_r)
            parts = [part[0] for part in terms]
        if not all(np.isfinite(part).all() for part in parts):
            raise UnsupportedError(
                f"the limit coefficients are not finite at Q = {flat_q.tolist()[0]}, R = {flat_r.tolist()[0]}: the "
                f"activation {self._problem.activation!r} or the loss {self._problem.loss!r} is not finite where the "
                "pre-activations have their weight"
            )
        G, Gbar, H, Lambda, loss = parts
        rate = self._problem.rate(t)
        return Coefficients(
            G=G.reshape(Q.shape),
            Gbar=Gbar.reshape(Q.shape),
            H=H.reshape(R.shape),
            Lambda=rate**2 * Lambda.reshape(Q.shape),
            loss=loss.reshape(lead),
            error=error.reshape(lead),
        )

    def _hidden_orders(self) -> list[int]:
        """Return the orders of the nodes of the hidden law that may be tried, one after the other."""
        if self._problem.hidden.is_exact:
            return [1]
        few = [order for order in _HIDDEN_ORDERS if order**self._problem.n_features <= _HIDDEN_POINTS]
        return list(_HIDDEN_ORDERS[: max(3, len(few))])

    def _nodes(self, order: int) -> HiddenNodes:
        """Return nodes of the hidden law, made once."""
        if order not in self._hidden_nodes:
            nodes = self._problem.hidden.nodes(order)
            self._hidden_nodes[order] = folded(nodes) if self._limit.is_even else nodes
        return self._hidden_nodes[order]

    def _converge_hidden(self, Q: Array, R: Array) -> tuple[Terms, Array]:
        """Raise the order of the nodes of a continuous hidden law until they suffice."""
        first, *orders = self._hidden_orders()
        terms, error = self._converge(Q, R, first)
        left, before = np.arange(len(Q)), np.full(len(Q), np.inf)
        for step, order in enumerate(orders):
            if not len(left):
                break
            finer, quadrature = self._converge(Q[left], R[left], order)
            change = _worst(Terms(*(_difference(f, c[:, left]) for f, c in zip(finer, terms, strict=True))))
            # The next change would shrink by the same factor at least.
            rest = change * np.minimum(1.0, change / np.maximum(before, 1e-300)) if step else change
            for old, new in zip(terms, finer, strict=True):
                old[:, left] = new
            error[left] = quadrature + rest
            pending = rest > self._rtol
            left, before = left[pending], change[pending]
        return terms, error

    def _converge(self, Q: Array, R: Array, order: int) -> tuple[Terms, Array]:
        """Spend more effort on the states whose error estimate is too large."""
        nodes = self._nodes(order)
        law, violation = view_law(Q, R, nodes, self._noise, self._problem.background_variance)
        terms = self._limit(law, R, nodes.covariance, rtol=self._rtol, effort=0)
        error = _worst(terms)
        for effort in range(1, self._limit.max_effort + 1):
            poor = np.flatnonzero(error > self._rtol)
            if not len(poor):
                break
            again = self._limit(law.take(poor), R[poor], nodes.covariance, rtol=self._rtol, effort=effort)
            again_error = _worst(again)
            better = again_error < error[poor]
            error[poor[better]] = again_error[better]
            for old, new in zip(terms, again, strict=True):
                old[:, poor[better]] = new[:, better]
        violation[violation < 1e-14] = 0.0
        return terms, np.maximum(error, violation)


def _worst(terms: Terms) -> Array:
    """Return the worst relative error of each state, shape (S,)."""
    return relative_error(np.concatenate([x.reshape(*x.shape[:2], -1) for x in terms], axis=-1))


def _difference(fine: Array, coarse: Array) -> Array:
    """Return a bounded array whose error is the difference of two values."""
    return np.stack([fine[0], fine[1], fine[1] + np.abs(fine[0] - coarse[0]), fine[3]])
