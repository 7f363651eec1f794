"""The literal algorithm in NumPy: every sample is drawn, in every coordinate.

Arrays of one run are stored with the coordinates last, weights (m, N) and features (K, N), because every inner loop
runs over coordinates.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from mkvlasov._typing import Array
from mkvlasov.order_parameters import overlaps
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw
from mkvlasov.solution_runs import RunRecord
from mkvlasov.solvers.sgd.start import Streams, draw_start, rescale_to_sphere

# A run counts as diverged when a weight exceeds this: its pre-activations are then of the order of 1e8 too, far
# beyond any regime that the limit describes, and still far from overflow.
HUGE_WEIGHT = 1e8


# Views drawn at a time hold about this many coordinates per run, so that a block of runs stays in the cache.
_CHUNK_COORDINATES = 2**15
_CHUNK_STEPS = 64
_BLOCK_COORDINATES = 2**19


def draw_views(problem: Problem, features: Array, rng: np.random.Generator, count: int) -> Array:
    """Draw `count` batches of samples in both views, shape (count, 2, B, N), for features (K, N)."""
    batch, n = int(problem.batch_size), features.shape[1]
    scale = math.sqrt(problem.background_variance)
    hidden = problem.hidden.sample(rng, (count, batch))
    # Gaussian noise is drawn in place as a mixture of standard normals; anything else augments the samples themselves.
    noise = _factor(problem.noise_covariance) if problem.augmentation.is_gaussian else np.empty((2, 0))
    mixing = np.column_stack([np.full(2, scale), noise])
    normals = rng.standard_normal((count, mixing.shape[1], batch * n))
    background = normals[:, 0].reshape(count, batch, n)
    # U c + sqrt(eta) (I - U U^T) z = sqrt(eta) z + U (c - sqrt(eta) U^T z)
    along_features = (hidden - scale * (background @ features.T)) @ features
    if problem.augmentation.is_gaussian:
        views = (mixing @ normals).reshape(count, 2, batch, n)
        views += along_features[:, None]
        return views
    return np.stack(problem.augmentation.views(rng, scale * background + along_features), axis=1)


def sgd_increment(problem: Problem, weights: Array, views: Array, rate: float) -> Array:
    """Return the change of the weights (..., m, N) in one step, for views (..., 2, B, N)."""
    *lead, _, batch, n = views.shape
    rows = views.reshape(*lead, 2 * batch, n)
    h = rows @ np.swapaxes(weights, -1, -2) / math.sqrt(n)
    alpha = np.concatenate(problem.alpha(h[..., :batch, :], h[..., batch:, :]), axis=-2)
    alpha *= -rate / math.sqrt(n)
    increment = np.swapaxes(alpha, -1, -2) @ rows
    strength = problem.regularizer.linear_strength
    if strength is None:
        increment -= rate / n * np.swapaxes(problem.regularizer.gradient(np.swapaxes(weights, -1, -2)), -1, -2)
    elif strength:
        increment -= rate / n * strength * weights
    return increment


def batch_losses(problem: Problem, weights: Array, views: Array) -> Array:
    """Return the literal loss of each batch, shape (count,), for weights (m, N) and views (count, 2, B, N)."""
    outputs = problem.activation.value(views @ weights.T / math.sqrt(weights.shape[-1]))
    return problem.batch_loss(outputs[:, 0], outputs[:, 1])


@dataclass(frozen=True)
class Plan:
    """What every block of runs has to do."""

    problem: Problem
    initial: InitialLaw
    dimension: int
    exact_overlaps: bool
    loss_batches: int
    output_steps: np.ndarray
    snapshot_steps: np.ndarray

    @property
    def last_step(self) -> int:
        return int(self.output_steps[-1])

    @property
    def chunk(self) -> int:
        """Steps whose samples are drawn together: fixed by the problem, so that it cannot change the numbers."""
        return max(1, min(_CHUNK_STEPS, _CHUNK_COORDINATES // (self.dimension * int(self.problem.batch_size))))

    @property
    def block(self) -> int:
        """Runs that advance together."""
        return max(1, _BLOCK_COORDINATES // (self.chunk * self.dimension * int(self.problem.batch_size)))


def simulate_blocks(plan: Plan, seeds: list[np.random.SeedSequence], workers: int, progress: bool) -> RunRecord:
    """Share the runs out among threads; NumPy's generators and matrix products let go of the interpreter."""
    record = RunRecord.empty(plan.problem, len(plan.output_steps), len(plan.snapshot_steps), len(seeds), plan.dimension)
    block = min(plan.block, -(-len(seeds) // workers))
    slices = [slice(first, min(first + block, len(seeds))) for first in range(0, len(seeds), block)]
    lock, stop = threading.Lock(), threading.Event()
    with tqdm(
        total=len(seeds) * plan.last_step, desc="SGD", unit="step", unit_scale=True, disable=None if progress else True
    ) as bar:

        def advance(run_steps: int) -> bool:
            with lock:
                bar.update(run_steps)
            return not stop.is_set()

        def simulate(part: slice) -> None:
            _simulate_block(plan, seeds[part], record.part(part), advance)

        if workers == 1 or len(slices) == 1:
            for part in slices:
                simulate(part)
            return record
        with ThreadPoolExecutor(max_workers=workers) as pool:
            try:
                for _ in pool.map(simulate, slices):
                    pass
            except BaseException:
                # Without this an interrupt would wait until every thread has finished its runs.
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    return record


def _simulate_block(
    plan: Plan, seeds: list[np.random.SeedSequence], record: RunRecord, advance: Callable[[int], bool]
) -> None:
    """Simulate runs side by side and fill their part of the record."""
    streams = [Streams.spawn(seed) for seed in seeds]
    runs = len(streams)
    starts = [draw_start(plan.problem, plan.initial, plan.dimension, s.start, plan.exact_overlaps) for s in streams]
    weights = np.stack([start[0] for start in starts])
    features = [start[1] for start in starts]
    if len(plan.snapshot_steps):
        record.loadings[:] = [start[2] for start in starts]
    del starts
    batch = int(plan.problem.batch_size)
    views = np.empty((runs, plan.chunk, 2, batch, plan.dimension))
    sphere = plan.problem.constraint == "sphere"
    # A diverging run overflows before it is noticed; it is then reported, not warned about.
    marks = {*plan.output_steps.tolist(), *plan.snapshot_steps.tolist()}
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(plan.last_step + 1):
            if step in marks or step % plan.chunk == 0:
                _note_diverged(weights, record.diverged, step / plan.dimension)
                _record(plan, step, weights, features, streams, record)
            if step == plan.last_step or np.isfinite(record.diverged).all():
                return
            if step % plan.chunk == 0:
                if not advance(runs * min(plan.chunk, plan.last_step - step)):
                    return
                for run, stream in enumerate(streams):
                    views[run] = draw_views(plan.problem, features[run], stream.samples, plan.chunk)
            rate = plan.problem.rate(step / plan.dimension)
            weights += sgd_increment(plan.problem, weights, views[:, step % plan.chunk], rate)
            if sphere:
                rescale_to_sphere(weights)


def _record(
    plan: Plan, step: int, weights: Array, features: list[Array], streams: list[Streams], record: RunRecord
) -> None:
    """Write order parameters, training loss and snapshots that belong to this step."""
    scale = math.sqrt(plan.dimension)
    for index in np.flatnonzero(plan.output_steps == step):
        for run, stream in enumerate(streams):
            loadings = scale * features[run].T
            record.Q[index, run], record.R[index, run] = overlaps(weights[run].T, loadings)
            record.loss[index, run] = _training_loss(plan, weights[run], features[run], stream.losses)
    for index in np.flatnonzero(plan.snapshot_steps == step):
        record.weights[index] = np.swapaxes(weights, -1, -2)


def _training_loss(plan: Plan, weights: Array, features: Array, rng: np.random.Generator) -> float:
    """Return the mean loss over fresh batches, drawn in chunks so that memory stays that of a step."""
    total, left = 0.0, plan.loss_batches
    while left:
        count = min(left, plan.chunk)
        total += float(batch_losses(plan.problem, weights, draw_views(plan.problem, features, rng, count)).sum())
        left -= count
    return total / plan.loss_batches


def _note_diverged(weights: Array, diverged: Array, t: float) -> None:
    """Note the time at which a run is found to have diverged; the others of its block go on."""
    bad = ~(np.abs(weights).max(axis=(-2, -1)) < HUGE_WEIGHT)
    diverged[bad & np.isinf(diverged)] = t


def _factor(covariance: Array) -> Array:
    """Return F (2, rank) with F F^T = covariance, without the directions that carry nothing."""
    values, vectors = np.linalg.eigh(covariance)
    present = values > 1e-14 * max(1.0, values[-1])
    return vectors[:, present] * np.sqrt(values[present])
