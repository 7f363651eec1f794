"""How the time that random starts need to leave the uninformative state grows with the dimension.

Source: docs/selection.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, Seed
from mkvlasov.analysis.selection import Ensemble, SelectionComparison, checked_dimension, summary
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class EscapeGrowth:
    """Escape times at several dimensions.

    Attributes
    ----------
    dimensions : ndarray of int, shape (n,)
    level : float
    t_max : ndarray, shape (n,)
    times : ndarray, shape (n, samples)
        Infinite where a sample has not escaped. Samples of different dimensions share their random numbers.
    growth_rate : float
        Largest growth rate at the uninformative state.
    slope, slope_error : float
        Of the mean escape time over log N: mean and standard error of the slopes of samples that have escaped at every
        dimension.
    """

    dimensions: Array
    level: float
    t_max: Array
    times: Array
    growth_rate: float
    slope: float
    slope_error: float

    @property
    def predicted_slope(self) -> float:
        """1 / (2 growth rate), the slope for N to infinity."""
        return 0.5 / self.growth_rate

    def plot(self, comparisons: Sequence[SelectionComparison] = ()) -> Figure:
        """Draw quantiles of the escape times over log N, the predicted slope, and quantiles of runs."""
        from mkvlasov.plotting.selection import plot_escape_growth

        return plot_escape_growth(self, comparisons)

    def __str__(self) -> str:
        lines = [f"escape times (a cosine reaches {self.level:g}), {self.times.shape[1]} samples"]
        for n, times, t_max in zip(self.dimensions, self.times, self.t_max, strict=True):
            lines.append(f"N = {n:<9d} {summary(times, float(t_max))}")
        lines.append(
            f"slope over log N: {self.slope:.4g} +- {self.slope_error:.2g}; predicted for large N: 1 / (2 x "
            f"{self.growth_rate:.6g}) = {self.predicted_slope:.4g}"
        )
        return "\n".join(lines)


def escape_growth(
    problem: Problem,
    *,
    dimensions: Sequence[int] = (200, 2000, 20_000),
    initial: InitialLaw | None = None,
    samples: int = 1000,
    level: float = 0.5,
    rng: Seed = 0,
    progress: bool = True,
) -> EscapeGrowth:
    """Return how the time that random starts need to escape grows with log N.

    With the largest growth rate g at the uninformative state R ~ N^(-1/2) exp(g t), so that times grow like
    log N / (2 g).

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none, and a constant learning rate.
    dimensions : sequence of int
        Two or more.
    initial, samples, level, rng, progress
        As for `selection_probability`.

    Returns
    -------
    EscapeGrowth

    Raises
    ------
    ClosureError, UnsupportedError, InvalidInput
        As for `selection_probability`.
    UnsupportedError
        If no overlap grows at the uninformative state.
    """
    task = Ensemble.of(problem, initial, samples, level, progress)
    if not isinstance(dimensions, Sequence | np.ndarray) or len(dimensions) < 2:
        raise InvalidInput("dimensions", dimensions, "two or more increasing integers")
    sizes = [checked_dimension(problem, "dimensions", n) for n in dimensions]
    if sorted(set(sizes)) != sizes:
        raise InvalidInput("dimensions", dimensions, "two or more increasing integers")
    if task.growth_rate is None or task.growth_rate <= 0.0:
        raise UnsupportedError("escape times: no overlap grows at the uninformative state, so that nothing escapes")
    seed = _checks.seed_sequence("rng", rng)
    ends = [task.t_max(None, n) for n in sizes]
    path = task.path(ends[-1])
    times = np.array([task.escapes(path, n, end, seed).times for n, end in zip(sizes, ends, strict=True)])
    slope, error = _slope(np.log(np.array(sizes, dtype=np.float64)), times)
    return EscapeGrowth(np.array(sizes), task.level, np.array(ends), times, task.growth_rate, slope, error)


def _slope(log_n: Array, times: Array) -> tuple[float, float]:
    """Return the mean slope of the samples that have escaped at every dimension, and its standard error."""
    kept = times[:, np.isfinite(times).all(axis=0)]
    if kept.shape[1] < 2:
        return math.nan, math.inf
    centred = log_n - log_n.mean()
    slopes = centred @ kept / (centred @ centred)
    return float(slopes.mean()), float(slopes.std(ddof=1) / math.sqrt(len(slopes)))
