"""All runs of a simulation, from one time at which they are looked at to the next."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.order_parameters import overlaps
from mkvlasov.solution_runs import RunRecord
from mkvlasov.solvers.sgd.checkpoint import Checkpoint
from mkvlasov.solvers.sgd.plan import Block, Callback, Plan
from mkvlasov.solvers.sgd.start import Streams

# A run counts as diverged when a weight exceeds this: its pre-activations are then of the order of 1e8 too, far
# beyond any regime that the limit describes, and still far from overflow.
HUGE_WEIGHT = 1e8


@dataclass
class Progress:
    """How far a simulation has come.

    Attributes
    ----------
    step : int
    record : RunRecord
    observables : dict from str to ndarray, shapes (T, runs, ...)
    stopped : float
        Time at which the callback ended the simulation; infinite if it did not.
    """

    step: int
    record: RunRecord
    observables: dict[str, Array]
    stopped: float = math.inf


def simulate_blocks(
    plan: Plan,
    kind: type[Block],
    seeds: list[np.random.SeedSequence],
    *,
    block: int,
    workers: int,
    bar: bool,
    callback: Callback | None,
    checkpoint: Checkpoint | None,
) -> Progress:
    """Advance all runs, `block` of them at a time in each of the threads; NumPy and compiled code run side by side."""
    runs = len(seeds)
    record = RunRecord.empty(plan.problem, len(plan.output_steps), len(plan.snapshot_steps), runs, plan.dimension)
    size = min(block, -(-runs // workers))
    parts = [slice(first, min(first + size, runs)) for first in range(0, runs, size)]
    progress = Progress(0, record, {})

    def make(part: slice) -> Block:
        return kind(plan, [Streams.spawn(seed) for seed in seeds[part]], record.loadings[part])

    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            blocks = list(pool.map(make, parts))
            resumed = checkpoint is not None and checkpoint.restore(progress, blocks)
            if math.isinf(progress.stopped):
                _march(
                    plan, blocks, parts, progress, pool, bar=bar, fresh=not resumed, callback=callback, save=checkpoint
                )
        except BaseException:
            # What has not begun never will; what has ends within a stride.
            pool.shutdown(cancel_futures=True)
            raise
    return progress


def _march(
    plan: Plan,
    blocks: list[Block],
    parts: list[slice],
    progress: Progress,
    pool: ThreadPoolExecutor,
    *,
    bar: bool,
    fresh: bool,
    callback: Callback | None,
    save: Checkpoint | None,
) -> None:
    """Go from stop to stop; a resumed simulation has already been looked at where it begins."""
    record, first, runs = progress.record, progress.step, len(progress.record.diverged)

    def visit(block: Block, part: slice) -> None:
        block.advance(first, progress.step)
        _look(plan, block, record.part(part), progress.step)

    stops = _stops(plan, progress.step, blocks[0].stride, fresh)
    total = runs * plan.last_step
    with tqdm(
        total=total, initial=runs * first, desc="SGD", unit="step", unit_scale=True, disable=None if bar else True
    ) as shown:
        for stop in stops:
            first, progress.step = progress.step, stop
            for _ in pool.map(visit, blocks, parts):
                pass
            shown.update(runs * (stop - first))
            outputs = np.flatnonzero(plan.output_steps == stop)
            for index in outputs:
                _observe(plan, blocks, progress, int(index))
            if len(outputs) and callback is not None:
                t, index = stop / plan.dimension, outputs[0]
                if _says_stop(callback(t, record.Q[index].copy(), record.R[index].copy())):
                    progress.stopped = t
            done = stop == plan.last_step or math.isfinite(progress.stopped) or np.isfinite(record.diverged).all()
            if save is not None and (done or (stop % blocks[0].chunk == 0 and save.is_due)):
                save.write(progress, blocks)
            if done:
                return


def _stops(plan: Plan, first: int, stride: int, fresh: bool) -> Iterable[int]:
    """Yield the steps at which runs are looked at, from `first` (itself only if `fresh`) to the last."""
    marks = np.unique(np.concatenate([plan.output_steps, plan.snapshot_steps])).tolist()
    step = first if fresh else first + 1
    for mark in marks:
        # Multiples of the stride before the next mark, then the mark.
        yield from range(-(-step // stride) * stride, mark, stride)
        if mark >= step:
            yield mark
        step = max(step, mark + 1)


def _look(plan: Plan, block: Block, record: RunRecord, step: int) -> None:
    """Note which runs have diverged, and write order parameters, training loss and snapshots of this step."""
    weights = block.weights
    with np.errstate(over="ignore", invalid="ignore"):
        lost = ~(np.abs(weights).max(axis=(-2, -1)) < HUGE_WEIGHT)
        record.diverged[lost & np.isinf(record.diverged)] = step / plan.dimension
        for index in np.flatnonzero(plan.output_steps == step):
            for run in range(len(weights)):
                w, a = _rows(weights[run]), math.sqrt(plan.dimension) * _rows(block.features[run])
                record.Q[index, run], record.R[index, run] = overlaps(w, a)
                record.loss[index, run] = block.training_loss(run)
        for index in np.flatnonzero(plan.snapshot_steps == step):
            record.weights[index] = np.swapaxes(weights, -1, -2)


def _rows(values: Array) -> Array:
    """Return (N, n) in double precision from (n, N)."""
    return values.T.astype(np.float64, copy=False)


def _observe(plan: Plan, blocks: list[Block], progress: Progress, index: int) -> None:
    """Call the observables of one's own on every run."""
    for name, function in plan.observables.items():
        values = []
        for block in blocks:
            for weights, features in zip(block.weights, block.features, strict=True):
                w, u = _rows(weights).view(), _rows(features).view()
                w.flags.writeable = u.flags.writeable = False
                values.append(_observed(name, function(w, u)))
        if len({value.shape for value in values}) > 1:
            raise InvalidInput(f"observables[{name!r}]", plan.observables[name], "arrays of one shape for all runs")
        stacked = np.array(values)
        if name not in progress.observables:
            progress.observables[name] = np.zeros((len(plan.output_steps), *stacked.shape))
        if progress.observables[name].shape[1:] != stacked.shape:
            raise InvalidInput(f"observables[{name!r}]", plan.observables[name], "arrays of one shape at all times")
        progress.observables[name][index] = stacked


def _says_stop(value: Any) -> bool:
    """Return whether a callback returned something true; an array is neither."""
    try:
        return bool(value)
    except ValueError:
        raise InvalidInput("callback", value, "a function that returns something true or false") from None


def _observed(name: str, value: Any) -> Array:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInput(f"observables[{name!r}]", value, "a number or an array of numbers") from None
