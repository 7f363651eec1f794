"""What a simulation has to do, and what a method of advancing runs has to offer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.data import DataModel
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw
from mkvlasov.solvers.sgd.start import Streams, draw_start

Observable = Callable[[Array, Array], Any]
"""Function of weights W (N, m) and features U (N, K) of one run."""

Callback = Callable[[float, Array, Array], Any]
"""Function of t and the overlaps of all runs, Q (runs, m, m) and R (runs, m, K); true stops the simulation."""


@dataclass(frozen=True)
class Plan:
    """What every run has to do; checked by `simulate_sgd`. With `data`, on samples and along features that it holds.

    With `device`, a name of PyTorch's, arrays live there.
    """

    problem: Problem
    initial: InitialLaw
    dimension: int
    exact_overlaps: bool
    loss_batches: int
    output_steps: np.ndarray
    snapshot_steps: np.ndarray
    observables: Mapping[str, Observable]
    proximal: bool
    dtype: np.dtype[Any]
    data: DataModel | None = None
    device: str | None = None

    @property
    def last_step(self) -> int:
        return int(self.output_steps[-1])

    def rates(self, first: int, count: int) -> Array:
        """Return the learning rates of some steps."""
        return np.array([self.problem.rate(step / self.dimension) for step in range(first, first + count)])


class Block(Protocol):
    """Some runs that advance together, in memory of their own; loadings as drawn are written where there is room.

    Attributes
    ----------
    chunk : int
        Between multiples of this many steps the state holds more than weights and generators.
    stride : int
        Steps after which it is time to look at the weights, a multiple of `chunk`.
    weights, features : ndarray, shapes (runs, m, N) and (runs, K, N)
    streams : list of Streams
    """

    chunk: int
    stride: int
    weights: Array
    features: Array
    streams: list[Streams]

    def __init__(self, plan: Plan, streams: list[Streams], loadings: Array) -> None: ...

    @staticmethod
    def most_runs(plan: Plan) -> int:
        """Return how many runs make a block at most."""

    def advance(self, first: int, last: int) -> None:
        """Do the steps with numbers first to last - 1; calls follow each other."""

    def training_loss(self, run: int) -> float:
        """Return the mean loss of a run over fresh batches."""


def draw_starts(plan: Plan, streams: list[Streams], loadings: Array) -> tuple[Array, Array]:
    """Draw weights (runs, m, N) and features (runs, K, N) of runs in the precision of the plan.

    Loadings as drawn are written to `loadings` (runs, N, K) unless it has no room for them (no snapshots).
    """
    problem, n = plan.problem, plan.dimension
    given = None if plan.data is None else plan.data.loadings.values
    weights = np.empty((len(streams), problem.outputs, n), plan.dtype)
    features = np.empty((len(streams), problem.n_features, n), plan.dtype)
    for run, stream in enumerate(streams):
        weights[run], features[run], drawn = draw_start(
            problem, plan.initial, n, stream.start, plan.exact_overlaps, given
        )
        if loadings.shape[1]:
            loadings[run] = drawn
    return weights, features


def penalty_gradient(problem: Problem, weights: Array) -> Array | float:
    """Return phi' at weights (..., m, N)."""
    strength = problem.regularizer.linear_strength
    if strength is not None:
        return strength * weights if strength else 0.0
    return np.swapaxes(problem.regularizer.gradient(np.swapaxes(weights, -1, -2)), -1, -2)


def shrink(problem: Problem, weights: Array, gain: float) -> None:
    """Apply the proximal operator of the regularizer to weights (..., m, N), in place."""
    rows = np.swapaxes(weights, -1, -2)
    rows[...] = problem.regularizer.proximal(rows, gain)


def factor(covariance: Array) -> Array:
    """Return F (2, rank) with F F^T = covariance, without the directions that carry nothing."""
    values, vectors = np.linalg.eigh(covariance)
    present = values > 1e-14 * max(1.0, values[-1])
    return np.ascontiguousarray(vectors[:, present] * np.sqrt(values[present]))


def mean_loss(batches: int, chunk: int, draw: Callable[[int], Array]) -> float:
    """Return the mean of `batches` losses that `draw(count)` gives, in chunks to bound the memory."""
    total = math.fsum(float(draw(min(chunk, batches - done)).sum()) for done in range(0, batches, chunk))
    return total / batches
