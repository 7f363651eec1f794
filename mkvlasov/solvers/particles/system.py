"""The state of the particle system and how it moves in time; `particles` drives it.

Weights are stored as (runs, m, P) and loadings as (runs, K, P), particles last, because inner loops run over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw
from mkvlasov.solvers.particles.kernels import (
    add_overlaps,
    fill_exponentials,
    fill_normals,
    kinked_diffusion,
    linear_step,
)
from mkvlasov.solvers.particles.starts import draw_particles
from mkvlasov.solvers.particles.steps import LinearStep, Split, exact_linear_step, split_regularizer

# A run counts as diverged when an entry of Q exceeds this: weights of 300 and more, far beyond any start worth
# simulating. The nodes that the limit coefficients need grow with sqrt(Q), so going on would take ever longer too.
HUGE_OVERLAP = 1e5

# Particles moved at a time, so that their temporaries stay in the cache.
BLOCK = 2**14
# Particles of a run that one thread moves, with random numbers of their own. Many blocks, so that tasks are coarse.
PART = 2**17


class Noise(Protocol):
    """Where the random numbers of a part of a run come from."""

    def linear(self, run: int, part: int, shape: tuple[int, int]) -> Array:
        """Return standard normals for the linear step of a block."""

    def kinked(self, run: int, part: int, shape: tuple[int, int]) -> list[tuple[Array, Array]]:
        """Return standard normals and exponentials for consecutive equal shares of the kinked diffusion of a block."""


@dataclass(frozen=True)
class Streams:
    """Fresh random numbers: a generator for every run and part of it."""

    generators: list[list[np.random.Generator]]

    def linear(self, run: int, part: int, shape: tuple[int, int]) -> Array:
        normals = np.empty(shape)
        fill_normals(self.generators[run][part], normals)
        return normals

    def kinked(self, run: int, part: int, shape: tuple[int, int]) -> list[tuple[Array, Array]]:
        exponentials = np.empty(shape)
        fill_exponentials(self.generators[run][part], exponentials)
        return [(self.linear(run, part, shape), exponentials)]


@dataclass(frozen=True)
class Model:
    """A problem prepared for stepping: coefficients at learning rate one, and the regularizer in parts."""

    problem: Problem
    coefficients: LimitCoefficients
    split: Split

    @staticmethod
    def of(problem: Problem, rtol: float) -> Model:
        # At rate one Lambda is Lambda / tau^2, so the rate can be taken at the middle of a step.
        unit = replace(problem, learning_rate=1.0)
        return Model(problem, LimitCoefficients(unit, rtol=rtol), split_regularizer(problem.regularizer))

    @property
    def on_sphere(self) -> bool:
        return self.problem.constraint == "sphere"


@dataclass(frozen=True)
class Forces:
    """What moves the particles of every run at one time, with the learning rate taken out.

    Attributes
    ----------
    G, H, diffusion : ndarray, shapes (runs, m, m), (runs, m, K), (runs, m, m)
        Limit coefficients; diffusion is Lambda / tau^2.
    pull : ndarray, shape (runs, m)
        (G Q + H R^T + E[phi'(w) w^T])_jj: the drift of Q_jj is -2 tau pull_j + Lambda_jj. Zero where nothing
        asks for it (no constraint).
    loss : ndarray, shape (runs,)
    """

    G: Array
    H: Array
    diffusion: Array
    pull: Array
    loss: Array

    def ahead(self, before: Forces, ratio: float) -> Forces:
        """Extrapolate linearly from `before` through this one, by `ratio` times their distance."""
        return Forces(*((1.0 + ratio) * getattr(self, f.name) - ratio * getattr(before, f.name) for f in fields(self)))


@dataclass(frozen=True)
class FlowStep:
    """tau times the time step, and the variance (runs,) that the noise in the kinked diffusion of each entry has."""

    span: float
    variance: Array


class ParticleSystem:
    """Independent runs of interacting particles.

    With a flow, a step ends half a linear step before its time: that half stays pending, to be done together with the
    first half of the next step, and Q and R are what it makes of them in the mean over its noise.

    Attributes
    ----------
    weights, loadings : ndarray, shapes (runs, m, P) and (runs, K, P)
        Those of the present time after `finish`.
    Q, R : ndarray, shapes (runs, m, m) and (runs, m, K)
        Overlaps at the present time; those of the weights after `finish`.
    coefficient_error : float
        Largest relative error that the coefficients have reported so far.
    """

    def __init__(self, model: Model, weights: Array, loadings: Array) -> None:
        self.model, self.weights, self.loadings = model, weights, loadings
        self.coefficient_error = 0.0
        self._pending: LinearStep | None = None
        particles = weights.shape[-1]
        transposed = np.swapaxes(loadings, -1, -2)
        self.Q = weights @ np.swapaxes(weights, -1, -2) / particles
        self.R = weights @ transposed / particles
        self._loading_moments = loadings @ transposed / particles
        if model.on_sphere:
            self._rescale()

    @staticmethod
    def start(
        model: Model, initial: InitialLaw, particles: int, generators: list[np.random.Generator]
    ) -> ParticleSystem:
        """Draw one run per generator."""
        m, k = model.problem.outputs, model.problem.n_features
        weights, loadings = (np.empty((len(generators), rows, particles)) for rows in (m, k))
        for run, rng in enumerate(generators):
            w, a = draw_particles(model.problem, initial, particles, rng)
            weights[run], loadings[run] = w.T, a.T
        return ParticleSystem(model, weights, loadings)

    def copy(self) -> ParticleSystem:
        """Return an independent copy of a finished system; it shares the loadings."""
        return ParticleSystem(self.model, self.weights.copy(), self.loadings)

    @property
    def diverged(self) -> np.ndarray:
        """Which runs have weights that are huge or not finite, shape (runs,)."""
        return ~(np.abs(self.Q).max(axis=(-2, -1)) < HUGE_OVERLAP)

    def forces(self) -> Forces:
        """Evaluate the limit coefficients at the overlaps of every run."""
        c = self.model.coefficients(self.Q, self.R)
        self.coefficient_error = max(self.coefficient_error, float(np.max(c.error)))
        pull = np.zeros(self.weights.shape[:2])
        if self.model.on_sphere:
            drift = c.G @ self.Q + c.H @ np.swapaxes(self.R, -1, -2)
            pull = np.diagonal(drift, axis1=-2, axis2=-1) + self._regularizer_pull()
        return Forces(c.G, c.H, c.Lambda, pull, c.loss)

    def advance(self, forces: Forces, rate: float, step: float, noise: Noise, pool: Executor | None) -> None:
        """Move every particle by one time step with frozen forces."""
        linear, flow = self._parts(forces, rate, step)
        with np.errstate(over="ignore", invalid="ignore"):
            if flow is None:
                self.Q, self.R = self._sweep(linear, None, noise, pool)
            else:
                first = linear if self._pending is None else linear.after(self._pending)
                Q, R = self._sweep(first, flow, noise, pool)
                self.Q, self.R = linear.overlaps(Q, R, self._loading_moments)
                self._pending = linear
        if self.model.on_sphere:
            # The multiplier of the next step is a mean over the particles.
            self.finish(noise, pool)
            if not self.diverged.any():
                self._rescale()

    def finish(self, noise: Noise, pool: Executor | None) -> None:
        """Do what is pending, so that the weights are those of the present time."""
        if self._pending is not None and not self.diverged.any():
            self.Q, self.R = self._sweep(self._pending, None, noise, pool)
            self._pending = None

    def predict(self, forces: Forces, rate: float, step: float) -> Forces:
        """Return the forces after one step of a finished system, to first order, without moving or drawing anything.

        Where that diverges they are the present ones: the step itself will find out.
        """
        linear, flow = self._parts(forces, rate, step)
        ahead = ParticleSystem.__new__(ParticleSystem)
        ahead.__dict__.update(self.__dict__)
        with np.errstate(over="ignore", invalid="ignore"):
            Q, R = self._sweep(linear, flow, None, None)
            ahead.Q, ahead.R = Q + linear.covariance, R
            if flow is not None:
                ahead.Q = ahead.Q + flow.variance[:, None, None] * np.eye(Q.shape[-1])
                ahead.Q, ahead.R = linear.overlaps(ahead.Q, ahead.R, self._loading_moments)
        return forces if ahead.diverged.any() else ahead.forces()

    def _parts(self, forces: Forces, rate: float, step: float) -> tuple[LinearStep, FlowStep | None]:
        """Return the linear part over half the step and the flow, or the linear part over all of it and None."""
        split, m = self.model.split, self.weights.shape[1]
        A = -rate * (forces.G + split.linear * np.eye(m))
        diffusion = rate**2 * forces.diffusion
        if self.model.on_sphere:
            growth = -2.0 * rate * forces.pull + np.diagonal(diffusion, axis1=-2, axis2=-1)
            A = A - 0.5 * growth[..., None] * np.eye(m)
        flow = None
        if not split.is_linear:
            common = np.linalg.eigvalsh(diffusion)[:, 0] if split.kink else np.zeros(len(diffusion))
            # Extrapolated to below zero it counts as none.
            flow = FlowStep(rate * step, np.maximum(common, 0.0) * step)
            diffusion = diffusion - common[:, None, None] * np.eye(m)
        span = step if flow is None else 0.5 * step
        with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges is reported, not warned about
            return exact_linear_step(A, -rate * forces.H, diffusion, span), flow

    def _sweep(
        self, linear: LinearStep, flow: FlowStep | None, noise: Noise | None, pool: Executor | None
    ) -> tuple[Array, Array]:
        """Apply a linear step and then the flow to all particles; return their overlaps.

        Without noise only the overlaps are found, and the particles stay where they are.
        """
        roots = square_root(linear.covariance)
        runs, m, particles = self.weights.shape
        parts = range(0, particles, PART)
        # With one output all the noise is in the kinked diffusion.
        source = None if self.model.split.kink and m == 1 else noise

        def sweep(task: tuple[int, int]) -> tuple[Array, Array]:
            run, start = task
            Q, R = np.zeros((m, m)), np.zeros(self.R.shape[1:])
            weights, loadings = self.weights[run], self.loadings[run]
            with np.errstate(over="ignore", invalid="ignore"):  # this thread has its own settings
                for first in range(start, min(start + PART, particles), BLOCK):
                    last = min(first + BLOCK, particles)
                    shape, part = (m, last - first), start // PART
                    normals = np.zeros(shape) if source is None else source.linear(run, part, shape)
                    moved = linear_step(
                        weights, loadings, first, normals, linear.propagator[run], linear.loading[run], roots[run]
                    )
                    if flow is not None:
                        moved = self._flow(moved, flow, run, part, noise)
                    if noise is not None:
                        weights[:, first:last] = moved
                    add_overlaps(moved, loadings, first, Q, R)
            return Q, R

        tasks = [(run, start) for run in range(runs) for start in parts]
        sums = list(map(sweep, tasks) if pool is None else pool.map(sweep, tasks))
        # Summed in a fixed order, whoever was first.
        Q, R = (np.stack(of_part).reshape(runs, len(parts), m, -1).sum(axis=1) for of_part in zip(*sums, strict=True))
        return Q / particles, R / particles

    def _flow(self, moved: Array, flow: FlowStep, run: int, part: int, noise: Noise | None) -> Array:
        """Apply the flow to a block (m, n) of one run, and return it; without noise only its drift."""
        split = self.model.split
        if split.flow is not None:
            return np.ascontiguousarray(split.flow(moved.T, flow.span).T)
        shift = split.kink * flow.span
        if noise is None:
            return moved - np.clip(moved, -shift, shift)
        shares = noise.kinked(run, part, (moved.shape[0], moved.shape[1]))
        for normals, exponentials in shares:
            kinked_diffusion(moved, shift / len(shares), flow.variance[run] / len(shares), normals, exponentials)
        return moved

    def _regularizer_pull(self) -> Array:
        """Return the means of phi'(w_j) w_j, shape (runs, m)."""
        pull = np.zeros(self.weights.shape[:2])
        for first in range(0, self.weights.shape[-1], BLOCK):
            w = np.swapaxes(self.weights[..., first : first + BLOCK], -1, -2)
            pull += (self.model.problem.regularizer.gradient(w) * w).sum(axis=-2)
        return pull / self.weights.shape[-1]

    def _rescale(self) -> None:
        scale = 1.0 / np.sqrt(np.diagonal(self.Q, axis1=-2, axis2=-1))[..., None]
        self.weights *= scale
        self.Q *= scale * np.swapaxes(scale, -1, -2)
        self.R *= scale


def evolve(
    system: ParticleSystem, times: Array, finished: np.ndarray, noise: Noise, pool: Executor | None
) -> Iterator[tuple[int, Forces | None]]:
    """Move the system along `times`; yield the index of each time and the forces there, None once it has diverged.

    `finished` says at which times the weights themselves are wanted.
    """
    forces = system.forces()
    before, t_before = forces, 0.0
    for index, t in enumerate(times):
        yield index, forces
        if index + 1 == len(times):
            return
        step = times[index + 1] - t
        rate = system.model.problem.rate(t + 0.5 * step)
        if index == 0:
            middle = forces.ahead(system.predict(forces, rate, step), -0.5)
        else:
            middle = forces.ahead(before, 0.5 * step / (t - t_before))
        system.advance(middle, rate, step, noise, pool)
        if finished[index + 1]:
            system.finish(noise, pool)
        if system.diverged.any():
            yield index + 1, None
            return
        # A very short step says nothing about the slope; then the state before it stays the reference.
        following = times[index + 2] - times[index + 1] if index + 2 < len(times) else 0.0
        if step >= 0.25 * following or index == 0:
            before, t_before = forces, t
        forces = system.forces()


def time_grid(marks: Array, largest: float) -> Array:
    """Return times from 0 that include all marks, in steps of at most `largest`, an even number between two marks."""
    times = [np.zeros(1)]
    for start, end in zip(np.concatenate([[0.0], marks[:-1]]), marks, strict=True):
        if end > start:
            pairs = int(np.ceil((end - start) / (2.0 * largest) - 1e-9))
            times.append(np.linspace(start, end, 2 * max(1, pairs) + 1)[1:])
    return np.concatenate(times)
