"""What augmentation noise does to the steady performance and to learnability, over its strength and correlation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike, Seed
from mkvlasov.analysis.fixed_points import accuracy, constant_rate
from mkvlasov.analysis.learnability import learnability
from mkvlasov.analysis.misalignment import Balance, Effect, effects_of, misalignment
from mkvlasov.analysis.stable_states import StableStates, follow_stable_states
from mkvlasov.analysis.uninformative import variance_modes
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.problem.augmentations import GaussianNoise
from mkvlasov.problem.contrastive import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELPS, HURTS, UNDECIDED, NOTHING = "helps", "hurts", "undecided", "no informative state"
"""What a more negative correlation does to the steady performance, at one point of the grid."""


@dataclass(frozen=True, eq=False)
class NoiseStudy:
    """Steady performance over S strengths and C correlations of the noise; m outputs, K features.

    Entries without an informative state are NaN (counts: 0), and so labelled.

    Attributes
    ----------
    problem : Problem
        As given; its noise is replaced.
    feature : int
        The feature, or for correlated hidden variables the mode.
    stds, correlations : ndarray, shapes (S,) and (C,)
    labels : ndarray of str, shape (S, C)
        What lowering the correlation a little does to the steady state: "helps" (|q| grows), "hurts", "undecided" (the
        derivative is zero within its error, as without noise), or "no informative state".
    Q, R : ndarray, shapes (S, C, m, m) and (S, C, m, K)
        The stable state that knows most of the feature.
    cosine : ndarray, shape (S, C)
        Cosine with the feature of the output that knows most of it.
    output : ndarray of int, shape (S, C)
        That output; the labels are about it.
    misalignment : ndarray, shape (S, C, m)
        1 - |q_j|^2 of each output j, over all features.
    diffusion, confinement : ndarray, shape (S, C, m, m)
        Lambda / tau and M = G + kappa (on the sphere plus its multiplier), which hold P = Q - R R^T.
    balance_gap : ndarray, shape (S, C)
        Largest difference between the misalignment and what diffusion and confinement say it is.
    by_correlation, by_std : Effect
        Derivatives of log(1 - |q_j|^2) by the correlation and by the standard deviation of both views, with their
        parts, (S, C, m) each.
    growth_rate, growth_error : ndarray, shape (S, C)
        Of the feature at the uninformative state; NaN where there is none.
    critical_variance : ndarray, shape (S, C)
        Variance of the hidden variable at which the growth rate vanishes; NaN where there is none.
    stable_states : ndarray of int, shape (S, C)
        Number of stable states known there, up to symmetry; with more than one the start decides.
    searched : ndarray of bool, shape (S, C)
        Where a full search was made; elsewhere states were followed from neighbours.
    """

    problem: Problem
    feature: int
    stds: Array
    correlations: Array
    labels: npt.NDArray[np.str_]
    Q: Array
    R: Array
    cosine: Array
    output: npt.NDArray[np.int64]
    misalignment: Array
    diffusion: Array
    confinement: Array
    balance_gap: Array
    by_correlation: Effect
    by_std: Effect
    growth_rate: Array
    growth_error: Array
    critical_variance: Array
    stable_states: npt.NDArray[np.int64]
    searched: npt.NDArray[np.bool_]

    @property
    def is_reachable(self) -> npt.NDArray[np.bool_]:
        """Where the informative state exists and the feature grows from nothing, (S, C)."""
        return (self.labels != NOTHING) & (self.growth_rate > self.growth_error)

    @property
    def best_correlations(self) -> Array:
        """Correlation of the best steady state for each strength, (S,).

        One of the grid, or between neighbours where the derivative changes sign, which is interpolated linearly. NaN
        where there is no informative state or the correlation has no effect.
        """
        return np.array([self._best(i) for i in range(len(self.stds))])

    def plot(self) -> Figure:
        """Draw maps of cosine and learnability over the noise (see `plotting.noise.plot_noise_map`)."""
        from mkvlasov.plotting.noise import plot_noise_map

        return plot_noise_map(self)

    def plot_decomposition(self, std: float) -> Figure:
        """Draw the parts of the effect of the correlation at one of the strengths of the grid."""
        from mkvlasov.plotting.noise import plot_decomposition

        return plot_decomposition(self, std)

    def __str__(self) -> str:
        total = self.labels.size
        counts = ", ".join(f"{np.sum(self.labels == kind)} {kind}" for kind in (HELPS, HURTS, UNDECIDED, NOTHING))
        known = self.labels != NOTHING
        lines = [
            f"feature {self.feature}, {len(self.stds)} strengths x {len(self.correlations)} correlations of the noise",
            f"a more negative correlation, at {total} points: {counts}",
            f"grown from nothing at {int(self.is_reachable.sum())} of {int(known.sum())} informative states; several "
            f"stable states at {int((self.stable_states > 1).sum())} points; searched in full at "
            f"{int(self.searched.sum())}",
        ]
        if known.any():
            lines.append(f"identity of the misalignment kept to {np.nanmax(self.balance_gap):.1e}")
        for i, best in enumerate(self.best_correlations):
            lines.append(f"  std {self.stds[i]:g}: {self._row(i, best)}")
        return "\n".join(lines)

    def _own(self, values: Array) -> Array:
        """Return the entries (S, C) of the outputs that know the feature, of values (S, C, m)."""
        return np.take_along_axis(values, self.output[..., None], axis=-1)[..., 0]

    def _best(self, i: int) -> float:
        rest, slope = self._own(self.misalignment)[i], self._own(self.by_correlation.total)[i]
        if not np.isin(self.labels[i], (HELPS, HURTS)).any():
            return np.nan
        j = int(np.nanargmin(rest))
        rho = self.correlations
        # The misalignment falls towards a minimum between j and the neighbour to which the slope points downwards.
        other = j + 1 if slope[j] < 0.0 else j - 1
        if 0 <= other < len(rho) and slope[j] * slope[other] < 0.0:
            return float(rho[j] - slope[j] * (rho[other] - rho[j]) / (slope[other] - slope[j]))
        return float(rho[j])

    def _row(self, i: int, best: float) -> str:
        if np.isnan(best):
            return NOTHING if (self.labels[i] == NOTHING).all() else "no effect of the correlation"
        j = int(np.nanargmin(self._own(self.misalignment)[i]))
        return f"best at correlation {best:.3f}, cosine {self.cosine[i, j]:.6f} at {self.correlations[j]:g}"


def noise_study(
    problem: Problem,
    *,
    stds: ArrayLike,
    correlations: ArrayLike,
    feature: int = 0,
    starts: int | None = None,
    rng: Seed = 0,
    progress: bool = True,
) -> NoiseStudy:
    """Follow the stable states over a grid of noises, and take the misalignment of the informative one apart.

        (1 - |q_j|^2) Q_jj = P_jj,    M P + P M^T = Lambda / tau,    M = G + kappa (+ multiplier of the sphere),

    for one output 1 - |q|^2 = Lambda / (2 tau M Q). Full searches at the corners and in the middle of the grid; what
    they find is followed from point to point by Newton's method. Where no informative state arrives, another search.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none, a constant learning rate, and a finite batch. Its Gaussian noise is replaced.
    stds : array, shape (S,)
        Standard deviations of the noise of both views, increasing, not negative.
    correlations : array, shape (C,)
        Increasing, in [-1, 1].
    feature : int
        The feature, or for correlated hidden variables the mode (largest variance first).
    starts : int, optional
        Random starts of a full search, as in `fixed_points`.
    rng : seed
    progress : bool
        Show a progress bar when standard error is a terminal.

    Returns
    -------
    NoiseStudy

    Raises
    ------
    ClosureError
    UnsupportedError
        For a schedule; for masks (their limit is Gaussian noise of another strength); for an infinite batch, where the
        misalignment is zero and its logarithm has no derivative.
    InvalidInput

    Notes
    -----
    A stable state that no search finds and that lies on no followed branch is overlooked. With several outputs
    or kinks a point takes seconds.
    """
    constant_rate(problem)
    ClosedRates(problem)  # refuses moments that do not close
    if not isinstance(problem.augmentation, GaussianNoise):
        raise UnsupportedError(
            f"augmentation: {problem.augmentation!r} is no Gaussian noise; in the limit it is that of its covariance"
        )
    if np.isinf(problem.batch_size):
        raise UnsupportedError("batch_size: without diffusion the steady misalignment is zero, whatever the noise")
    stds, correlations = _axis("stds", stds, 0.0, np.inf), _axis("correlations", correlations, -1.0, 1.0)
    feature = _checks.integer("feature", feature, minimum=0, maximum=problem.n_features - 1)
    mode = variance_modes(problem)[1][:, feature]
    problems = [[replace(problem, augmentation=GaussianNoise(s, rho)) for rho in correlations] for s in stds]
    with tqdm(total=2 * len(stds) * len(correlations), desc="noise", disable=None if progress else True) as bar:
        states = follow_stable_states(problems, mode, starts=starts, rng=rng, bar=bar)
        rows = [_point(states, problems[i][j], i, j, mode, feature, bar) for i, j in states.points]
    return _collected(problem, feature, stds, correlations, rows, states)


@dataclass(frozen=True)
class _Point:
    """One point of the grid, as in `NoiseStudy`."""

    label: str
    Q: Array
    R: Array
    cosine: float
    output: int
    misalignment: Array
    diffusion: Array
    confinement: Array
    balance_gap: float
    by_correlation: Effect
    by_std: Effect
    growth_rate: float
    growth_error: float
    critical_variance: float


def _point(states: StableStates, problem: Problem, i: int, j: int, mode: Array, feature: int, bar: tqdm) -> _Point:
    growth, growth_error, critical = _learnability(problem, feature)
    bar.update()
    m, k = problem.outputs, problem.n_features
    x = states.informative(i, j)
    if x is None:
        missing, square = np.full(m, np.nan), np.full((m, m), np.nan)
        nothing = Effect(*(missing for _ in fields(Effect)))
        return _Point(
            NOTHING, square, np.full((m, k), np.nan), np.nan, 0, missing, square, square, np.nan, nothing, nothing,
            growth, growth_error, critical,
        )  # fmt: skip
    closed, rtol = states.closed[i, j], accuracy(problem)
    Q, R = closed.entries.unpack(x)
    cosines = np.abs(R @ mode) / np.sqrt(np.diagonal(Q))
    output = int(cosines.argmax())
    balance, rest = Balance.of(LimitCoefficients(problem, rtol)(Q, R), problem, Q, R), misalignment(Q, R)
    effects = effects_of(closed, x, ("augmentation.correlation", "augmentation.std"), rtol=rtol)
    slope, error = effects[0].total[output], effects[0].error[output]
    label = UNDECIDED if abs(slope) <= error else HELPS if slope > 0.0 else HURTS
    return _Point(
        label, Q, R, float(cosines[output]), output, rest, balance.diffusion, balance.confinement,
        float(np.abs(rest - np.diagonal(balance.held) / np.diagonal(Q)).max()), effects[0], effects[1],
        growth, growth_error, critical,
    )  # fmt: skip


def _learnability(problem: Problem, feature: int) -> tuple[float, float, float]:
    """Return growth rate, its error and the critical variance; NaN where there is no such thing."""
    try:
        item = learnability(problem, feature)
    except UnsupportedError:
        return np.nan, np.nan, np.nan
    return item.growth_rate, item.error, np.nan if item.critical_variance is None else item.critical_variance


def _collected(
    problem: Problem, feature: int, stds: Array, correlations: Array, points: list[_Point], states: StableStates
) -> NoiseStudy:
    shape = (len(stds), len(correlations))

    def grid(values: Iterator[object]) -> np.ndarray:
        stacked = np.array(list(values))
        return stacked.reshape(*shape, *stacked.shape[1:])

    def effect(name: str) -> Effect:
        return Effect(*(grid(getattr(getattr(p, name), part.name) for p in points) for part in fields(Effect)))

    return NoiseStudy(
        problem=problem, feature=feature, stds=stds, correlations=correlations,
        labels=grid(p.label for p in points), Q=grid(p.Q for p in points), R=grid(p.R for p in points),
        cosine=grid(p.cosine for p in points), output=grid(p.output for p in points),
        misalignment=grid(p.misalignment for p in points), diffusion=grid(p.diffusion for p in points),
        confinement=grid(p.confinement for p in points), balance_gap=grid(p.balance_gap for p in points),
        by_correlation=effect("by_correlation"), by_std=effect("by_std"),
        growth_rate=grid(p.growth_rate for p in points), growth_error=grid(p.growth_error for p in points),
        critical_variance=grid(p.critical_variance for p in points),
        stable_states=states.counts, searched=states.searched,
    )  # fmt: skip


def _axis(field: str, values: ArrayLike, minimum: float, maximum: float) -> Array:
    result = _checks.array(field, values, ndim=1, minimum=minimum)
    if (np.diff(result) <= 0.0).any() or result[-1] > maximum:
        raise InvalidInput(field, values, f"increasing numbers within [{minimum:g}, {maximum:g}]")
    return result
