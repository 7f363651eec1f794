"""Direct simulation of online SGD at finite dimension: the literal algorithm, many runs at once.

Nothing here knows the limit. What is shared with the other routes is the problem (its laws, its loss with the gradient
alpha) and the definition of the order parameters. Arrays of one run are stored with the coordinates last,
weights (m, N) and features (K, N), because every inner loop runs over coordinates.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike, Seed
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.order_parameters import match_overlaps, orthonormalize, overlaps
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw, check_initial
from mkvlasov.solution_runs import RunRecord, SgdSolution, summarize
from mkvlasov.solvers.options import snapshot_times, worker_count

# A run counts as diverged when a weight exceeds this: its pre-activations are then of the order of 1e8 too, far
# beyond any regime that the limit describes, and still far from overflow.
HUGE_WEIGHT = 1e8

# Beyond this many steps, which no run reaches anyway, step / N is not exact in double precision.
_MOST_STEPS = 2**53

# Views drawn at a time hold about this many coordinates per run, so that a block of runs stays in the cache.
_CHUNK_COORDINATES = 2**15
_CHUNK_STEPS = 64
_BLOCK_COORDINATES = 2**19


def simulate_sgd(
    problem: Problem,
    initial: InitialLaw,
    *,
    t_eval: ArrayLike,
    dimension: int = 1000,
    runs: int = 16,
    rng: Seed = None,
    exact_overlaps: bool = False,
    snapshots: ArrayLike | None = None,
    loss_batches: int = 32,
    workers: int | None = None,
    progress: bool = True,
) -> SgdSolution:
    """Run online SGD in dimension N, many independent runs at a time.

    Every step n = 0, 1, ... draws a fresh batch, x_b = U c_b + sqrt(eta) (I - U U^T) z_b with two augmented views
    x_b^(1), x_b^(2), and moves the weights by

        W <- W - tau(n / N) / sqrt(N) sum_{b,v} x_b^(v) alpha_b^(v)T - tau(n / N) / N phi'(W),

    with alpha = dF / dh at the pre-activations h_b^(v) = W^T x_b^(v) / sqrt(N); under the constraint "sphere" every
    column of W is then rescaled to norm sqrt(N) (at the start too). Time is t = n / N.

    Every run draws its own loadings from their law and orthonormalizes them (which moves each by O(1 / sqrt(N))), rows
    of weights independently from the initial law, and its own samples. The same seed gives the same numbers, whatever
    the number of workers; and the trajectory of a run does not depend on `t_eval` or `snapshots`.

    Parameters
    ----------
    problem : Problem
        With a finite batch size.
    initial : InitialLaw
        Law of a row w of W, given its loading.
    t_eval : array_like, shape (T,)
        Output times, increasing, not negative. Time t is read off after step n = round(t N), so it is exact to
        1 / (2 N).
    dimension : int
        N, larger than K + m.
    runs : int
        Independent runs; with one run the standard errors are infinite.
    rng : int, Generator, SeedSequence or None
        Seed.
    exact_overlaps : bool
        Rescale the start of every run so that its (Q, R) are exactly those of the initial law, instead of
        O(1 / sqrt(N)) away.
    snapshots : array_like, optional
        Times, at most ``t_eval[-1]``, at which all weights are kept for `SgdSolution.histogram`; memory
        8 runs N m bytes each.
    loss_batches : int
        The training loss of a run at an output time is the mean of the literal batch loss over this many fresh batches,
        drawn from a stream of their own so that recording does not disturb the run.
    workers : int, optional
        Threads; by default one per available processor.
    progress : bool
        Show a progress bar when standard error is a terminal.

    Returns
    -------
    SgdSolution
        Mean over runs, standard errors and every run; `stats` has ``seconds``, ``steps`` (per run),
        ``coordinate_updates_per_second`` (runs x steps x N / time), ``diverged`` (number of runs), ``dimension``,
        ``workers``. When a run diverges (a weight beyond 1e8, or not finite) the arrays end at the last
        output time before the first divergence, and the status says so.

    Raises
    ------
    InvalidInput
        An argument out of its range.
    UnsupportedError
        For ``batch_size=inf``, which has no stochastic algorithm.

    Notes
    -----
    Memory: about 8 N m bytes per run for the weights, 8 N K for the features, and per worker 8 MiB or five
    times a batch of one run, whichever is more. docs/theory.md, sections 1 and 9.
    """
    initial = check_initial(initial, problem)
    if math.isinf(problem.batch_size):
        raise UnsupportedError(
            "simulate_sgd needs a finite batch_size (got inf, the gradient flow): take a large finite batch, or use "
            "solve_pde, solve_ode or simulate_particles, where batch_size = inf means no diffusion"
        )
    t = _checks.times("t_eval", t_eval)
    size = problem.n_features + problem.outputs
    dimension = _checks.integer("dimension", dimension, minimum=size + 1)
    if t[-1] * dimension > _MOST_STEPS:
        raise InvalidInput("t_eval", t_eval, f"times up to {_MOST_STEPS:g} steps, t = {_MOST_STEPS / dimension:g}")
    runs = _checks.integer("runs", runs, minimum=1)
    progress = _checks.flag("progress", progress)
    kept = snapshot_times(snapshots, float(t[-1]))
    workers = worker_count(workers)
    plan = _Plan(
        problem=problem,
        initial=initial,
        dimension=dimension,
        exact_overlaps=_checks.flag("exact_overlaps", exact_overlaps),
        loss_batches=_checks.integer("loss_batches", loss_batches, minimum=1),
        output_steps=np.rint(t * dimension).astype(np.int64),
        snapshot_steps=np.rint(kept * dimension).astype(np.int64),
    )
    seeds = _checks.seed_sequence("rng", rng).spawn(runs)
    started = time.perf_counter()
    record = _simulate_blocks(plan, seeds, workers, progress)
    spent = time.perf_counter() - started
    steps = plan.last_step
    stats = {
        "seconds": spent,
        "error_estimate": 0.0,
        "steps": float(steps),
        "coordinate_updates_per_second": runs * steps * dimension / spent,
        "diverged": float(np.isfinite(record.diverged).sum()),
        "dimension": float(dimension),
        "workers": float(workers),
    }
    exact = (np.zeros((len(t), *record.Q.shape[2:])), np.zeros((len(t), *record.R.shape[2:])))
    return summarize(
        SgdSolution,
        route="sgd",
        problem=problem,
        initial=initial,
        t=t,
        snapshot_times=kept,
        record=record,
        discretization=exact,
        stats=stats,
    )


def draw_start(
    problem: Problem, initial: InitialLaw, dimension: int, rng: np.random.Generator, exact_overlaps: bool
) -> tuple[Array, Array, Array]:
    """Draw the weights and features of one run.

    Returns
    -------
    weights : ndarray, shape (m, N)
    features : ndarray, shape (K, N)
        Rows are the orthonormal u_k.
    loadings : ndarray, shape (N, K)
        As drawn from their law, before they are orthonormalized.
    """
    rows, drawn = initial.sample_rows(rng, dimension, problem)
    if np.linalg.matrix_rank(drawn) < problem.n_features:
        raise UnsupportedError(
            f"dimension {dimension} is too small for these loadings: those drawn do not span {problem.n_features} "
            "feature(s); take a larger dimension"
        )
    loadings = orthonormalize(drawn)
    if exact_overlaps:
        try:
            rows = match_overlaps(rows, loadings, *initial.overlaps(problem))
        except ValueError as error:
            raise UnsupportedError(f"exact_overlaps=True: {error}; leave it out for this initial law") from error
    weights = np.ascontiguousarray(rows.T)
    if problem.constraint == "sphere":
        rescale_to_sphere(weights)
    return weights, np.ascontiguousarray(loadings.T) / math.sqrt(dimension), drawn


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


def rescale_to_sphere(weights: Array) -> None:
    """Rescale every output's weights (..., m, N) to norm sqrt(N), in place."""
    n = weights.shape[-1]
    weights *= math.sqrt(n) / np.linalg.norm(weights, axis=-1, keepdims=True)


