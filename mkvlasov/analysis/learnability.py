"""Whether a feature is learnt from nothing: growth at the uninformative state (docs/theory.md, sections 7 and 9)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.analysis.families import BATCH, at_value, check_bounds, check_parameter
from mkvlasov.analysis.fixed_points import accuracy, constant_rate
from mkvlasov.analysis.uninformative import SCAN_RTOL, Uninformative, variance_modes
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.problem.contrastive import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GRID = 41
_DOUBTFUL = 10.0
"""Growth rates below this multiple of their error are computed again at full accuracy for their sign."""


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
    state = Uninformative.of(closed, tau, accuracy(problem))
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
    known = [_growth_at(problem, name, value, mode, SCAN_RTOL) for value in grid]
    for i, found in enumerate(known):
        if found is not None and abs(found[0]) <= _DOUBTFUL * found[1]:
            known[i] = _growth_at(problem, name, grid[i], mode)
    values, errors, jumps = [], [], []
    for left, right, before, after in zip(grid[:-1], grid[1:], known[:-1], known[1:], strict=True):
        if before is None or after is None or before[0] * after[0] > 0.0 or after[0] == 0.0:
            continue
        try:
            exact = [_existing(problem, name, v, mode) for v in (left, right)]
            if exact[0] * exact[1] > 0.0:
                continue
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


def _growth_at(
    problem: Problem, name: str, value: float, mode: Array, rtol: float | None = None
) -> tuple[float, float] | None:
    """Return growth rate and error of the mode nearest to a given one; None without an uninformative state."""
    rtol = accuracy(problem) if rtol is None else rtol
    varied, factor = at_value(problem, name, value)
    variances, modes = variance_modes(varied)
    variance = float(variances[np.abs(mode @ modes).argmax()])
    try:
        state = Uninformative.of(ClosedRates(varied, rtol), varied.rate(0.0), rtol)
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
