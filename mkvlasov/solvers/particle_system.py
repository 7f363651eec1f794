"""The state of the particle system and how it moves in time; `particles` drives it.

Weights are stored as (runs, m, P) and loadings as (runs, K, P), particles last, because inner loops run over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.errors import UnsupportedError
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.order_parameters import orthonormalize
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import Empirical, InitialLaw
from mkvlasov.solvers.particle_steps import Flow, LinearStep, exact_linear_step, move, split_regularizer

Noise = Callable[[int, tuple[int, int]], Array]
"""(run, shape) -> standard normals."""

# A run counts as diverged when an entry of Q exceeds this: weights of 300 and more, far beyond any start worth
# simulating. The nodes that the limit coefficients need grow with sqrt(Q), so going on would take ever longer too.
HUGE_OVERLAP = 1e5

# Particles moved at a time, so that their temporaries stay in the cache.
BLOCK = 2**13
# Atoms of the loadings beyond which they are sampled like a continuous law.
_MOST_ATOMS = 256


@dataclass(frozen=True)
class Model:
    """A problem prepared for stepping: coefficients at learning rate one, and the regularizer split in two."""

    problem: Problem
    coefficients: LimitCoefficients
    linear_strength: float
    flow: Flow | None

    @staticmethod
    def of(problem: Problem, rtol: float) -> Model:
        # At rate one Lambda is Lambda / tau^2, so the rate can be taken at the middle of a step.
        unit = replace(problem, learning_rate=1.0)
        return Model(problem, LimitCoefficients(unit, rtol=rtol), *split_regularizer(problem.regularizer))

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


class ParticleSystem:
    """Independent runs of interacting particles.

    Attributes
    ----------
    weights, loadings : ndarray, shapes (runs, m, P) and (runs, K, P)
    Q, R : ndarray, shapes (runs, m, m) and (runs, m, K)
        Their empirical overlaps.
    coefficient_error : float
        Largest relative error that the coefficients have reported so far.
    """

    def __init__(self, model: Model, weights: Array, loadings: Array) -> None:
        self.model, self.weights, self.loadings = model, weights, loadings
        self.coefficient_error = 0.0
        transposed = np.swapaxes(weights, -1, -2)
        particles = weights.shape[-1]
        self.Q = weights @ transposed / particles
        self.R = weights @ np.swapaxes(loadings, -1, -2) / particles
        if model.on_sphere:
            self._rescale()

    @staticmethod
    def start(
        model: Model, initial: InitialLaw, particles: int, generators: list[np.random.Generator]
    ) -> ParticleSystem:
        """Draw one run per generator."""
        drawn = [draw_particles(model.problem, initial, particles, rng) for rng in generators]
        return ParticleSystem(model, np.stack([w.T for w, _ in drawn]), np.stack([a.T for _, a in drawn]))

    def copy(self) -> ParticleSystem:
        """Return an independent copy that shares the loadings."""
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
            gradient = np.swapaxes(self.model.problem.regularizer.gradient(np.swapaxes(self.weights, -1, -2)), -1, -2)
            drift = c.G @ self.Q + c.H @ np.swapaxes(self.R, -1, -2)
            pull = np.diagonal(drift, axis1=-2, axis2=-1) + (gradient * self.weights).mean(axis=-1)
        return Forces(c.G, c.H, c.Lambda, pull, c.loss)

    def advance(self, forces: Forces, rate: float, step: float, noise: Noise, pool: Executor | None) -> None:
        """Move every particle by one time step with frozen forces."""
        linear = self._linear_step(forces, rate, step)

        def sweep(run: int) -> None:
            self.Q[run], self.R[run] = self._sweep(run, linear.of_run(run), rate * step, noise, keep=True)

        runs = range(len(self.weights))
        for _ in map(sweep, runs) if pool is None else pool.map(sweep, runs):
            pass
        if self.model.on_sphere and not self.diverged.any():
            self._rescale()

    def predict(self, forces: Forces, rate: float, step: float) -> Forces:
        """Return the forces after one step, to first order in it, without moving anything or drawing noise.

        Where that diverges they are the present ones: the step itself will find out.
        """
        linear = self._linear_step(forces, rate, step)
        ahead = ParticleSystem.__new__(ParticleSystem)
        ahead.__dict__.update(self.__dict__)
        parts = [
            self._sweep(run, linear.of_run(run), rate * step, lambda _, shape: np.zeros(shape), keep=False)
            for run in range(len(self.weights))
        ]
        halves = 1.0 if self.model.flow is None else 2.0
        ahead.Q = np.stack([Q for Q, _ in parts]) + halves * linear.noise @ np.swapaxes(linear.noise, -1, -2)
        ahead.R = np.stack([R for _, R in parts])
        return forces if ahead.diverged.any() else ahead.forces()

    def _linear_step(self, forces: Forces, rate: float, step: float) -> LinearStep:
        m = self.weights.shape[1]
        A = -rate * (forces.G + self.model.linear_strength * np.eye(m))
        if self.model.on_sphere:
            growth = -2.0 * rate * forces.pull + rate**2 * np.diagonal(forces.diffusion, axis1=-2, axis2=-1)
            A = A - 0.5 * growth[..., None] * np.eye(m)
        span = step if self.model.flow is None else 0.5 * step
        with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges is reported, not warned about
            return exact_linear_step(A, -rate * forces.H, rate**2 * forces.diffusion, span)

    def _sweep(self, run: int, linear: LinearStep, span: float, noise: Noise, *, keep: bool) -> tuple[Array, Array]:
        """Move one run block by block; return its new overlaps."""
        weights, loadings = self.weights[run], self.loadings[run]
        m, particles = weights.shape
        flow = self.model.flow
        Q, R = np.zeros((m, m)), np.zeros((m, len(loadings)))
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(0, particles, BLOCK):
                part = slice(first, min(first + BLOCK, particles))
                a = loadings[:, part]
                shape = (m, a.shape[1])
                normals = [noise(run, shape) for _ in range(1 if flow is None else 2)]
                w = move(weights[:, part], a, linear, normals, flow, span)
                if keep:
                    weights[:, part] = w
                Q += w @ w.T
                R += w @ a.T
        return Q / particles, R / particles

    def _rescale(self) -> None:
        scale = 1.0 / np.sqrt(np.diagonal(self.Q, axis1=-2, axis2=-1))[..., None]
        self.weights *= scale
        self.Q *= scale * np.swapaxes(scale, -1, -2)
        self.R *= scale


def evolve(
    system: ParticleSystem, times: Array, noise: Noise, pool: Executor | None
) -> Iterator[tuple[int, Forces | None]]:
    """Move the system along `times`; yield the index of each time and the forces there, None once it has diverged."""
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


def draw_particles(
    problem: Problem, initial: InitialLaw, particles: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Draw weights (P, m) and loadings (P, K) with mean of a a^T close to the identity (see `simulate_particles`)."""
    # With many features the atoms of a product law are too many to list, let alone to draw in proportion.
    listed = problem.n_features <= math.log2(_MOST_ATOMS)
    if listed and (problem.loadings.is_exact or isinstance(initial, Empirical)):
        atoms, probabilities = initial.loading_nodes(problem, 1)
        if len(atoms) <= _MOST_ATOMS:
            # Systematic sampling: every atom occurs in proportion, to within one particle.
            ticks = (np.arange(particles) + rng.random()) / particles
            which = np.minimum(np.searchsorted(np.cumsum(probabilities), ticks, side="right"), len(atoms) - 1)
            counts = np.bincount(which, minlength=len(atoms))
            _check_span(atoms[counts > 0], particles)
            weights = [
                initial.conditional(atom, problem).sample(rng, int(count))
                for atom, count in zip(atoms, counts, strict=True)
            ]
            return np.concatenate(weights), np.repeat(atoms, counts, axis=0)
    rows, loadings = initial.sample_rows(rng, particles, problem)
    _check_span(loadings, particles)
    return rows, orthonormalize(loadings)


def _check_span(loadings: Array, particles: int) -> None:
    """Refuse draws in which a feature has no particle: its overlap would be zero whatever the weights."""
    features = loadings.shape[1]
    if np.linalg.matrix_rank(loadings) < features:
        raise UnsupportedError(
            f"{particles} particles are too few for these loadings: those drawn do not span {features} feature(s); "
            "take more particles"
        )
