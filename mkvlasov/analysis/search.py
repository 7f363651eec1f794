"""Search for the parameters of a problem that serve a goal best: learning rates, schedules, noise, batch sizes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, differential_evolution, minimize
from tqdm import tqdm

from mkvlasov import _checks
from mkvlasov._typing import Array, Seed
from mkvlasov.analysis.goals import REACHED, Goal, Outcome
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw, check_initial
from mkvlasov.problem.parameters import parameter, with_parameter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RTOL, _TIGHT, _TIGHTEST = 1e-7, 1e-9, 1e-11
"""Tolerances of the trajectories: in the search, and of the two that verify the best one."""
_DECADE = 10.0
"""Positive ranges that span more than this factor are searched on a logarithmic scale."""
_LOCAL = 0.5
"""Share of the evaluations that is kept for the local search at the end."""
_SIMPLEX = 0.03
"""Size of its first simplex, and the part of a range that counts as at its bound after it, is a hundredth of it."""
_REFUSED = "refused"


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search tried, and the best of it; n evaluations of p parameters.

    Attributes
    ----------
    goal : Goal
    problem : Problem
        The best one.
    best : mapping from str to float
        Values of the parameters there.
    value, error : float
        Value of the goal for the best problem, and its error: the difference of two reruns with tolerances 100 and
        10,000 times tighter than those of the search.
    flat : mapping from str to (float, float)
        Range of each parameter over the evaluations that are as good as the best within the errors of the search: the
        optimum is known to that accuracy at most.
    at_bounds : tuple of str
        Parameters whose best value lies at an end of their range: a wider one may hold a better value.
    names : tuple of str, length p
    bounds : ndarray, shape (p, 2)
    parameters : ndarray, shape (n, p)
        Everything that was tried, in order.
    values, ranks : ndarray, shape (n,)
        Value of the goal (infinite or NaN where there is none), and what was minimized.
    ended : ndarray of str, shape (n,)
        "reached", "missed", "failed" (diverged), or "refused" (the parameters do not go together, or have no limit).
    status : str
        How the search ended.
    """

    goal: Goal
    problem: Problem
    best: Mapping[str, float]
    value: float
    error: float
    flat: Mapping[str, tuple[float, float]]
    at_bounds: tuple[str, ...]
    names: tuple[str, ...]
    bounds: Array
    parameters: Array
    values: Array
    ranks: Array
    ended: npt.NDArray[np.str_]
    status: str

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of evaluations by the way they ended."""
        return Counter(self.ended.tolist())

    def plot(self) -> Figure:
        """Draw the goal over each parameter, every evaluation and the best (see `plotting.search.plot_search`)."""
        from mkvlasov.plotting.search import plot_search

        return plot_search(self)

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {how}" for how, number in sorted(self.counts.items()))
        found = f"{self.value:.8g} +- {self.error:.1g}" if math.isfinite(self.value) else "not reached"
        lines = [f"{self.goal.label}: {found}", f"  {self.status}; {len(self.ranks)} evaluations ({counts})"]
        for name in self.names:
            low, high = self.flat[name]
            note = ", at the end of its range" if name in self.at_bounds else ""
            lines.append(f"  {name} = {self.best[name]:.6g} (as good within the errors: {low:.6g} to {high:.6g}){note}")
        return "\n".join(lines)


def search(
    problem: Problem,
    initial: InitialLaw,
    *,
    over: Mapping[str, tuple[float, float]],
    goal: Goal,
    evaluations: int = 300,
    rng: Seed = 0,
    progress: bool = True,
) -> SearchResult:
    """Search a box of parameters for the problem that serves a goal best.

    Differential evolution, which is global and takes integers, then Nelder and Mead's method from the best of it
    (both scipy's). Trajectories are those of the closed ODEs. One that misses the goal is ranked behind all that reach
    it, by how near it came; one that diverges behind those.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none.
    initial : InitialLaw
        Where every trajectory starts.
    over : mapping from str to pair of floats
        Bounds of parameters by their path in the problem, such as "learning_rate", "augmentation.std",
        "augmentation.correlation", "regularizer.strength", or of a schedule "learning_rate.rates[1]"
        (`schedules.PiecewiseLinear`) and "learning_rate.timescale"; "batch_size" takes integers only. Positive bounds
        more than a factor of ten apart are searched on a logarithmic scale.
    goal : Goal
        `goals.SteadyCosine`, `goals.TimeToReach`, `goals.CosineAt`, or an object of one's own like them.
    evaluations : int
        At most so many trajectories, without those that verify the result.
    rng : seed
    progress : bool
        Show a progress bar when standard error is a terminal. Ctrl-C ends the search and returns the best so far.

    Returns
    -------
    SearchResult

    Raises
    ------
    ClosureError
    UnsupportedError
        If the goal has no meaning for the problem (a steady state under a schedule).
    InvalidInput

    Notes
    -----
    The global search is random: that it found the global optimum is likely, not certain. Another `rng` or more
    evaluations test it.
    """
    ClosedRates(problem)  # refuses moments that do not close, and losses whose limit is not known
    check_initial(initial, problem)
    box = _Box.of(problem, over)
    _check_goal(goal, problem)
    evaluations = _checks.integer("evaluations", evaluations, minimum=10 * len(box.names))
    seeds = _checks.seed_sequence("rng", rng)
    with tqdm(total=evaluations, desc="search", disable=None if _checks.flag("progress", progress) else True) as bar:
        record = _Record(problem, initial, box, goal, evaluations, bar)
        try:
            status = _optimized(record, np.random.default_rng(seeds))
        except _SpentError:
            status = f"stopped after {evaluations} evaluations"
        except KeyboardInterrupt:
            if not record.outcomes:
                raise
            status = f"interrupted after {len(record.outcomes)} evaluations"
    return _result(record, status)


class _SpentError(Exception):
    """The evaluations are used up."""


@dataclass(frozen=True)
class _Box:
    """Ranges of the parameters, and the variables of the optimizers: integers, or u in [0, 1]."""

    names: tuple[str, ...]
    bounds: Array
    integral: npt.NDArray[np.bool_]
    logarithmic: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, problem: Problem, over: object) -> _Box:
        if not isinstance(over, Mapping) or not over:
            raise InvalidInput("over", over, "bounds of parameters by name, such as {'learning_rate': (0.1, 1.0)}")
        bounds = np.array([_range(problem, name, pair) for name, pair in over.items()])
        integral = np.array([name == "batch_size" for name in over])
        low, high = bounds.T
        return cls(tuple(over), bounds, integral, ~integral & (low > 0.0) & (high > _DECADE * low))

    @property
    def optimizer_bounds(self) -> list[tuple[float, float]]:
        pairs = zip(self.bounds.tolist(), self.integral, strict=True)
        return [(low, high) if whole else (0.0, 1.0) for (low, high), whole in pairs]

    def values(self, u: Array) -> Array:
        """Return the parameters (p,) that variables of the optimizers stand for."""
        low, high = self.bounds.T
        with np.errstate(divide="ignore", invalid="ignore"):  # logarithms of ranges that are not taken
            scaled = np.where(self.logarithmic, low * (high / low) ** u, low + (high - low) * u)
        return np.where(self.integral, np.round(u), np.clip(scaled, low, high))

    def problem(self, base: Problem, values: Array) -> Problem:
        for name, value in zip(self.names, values, strict=True):
            base = _with(base, name, value)
        return base


class _Record:
    """The objective of the optimizers, which remembers every evaluation."""

    def __init__(
        self, problem: Problem, initial: InitialLaw, box: _Box, goal: Goal, evaluations: int, bar: tqdm
    ) -> None:
        self.problem, self.initial, self.box, self.goal = problem, initial, box, goal
        self.evaluations, self.bar = evaluations, bar
        self.variables: list[Array] = []
        self.parameters: list[Array] = []
        self.outcomes: list[Outcome] = []
        self.known: dict[tuple[float, ...], float] = {}

    def __call__(self, u: Array) -> float:
        values = self.box.values(u)
        key = tuple(values.tolist())
        if key in self.known:  # the same integers come back
            return self.known[key]
        if len(self.outcomes) == self.evaluations:
            raise _SpentError
        outcome = self.evaluate(values, _RTOL)
        self.variables.append(np.array(u))
        self.parameters.append(values)
        self.outcomes.append(outcome)
        self.known[key] = outcome.rank
        self.bar.update()
        return outcome.rank

    def evaluate(self, values: Array, rtol: float) -> Outcome:
        try:
            varied = self.box.problem(self.problem, values)
            check_initial(self.initial, varied)
            return self.goal.evaluate(varied, self.initial, rtol)
        except (InvalidInput, UnsupportedError) as error:
            return Outcome(math.nan, math.inf, _REFUSED, str(error))

    @property
    def best(self) -> int:
        return int(np.argmin([outcome.rank for outcome in self.outcomes]))


def _optimized(record: _Record, rng: np.random.Generator) -> str:
    """Run the global and the local search; say how they ended."""
    box = record.box
    members = 8 + 4 * len(box.names)
    start = rng.random((members, len(box.names)))
    start = np.where(box.integral, box.bounds[:, 0] + start * (box.bounds[:, 1] - box.bounds[:, 0]), start)
    generations = max(1, int((1.0 - _LOCAL) * record.evaluations / members) - 1)
    differential_evolution(
        record, Bounds(*np.array(box.optimizer_bounds).T), integrality=box.integral, init=start,
        maxiter=generations, tol=1e-3, polish=False, rng=rng,
    )  # fmt: skip
    before = None
    while record.best != before:  # reals and integers in turn, until neither finds better
        before = record.best
        if not box.integral.all():
            _descend(record)
        for axis in np.flatnonzero(box.integral):
            _step(record, int(axis))
    return "converged"


def _descend(record: _Record) -> None:
    """Go down from the best point by Nelder and Mead's method over the real parameters."""
    moving = ~record.box.integral
    best = record.variables[record.best]

    def local(u: Array) -> float:
        full = best.copy()
        full[moving] = u
        return record(full)

    # From the best point inwards, so that the simplex is not flat at a bound.
    start = best[moving]
    simplex = start + np.vstack([np.zeros(len(start)), np.diag(np.where(start > 0.5, -_SIMPLEX, _SIMPLEX))])
    minimize(
        local, start, method="Nelder-Mead", bounds=[(0.0, 1.0)] * len(start),
        options={
            "initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-5 * record.outcomes[record.best].rank,
            "maxfev": record.evaluations,
        },
    )  # fmt: skip


def _step(record: _Record, axis: int) -> None:
    """Go down from the best point along an integer parameter, by steps that double while they help."""
    low, high = record.box.bounds[axis]
    for sign in (-1.0, 1.0):
        length = 1.0
        while True:
            before = record.best
            trial = record.variables[before].copy()
            trial[axis] = np.clip(trial[axis] + sign * length, low, high)
            record(trial)
            if record.best == before:
                break
            length *= 2.0


def _result(record: _Record, status: str) -> SearchResult:
    box, best = record.box, record.best
    values = record.parameters[best]
    if record.outcomes[best].ended == _REFUSED:
        raise UnsupportedError(f"over: nothing that was tried makes a problem: {record.outcomes[best].message}")
    parameters, ranks = np.array(record.parameters), np.array([outcome.rank for outcome in record.outcomes])
    tight, tightest = (record.evaluate(values, rtol) for rtol in (_TIGHT, _TIGHTEST))
    if tightest.ended != record.outcomes[best].ended:
        status += f"; at a tighter tolerance the best trajectory {tightest.ended} the goal"
    # Twice the gap, for two evaluations that are compared; the tolerance of the search at least.
    allowed = 2.0 * abs(ranks[best] - tightest.rank) + _RTOL * abs(ranks[best])
    equal = parameters[ranks <= ranks[best] + allowed]
    variables = record.variables[best]
    low, high = np.array(box.optimizer_bounds).T
    near = np.minimum(variables - low, high - variables) <= np.where(box.integral, 0.0, 0.01 * _SIMPLEX)
    return SearchResult(
        goal=record.goal, problem=box.problem(record.problem, values),
        best=MappingProxyType(dict(zip(box.names, values.tolist(), strict=True))),
        value=tightest.value,
        error=abs(tight.rank - tightest.rank) if tightest.ended == REACHED else math.nan,
        flat=MappingProxyType({
            name: (float(column.min()), float(column.max())) for name, column in zip(box.names, equal.T, strict=True)
        }),
        at_bounds=tuple(name for name, is_near in zip(box.names, near, strict=True) if is_near),
        names=box.names, bounds=box.bounds, parameters=parameters,
        values=np.array([outcome.value for outcome in record.outcomes]), ranks=ranks,
        ended=np.array([outcome.ended for outcome in record.outcomes]), status=status,
    )  # fmt: skip


def _range(problem: Problem, name: str, pair: object) -> Array:
    """Return checked bounds of a parameter; both ends make a problem."""
    if name != "batch_size":
        parameter(problem, name)  # names what is wrong with the path
    bounds = _checks.array(f"over[{name!r}]", pair, shape=(2,))
    if not bounds[0] < bounds[1]:
        raise InvalidInput(f"over[{name!r}]", pair, "two increasing numbers")
    if name == "batch_size" and (bounds != np.round(bounds)).any():
        raise InvalidInput(f"over[{name!r}]", pair, "two increasing integers")
    for value in bounds:
        _with(problem, name, value)
    return bounds


def _with(problem: Problem, name: str, value: float) -> Problem:
    if name == "batch_size":
        return replace(problem, batch_size=int(value))
    return with_parameter(problem, name, value)


def _check_goal(goal: Goal, problem: Problem) -> None:
    if isinstance(goal, type) or not isinstance(goal, Goal):
        raise InvalidInput("goal", goal, "a goal such as goals.TimeToReach(cosine=0.9)")
    if goal.feature >= problem.n_features:
        raise InvalidInput("goal.feature", goal.feature, f"an integer >= 0 and <= {problem.n_features - 1}")
    goal.check(problem)
