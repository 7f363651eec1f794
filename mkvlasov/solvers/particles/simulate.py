"""The McKean-Vlasov equation as a system of particles, each a weight vector with its loading; any number of outputs.

Every particle feels the others only through the order parameters (Q, R) of its own run:

    dw_p = - tau [ G w_p + H a_p + phi'(w_p) ] dt + Lambda^(1/2) dB_p,      (G, H, Lambda) at the empirical (Q, R).
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from tqdm import tqdm

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike, Seed
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw, check_initial
from mkvlasov.solution_runs import ParticleSolution, RunRecord, summarize
from mkvlasov.solvers.options import snapshot_times, worker_count
from mkvlasov.solvers.particles.system import PART, Forces, Model, ParticleSystem, Streams, evolve, time_grid

_LARGEST_STEP = 0.1
_SMALLEST_STEP = 1e-3
# Weights below this size are in the linear range of the activations; a start at zero has no scale of its own.
_SMALLEST_SCALE = 0.1
_PILOT_PARTICLES = 8192


def simulate_particles(
    problem: Problem,
    initial: InitialLaw,
    *,
    t_eval: ArrayLike,
    particles: int = 100_000,
    runs: int = 16,
    rng: Seed = None,
    time_step: float | None = None,
    snapshots: ArrayLike | None = None,
    rtol: float = 1e-6,
    workers: int | None = None,
    progress: bool = True,
) -> ParticleSolution:
    """Simulate independent systems of particles that interact through their order parameters.

    Each step solves the linear part with its correlated noise exactly (coefficients at the middle of the step,
    extrapolated from the two last states), with the flow of the regularizer in its middle: weak order 2 in the time
    step. The kink of L1 and ElasticNet is solved together with noise, exactly in law, so the spike that it makes at
    zero needs no short steps. Under the constraint "sphere" the drift has the multiplier that keeps Q_jj = 1, and what
    is left over, of third order in the step, is rescaled away; the start is rescaled too.

    Start: atoms of a discrete law of loadings occur as often as their probability says, to within one particle, and
    the weights of every atom are stratified; other loadings are drawn independently and orthonormalized, so that the
    mean of a a^T is the identity exactly, and weights from a Gaussian law then get exactly its overlaps.

    Parameters
    ----------
    problem : Problem
    initial : InitialLaw
        Law of w given its loading at t = 0.
    t_eval : array_like, shape (T,)
        Output times, increasing, not negative; steps land on them.
    particles : int
        Particles per run. The bias of the mean over runs is of order 1 / particles, its standard error of order
        1 / sqrt(particles x runs).
    runs : int
        Independent systems; with one the standard errors are infinite.
    rng : int, Generator, SeedSequence or None
        Seed. The same seed gives the same numbers whatever the number of workers.
    time_step : float, optional
        Largest step. By default it is chosen such that the estimated discretization error stays below the statistical
        error expected for this number of particles, between 0.001 and 0.1 (or as long as smaller steps help).
    snapshots : array_like, optional
        Times, at most ``t_eval[-1]``, at which all particles are kept for `ParticleSolution.histogram`.
    rtol : float
        Accuracy of the limit coefficients.
    workers : int, optional
        Threads; by default one per available processor.
    progress : bool
        Show a progress bar when standard error is a terminal.

    Returns
    -------
    ParticleSolution
        ``Q_error`` and ``R_error`` are the differences between two pilot systems of 8192 particles with the same
        noise, one with this time step and one with twice of it: for a scheme of order 2 three times the error of
        the finer one, and still its error if kinks reduce the order to 1. `stats`: ``seconds``, ``steps``,
        ``time_step`` (largest), ``particle_steps_per_second``, ``coefficient_error`` (largest relative one),
        ``error_estimate`` (largest entry of Q_error and R_error), ``diverged`` (runs), ``particles``.
        If Q exceeds 1e5 or is not finite the arrays end before, and the status says so.

    Raises
    ------
    InvalidInput
        An argument out of its range.

    Notes
    -----
    Memory: 8 (m + K) bytes per particle and run, 8 m more per snapshot, and 8 K more if there are snapshots: 0.26 GB
    for 16 runs of 10^6 particles with m = K = 1, 1.5 GB with m = 4, K = 2 and one snapshot.
    Time: about 10 ns per particle, step and output on one core, twice that under L1 with several outputs; a user's own
    regularizer costs what its functions cost. Threads share runs and parts of 131072 particles.
    docs/theory.md, sections 3 and 9; docs/numerics.md, "Particles".
    """
    initial = check_initial(initial, problem)
    t = _checks.times("t_eval", t_eval)
    kept = snapshot_times(snapshots, float(t[-1]))
    particles = _checks.integer("particles", particles, minimum=problem.n_features + problem.outputs + 1)
    runs = _checks.integer("runs", runs, minimum=1)
    if time_step is not None:
        time_step = _checks.number("time_step", time_step, minimum=0.0, exclusive=True)
    workers = worker_count(workers)
    progress = _checks.flag("progress", progress)
    seed, pilot_seed = _checks.seed_sequence("rng", rng).spawn(2)
    model = Model.of(problem, _checks.number("rtol", rtol, minimum=0.0, exclusive=True))

    started = time.perf_counter()
    pilot = _pilot(model, initial, t, time_step, particles, runs, pilot_seed)
    times = time_grid(np.union1d(t, kept), pilot.time_step)
    # The first generator of a run draws its start, the others the noise of its parts.
    streams = [_generators(child.spawn(1 + -(-particles // PART))) for child in seed.spawn(runs)]
    system = ParticleSystem.start(model, initial, particles, [first for first, *_ in streams])
    noise = Streams([rest for _, *rest in streams])
    record = RunRecord.empty(problem, len(t), len(kept), runs, particles)
    if len(kept):
        record.loadings[:] = np.swapaxes(system.loadings, -1, -2)
    with (
        ThreadPoolExecutor(max_workers=workers) as pool,
        tqdm(total=len(times) - 1, desc="particles", unit="step", disable=None if progress else True) as bar,
    ):
        finished = np.isin(times, t) | np.isin(times, kept)
        for index, forces in evolve(system, times, finished, noise, pool):
            bar.update(1 if index else 0)
            if forces is None:
                record.diverged[system.diverged] = times[index]
            else:
                _write(record, system, forces, np.flatnonzero(t == times[index]), np.flatnonzero(kept == times[index]))
    spent = time.perf_counter() - started
    stats = {
        "seconds": spent,
        "steps": float(len(times) - 1),
        "time_step": float(np.diff(times, prepend=0.0).max()),
        "particle_steps_per_second": particles * runs * (len(times) - 1) / spent,
        "coefficient_error": system.coefficient_error,
        "error_estimate": max(float(pilot.Q_error.max()), float(pilot.R_error.max())),
        "diverged": float(np.isfinite(record.diverged).sum()),
        "particles": float(particles),
    }
    return summarize(
        ParticleSolution,
        route="particles",
        problem=problem,
        initial=initial,
        t=t,
        snapshot_times=kept,
        record=record,
        discretization=(pilot.Q_error, pilot.R_error),
        stats=stats,
    )


def _generators(seeds: list[np.random.SeedSequence]) -> list[np.random.Generator]:
    return [np.random.Generator(np.random.SFC64(seed)) for seed in seeds]


def _write(record: RunRecord, system: ParticleSystem, forces: Forces, outputs: np.ndarray, kept: np.ndarray) -> None:
    """Copy the state into the places that belong to this time."""
    for index in outputs:
        record.Q[index], record.R[index], record.loss[index] = system.Q, system.R, forces.loss
    for index in kept:
        record.weights[index] = np.swapaxes(system.weights, -1, -2)


@dataclass(frozen=True)
class _Recorded:
    """The random numbers of a system with one run and one block that is always finished, kept for another."""

    fresh: Streams
    normals: deque[Array] = field(default_factory=deque)
    kinks: deque[tuple[Array, Array]] = field(default_factory=deque)

    def linear(self, run: int, part: int, shape: tuple[int, int]) -> Array:
        self.normals.append(self.fresh.linear(run, part, shape))
        return self.normals[-1]

    def kinked(self, run: int, part: int, shape: tuple[int, int]) -> list[tuple[Array, Array]]:
        self.kinks.extend(self.fresh.kinked(run, part, shape))
        return [self.kinks[-1]]


@dataclass(frozen=True)
class _Halved:
    """The same random numbers for steps of twice the length: two of the short ones make up a long one."""

    record: _Recorded

    def linear(self, run: int, part: int, shape: tuple[int, int]) -> Array:
        return (self.record.normals.popleft() + self.record.normals.popleft()) / np.sqrt(2.0)

    def kinked(self, run: int, part: int, shape: tuple[int, int]) -> list[tuple[Array, Array]]:
        return [self.record.kinks.popleft() for _ in range(2)]


@dataclass(frozen=True)
class _Pilot:
    """Time step and its estimated discretization errors, shapes (T, m, m) and (T, m, K)."""

    time_step: float
    Q_error: Array
    R_error: Array


def _pilot(
    model: Model,
    initial: InitialLaw,
    t: Array,
    time_step: float | None,
    particles: int,
    runs: int,
    seed: np.random.SeedSequence,
) -> _Pilot:
    """Estimate the error of the time step from two coupled small systems, and choose the step if none is given."""
    size = min(particles, _PILOT_PARTICLES)
    step = _LARGEST_STEP if time_step is None else time_step
    step = min(step, float(t[-1])) or step
    tolerance = 1.0 / np.sqrt(particles * runs)
    previous = np.inf
    while True:
        pilot, relative = _coupled_pair(model, initial, t, step, size, seed)
        stuck = relative > 0.9 * previous and np.isfinite(relative)
        if time_step is not None or relative <= tolerance or stuck or step <= _SMALLEST_STEP:
            return pilot
        # Order 2, with a margin; an infinite error (the coarse system blew up) gives the largest reduction.
        step = max(_SMALLEST_STEP, step * min(0.7, max(0.25, 0.9 * float(np.sqrt(tolerance / relative)))))
        previous = relative


def _coupled_pair(
    model: Model, initial: InitialLaw, t: Array, step: float, particles: int, seed: np.random.SeedSequence
) -> tuple[_Pilot, float]:
    """Run two systems, with this step and with twice of it, from the same start and with the same noise.

    Returns the errors, and the largest of them relative to the size of the weights, sqrt(Q_jj).
    Times that one of the two does not reach have an infinite error.
    """
    (rng,) = _generators([seed])
    fine = ParticleSystem.start(model, initial, particles, [rng])
    coarse = fine.copy()
    noise = _Recorded(Streams([[rng]]))
    times = time_grid(t, step)
    Q_error = np.full((len(t), *fine.Q.shape[1:]), np.inf)
    R_error = np.full((len(t), *fine.R.shape[1:]), np.inf)
    relative = 0.0
    finished = np.ones(len(times), dtype=bool)
    slow = evolve(fine, times, finished, noise, None)
    quick = evolve(coarse, times[::2], finished[::2], _Halved(noise), None)
    for count in (1, *[2] * (len(times) // 2)):
        # The fine system goes first: the coarse one uses up its noise.
        reached = [forces is not None for _, forces in islice(slow, count)]
        if not all(reached):
            break
        index, forces = next(quick)
        if forces is None:
            return _Pilot(step, Q_error, R_error), np.inf
        scale = np.maximum(np.sqrt(np.diagonal(fine.Q[0])), _SMALLEST_SCALE)
        Q_gap, R_gap = np.abs(fine.Q[0] - coarse.Q[0]), np.abs(fine.R[0] - coarse.R[0])
        relative = max(relative, float((Q_gap / np.outer(scale, scale)).max()), float((R_gap / scale[:, None]).max()))
        for output in np.flatnonzero(t == times[2 * index]):
            Q_error[output], R_error[output] = Q_gap, R_gap
    return _Pilot(step, Q_error, R_error), relative
