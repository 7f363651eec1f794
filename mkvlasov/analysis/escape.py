"""How random starts leave the uninformative state at finite dimension: an ensemble of noisy ODE solutions.

Source: docs/selection.md.

Near R = 0 a run is R = xi / sqrt(N): the overlaps that its random start happens to have and the noise of its steps are
of the same size, and both are amplified by the growth of the overlaps until they are of order one. With x the entries
of (R, Q), the ensemble solves

    dx = [f(x) + f1 / N] dt + N^(-1/2) V^(1/2) dW,

f the right-hand side of the closed ODEs, V / N and f1 / N the covariance per unit time and the finite-size drift of the
steps (`limit.increments`), both taken along the solution of the ODEs from the mean start, x_0 Gaussian with the
covariance of an independent start. Once a cosine has reached a level of order one the noise is negligible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mkvlasov._typing import Array
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.entries import Entries
from mkvlasov.limit.increments import IncrementLaw
from mkvlasov.limit.random_start import independent_start
from mkvlasov.order_parameters import cosine_similarity, square_root
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw

_RTOL = 1e-5
"""Accuracy of the rates: far below what the ensemble is good for, O(1 / N)."""
_NOISE_RTOL = 1e-2
_STEP = 0.3
"""Step times the spectral radius of the Jacobian. Noise enters in the middle of steps: an error of (growth rate times
step)^2 / 6, 0.015 at most, of the variance that it adds."""
_CHANGE = 0.05
"""Change of the state along the mean path, relative to its scale, after which the noise is evaluated anew."""
_AT_REST = 1e-6
"""Change in one step, relative to the scale, after which the mean path is taken to have come to rest."""
_FAR = 100.0
"""Q this many times beyond its scale on the mean path is left to the noiseless ODE, which tells if it diverges."""


@dataclass(frozen=True, eq=False)
class Escapes:
    """The states in which samples leave the uninformative state, and when.

    Attributes
    ----------
    Q, R : ndarray, shapes (S, m, m) and (S, m, K)
        When a cosine has reached the level; of samples for which none has, at the last time.
    times : ndarray, shape (S,)
        When a cosine reached the level; infinite if none has.
    stopped : ndarray, shape (S,)
        The time of (Q, R): the end of the step in which the level was reached.
    step : float
    """

    Q: Array
    R: Array
    times: Array
    stopped: Array
    step: float


@dataclass(frozen=True)
class MeanPath:
    """The solution of the ODEs from the mean start, until it escapes or comes to rest, and the noise along it.

    Attributes
    ----------
    start : ndarray, shape (d,)
    spread : ndarray, shape (d, d)
        N times the covariance of the start.
    shift : ndarray, shape (d,)
        N times its bias.
    times : ndarray, shape (n,)
        Where the noise is known; constant afterwards.
    covariance : ndarray, shape (n, d, d)
        V: N times the covariance of a unit of time's steps.
    drift : ndarray, shape (n, d)
        f1: N times the finite-size drift; zero where it is not known (masks).
    step : float
        That the ensemble takes.
    largest : float
        Largest Q_jj on the path.
    """

    start: Array
    spread: Array
    shift: Array
    times: Array
    covariance: Array
    drift: Array
    step: float
    largest: float

    @classmethod
    def of(cls, problem: Problem, initial: InitialLaw, closed: ClosedRates, *, level: float, t_max: float) -> MeanPath:
        """Follow the mean start until a cosine reaches the level, at most to t_max."""
        entries, tau = closed.entries, problem.rate(0.0)
        random = independent_start(problem, initial)
        Q, R = initial.overlaps(problem)
        start = x = entries.pack(Q, R)
        step = min(_STEP / _fastest(closed, x, tau), t_max)
        times, states, now = [0.0], [x], 0.0
        while now < t_max and _largest_cosine(entries, x[None])[0] < level:
            before = x
            x, now = _runge_kutta(closed, before[None], tau, step)[0], now + step
            size = np.abs(states[-1]).max()
            if np.abs(x - before).max() < _AT_REST * size or np.abs(x).max() > _FAR * np.abs(start).max():
                break
            if np.abs(x - states[-1]).max() > _CHANGE * size:
                times.append(now)
                states.append(x)
                step = min(step, _STEP / _fastest(closed, x, tau))
        known = np.array(states)
        Q, R = entries.unpack(known)
        law = IncrementLaw(problem, _NOISE_RTOL)(Q, R, np.full(len(known), tau))
        return cls(
            start, random.covariance, random.bias, np.array(times), law.covariance, np.nan_to_num(law.finite_size),
            step, float(np.abs(known[:, entries.overlaps :]).max()),
        )  # fmt: skip

    def noise(self, t: float) -> tuple[Array, Array]:
        """Return a root of V and f1 at a time."""
        i = int(np.clip(np.searchsorted(self.times, t, side="right") - 1, 0, max(len(self.times) - 2, 0)))
        if len(self.times) == 1:
            return square_root(self.covariance[0]), self.drift[0]
        part = min((t - self.times[i]) / (self.times[i + 1] - self.times[i]), 1.0)
        between = (1.0 - part) * self.covariance[i] + part * self.covariance[i + 1]
        return square_root(between), (1.0 - part) * self.drift[i] + part * self.drift[i + 1]


def follow_to_escape(
    problem: Problem,
    path: MeanPath,
    closed: ClosedRates,
    *,
    dimension: int,
    samples: int,
    level: float,
    t_max: float,
    seed: np.random.SeedSequence,
    progress: bool,
) -> Escapes:
    """Follow an ensemble until a cosine reaches the level, or to t_max.

    Steps are Strang's: half a step of the ODEs, then noise and a whole step in turn. The same seed gives the same
    random numbers for every dimension, so that escape times of two dimensions differ by
    little more than log N asks for.
    """
    entries, tau, h = closed.entries, problem.rate(0.0), path.step
    rng = np.random.default_rng(seed)
    d = entries.size
    root = square_root(path.spread) / math.sqrt(dimension)
    x = path.start + path.shift / dimension + rng.standard_normal((samples, d)) @ root.T
    x = _admissible(entries, problem, x)
    times, stopped = np.full(samples, np.inf), np.zeros(samples)
    before = _largest_cosine(entries, x)
    times[before >= level] = 0.0
    left = np.flatnonzero(before < level)
    x[left] = _runge_kutta(closed, x[left], tau, 0.5 * h)
    now = 0.5 * h
    with tqdm(total=samples, desc="escapes", unit="sample", disable=None if progress else True) as bar:
        bar.update(samples - len(left))
        while len(left) and now < t_max:
            factor, drift = path.noise(now)
            # Drawn for all samples, whichever are left: the numbers of a sample do not depend on the others.
            kick = math.sqrt(h / dimension) * rng.standard_normal((samples, d))[left] @ factor.T + h / dimension * drift
            moved = _admissible(entries, problem, x[left] + kick)
            x[left] = _admissible(entries, problem, _runge_kutta(closed, moved, tau, h))
            cosine = _largest_cosine(entries, x[left])
            reached = cosine >= level
            # Between steps the cosines grow exponentially.
            rise = np.log(cosine[reached] / np.minimum(before[left[reached]], level))
            times[left[reached]] = now + h * (1.0 - np.log(cosine[reached] / level) / np.maximum(rise, 1e-300))
            now += h
            stopped[left], before[left] = now, cosine
            far = np.abs(x[left, entries.overlaps :]).max(axis=1) > _FAR * path.largest
            bar.update(int((reached | far).sum()))
            left = left[~(reached | far)]
    Q, R = entries.unpack(x)
    return Escapes(Q, R, times, stopped, h)


def _fastest(closed: ClosedRates, x: Array, tau: float) -> float:
    """Return the spectral radius of the Jacobian at a state (d,)."""
    free = closed.free
    return float(np.abs(np.linalg.eigvals(closed.jacobian(x, tau).value[np.ix_(free, free)])).max())


def _runge_kutta(closed: ClosedRates, x: Array, tau: float, h: float) -> Array:
    """Return states (S, d) a step of the ODEs later: the classical method of order 4."""
    a = closed.rates(x, tau)
    b = closed.rates(x + 0.5 * h * a, tau)
    c = closed.rates(x + 0.5 * h * b, tau)
    return np.asarray(x + h / 6.0 * (a + 2.0 * (b + c) + closed.rates(x + h * c, tau)))


def _admissible(entries: Entries, problem: Problem, x: Array) -> Array:
    """Return the nearest states (S, d) with Q - R R^T >= 0, on the sphere of norm one; few are moved, and by little."""
    Q, R = entries.unpack(x)
    if problem.constraint == "sphere":
        norm = 1.0 / np.sqrt(np.diagonal(Q, axis1=-2, axis2=-1))
        Q, R = Q * norm[..., :, None] * norm[..., None, :], R * norm[..., None]
    learnt = R @ R.mT
    values, vectors = np.linalg.eigh(Q - learnt)
    outside: npt.NDArray[np.bool_] = values[:, 0] < 0.0
    kept = vectors[outside]
    Q[outside] = learnt[outside] + (kept * np.maximum(values[outside], 0.0)[:, None, :]) @ kept.mT
    return entries.pack(Q, R)


def _largest_cosine(entries: Entries, x: Array) -> Array:
    Q, R = entries.unpack(x)
    return np.asarray(np.abs(cosine_similarity(Q, R)).max(axis=(-2, -1)))
