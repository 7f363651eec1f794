"""Follow many states of the closed system until it is decided where they end: compiled, or stacked in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.integrate import DOP853
from tqdm import tqdm

from mkvlasov._typing import Array
from mkvlasov.analysis.neighbourhoods import ATTRACTING, PASSING, Neighbourhoods
from mkvlasov.errors import UnsupportedError
from mkvlasov.limit.closure import require_closure
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.line import LineKernel
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solvers.ode import DIVERGED as BOUND
from mkvlasov.solvers.ode import tableau
from mkvlasov.solvers.options import worker_count

UNDECIDED, DIVERGED, UNDERFLOW = -1, -2, -3

_COMPILED_TOGETHER, _STACKED_TOGETHER = 64, 512
"""Starts per call: enough to share its cost, few enough for memory, a progress bar and an interrupt."""
_SAFETY, _LEAST, _MOST = 0.9, 0.2, 10.0
_EXPONENT = -1.0 / 8.0
_FIRST_STEP = 0.01
"""First step over the time scale of the start; the error control does the rest."""
_HUGE = 1e3 * BOUND
"""Trial states beyond this are not evaluated: the step that leads there is rejected."""
_BISECTIONS = 30

Rates = Callable[[Array], Array]


class Decided(NamedTuple):
    """Where states ended: an end or UNDECIDED, DIVERGED, UNDERFLOW (S,), when (S,), in which state (S, d)."""

    labels: npt.NDArray[np.int64]
    times: Array
    states: Array
    evaluations: int

    @classmethod
    def empty(cls, starts: Array) -> Decided:
        """Return the answer for states of which nothing is known yet."""
        return cls(np.full(len(starts), UNDECIDED), np.zeros(len(starts)), starts.copy(), 0)


@dataclass(frozen=True)
class Flow:
    """How to follow states.

    Attributes
    ----------
    problem : Problem
        With a constant learning rate.
    t_max : float
    rtol : float
        Of the Runge-Kutta method of order 8 (absolute: a hundredth of it) and of the coefficients.
    fraction : float
        Part of the step that the error control allows which is taken.
    """

    problem: Problem
    t_max: float
    rtol: float
    fraction: float = 1.0

    def follow(
        self,
        starts: Array,
        classes: npt.NDArray[np.int64],
        projectors: Array,
        targets: Neighbourhoods,
        *,
        progress: bool,
    ) -> Decided:
        """Follow starts (S, d), which stay in the subspaces `classes` (S,), until each is decided, or to t_max."""
        kernel = LimitCoefficients(self.problem, self.rtol).line_kernel()
        together = _STACKED_TOGETHER if kernel is None else _COMPILED_TOGETHER
        parts = [slice(i, i + together) for i in range(0, len(starts), together)]
        done = Decided.empty(starts)
        evaluations = 0
        with tqdm(total=len(starts), desc="basins", unit="start", disable=None if progress else True) as bar:
            if kernel is None:
                for part in parts:
                    evaluations += self._stacked(_of(done, part), classes[part], projectors, targets, bar)
            else:

                def work(part: slice) -> int:
                    return self._compiled(_of(done, part), classes[part], projectors, targets, kernel)

                with ThreadPoolExecutor(max_workers=worker_count(None)) as pool:
                    try:
                        for part, count in zip(parts, pool.map(work, parts), strict=True):
                            evaluations += count
                            bar.update(len(starts[part]))
                    except BaseException:
                        # Without this an interrupt would wait until all parts are done.
                        pool.shutdown(cancel_futures=True)
                        raise
        return done._replace(evaluations=evaluations)

    def _compiled(
        self,
        part: Decided,
        classes: npt.NDArray[np.int64],
        projectors: Array,
        targets: Neighbourhoods,
        kernel: LineKernel,
    ) -> int:
        from mkvlasov.analysis import basin_kernels

        problem = self.problem
        return basin_kernels.follow(
            part.states.copy(), classes, self.t_max, self.rtol, 0.01 * self.rtol, BOUND, self.fraction,
            tableau(), problem.rate(0.0), require_closure(problem), problem.constraint == "sphere", kernel.data,
            projectors, targets.kinds, targets.centres, targets.matrices, targets.weights, targets.patience,
            part.labels, part.times, part.states,
        )  # fmt: skip

    def _stacked(
        self, part: Decided, classes: npt.NDArray[np.int64], projectors: Array, targets: Neighbourhoods, bar: tqdm
    ) -> int:
        """Take steps with all starts that are left, each with its own step size."""
        closed, tau = ClosedRates(self.problem, self.rtol), self.problem.rate(0.0)
        count = 0

        def rates(x: Array) -> Array:
            nonlocal count
            count += len(x)
            return _where_finite(closed, x, tau)

        labels, times, states, _ = part
        labels[:] = _ends_of(states, classes, targets)
        left = np.flatnonzero(labels < 0)
        passed, since = np.full(len(left), -1), np.zeros(len(left))
        bar.update(len(labels) - len(left))
        y, f = states[left], rates(states[left])
        now, rejected = np.zeros(len(left)), np.zeros(len(left), dtype=bool)
        scale = np.abs(y).max(axis=1, initial=1e-3)
        step = np.minimum(
            _FIRST_STEP * scale / np.maximum(np.abs(f).max(axis=1, initial=0.0), 1e-3 * scale), self.t_max
        )
        while len(left):
            h = np.minimum(self.fraction * step, self.t_max - now)
            new, stages = _trial(rates, y, f, h)
            error = _error(h, y, new, stages, self.rtol)
            accepted = error < 1.0
            with np.errstate(divide="ignore", over="ignore"):
                factor = np.where(np.isfinite(error), _SAFETY * error**_EXPONENT, _LEAST)
            step = h * np.clip(factor, _LEAST, np.where(~accepted | rejected, 1.0, _MOST))
            rejected = ~accepted
            new[rejected] = y[rejected]
            new = np.einsum("sij,sj->si", projectors[classes[left]], new)
            diverged = np.abs(new).max(axis=1) >= BOUND
            at = np.where(accepted, _ends_of(new, classes[left], targets), -1)
            attracts = at >= 0
            near = _saddles_near(new, classes[left], targets)
            since = np.where(accepted & (near != passed), now, since)
            passed = np.where(accepted, near, passed)
            following = np.where(accepted, now + h, now)
            if attracts.any():
                enters = _entry(rates, y[attracts], h[attracts], new[attracts], stages[:, attracts],
                                 targets, classes[left][attracts], at[attracts])  # fmt: skip
                following[attracts] = now[attracts] + enters[0]
                new[attracts] = enters[1]
            underflow = (self.fraction * step < 10.0 * np.spacing(following)) & (following < self.t_max)
            patience = targets.patience[classes[left], passed]
            lost = (passed >= 0) & (following - since > patience)
            ended = attracts | lost | diverged | underflow | (following >= self.t_max)
            which = left[ended]
            labels[which] = np.select([attracts, diverged, underflow], [at, DIVERGED, UNDERFLOW], UNDECIDED)[ended]
            times[which], states[which] = following[ended], new[ended]
            bar.update(len(which))
            f = np.where(accepted[:, None], stages[-1], f)[~ended]
            y, now, step, rejected, left, passed, since = (
                part[~ended] for part in (new, following, step, rejected, left, passed, since)
            )
        return count


def _of(done: Decided, part: slice) -> Decided:
    """Return views of a part, which is written to."""
    return Decided(done.labels[part], done.times[part], done.states[part], 0)


def _where_finite(closed: ClosedRates, x: Array, tau: float) -> Array:
    """Return the rates at states (S, d), NaN where a trial step has gone too far for them."""
    f = np.full_like(x, np.nan)
    with np.errstate(invalid="ignore"):
        near = (np.abs(x) <= _HUGE).all(axis=1)
    try:
        f[near] = closed.rates(x[near], tau)
    except UnsupportedError:  # one of them is too much: the others are evaluated alone
        if near.sum() == 1:
            return f
        for i in np.flatnonzero(near):
            f[i : i + 1] = _where_finite(closed, x[i : i + 1], tau)
    return f


def _trial(rates: Rates, y: Array, f: Array, h: Array) -> tuple[Array, Array]:
    """Return new states (S, d) a step h (S,) after y, and the stages (13, S, d)."""
    method = DOP853
    stages = np.zeros((method.n_stages + 1, *y.shape))
    stages[0] = f
    for s in range(1, method.n_stages):
        stages[s] = rates(y + h[:, None] * np.tensordot(method.A[s, :s], stages[:s], 1))
    new = y + h[:, None] * np.tensordot(method.B, stages[:-1], 1)
    stages[-1] = rates(new)
    return new, stages


def _error(h: Array, y: Array, new: Array, stages: Array, rtol: float) -> Array:
    """Return the error norms (S,) of a step, as scipy's DOP853 has them."""
    scale = rtol * (0.01 + np.maximum(np.abs(y), np.abs(new)))
    fifth, third = (((np.tensordot(weights, stages, 1) / scale) ** 2).sum(axis=1) for weights in (DOP853.E5, DOP853.E3))
    both = fifth + 0.01 * third
    return h * fifth / np.sqrt(np.where(both > 0.0, both, 1.0) * y.shape[1])


