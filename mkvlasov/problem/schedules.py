"""Learning-rate schedules: functions of the time t = step / N."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.problem.value import Value

Schedule = Callable[[float], float]


def _positive(field: str, value: object) -> float:
    return _checks.number(f"learning_rate.{field}", value, minimum=0.0, maximum=np.inf, exclusive=True)


@dataclass(frozen=True, eq=False, repr=False)
class ExponentialDecay(Value):
    """tau(t) = floor + (initial - floor) exp(-t / timescale)."""

    initial: float
    timescale: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", _positive("initial", self.initial))
        object.__setattr__(self, "timescale", _positive("timescale", self.timescale))
        object.__setattr__(self, "floor", _checks.number("learning_rate.floor", self.floor, minimum=0.0))

    def __call__(self, t: float) -> float:
        return self.floor + (self.initial - self.floor) * float(np.exp(-t / self.timescale))


@dataclass(frozen=True, eq=False, repr=False)
class PowerDecay(Value):
    """tau(t) = initial (1 + t / timescale)^(-exponent)."""

    initial: float
    timescale: float
    exponent: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", _positive("initial", self.initial))
        object.__setattr__(self, "timescale", _positive("timescale", self.timescale))
        object.__setattr__(self, "exponent", _checks.number("learning_rate.exponent", self.exponent, minimum=0.0))

    def __call__(self, t: float) -> float:
        return self.initial * (1.0 + t / self.timescale) ** -self.exponent


@dataclass(frozen=True, eq=False, repr=False)
class PiecewiseLinear(Value):
    """tau(t) linear between given times, constant before the first and after the last.

    Parameters
    ----------
    times : array, shape (n,)
        Increasing, not negative.
    rates : array, shape (n,)
        Learning rates >= 0 at these times.
    """

    times: Array
    rates: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", _checks.times("learning_rate.times", self.times))
        rates = _checks.array("learning_rate.rates", self.rates, shape=(len(self.times),), minimum=0.0)
        object.__setattr__(self, "rates", rates)

    def __call__(self, t: float) -> float:
        return float(np.interp(t, self.times, self.rates))


@dataclass(frozen=True, eq=False, repr=False)
class Continued(Value):
    """tau(t) = schedule(after + t): the schedule of a run that goes on from where another one ended, at time `after`.

    Parameters
    ----------
    schedule : function of the time
    after : float
        Time at which the earlier run ended, not negative.
    """

    schedule: Schedule
    after: float

    def __post_init__(self) -> None:
        _checks.function("learning_rate.schedule", self.schedule)
        object.__setattr__(self, "after", _checks.number("learning_rate.after", self.after, minimum=0.0))

    def __call__(self, t: float) -> float:
        return self.schedule(self.after + t)