def batch_losses(problem: Problem, weights: Array, views: Array) -> Array:
    """Return the literal loss of each batch, shape (count,), for weights (m, N) and views (count, 2, B, N)."""
    outputs = problem.activation.value(views @ weights.T / math.sqrt(weights.shape[-1]))
    return problem.batch_loss(outputs[:, 0], outputs[:, 1])


@dataclass(frozen=True)
class _Plan:
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


def _simulate_blocks(plan: _Plan, seeds: list[np.random.SeedSequence], workers: int, progress: bool) -> RunRecord:
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
    plan: _Plan, seeds: list[np.random.SeedSequence], record: RunRecord, advance: Callable[[int], bool]
) -> None:
    """Simulate runs side by side and fill their part of the record."""
    streams = [_Streams.spawn(seed) for seed in seeds]
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
    plan: _Plan, step: int, weights: Array, features: list[Array], streams: list[_Streams], record: RunRecord
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


def _training_loss(plan: _Plan, weights: Array, features: Array, rng: np.random.Generator) -> float:
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


@dataclass(frozen=True)
class _Streams:
    """Independent random streams of one run."""

    start: np.random.Generator
    samples: np.random.Generator
    losses: np.random.Generator

    @staticmethod
    def spawn(seed: np.random.SeedSequence) -> _Streams:
        return _Streams(*(np.random.Generator(np.random.SFC64(child)) for child in seed.spawn(3)))


def _factor(covariance: Array) -> Array:
    """Return F (2, rank) with F F^T = covariance, without the directions that carry nothing."""
    values, vectors = np.linalg.eigh(covariance)
    present = values > 1e-14 * max(1.0, values[-1])
    return vectors[:, present] * np.sqrt(values[present])