def _ends_of(x: Array, classes: npt.NDArray[np.int64], targets: Neighbourhoods) -> npt.NDArray[np.int64]:
    """Return the end in whose neighbourhood each state (S, d) has converged, -1 if there is none."""
    gap = x[:, None] - targets.centres
    inside = (np.einsum("snij,snj->sni", targets.matrices[classes], gap) ** 2).sum(axis=-1) <= 1.0
    return _first(inside & (targets.kinds[classes] == ATTRACTING))


def _saddles_near(x: Array, classes: npt.NDArray[np.int64], targets: Neighbourhoods) -> npt.NDArray[np.int64]:
    """Return the saddle that each state (S, d) is near, -1 if there is none."""
    near = (np.abs(x[:, None] - targets.centres) * targets.weights <= 1.0).all(axis=-1)
    return _first(near & (targets.kinds[classes] == PASSING))


def _first(hit: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the first hit in each row, -1 where there is none."""
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1)


def _entry(
    rates: Rates,
    y: Array,
    h: Array,
    new: Array,
    stages: Array,
    targets: Neighbourhoods,
    classes: npt.NDArray[np.int64],
    at: npt.NDArray[np.int64],
) -> tuple[Array, Array]:
    """Return when in the step (S,), and in which states (S, d), trajectories enter their neighbourhoods."""
    method = DOP853
    K = np.concatenate([stages, np.zeros((3, *y.shape))])
    for s, row in enumerate(method.A_EXTRA, start=method.n_stages + 1):
        K[s] = rates(y + h[:, None] * np.tensordot(row[:s], K[:s], 1))
    change, width = new - y, h[:, None]
    powers = [change, width * K[0] - change, 2.0 * change - width * (K[method.n_stages] + K[0])]
    powers += list(width * np.tensordot(method.D, K, 1))
    matrix, centre = targets.matrices[classes, at], targets.centres[at]
    low, high = np.zeros(len(y)), np.ones(len(y))
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        gap = _interpolated(middle, y, powers) - centre
        inside = (np.einsum("sij,sj->si", matrix, gap) ** 2).sum(axis=1) <= 1.0
        low, high = np.where(inside, low, middle), np.where(inside, middle, high)
    return high * h, _interpolated(high, y, powers)


def _interpolated(x: Array, y: Array, powers: list[Array]) -> Array:
    """Return the dense output at fractions x (S,) of a step."""
    total, part = np.zeros_like(y), x[:, None]
    for j, power in enumerate(reversed(powers)):
        total = (total + power) * (part if j % 2 == 0 else 1.0 - part)
    return y + total
