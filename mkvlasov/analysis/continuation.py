"""Fixed points of the closed ODEs followed in a parameter of the problem, through folds and from branch to branch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from mkvlasov import _checks
from mkvlasov._typing import Array, Seed
from mkvlasov.analysis import arclength, newton
from mkvlasov.analysis.arclength import Branch, Steps
from mkvlasov.analysis.bifurcations import (
    BRANCH_POINT,
    FOLD,
    HOPF,
    VERTEX,
    Event,
    Passage,
    criticality,
    find_events,
    part_of,
    turned,
)
from mkvlasov.analysis.crossings import branch_directions
from mkvlasov.analysis.curves import SINGULAR, VANISHES, Curves
from mkvlasov.analysis.diagram import Bifurcation, BifurcationDiagram, FixedPointBranch
from mkvlasov.analysis.equations import Equation
from mkvlasov.analysis.families import Family, check_bounds
from mkvlasov.analysis.fixed_points import ZERO_WEIGHTS, fixed_points, name_of
from mkvlasov.analysis.symmetries import Symmetries, find_symmetries, same
from mkvlasov.errors import InvalidInput
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.problem.contrastive import Problem

_DECADE = 20.0
"""Ratio of positive bounds from which the parameter is followed on a logarithmic axis."""
_GENERIC = (0.381966, 0.763932)
"""Where symmetries are looked for: at two values that are nothing special."""
_SEARCH_RTOL = 1e-6
_EMPTY = 1e-12
_SAME = 1e-6
_NEARBY = 1e-3
"""Of an interpolated branch, where the corrector fails."""
_MEETING = 1e-4
"""Scaled distance of bifurcations that are one."""
_APART = 1e-3
"""Scaled distance along the parameter of a bifurcation from a branch that ends there."""
_ASIDE = 0.02
"""Distance, in scaled variables, at which new branches are searched around a point with several null vectors."""
_AROUND = 24
_SMALL = np.geomspace(0.03, 1.0, 6)
"""Sizes of weights with which branches out of zero weights are searched."""
_INNER = (0.1, 0.6)
"""And their 1 - |q|^2."""
_LEAST = 1e-8
"""Q at which such a search ends."""
_ARM = 0.017
"""First step on a branch that was switched to: no simple multiple of the others, so that none meets the point again."""


def continue_fixed_points(
    problem: Problem,
    name: str,
    *,
    bounds: tuple[float, float],
    logarithmic: bool | None = None,
    searches: int | None = None,
    starts: int | None = None,
    rng: Seed = 0,
    progress: bool = True,
) -> BifurcationDiagram:
    """Follow the fixed points of the closed ODEs in a parameter of the problem.

    Fixed points are searched at several values of the parameter; each that lies on no known branch, nor on a symmetric
    copy of one, is followed both ways by its arclength. At branch points the other branches are followed as well.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none, and a constant learning rate.
    name : str
        Path of a number, such as "hidden.variance[0]", "learning_rate", "regularizer.strength", "augmentation.std",
        "augmentation.correlation", "background_variance", or "batch_size" (taken as a real number, which has a
        meaning where the samples of a batch do not interact).
    bounds : pair of floats
    logarithmic : bool, optional
        Whether steps are taken in the logarithm of the parameter: by default if positive bounds are a factor 20 apart.
    searches : int, optional
        Number of values at which fixed points are searched, spread over the bounds: 7 for one output, 3 for more.
    starts : int, optional
        Random starts of each search, as in `fixed_points`.
    rng : seed
    progress : bool
        Whether to show the number of points.

    Returns
    -------
    BifurcationDiagram

    Raises
    ------
    ClosureError
        If the moments do not close.
    InvalidInput
        If there is no such parameter, or the problem does not admit the bounds.
    UnsupportedError
        For a learning rate that depends on time, or a batch size where the samples of a batch interact.

    Notes
    -----
    A branch that lies between two values searched and meets no other one is overlooked, as are pairs of crossings
    between neighbouring points of a branch.
    """
    family = Family(problem, name)
    low, high = check_bounds(name, bounds)
    for value in (low, high):
        _admit(family, value, bounds)
    if logarithmic is None:
        logarithmic = low > 0.0 and high >= _DECADE * low
    elif _checks.flag("logarithmic", logarithmic) and low <= 0.0:
        raise InvalidInput("bounds", bounds, "two increasing numbers > 0 for a logarithmic axis")
    number = _checks.integer(
        "searches", (7 if problem.outputs == 1 else 3) if searches is None else searches, minimum=1
    )
    spread = np.geomspace if logarithmic else np.linspace
    searched = spread(low, high, number + 2)[1:-1] if number < 3 else spread(low, high, number)
    generic = [_between(low, high, part, logarithmic) for part in _GENERIC]
    tracer = _Tracer(family, (low, high), logarithmic, _common_symmetries(family, generic))
    with tqdm(desc="continuation", unit="point", disable=None if progress else True) as bar:
        tracer.bar = bar
        for value in searched:
            bar.set_postfix_str(f"searching at {value:.4g}")
            for point in fixed_points(family.problem_at(float(value)), starts=starts, rng=rng):
                tracer.add(family.closed.entries.pack(point.Q, point.R), float(value))
    return tracer.diagram(searched)


def _between(low: float, high: float, part: float, logarithmic: bool) -> float:
    return low * (high / low) ** part if logarithmic else low + part * (high - low)


def _admit(family: Family, value: float, bounds: tuple[float, float]) -> None:
    try:
        family.problem_at(value)
    except InvalidInput as error:
        raise InvalidInput("bounds", bounds, f"values that the problem admits ({error})") from error


def _common_symmetries(family: Family, values: list[float]) -> Symmetries:
    """Return the symmetries that the problem has at every one of some values."""
    found = []
    for value in values:
        problem = family.problem_at(value)
        found.append(find_symmetries(ClosedRates(problem, _SEARCH_RTOL), problem.rate(0.0)))
    first, *others = found
    names = set(first.names).intersection(*(other.names for other in others))
    rotated = tuple(block for block in first.rotated if all(block in other.rotated for other in others))
    return Symmetries(first.entries, tuple(s for s in first.discrete if s.name in names), rotated)


@dataclass(frozen=True, eq=False)
class _Meeting:
    """A bifurcation: state (d,) and value of the parameter, and the branches that pass."""

    x: Array
    p: float
    event: Event
    equation: Equation
    branches: frozenset[int]


class _Tracer:
    """Branches found so far, in the entries of (R, Q) that symmetries leave free, and their bifurcations."""

    def __init__(self, family: Family, bounds: tuple[float, float], logarithmic: bool, symmetries: Symmetries) -> None:
        self.family, self.bounds, self.logarithmic, self.symmetries = family, bounds, logarithmic, symmetries
        self.entries = family.closed.entries
        self.curves = Curves(family, bounds, logarithmic, symmetries, self._tick)
        one = family.problem.outputs == 1
        self.steps = Steps(tolerance=1e-10 if one else 1e-8, most=1000 if one else 300)
        self.traced: list[tuple[Equation, Branch]] = []
        self.events: list[_Meeting] = []
        self.unfinished: list[str] = []
        self.bar: tqdm | None = None

    def add(self, x: Array, p: float) -> None:
        """Follow a fixed point (d,) both ways, and the branches that meet its own, unless they are known."""
        waiting = [(x, p)]
        while waiting:
            x, p = waiting.pop()
            x = self.symmetries.copies(x)[0]  # the one with positive overlaps
            if self._is_known(x, p):
                continue
            equation = self.curves.equation(x)
            branch = arclength.follow(equation, x[self.curves.kept], p, steps=self.steps)
            if branch is None:
                self._note(f"the fixed point {self._words(x)} at {p:.6g} was not found again")
                continue
            pieces = self._pieces(equation, branch)
            pieces.sort(key=lambda pair: float(np.abs(pair[0].x - x[self.curves.kept]).sum(axis=1).min()))
            for piece, events in pieces:
                if self._is_known(self.curves.state(piece.x[len(piece) // 2]), float(piece.p[len(piece) // 2])):
                    continue
                self.traced.append((equation, piece))
                for event in events:
                    if self._register(equation, event, len(self.traced) - 1) and event.kind in (BRANCH_POINT, VERTEX):
                        waiting += self._switched(equation, event)

    def diagram(self, searched: Array) -> BifurcationDiagram:
        """Return everything in the words of the problem."""
        branches = [self.curves.described(branch) for _, branch in self.traced]
        for i, branch in enumerate(branches):
            for end, where in zip(branch.ends, (0, -1), strict=True):
                if end in (arclength.STEP, arclength.POINTS):
                    self._note(f"branch {i} ({branch.name}) ends at {branch.parameter[where]:.6g}: {end}")
                elif end in (VANISHES, SINGULAR):
                    last = self.curves.state(self.traced[i][1].x[where])
                    self._attach(i, last, float(branch.parameter[where]), float(branch.Q.max()))
        for meeting in self.events:
            if not meeting.x.any() and all(branches[i].name == ZERO_WEIGHTS for i in meeting.branches):
                self._note(f"no admissible branch out of zero weights was found at {meeting.p:.6g}")
        meetings = sorted(self.events, key=lambda meeting: meeting.p)
        return BifurcationDiagram(
            problem=self.family.problem, name=self.family.name, bounds=self.bounds, logarithmic=self.logarithmic,
            branches=tuple(branches), bifurcations=tuple(self._named(meeting, branches) for meeting in meetings),
            symmetries=self.symmetries.names, searched=np.asarray(searched), unfinished=tuple(self.unfinished),
        )  # fmt: skip

    def _attach(self, index: int, x: Array, p: float, q: float) -> None:
        """Note that a branch, on which Q is at most q, ends at a bifurcation of another one."""
        for i, meeting in enumerate(self.events):
            near = (np.abs(self.symmetries.copies(x) - meeting.x).max(axis=1) < np.sqrt(_MEETING) * q).any()
            if near and abs(self._axis(meeting.p) - self._axis(p)) < _APART:
                self.events[i] = replace(meeting, branches=meeting.branches | {index})

    def _is_known(self, x: Array, p: float) -> bool:
        """Whether a fixed point, or a symmetric copy of it, lies on a branch."""
        copies = self.symmetries.copies(x)
        for equation, branch in self.traced:
            u = np.array([equation.pack(y, value) for y, value in zip(branch.x, branch.p, strict=True)])
            a = equation.pack(x[self.curves.kept], p)[-1]
            ahead, behind = u[1:, -1] - a, u[:-1, -1] - a
            for i in np.flatnonzero((ahead * behind <= 0.0) | (np.minimum(abs(ahead), abs(behind)) < _EMPTY)):
                share = 0.0 if ahead[i] == behind[i] else np.clip(behind[i] / (behind[i] - ahead[i]), 0.0, 1.0)
                guess = u[i] + share * (u[i + 1] - u[i])
                guess[-1] = a
                near = [
                    c
                    for c in copies
                    if np.abs(c[self.curves.kept] / equation.scale - guess[:-1]).max()
                    < 0.1 * max(1.0, np.abs(guess[:-1]).max())
                ]
                if not near:
                    continue
                found = arclength.correct(equation, guess, None, None, self.steps)
                state, tolerance = self.curves.state(equation.unpack(found.u)[0]), _SAME
                if found.failure:
                    state, tolerance = self.curves.state(equation.unpack(guess)[0]), _NEARBY
                if any(same(self.entries, copy, state, tolerance) for copy in near):
                    return True
        return False

    def _pieces(self, equation: Equation, branch: Branch) -> list[tuple[Branch, list[Event]]]:
        """Cut a branch where it turns back at another one: beyond it comes its mirror image, or its like."""
        events = self._located(equation, branch)
        cuts: list[Event | None] = [event for event in events if event.kind == VERTEX]
        pieces: list[tuple[Branch, list[Event]]] = []
        begin, head = 0, None
        if cuts and branch.ends[0] == arclength.CLOSED:
            # Where a loop was begun means nothing: it begins and ends at its first cut instead.
            branch, events, head = turned(branch, events)
            cuts = [event for event in events if event.kind == VERTEX]
        else:
            cuts.append(None)
        for tail in cuts:
            stop = len(branch) if tail is None else tail.interval + 1
            # An event in the interval of a cut counts for the piece before it.
            inner = [e for e in events if e.kind != VERTEX and begin <= e.interval < stop]
            part = part_of(equation, branch, slice(begin, stop), head, tail)
            pieces.append((part, [*inner, *(e for e in (head, tail) if e is not None)]))
            begin, head = stop, tail
        return pieces

    def _located(self, equation: Equation, branch: Branch) -> list[Event]:
        block = np.ix_(self.curves.kept, self.curves.kept)
        errors = [
            self.family.jacobian(self.curves.state(y), p).error[block] for y, p in zip(branch.x, branch.p, strict=True)
        ]
        events = find_events(equation, branch, np.array(errors), self.steps)
        for i in events.unresolved:
            self._note(f"a change between {branch.p[i]:.8g} and {branch.p[i + 1]:.8g} was not located")
        return events.found

    def _register(self, equation: Equation, event: Event, index: int) -> bool:
        """Keep a bifurcation, or the more exact of two that are one; return whether it is new."""
        y, p = equation.unpack(event.point.u)
        x = self.curves.state(y)
        copies = self.symmetries.copies(x)
        # That of the branch, where its weights vanish.
        size = max(newton.scales(self.entries, x)[-1] if x.any() else 0.0, np.abs(self.traced[index][1].x).max()) or 1.0
        for i, known in enumerate(self.events):
            scaled = np.abs(copies - known.x).max(axis=1) / size
            if abs(self._axis(p) - self._axis(known.p)) < _MEETING and scaled.min() < np.sqrt(_MEETING):
                new = _Meeting(x, p, event, equation, frozenset())
                # A branch that goes through is located better than one that turns back.
                better = min(known, new, key=lambda m: (m.event.kind == VERTEX, m.event.error))
                self.events[i] = replace(better, branches=known.branches | {index})
                return False
        self.events.append(_Meeting(x, p, event, equation, frozenset({index})))
        return True

    def _switched(self, equation: Equation, event: Event) -> list[tuple[Array, float]]:
        """Return first points on the branches that meet at a branch point."""
        y, p = equation.unpack(event.point.u)
        x = self.curves.state(y)
        if not x.any():
            return self._born(equation, event)
        directions = branch_directions(equation, y, p) if event.null.shape[1] == 1 else np.zeros((0, len(y) + 1))
        found = []
        for direction in (*directions, *-directions):
            arm = arclength.follow(equation, y, p, direction=direction, steps=replace(self.steps, most=2, first=_ARM))
            if arm is not None and len(arm) == 2:
                found.append((self.curves.state(arm.x[1]), float(arm.p[1])))
        return found or self._around(equation, event)

    def _around(self, equation: Equation, event: Event) -> list[tuple[Array, float]]:
        """Search fixed points beside a branch point along its null vectors."""
        rng = np.random.default_rng(0)  # any directions do
        weights = rng.normal(size=(_AROUND, event.null.shape[1]))
        moves = 5.0 * _ASIDE * weights / np.linalg.norm(weights, axis=1, keepdims=True) @ event.null.T * equation.scale
        y, _ = equation.unpack(event.point.u)
        return self._beside(event, np.array([self.curves.state(y + move) for move in moves]))

    def _born(self, equation: Equation, event: Event) -> list[tuple[Array, float]]:
        """Search small weights beside a bifurcation of zero weights: Q is quadratic in R there."""
        rng = np.random.default_rng(0)  # any directions do
        states = []
        for size in _SMALL:
            for inner in _INNER:
                move = np.zeros(self.entries.size)
                move[self.curves.kept] = event.null @ rng.normal(size=event.null.shape[1]) * equation.scale
                dQ, R = self.entries.unpack(move)
                R = R / max(float(np.linalg.norm(R)), _SAME)
                noise = dQ @ dQ.T / max(float(np.linalg.norm(dQ)) ** 2, _SAME) + inner * np.eye(len(dQ))
                states.append(self.entries.pack(size**2 * (R @ R.T + noise), size * R))
        return self._beside(event, np.array(states))

    def _beside(self, event: Event, starts: Array) -> list[tuple[Array, float]]:
        """Search fixed points on both sides of a bifurcation."""
        found = []
        starts = starts[newton.smallest_eigenvalue(self.entries, starts) > 0.0]
        for side in (-1.0, 1.0):
            u = event.point.u.copy()
            u[-1] += side * _ASIDE
            if not (0.0 <= u[-1] <= 1.0 and len(starts)):
                continue
            p = self._value(float(u[-1]))
            problem = self.family.problem_at(p)
            tau = problem.rate(0.0)
            limits = (_LEAST, 1e4 * float(newton.scales(self.entries, starts)[:, -1].max()))
            ends = newton.search(ClosedRates(problem, _SEARCH_RTOL), starts, tau, limits)
            exact = newton.polish(ClosedRates(problem, self.family.rtol), ends.x[ends.ended == newton.CONVERGED], tau)
            found += [(x, p) for x in exact.x[exact.ended == newton.CONVERGED]]
        return found

    def _named(self, meeting: _Meeting, branches: list[FixedPointBranch]) -> Bifurcation:
        event, x = meeting.event, meeting.x
        Q, R = self.entries.unpack(x)
        vectors = []
        for null in event.null.T:
            move = np.zeros(self.entries.size)
            move[self.curves.kept] = null * meeting.equation.scale
            vectors.append(move / np.linalg.norm(move))
        broken, reversed_ = self.symmetries.broken(x, np.array(vectors).reshape(len(vectors), -1))
        kind, sort = event.kind, None
        if kind in (BRANCH_POINT, VERTEX):
            kind = "pitchfork" if reversed_ or (broken and len(vectors) > 1) else "transcritical"
            if kind == "pitchfork" and len(vectors) == 1:
                sort = criticality(
                    meeting.p, event.error, [self._passage(meeting, branches[i]) for i in meeting.branches]
                )
        return Bifurcation(
            kind=kind, criticality=sort, value=meeting.p, error=event.error, Q=Q, R=R,
            directions=tuple(self.entries.unpack(v) for v in vectors), frequency=event.frequency,
            broken=() if kind in (FOLD, HOPF) else broken, branches=tuple(sorted(meeting.branches)),
        )  # fmt: skip

    def _passage(self, meeting: _Meeting, branch: FixedPointBranch) -> Passage:
        """Return where a branch comes nearest to a bifurcation."""
        states = self.entries.pack(branch.Q, branch.R)
        gaps = np.abs(states - self.symmetries.copies(meeting.x)[:, None]).max(axis=-1).min(axis=0)
        along = np.abs([self._axis(p) - self._axis(meeting.p) for p in branch.parameter])
        nearest = int((gaps / (branch.Q.max() or 1.0) + along).argmin())
        return Passage(branch.parameter, branch.unstable_dimension, nearest)

    def _axis(self, p: float) -> float:
        low, high = self.bounds
        return float(np.log(p / low) / np.log(high / low)) if self.logarithmic else (p - low) / (high - low)

    def _value(self, part: float) -> float:
        return float(np.clip(_between(*self.bounds, part, self.logarithmic), *self.bounds))

    def _tick(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def _words(self, x: Array) -> str:
        return name_of(*self.entries.unpack(x))

    def _note(self, text: str) -> None:
        if text not in self.unfinished:
            self.unfinished.append(text)
