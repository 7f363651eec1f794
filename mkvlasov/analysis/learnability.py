"""Whether a feature is learnt from nothing: growth at the uninformative state (docs/theory.md, sections 7 and 9)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, root

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.analysis import newton
from mkvlasov.analysis.families import BATCH, at_value, check_bounds, check_parameter
from mkvlasov.analysis.fixed_points import accuracy, constant_rate
from mkvlasov.analysis.starts import one_output
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit.coefficients import Coefficients, LimitCoefficients
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.moments import sphere_rate
from mkvlasov.problem.contrastive import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DECADES = 6
_PER_DECADE = 8
_VARIANCES = np.geomspace(1e-4, 1e4, 161)
_GRID = 41


@dataclass(frozen=True, eq=False)
class Learnability:
    """How a feature grows from weights that know nothing of it.

    Attributes
    ----------
    problem : Problem
    feature : int
        The feature; for correlated hidden variables the mode, the one of largest variance first.
    mode : ndarray, shape (K,)
        Unit vector of features: eigenvector of E[c c^T].
    variance : float
        Variance of the hidden variables along the mode, <c_k^2> for uncorrelated ones.
    Q : ndarray, shape (m, m)
        Overlaps of the uninformative state that weights of norm one without overlaps tend to; zero if they decay.
    growth_rate : float
        Rate d log|R_k| / dt near the uninformative state; the feature is learnt from a random start if positive.
    error : float
        Estimated error of the growth rate.
    critical_variance : float or None
        Variance at which the growth rate vanishes; None if it does at no positive one.
    critical_variance_error : float or None
    """

    problem: Problem
    feature: int
    mode: Array
    variance: float
    Q: Array
    growth_rate: float
    error: float
    critical_variance: float | None
    critical_variance_error: float | None

    @property
    def is_learnt(self) -> bool | None:
        """Whether the feature grows; None if the growth rate is zero within its error."""
        return None if abs(self.growth_rate) <= self.error else self.growth_rate > 0.0

    def critical_values(self, name: str, bounds: tuple[float, float] | None = None) -> CriticalValues:
        """Return the values of a parameter of the problem at which the growth rate vanishes.

        Parameters
        ----------
        name : str
            Path of a number, such as "learning_rate", "regularizer.strength", "augmentation.std",
            "augmentation.correlation", "hidden.variance[0]", or "batch_size" (taken as a real number, which has a
            meaning where the samples of a batch do not interact).
        bounds : pair of floats, optional
            Where to look: by default (-1, 1) for a correlation, else from a hundredth to a hundred times its value.

        Notes
        -----
        Signs on a grid of 41 values, then Brent's method: two zeros between neighbours are overlooked.
        """
        return critical_values(self.problem, name, feature=self.feature, bounds=bounds)

    def __str__(self) -> str:
        what = f"feature {self.feature}"
        if np.count_nonzero(self.mode) > 1:
            what = f"mode {self.feature} ({' '.join(f'{x:+.4g}' for x in self.mode)})"
        words = {True: "learnt", False: "not learnt", None: "undecided"}[self.is_learnt]
        state = np.array2string(self.Q, separator=", ").replace("\n", "")
        if self.critical_variance is None:
            threshold = "no variance changes the sign"
        else:
            threshold = f"critical variance {self.critical_variance:.8g} +- {self.critical_variance_error:.1g}"
        return (
            f"{what} of variance {self.variance:.6g}: {words}, growth rate {self.growth_rate:.8g} +- {self.error:.1g} "
            f"at Q = {state}, R = 0; {threshold}"
        )


@dataclass(frozen=True, eq=False)
class CriticalValues:
    """Values of a parameter at which the growth rate of a feature changes sign.

    Attributes
    ----------
    name : str
    values, errors : ndarray, shape (n,)
        Increasing; empty if there are none within the bounds.
    grid, growth_rates : ndarray, shapes (g,)
        What was looked at first, without the values for which there is no uninformative state.
    without_state : ndarray
        Those values.
    jumps : ndarray
        Values at which the growth rate changes sign without vanishing, because the uninformative state changes.
    """

    name: str
    values: Array
    errors: Array
    grid: Array
    growth_rates: Array
    without_state: Array
    jumps: Array

    def plot(self) -> Figure:
        """Draw the growth rates over the parameter, with their zeros and jumps."""
        from mkvlasov.plotting.learnability import plot_critical_values

        return plot_critical_values(self)

    def __str__(self) -> str:
        found = ", ".join(f"{v:.8g} +- {e:.1g}" for v, e in zip(self.values, self.errors, strict=True))
        everything = np.concatenate([self.grid, self.without_state])
        text = f"critical {self.name} in [{everything.min():g}, {everything.max():g}]: {found or 'none'}"
        if len(self.jumps):
            text += f"; jumps at {', '.join(f'{v:.6g}' for v in self.jumps)}"
        if len(self.without_state):
            text += f"; no uninformative state at {len(self.without_state)} of {len(everything)} values looked at"
        return text


def learnability(problem: Problem, feature: int = 0) -> Learnability:
    """Return how a feature grows at the uninformative state.

        - tau [G + kappa + (<c_k^2> - eta) Gbar]  at (Q*, 0)

    is the matrix that moves column k of R there; its largest real part is the growth rate. Of the hidden variables only
    second moments enter, along the eigenvectors of E[c c^T] if they are correlated. On the sphere the multiplier is
    added.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none, and a constant learning rate.
    feature : int
        The feature, or the mode (largest variance first) of correlated hidden variables.

    Raises
    ------
    UnsupportedError
        If there is no uninformative state, because weights without overlaps grow for ever.
    ClosureError
    """
    tau = constant_rate(problem)
    closed = ClosedRates(problem, accuracy(problem))
    feature = _checks.integer("feature", feature, minimum=0, maximum=problem.n_features - 1)
    variances, modes = variance_modes(problem)
    state = _Uninformative.of(closed, tau)
    variance = float(variances[feature])
    error = state.error_at(variance)
    critical = state.critical_variance(variance)
    critical_error = None
    if critical is not None:
        step = 1e-4 * critical
        slope = (state.growth(critical + step) - state.growth(critical - step)) / (2.0 * step)
        critical_error = state.error_at(critical) / abs(slope) + 1e-14 * critical
    return Learnability(
        problem, feature, modes[:, feature], variance, state.Q, state.growth(variance), error, critical, critical_error
    )


def critical_values(
    problem: Problem, name: str, *, feature: int = 0, bounds: tuple[float, float] | None = None
) -> CriticalValues:
    """Return the values of a parameter at which the growth rate of a feature vanishes (`Learnability.critical_values`).

    Raises
    ------
    InvalidInput
        If there is no such parameter, or the bounds are not increasing.
    UnsupportedError
        For the batch size, if the samples of a batch interact.
    """
    feature = _checks.integer("feature", feature, minimum=0, maximum=problem.n_features - 1)
    constant_rate(problem)
    mode = variance_modes(problem)[1][:, feature]
    low, high = _bounds(problem, name, bounds)
    grid = np.geomspace(low, high, _GRID) if low > 0.0 else np.linspace(low, high, _GRID)
    known = [_growth_at(problem, name, value, mode) for value in grid]
    values, errors, jumps = [], [], []
    for left, right, before, after in zip(grid[:-1], grid[1:], known[:-1], known[1:], strict=True):
        if before is None or after is None or before[0] * after[0] > 0.0 or after[0] == 0.0:
            continue
        try:
            zero = brentq(lambda v: _existing(problem, name, v, mode), left, right, xtol=1e-14, rtol=1e-13)
        except UnsupportedError:
            jumps.append(right)  # the uninformative state is lost on the way
            continue
        step = 1e-4 * (right - left)
        around = [max(low, zero - step), min(high, zero + step)]
        ends = [_existing(problem, name, v, mode) for v in around]
        rest, error = _growth_at(problem, name, zero, mode) or (math.inf, math.inf)
        if abs(rest) > 0.1 * abs(ends[1] - ends[0]) + error:
            jumps.append(zero)
            continue
        values.append(zero)
        errors.append(max(abs(rest), error) * (around[1] - around[0]) / abs(ends[1] - ends[0]) + 1e-13 * abs(zero))
    exists = np.array([g is not None for g in known])
    rates = np.array([g[0] for g in known if g is not None])
    return CriticalValues(name, np.array(values), np.array(errors), grid[exists], rates, grid[~exists], np.array(jumps))


@dataclass(frozen=True)
class _Uninformative:
    """The uninformative state and the coefficients there."""

    Q: Array
    coefficients: Coefficients
    kappa: float
    eta: float
    tau: float
    sphere: Array
    """Rate that the constraint adds to the growth of each output, zero without one: shape (m,)."""
    Q_error: float

    @classmethod
    def of(cls, closed: ClosedRates, tau: float) -> _Uninformative:
        """Find the state that weights without overlaps tend to."""
        problem, entries = closed.problem, closed.entries
        x = _stationary(closed, tau)
        Q, R = entries.unpack(x)
        c = LimitCoefficients(problem, accuracy(problem))(Q, R)
        kappa = problem.regularizer.linear_strength
        assert kappa is not None  # the closure test has passed
        sphere = np.zeros(len(Q))
        if problem.constraint == "sphere":
            half = -tau * (c.G @ Q + kappa * Q)
            sphere = sphere_rate(half + half.T + c.Lambda, Q)
        relative = 0.0
        if Q.any() and len(moving := closed.free[closed.free >= entries.overlaps]):
            noise = float(c.error) * (tau * np.abs(c.G @ Q).max() + np.abs(c.Lambda).max())
            unknown = np.abs(closed.rates(x, tau)[moving]) + noise
            size = newton.scales(entries, x)[moving]
            relative = float(newton.error_of(_slopes_of_q(closed, x, tau, moving), size, unknown).max() / Q.max())
        return cls(Q, c, kappa, problem.background_variance, tau, sphere, relative)

    def growth(self, variance: float) -> float:
        """Return the largest real part of the matrix that moves the overlaps with a mode of this variance."""
        c = self.coefficients
        matrix = -self.tau * (c.G + self.kappa * np.eye(len(self.Q)) + (variance - self.eta) * c.Gbar)
        return float(np.linalg.eigvals(matrix + np.diag(self.sphere)).real.max())

    def error_at(self, variance: float) -> float:
        """Return the error of the growth rate, from those of the coefficients and of Q.

        Coefficients change by their size at most when Q changes by its size.
        """
        c = self.coefficients
        terms = self.tau * (np.abs(c.G).sum() + abs(variance - self.eta) * np.abs(c.Gbar).sum())
        terms += self.tau * self.kappa + np.abs(self.sphere).sum()
        return float((float(c.error) + self.Q_error + 4.0 * np.finfo(float).eps) * terms)

    def critical_variance(self, variance: float) -> float | None:
        """Return the zero of the growth rate nearest to a variance on a logarithmic scale."""
        if len(self.Q) == 1:
            c = self.coefficients
            if not c.Gbar[0, 0]:
                return None
            zero = self.eta - float((c.G[0, 0] + self.kappa - self.sphere[0] / self.tau) / c.Gbar[0, 0])
            return zero if zero > 0.0 else None
        grid = variance * _VARIANCES
        rates = np.array([self.growth(v) for v in grid])
        (crossings,) = np.nonzero(np.sign(rates[1:]) != np.sign(rates[:-1]))
        if not len(crossings):
            return None
        i = crossings[np.abs(np.log(_VARIANCES[crossings])).argmin()]
        return float(brentq(self.growth, grid[i], grid[i + 1], xtol=1e-14, rtol=1e-13))


def _stationary(closed: ClosedRates, tau: float) -> Array:
    """Return the state (d,) that Q = I, R = 0 tends to.

    A zero of dQ/dt for one output, from which a quasi-Newton method goes on if there are more.
    """
    entries = closed.entries
    x = entries.pack(np.eye(entries.outputs), np.zeros((entries.outputs, entries.features)))
    if closed.problem.constraint != "sphere":
        x *= _scale(ClosedRates(one_output(closed.problem), accuracy(closed.problem)), tau)
    moving = closed.free[closed.free >= entries.overlaps]
    if entries.outputs == 1 or not x.any():
        return x

    def rates(q: Array) -> Array:
        state = x.copy()
        state[moving] = q
        return closed.rates(state, tau)[moving]

    found = root(rates, x[moving], tol=1e-12)
    x[moving] = found.x
    size = newton.scales(entries, x)[moving]
    if (np.abs(found.fun) > newton.ACCEPTED * tau * size).any() or newton.smallest_eigenvalue(entries, x) < 0.0:
        raise UnsupportedError(f"the uninformative state was not found from Q = I, R = 0: {found.message}")
    return x


def _scale(closed: ClosedRates, tau: float) -> float:
    """Return the Q that weights of one output without overlaps tend to from Q = 1; zero if they decay."""
    entries = closed.entries
    unit = entries.pack(np.eye(entries.outputs), np.zeros((entries.outputs, entries.features)))

    def growth(log_q: Array | float) -> Array:
        q = np.exp(np.asarray(log_q, dtype=np.float64))[..., None]
        return closed.rates(q * unit, tau)[..., entries.overlaps] / q[..., 0]

    sign = 1.0 if growth(0.0) > 0.0 else -1.0
    steps = np.linspace(0.0, math.log(10.0), _PER_DECADE + 1)
    for decade in range(_DECADES):
        logs = sign * (steps + decade * math.log(10.0))
        (turned,) = np.nonzero(sign * growth(logs) <= 0.0)
        if len(turned):
            i = max(int(turned[0]), 1)
            return math.exp(brentq(lambda log_q: float(growth(log_q)), logs[i - 1], logs[i], xtol=1e-14, rtol=1e-14))
    if sign < 0.0:
        return 0.0
    raise UnsupportedError(
        "there is no uninformative state: without overlaps the weights grow for ever (dQ/dt > 0 up to "
        f"Q = 1e{_DECADES}); add weight decay, more noise, or the constraint to the sphere"
    )


def _slopes_of_q(closed: ClosedRates, x: Array, tau: float, moving: npt.NDArray[np.int64]) -> Array:
    """Return differences of the rates of the entries of Q by each other, (n, n)."""
    steps = 1e-5 * np.eye(len(x))[moving] * newton.scales(closed.entries, x)
    change = closed.rates(x + steps, tau) - closed.rates(x, tau)
    return (change[:, moving] / steps[:, moving].max(axis=1, keepdims=True)).T


def variance_modes(problem: Problem) -> tuple[Array, Array]:
    """Return variances (K,) and unit vectors (K, K) in columns: features themselves if they are uncorrelated."""
    covariance = problem.hidden.covariance
    diagonal = np.diagonal(covariance)
    scale = np.sqrt(np.outer(diagonal, diagonal))
    if (np.abs(covariance - np.diag(diagonal)) <= 1e-12 * scale).all():
        return diagonal.copy(), np.eye(len(diagonal))
    variances, vectors = np.linalg.eigh(covariance)
    signs = np.where(vectors[np.abs(vectors).argmax(axis=0), range(len(vectors))] < 0.0, -1.0, 1.0)
    return variances[::-1], (vectors * signs)[:, ::-1]


def _growth_at(problem: Problem, name: str, value: float, mode: Array) -> tuple[float, float] | None:
    """Return growth rate and error of the mode nearest to a given one; None without an uninformative state."""
    varied, factor = at_value(problem, name, value)
    variances, modes = variance_modes(varied)
    variance = float(variances[np.abs(mode @ modes).argmax()])
    try:
        state = _Uninformative.of(ClosedRates(varied, accuracy(problem)), varied.rate(0.0))
    except UnsupportedError:
        return None
    return factor * state.growth(variance), factor * state.error_at(variance)


def _existing(problem: Problem, name: str, value: float, mode: Array) -> float:
    found = _growth_at(problem, name, value, mode)
    if found is None:
        raise UnsupportedError(f"{name}: no uninformative state at {value:g}")
    return found[0]


def _bounds(problem: Problem, name: str, bounds: tuple[float, float] | None) -> tuple[float, float]:
    value = check_parameter(problem, name)
    if bounds is not None:
        return check_bounds(name, bounds)
    if name == BATCH:
        return 1.0, 1e4
    low, high = (-1.0, 1.0) if name.endswith("correlation") else (1e-2 * value, 1e2 * value)
    if not low < high:
        raise InvalidInput("bounds", None, f"two increasing numbers, because {name} is {value:g}")
    return low, high
