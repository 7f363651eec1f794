"""Fluctuations of (Q, R) at finite dimension: covariance and shift of the mean, to order 1/N.

Source: docs/theory.md, section 8.

The chain of the order parameters has increments delta / N with mean f + f1 / N and covariance V (`limit.increments`).
The expansion in 1/N around a solution x of the ODE, for the covariance Sigma / N and the mean x + b / N:

    dSigma/dt = J Sigma + Sigma J^T + V,
    db/dt = J b + (1/2) sum_jk d2f / dx_j dx_k Sigma_jk + f1 - (1/2) d2x/dt2.

The last term is the difference between steps of length 1/N and continuous time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from scipy.integrate import solve_ivp

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import UnsupportedError
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.increments import IncrementLaw
from mkvlasov.limit.random_start import RandomStart, independent_start
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw, check_initial
from mkvlasov.solvers.ode import solve_ode

_LEVELS = (8, 16, 32, 64, 128)
"""Degrees of the Chebyshev polynomials in time that represent a trajectory, nested."""


@dataclass(frozen=True)
class Fluctuations:
    """How the order parameters of runs at finite dimension are distributed around the limit.

    Attributes
    ----------
    t : ndarray, shape (T,)
    names : tuple of str, length d
        The entries, in order: R row by row, then the upper triangle of Q ("R[0,0]", ..., "Q[0,0]", ...).
    limit : ndarray, shape (T, d)
        The entries at infinite dimension.
    covariance : ndarray, shape (T, d, d)
        Limit of N times the covariance over runs.
    bias : ndarray, shape (T, d)
        Limit of N times (mean over runs - limit); NaN for augmentations other than Gaussian noise.
    error : float
        Estimated relative error of the increments' covariance and of the representation in time.
    """

    t: Array
    names: tuple[str, ...]
    limit: Array
    covariance: Array
    bias: Array
    error: float

    def std(self, dimension: int) -> Array:
        """Return the standard deviations of the entries over runs at a dimension N, shape (T, d)."""
        dimension = _checks.integer("dimension", dimension, minimum=1)
        variance = np.diagonal(self.covariance, axis1=-2, axis2=-1)
        return np.sqrt(np.maximum(variance, 0.0) / dimension)

    def mean(self, dimension: int) -> Array:
        """Return the mean of the entries over runs at a dimension N, to order 1/N, shape (T, d)."""
        return self.limit + self.bias / _checks.integer("dimension", dimension, minimum=1)


def fluctuations(
    problem: Problem,
    initial: InitialLaw,
    t_eval: ArrayLike,
    exact_overlaps: bool = False,
    *,
    rtol: float = 1e-6,
) -> Fluctuations:
    """Return covariance and bias of the order parameters at finite dimension, to leading order in 1/N.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none.
    initial : InitialLaw
    t_eval : array_like, shape (T,)
        Increasing times, not negative.
    exact_overlaps : bool
        Every run starts at exactly the overlaps of the initial law; otherwise rows are drawn independently and the
        loadings orthonormalized, as `simulate_sgd` does it.
    rtol : float
        Accuracy wanted of the rates along the trajectory.

    Returns
    -------
    Fluctuations

    Raises
    ------
    ClosureError
        If the moments do not close.
    UnsupportedError
        If the trajectory diverges before the last time.

    Notes
    -----
    docs/theory.md, section 8. Valid for times short of log N and away from separatrices, where runs split between
    basins. With an infinite batch steps are not random: the covariance is that of the start, carried along.
    """
    initial = check_initial(initial, problem)
    t = _checks.times("t_eval", t_eval)
    exact = _checks.flag("exact_overlaps", exact_overlaps)
    rtol = _checks.number("rtol", rtol, minimum=1e-9, maximum=1e-2)
    # A relative error of the coefficients grows a hundredfold in the differences.
    closed = ClosedRates(problem, 1e-2 * rtol)
    entries = closed.entries
    start = RandomStart(np.zeros((entries.size, entries.size)), np.zeros(entries.size))
    if not exact:
        start = independent_start(problem, initial)
    if not problem.augmentation.is_gaussian:
        start = RandomStart(start.covariance, np.full(entries.size, np.nan))
    if t[-1] == 0.0:
        Q, R = initial.overlaps(problem)
        limit = entries.pack(Q, R)[None]
        return Fluctuations(t, entries.names, limit, start.covariance[None], start.bias[None], 0.0)
    path = _Path.along(closed, initial, float(t[-1]), rtol)
    covariance, bias = _expand(path, closed, start, t)
    return Fluctuations(t, entries.names, path.states(t), covariance, bias, path.error)


@dataclass(frozen=True)
class _Path:
    """The trajectory and the rates along it, as Chebyshev series in time on [0, end]."""

    end: float
    nodes: Array
    tau: Array
    x: Array  # (n, d) at the nodes
    states: _Series
    slope: _Series  # d2x/dt2
    jacobian: _Series
    noise: _Series
    finite: _Series
    error: float

    @classmethod
    def along(cls, closed: ClosedRates, initial: InitialLaw, end: float, rtol: float) -> _Path:
        """Follow the ODE and refine in time until the rates are represented to `rtol`."""
        problem = closed.problem
        finest = _lobatto(_LEVELS[-1], end)
        solution = solve_ode(problem, initial, t_eval=finest, rtol=max(1e-10, 1e-2 * rtol), progress=False)
        if len(solution.t) < len(finest):
            raise UnsupportedError(f"fluctuations: {solution.status.message}; ask for times before that")
        states = closed.entries.pack(solution.Q, solution.R)
        increments = IncrementLaw(problem, rtol)
        tau = np.array([problem.rate(s) for s in finest])
        known: dict[int, tuple[Array, ...]] = {}
        before: list[_Series] = []
        for degree in _LEVELS:
            index = np.arange(0, len(finest), _LEVELS[-1] // degree)
            new = [i for i in index.tolist() if i not in known]
            law = increments(solution.Q[new], solution.R[new], tau[new])
            x = states[new]
            rates, jacobian = closed.rates(x, tau[new]), closed.jacobian(x, tau[new]).value
            parts = (x, rates, jacobian, law.covariance, law.finite_size, law.error)
            known.update(zip(new, zip(*parts, strict=True), strict=True))
            *values, errors = (np.array(part) for part in zip(*(known[i] for i in index.tolist()), strict=True))
            series = [_Series.through(v, end) for v in values]
            if before:
                error = max(_gap(old(finest[index]), v) for old, v in zip(before, values, strict=True))
                if error <= max(rtol, 0.1 * float(errors.max())) or degree == _LEVELS[-1]:
                    break
            before = series
        position, velocity, along, noise, finite = series
        total = error + float(errors.max())
        return cls(
            end, finest[index], tau[index], values[0], position, velocity.derivative(), along, noise, finite, total
        )


@dataclass(frozen=True)
class _Series:
    """Chebyshev series in time with coefficients (n, ...)."""

    end: float
    coefficients: Array

    @classmethod
    def through(cls, values: Array, end: float) -> _Series:
        """Interpolate values (n, ...) at Lobatto nodes."""
        n = len(values) - 1
        grid = 2.0 * _lobatto(n, end) / end - 1.0
        matrix = np.linalg.inv(chebyshev.chebvander(grid, n))
        return cls(end, np.tensordot(matrix, values, 1))

    def __call__(self, t: Array | float) -> Array:
        time = np.asarray(t, dtype=np.float64)
        powers = chebyshev.chebvander(2.0 * time / self.end - 1.0, len(self.coefficients) - 1)
        return np.tensordot(powers, self.coefficients, 1).reshape(*time.shape, *self.coefficients.shape[1:])

    def derivative(self) -> _Series:
        slopes: Array = np.asarray(chebyshev.chebder(self.coefficients, axis=0), dtype=np.float64)
        return _Series(self.end, slopes * 2.0 / self.end)


def _lobatto(degree: int, end: float) -> Array:
    """Return Chebyshev-Lobatto nodes on [0, end], increasing and nested under halving of the degree."""
    nodes = 0.5 * end * (1.0 - np.cos(math.pi * np.arange(degree + 1) / degree))
    nodes[-1] = end
    return nodes


def _gap(found: Array, wanted: Array) -> float:
    """Return the largest difference relative to the largest value; NaNs (no theory) do not count."""
    difference, size = np.nan_to_num(np.abs(found - wanted)).max(), np.nan_to_num(np.abs(wanted)).max()
    return float(difference / size) if size > 0.0 else 0.0


def _expand(path: _Path, closed: ClosedRates, start: RandomStart, t: Array) -> tuple[Array, Array]:
    """Integrate the covariance, then the bias, which depends on it."""
    d = len(start.bias)

    def spreading(s: float, y: Array) -> Array:
        half = path.jacobian(s) @ y.reshape(d, d)
        return (half + half.T + path.noise(s)).ravel()

    times = np.union1d(path.nodes, t)
    sigma = _integrate(spreading, start.covariance.ravel(), times).reshape(-1, d, d)
    covariance = sigma[np.searchsorted(times, t)]
    if np.isnan(start.bias).any():
        return covariance, np.full((len(t), d), np.nan)
    curvature = closed.half_curvature(path.x, path.tau, sigma[np.searchsorted(times, path.nodes)]).value
    bending = _Series.through(curvature, path.end)

    def drifting(s: float, y: Array) -> Array:
        return path.jacobian(s) @ y + bending(s) + path.finite(s) - 0.5 * path.slope(s)

    return covariance, _integrate(drifting, start.bias, times)[np.searchsorted(times, t)]


def _integrate(rate: Callable[[float, Array], Array], start: Array, times: Array) -> Array:
    """Return the solution (T, n) at times that begin at 0."""
    scale = float(np.abs(start).max(initial=0.0)) or 1.0
    result = solve_ivp(rate, (0.0, times[-1]), start, method="DOP853", t_eval=times, rtol=1e-9, atol=1e-11 * scale)
    return result.y.T
