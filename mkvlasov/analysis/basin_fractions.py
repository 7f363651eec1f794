"""How large the basins are, over a parameter of the problem such as a moment of the hidden variables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike, Seed
from mkvlasov.analysis.basins import Basins, basins, fraction_of
from mkvlasov.analysis.initial_overlaps import random_starts
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.parameters import parameter, with_parameter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class BasinFractions:
    """Parts of random starts by the features they end with, whatever the signs, over a parameter.

    Attributes
    ----------
    name : str
        Path of the parameter.
    values : ndarray, shape (V,)
    measure : str
        The law of the starts, in words: fractions are probabilities under it.
    ends : tuple of str, length E
        What some start ends with at some value, such as "feature 0"; "diverged", "unresolved".
    fraction, stderr : ndarray, shapes (V, E)
        The standard errors are those of `Fraction`. The same starts are taken at all values, so that differences
        between
        values are known better than that.
    basins : tuple of Basins, length V
    """

    name: str
    values: Array
    measure: str
    ends: tuple[str, ...]
    fraction: Array
    stderr: Array
    basins: tuple[Basins, ...]

    def plot(self) -> Figure:
        """Draw the fractions over the parameter."""
        from mkvlasov.plotting.basins import plot_basin_fractions

        return plot_basin_fractions(self)

    def __str__(self) -> str:
        lines = [f"fractions of {self.measure}", f"{self.name:>24s}" + "".join(f"{end:>24s}" for end in self.ends)]
        for value, fractions, errors in zip(self.values, self.fraction, self.stderr, strict=True):
            row = "".join(f"{f:>14.4f} +- {e:.4f}" for f, e in zip(fractions, errors, strict=True))
            lines.append(f"{value:24g}{row}")
        return "\n".join(lines)


def basin_fractions(
    problem: Problem,
    name: str,
    values: ArrayLike,
    *,
    starts: int = 1000,
    Q: ArrayLike = 1.0,
    dimension: int | None = None,
    t_max: float = 1000.0,
    rng: Seed = 0,
    progress: bool = True,
) -> BasinFractions:
    """Return the parts of random starts that end at each fixed point, for values of a parameter of the problem.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none, and a constant learning rate.
    name : str
        Path of a number in the problem, such as "hidden.kurtosis[1]" or "augmentation.correlation".
    values : array, shape (V,)
    starts : int
        Drawn once, for all values.
    Q, dimension
        The law of the starts, see `random_starts`: R uniform in the admissible set at this Q, or with `dimension` = N
        that of weights which are drawn independently of the features, R ~ N(0, Q / N).
    t_max : float
    rng : seed
    progress : bool
        Show a progress bar when standard error is a terminal.

    Returns
    -------
    BasinFractions

    Raises
    ------
    ClosureError
        If the moments do not close.
    InvalidInput
    UnsupportedError
        For a learning rate that depends on time.
    """
    parameter(problem, name)  # says so if there is none
    chosen = _checks.array("values", values, ndim=1)
    progress = _checks.flag("progress", progress)
    problems = [with_parameter(problem, name, float(value)) for value in chosen]
    states = random_starts(problem, starts, Q=Q, dimension=dimension, rng=rng)
    found = [
        basins(changed, states, t_max=t_max, progress=False)
        for changed in tqdm(problems, desc="basins", unit="value", disable=None if progress else True)
    ]
    counts = [_counts(item) for item in found]
    special = ("diverged", "unresolved")
    ends = (*sorted({end for count in counts for end in count} - set(special)), *special)
    table = np.array([[_row(count[end], starts) for end in ends] for count in counts])
    law = f"R ~ N(0, Q / {dimension})" if dimension is not None else "R uniform in the admissible set"
    return BasinFractions(
        name, chosen, f"{starts} starts, {law}, Q = {np.asarray(Q).tolist()}", ends, table[..., 0], table[..., 1],
        tuple(found),
    )  # fmt: skip


def _counts(found: Basins) -> Counter[str]:
    """Return how many starts end with which features; fixed points with the same ones count together."""
    counts: Counter[str] = Counter()
    for name, fraction in found.fractions(signs=False).items():
        counts[name.split(" [")[0]] += fraction.count
    return counts


def _row(count: int, total: int) -> tuple[float, float]:
    found = fraction_of(count, total, sampled=True)
    return found.value, found.stderr
