"""Goals of a search: what is asked of the trajectory of a problem, and how trajectories that miss it are ranked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from scipy.optimize import brentq

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.analysis import newton
from mkvlasov.analysis.approach import Ended, Piece, march
from mkvlasov.analysis.fixed_points import accuracy, constant_rate
from mkvlasov.analysis.stability import stability_at
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.entries import Entries
from mkvlasov.order_parameters import readout_alignment
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw

REACHED, MISSED, FAILED = "reached", "missed", "failed"
_SETTLING = 1e-3
"""Relative rates below which a fixed point is looked for."""
_NEAR = 1e-2
"""A stable fixed point that is nearer than this, relative to the scale of the state, has caught the trajectory."""


class Outcome(NamedTuple):
    """What a trajectory came to.

    Attributes
    ----------
    value : float
        In the unit of the goal; infinity or NaN where there is none.
    rank : float
        To be minimized. REACHED comes before MISSED, and MISSED before FAILED; within each the nearer comes first.
    ended : str
        REACHED, MISSED (the trajectory went well, but not there in time) or FAILED (it diverged).
    message : str
    """

    value: float
    rank: float
    ended: str
    message: str


@runtime_checkable
class Goal(Protocol):
    """What `search` asks of a goal."""

    @property
    def feature(self) -> int:
        """The feature whose cosine is meant."""

    @property
    def label(self) -> str:
        """What the value is, for figures."""

    def check(self, problem: Problem) -> None:
        """Raise `UnsupportedError` for problems in which the goal has no meaning."""

    def evaluate(self, problem: Problem, initial: InitialLaw, rtol: float) -> Outcome:
        """Follow the trajectory from the initial law to what is asked for."""


@dataclass(frozen=True)
class CosineAt:
    """The cosine with a feature at a time, as large as possible.

    For several outputs that of the best linear read-out (`order_parameters.readout_alignment`), as in all goals.

    Parameters
    ----------
    t : float
    feature : int
    """

    t: float
    feature: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "t", _checks.number("goal.t", self.t, minimum=0.0, maximum=np.inf, exclusive=True))
        object.__setattr__(self, "feature", _checks.integer("goal.feature", self.feature, minimum=0))

    @property
    def label(self) -> str:
        return f"cosine with feature {self.feature} at t = {self.t:g}"

    def check(self, problem: Problem) -> None:
        pass

    def evaluate(self, problem: Problem, initial: InitialLaw, rtol: float) -> Outcome:
        entries, x = _start(problem, initial)
        try:
            for piece in march(problem, x, self.t, rtol):
                x = piece.states[-1]
        except Ended as end:
            return Outcome(math.nan, 2.0 - end.t / self.t, FAILED, str(end))
        value = float(_cosines(entries, x, self.feature))
        return Outcome(value, 1.0 - value, REACHED, "")


@dataclass(frozen=True)
class TimeToReach:
    """The time at which the cosine with a feature first reaches a value, as early as possible.

    Trajectories that do not get there by `t_max` are ranked behind those that do, by the largest cosine they reach.

    Parameters
    ----------
    cosine : float
        In (0, 1).
    feature : int
    t_max : float
        When to give up.
    """

    cosine: float
    feature: int = 0
    t_max: float = 100.0

    def __post_init__(self) -> None:
        cosine = _checks.number("goal.cosine", self.cosine, minimum=0.0, maximum=1.0, exclusive=True)
        object.__setattr__(self, "cosine", cosine)
        object.__setattr__(self, "feature", _checks.integer("goal.feature", self.feature, minimum=0))
        t_max = _checks.number("goal.t_max", self.t_max, minimum=0.0, maximum=np.inf, exclusive=True)
        object.__setattr__(self, "t_max", t_max)

    @property
    def label(self) -> str:
        return f"time to reach cosine {self.cosine:g} with feature {self.feature}"

    def check(self, problem: Problem) -> None:
        pass

    def evaluate(self, problem: Problem, initial: InitialLaw, rtol: float) -> Outcome:
        entries, x = _start(problem, initial)
        best = float(_cosines(entries, x, self.feature))
        if best >= self.cosine:
            return Outcome(0.0, 0.0, REACHED, "")
        try:
            for piece in march(problem, x, self.t_max, rtol):
                cosines = _cosines(entries, piece.states, self.feature)
                (beyond,) = np.nonzero(cosines >= self.cosine)
                if len(beyond):
                    value = self._crossing(entries, piece, int(beyond[0]))
                    return Outcome(value, value, REACHED, "")
                best = max(best, float(cosines.max()))
        except Ended as end:
            return Outcome(math.inf, self.t_max * (3.0 - end.t / self.t_max), FAILED, str(end))
        message = f"the largest cosine until t = {self.t_max:g} is {best:.6g}"
        return Outcome(math.inf, self.t_max * (1.0 + self.cosine - best), MISSED, message)

    def _crossing(self, entries: Entries, piece: Piece, k: int) -> float:
        """Return the time between samples k - 1 and k of a step at which the cosine is reached."""
        if k == 0:  # the end of the step before, up to rounding
            return float(piece.times[0])

        def gap(t: float) -> float:
            return float(_cosines(entries, piece.at(t), self.feature)) - self.cosine

        return float(brentq(gap, piece.times[k - 1], piece.times[k], xtol=1e-14, rtol=1e-13))


@dataclass(frozen=True)
class SteadyCosine:
    """The cosine with a feature in the stable state that the trajectory tends to, as large as possible.

    Trajectories that have not settled by `t_max` are ranked behind those that have, by their cosine at that time.

    Parameters
    ----------
    feature : int
    t_max : float
        When to give up.
    """

    feature: int = 0
    t_max: float = 1000.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "feature", _checks.integer("goal.feature", self.feature, minimum=0))
        t_max = _checks.number("goal.t_max", self.t_max, minimum=0.0, maximum=np.inf, exclusive=True)
        object.__setattr__(self, "t_max", t_max)

    @property
    def label(self) -> str:
        return f"steady cosine with feature {self.feature}"

    def check(self, problem: Problem) -> None:
        constant_rate(problem)  # refuses schedules

    def evaluate(self, problem: Problem, initial: InitialLaw, rtol: float) -> Outcome:
        entries, x = _start(problem, initial)
        closed, tau = ClosedRates(problem, accuracy(problem)), problem.rate(0.0)
        try:
            for piece in march(problem, x, self.t_max, rtol):
                x = piece.states[-1]
                if np.abs(closed.rates(x, tau) / newton.scales(entries, x)).max() > _SETTLING * tau:
                    continue
                end = _caught(closed, x, tau)
                if end is not None:
                    value = float(_cosines(entries, end, self.feature))
                    return Outcome(value, 1.0 - value, REACHED, "")
        except Ended as early:
            return Outcome(math.nan, 3.0 - early.t / self.t_max, FAILED, str(early))
        cosine = float(_cosines(entries, x, self.feature))
        message = f"not settled in a stable state by t = {self.t_max:g}, where the cosine is {cosine:.6g}"
        return Outcome(math.nan, 2.0 - cosine, MISSED, message)


def _start(problem: Problem, initial: InitialLaw) -> tuple[Entries, Array]:
    entries = Entries(problem.outputs, problem.n_features)
    return entries, entries.pack(*initial.overlaps(problem))


def _cosines(entries: Entries, x: Array, feature: int) -> Array:
    """Return the cosine (...) of the best read-out with a feature at states (..., d)."""
    return readout_alignment(*entries.unpack(x))[..., feature]


def _caught(closed: ClosedRates, x: Array, tau: float) -> Array | None:
    """Return the fixed point beside a state if nothing leads away from it (rotations along it may), or None."""
    found = newton.polish(closed, x[None], tau)
    end = found.x[0]
    if found.ended[0] != newton.CONVERGED or np.abs((end - x) / newton.scales(closed.entries, x)).max() > _NEAR:
        return None
    return None if stability_at(closed, end, tau).unstable_dimension else end
