"""The compiled coefficients of one output: for which problems there are any, and their data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import polynomial

from mkvlasov._typing import Array
from mkvlasov.problem import activations
from mkvlasov.problem.activations import Activation
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.hidden import HiddenNodes
from mkvlasov.problem.losses import Covariance

_KINDS: dict[type, str] = {
    activations.Identity: "IDENTITY",
    activations.Tanh: "TANH",
    activations.Erf: "ERF",
    activations.Softplus: "SOFTPLUS",
    activations.Sigmoid: "SIGMOID",
    activations.Polynomial: "POLYNOMIAL",
}
"""Activations and their names in `spectra_kernels`, which is imported when it is needed: Numba takes half a second."""


class LineKernel(NamedTuple):
    """Coefficients of one output for compiled loops, without Python in between.

    In a function compiled by Numba (``cache=True`` works if it imports `rates` by name)::

        from mkvlasov.limit.line_kernels import rates

        @njit(cache=True, nogil=True)
        def loop(Q, R, data):
            G, Gbar, H, Lambda, loss, error = rates(Q, R, data)

    called with ``LimitCoefficients(problem, rtol).line_kernel().data``.

    Attributes
    ----------
    rates : callable
        ``mkvlasov.limit.line_kernels.rates(Q: float, R: float64[K], data) -> (G, Gbar, H[K], Lambda / tau^2, loss,
        error)``: always this function, whatever the problem. Where the coefficients are not finite, so is the error
        or one of them: check.
    data : tuple of arrays
        What the problem and rtol put in, of the same types for all problems.
    """

    rates: Callable[..., Any]
    data: tuple[Array, ...]


def line_kernel(problem: Problem, rtol: float, nodes: Sequence[HiddenNodes]) -> LineKernel:
    """Return the kernel of a problem that `has_line_kernel`.

    Parameters
    ----------
    problem : Problem
    rtol : float
    nodes : sequence of HiddenNodes
        Finer and finer representations of the hidden law; one if it is exact.
    """
    from mkvlasov.limit import line_kernels, spectra_kernels

    loss, noise = problem.loss, problem.noise_covariance
    assert isinstance(loss, Covariance)
    own = 0.0 if math.isinf(problem.batch_size) else 1.0 / problem.batch_size
    weight = -(1.0 - own) if loss.centered else -1.0
    total = noise + problem.background_variance
    numbers = np.array([
        rtol, getattr(spectra_kernels, _KINDS[type(problem.activation)]), loss.centered, problem.background_variance,
        noise[0, 0], noise[1, 1], noise[0, 1], own * own * (1.0 - own),
    ])  # fmt: skip
    table = np.concatenate([np.column_stack([part.weights, part.points]) for part in nodes])
    starts = np.cumsum([0, *(len(part.weights) for part in nodes)])
    data = (
        numbers,
        np.array(nodes[0].covariance, order="C"),  # a copy: read-only arrays would be another type to compile for
        _combination(spectra_kernels.PAIRS, weight, own, total),
        _coefficients(problem.activation),
        table,
        starts,
    )
    return LineKernel(line_kernels.rates, data)


def evaluate_states(kernel: LineKernel, Q: Array, R: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Return G, Gbar (S,), H (S, K), Lambda / tau^2, loss and error (S,) of stacked states (S, 1, 1), (S, 1, K)."""
    from mkvlasov.limit.line_kernels import rates_of_states

    states, features = R.shape[0], R.shape[-1]
    scalars, H = np.empty((5, states)), np.empty((states, features))
    # Copies: arrays that are read-only or strided would be other types to compile for.
    overlaps, learnt = np.array(Q, order="C").reshape(states), np.array(R, order="C").reshape(states, features)
    rates_of_states(overlaps, learnt, kernel.data, scalars, H)
    G, Gbar, Lambda, loss, error = scalars
    return G, Gbar, H, Lambda, loss, error


def has_line_kernel(problem: Problem) -> bool:
    """Return whether the coefficients of a problem are compiled."""
    return problem.outputs == 1 and isinstance(problem.loss, Covariance) and type(problem.activation) in _KINDS


def _combination(pairs: Sequence[tuple[str, str]], w: float, own: float, t: Array) -> Array:
    """Return G, Gbar, loss, Lambda / tau^2 and E[sum_v a^(v)] as combinations of pairs, (5, pairs).

    With alpha_b^(1) = w sigma'(h^(1)) y^(2) / B and so on (docs/theory.md, section 3).
    """
    rows: list[dict[tuple[str, str], float]] = [
        {("s", "y"): t[0, 0] * w, ("y", "s"): t[1, 1] * w, ("d", "d"): 2.0 * t[0, 1] * w},
        {("s", "y"): w, ("y", "s"): w, ("d", "d"): 2.0 * w},
        {("y", "y"): w},
        {
            ("dd", "yy"): own * t[0, 0] * w * w,
            ("yy", "dd"): own * t[1, 1] * w * w,
            ("dy", "dy"): 2.0 * own * t[0, 1] * w * w,
        },
        {("d", "y"): w, ("y", "d"): w},
    ]
    return np.array([[row.get(pair, 0.0) for pair in pairs] for row in rows])


def _coefficients(activation: Activation) -> Array:
    """Return the coefficients of a polynomial activation and of its derivatives, (3, n); empty for others."""
    if not isinstance(activation, activations.Polynomial):
        return np.zeros((3, 0))
    result = np.zeros((3, len(activation.coefficients)))
    for k in range(3):
        derived = polynomial.polyder(activation.coefficients, k)
        result[k, : len(derived)] = derived
    return result
