"""Stationary states of the PDE followed in a parameter of the problem: a bifurcation diagram for every regularizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from tqdm import tqdm

from mkvlasov import _checks
from mkvlasov._typing import Array, Seed
from mkvlasov.analysis import arclength
from mkvlasov.analysis.arclength import Branch, Steps
from mkvlasov.analysis.bifurcations import BRANCH_POINT, FOLD, HOPF, VERTEX, Event, find_events
from mkvlasov.analysis.crossings import branch_directions
from mkvlasov.analysis.diagram import Bifurcation
from mkvlasov.analysis.equations import Equation
from mkvlasov.analysis.families import at_value, check_bounds, check_parameter
from mkvlasov.analysis.fixed_points import name_of
from mkvlasov.analysis.stationary.diagram import StationaryBranch, StationaryDiagram
from mkvlasov.analysis.stationary.linearized import LinearStability, linear_stability
from mkvlasov.analysis.stationary.search import RTOL, check_problem, find_states, settled
from mkvlasov.analysis.stationary.self_consistency import SelfConsistency
from mkvlasov.analysis.symmetries import Symmetries, same
from mkvlasov.errors import InvalidInput, UnconfinedError, UnsupportedError
from mkvlasov.problem.contrastive import Problem

_DECADE = 20.0
"""Ratio of positive bounds from which the parameter is followed on a logarithmic axis."""
_SETTLED = 1e-9
"""Change of the moments by finer quadrature over the loadings at which it is fine enough for a branch."""
_DIFFERENCE = 1e-4
"""Step of differences by the parameter, over the range: of order two, 1e-8 of truncation beside 1e-9 of rounding."""
_CENTRAL = {-1: -0.5, 1: 0.5}
_FORWARD = {0: -1.5, 1: 2.0, 2: -0.5}
_VANISHED = 1e-3
"""Q at which a branch ends, over its value at the start: in log Q it would never reach zero."""
_NOISE = 1e-9
"""Error of the entries of the derivative of the residual."""
_SAME = 1e-5
_MEETING = 1e-4
"""Distance, relative to the bounds, of bifurcations that are one."""
_LISTED = 4


def continue_stationary_states(
    problem: Problem,
    name: str,
    *,
    bounds: tuple[float, float],
    logarithmic: bool | None = None,
    searches: int = 3,
    starts: int | None = None,
    rng: Seed = 0,
    progress: bool = True,
) -> StationaryDiagram:
    """Follow the stationary states of the PDE with one output in a parameter of the problem, for every regularizer.

    States are searched at several values of the parameter; each that lies on no known branch, nor on a symmetric copy
    of one, is followed both ways by its arclength. At branch points the other branches are followed as well.

    Parameters
    ----------
    problem : Problem
        With ``outputs=1`` and a constant learning rate.
    name : str
        Path of a number, such as "regularizer.strength", "augmentation.std", "learning_rate", "hidden.variance[0]" or
        "batch_size" (taken as a real number where the samples of a batch do not interact).
    bounds : pair of floats
    logarithmic : bool, optional
        Whether steps are taken in the logarithm of the parameter: by default if positive bounds are a factor 20 apart.
    searches : int
        Number of values at which states are searched, spread over the inside of the bounds.
    starts : int, optional
        Random starts of each search, as in `stationary_states`.
    rng : seed
    progress : bool
        Whether to show the number of points.

    Returns
    -------
    StationaryDiagram

    Raises
    ------
    InvalidInput
        If there is no such parameter, or the problem does not admit the bounds.
    UnconfinedError
        If nothing confines the weights at any of the values searched.
    UnsupportedError
        As in `stationary_states`.

    Notes
    -----
    A branch ends where its densities cease to exist. One that lies between two values searched and meets no other one
    is overlooked.
    """
    check_problem(problem)
    check_parameter(problem, name)
    low, high = check_bounds(name, bounds)
    for value in (low, high):
        try:
            check_problem(at_value(problem, name, value)[0])
        except InvalidInput as error:
            raise InvalidInput("bounds", bounds, f"values that the problem admits ({error})") from error
    if logarithmic is None:
        logarithmic = low > 0.0 and high >= _DECADE * low
    elif _checks.flag("logarithmic", logarithmic) and low <= 0.0:
        raise InvalidInput("bounds", bounds, "two increasing numbers > 0 for a logarithmic axis")
    number = _checks.integer("searches", searches, minimum=1)
    spread = np.geomspace if logarithmic else np.linspace
    searched = spread(low, high, number + 2)[1:-1]
    tracer: _Tracer | None = None
    failure: UnconfinedError | None = None
    with tqdm(desc="continuation", unit="point", disable=None if progress else True) as bar:
        for value in searched.tolist():
            try:
                found = find_states(at_value(problem, name, value)[0], starts=starts, rng=rng)
            except UnconfinedError as error:
                failure = error
                continue
            tracer = tracer or _Tracer(problem, name, (low, high), logarithmic, found.symmetries, bar)
            for y, _ in found.classes:
                tracer.add(y, value)
        if tracer is None:
            assert failure is not None
            raise UnconfinedError(f"{failure} (at every one of the {number} values of {name} searched)")
        return tracer.diagram(searched)


@dataclass(frozen=True, eq=False)
class _Meeting:
    """A bifurcation with the branches that pass."""

    y: Array
    p: float
    event: Event
    branches: frozenset[int]


class _Tracer:
    """Branches found so far, in the unknowns of the self-consistency that rotations leave free."""

    def __init__(
        self,
        problem: Problem,
        name: str,
        bounds: tuple[float, float],
        logarithmic: bool,
        symmetries: Symmetries,
        bar: tqdm,
    ) -> None:
        self.problem, self.name, self.bounds, self.logarithmic = problem, name, bounds, logarithmic
        self.symmetries, self.bar = symmetries, bar
        self.size = problem.n_features + 1
        turned = {feature for block in symmetries.rotated for feature in block[1:]}
        self.kept = np.array([i for i in range(self.size) if i not in turned])
        self.steps = Steps(tolerance=1e-8, first=0.05, largest=0.2, angle=0.3, most=400)
        self.traced: list[tuple[Equation, Branch]] = []
        self.events: list[_Meeting] = []
        self.unfinished: list[str] = []
        self.at = lru_cache(maxsize=64)(self._made)

    def add(self, y: Array, p: float) -> None:
        """Follow a state (K + 1,) both ways, and the branches that meet its own, unless they are known."""
        waiting = [(y, p)]
        while waiting:
            y, p = waiting.pop()
            if self._is_known(y, p):
                continue
            equation = self._equation(y, p)
            branch = arclength.follow(equation, y[self.kept], p, steps=self.steps)
            if branch is None:
                self._note(f"the state {self._words(y, p)} at {p:.6g} was not found again")
                continue
            found = find_events(
                equation, branch, np.full((len(branch), len(self.kept), len(self.kept)), _NOISE), self.steps
            )
            for i in found.unresolved:
                self._note(f"a change between {branch.p[i]:.8g} and {branch.p[i + 1]:.8g} was not located")
            for piece, events in _pieces(equation, branch, [e for e in found.found if e.kind != HOPF]):
                middle = len(piece) // 2
                if self._is_known(self._full(piece.x[middle]), float(piece.p[middle])):
                    continue
                self.traced.append((equation, piece))
                for event in events:
                    if self._register(equation, event, len(self.traced) - 1) and event.kind != FOLD:
                        waiting += self._switched(equation, event)

    def diagram(self, searched: Array) -> StationaryDiagram:
        """Return everything in the words of the problem."""
        branches = tuple(self._described(i, equation, branch) for i, (equation, branch) in enumerate(self.traced))
        events = sorted(self.events, key=lambda meeting: meeting.p)
        return StationaryDiagram(
            problem=self.problem, name=self.name, bounds=self.bounds, logarithmic=self.logarithmic,
            branches=branches, bifurcations=tuple(self._named(meeting) for meeting in events),
            symmetries=self.symmetries.names, searched=np.asarray(searched), unfinished=tuple(self.unfinished),
        )  # fmt: skip

    def _equation(self, y: Array, p: float) -> Equation:
        level = settled(self.at(p)[0], y, _SETTLED)[0]
        low, high = self.bounds
        unit = (np.log(high / low) if self.logarithmic else high - low) * _DIFFERENCE

        def residual(z: Array, value: float) -> Array:
            return self._value(z, value, level)[0]

        def jacobian(z: Array, value: float) -> tuple[Array, Array]:
            self.bar.update()
            step = unit * value if self.logarithmic else unit
            inside = low <= value - step and value + step <= high
            rule = _CENTRAL if inside else _FORWARD
            if not inside and value + 2.0 * step > high:
                step = -step
            by_p = sum(weight * residual(z, value + k * step) for k, weight in rule.items()) / step
            return self._value(z, value, level)[1], np.asarray(by_p)

        def admissible(z: Array, value: float) -> bool:
            state = self._full(z)
            sized = on_sphere or abs(state[-1] - y[-1]) < -np.log(_VANISHED)
            return bool((state[:-1] ** 2).sum() < 1.0) and bool(sized)

        on_sphere = self.problem.constraint == "sphere"
        # On the sphere the last unknown is a drift, and has a size.
        scale = np.ones(self.size)
        if on_sphere:
            scale[-1] = max(abs(float(y[-1])), 1e-3)
        return Equation(
            residual=residual, jacobian=jacobian, bounds=self.bounds, scale=scale[self.kept],
            logarithmic=self.logarithmic, admissible=admissible,
        )  # fmt: skip

    def _value(self, z: Array, p: float, level: int) -> tuple[Array, Array]:
        """Return the residual and its derivative in the unknowns that are followed; not numbers without densities."""
        y = self._full(z)
        nothing = np.full(len(z), np.nan), np.full((len(z), len(z)), np.nan)
        if not (y[:-1] ** 2).sum() <= 1.0:
            return nothing
        try:
            f, J = self.at(p)[0].residual(y[None], level)
        except (UnsupportedError, InvalidInput):
            return nothing
        return f[0][self.kept], J[0][np.ix_(self.kept, self.kept)]

    def _made(self, p: float) -> tuple[SelfConsistency, float]:
        problem, factor = at_value(self.problem, self.name, p)
        return SelfConsistency(problem, RTOL), factor

    def _full(self, z: Array) -> Array:
        y = np.zeros(self.size)
        y[self.kept] = z
        return y

    def _x(self, y: Array, p: float) -> Array:
        return self.at(p)[0].overlaps(y)

    def _is_known(self, y: Array, p: float) -> bool:
        """Whether a state, or a symmetric copy of it, lies on a branch."""
        entries = self.at(p)[0].entries
        copies = self.symmetries.copies(self._x(y, p))
        for equation, branch in self.traced:
            u = np.array([equation.pack(z, value) for z, value in zip(branch.x, branch.p, strict=True)])
            a = equation.pack(branch.x[0], p)[-1]
            ahead, behind = u[1:, -1] - a, u[:-1, -1] - a
            for i in np.flatnonzero(ahead * behind <= 0.0):
                share = 0.0 if ahead[i] == behind[i] else behind[i] / (behind[i] - ahead[i])
                guess = u[i] + share * (u[i + 1] - u[i])
                guess[-1] = a
                found = arclength.correct(equation, guess, None, None, self.steps)
                x = self._x(self._full(equation.unpack(guess if found.failure else found.u)[0]), p)
                tolerance = 100.0 * _SAME if found.failure else _SAME
                if any(same(entries, x, copy, tolerance) for copy in copies):
                    return True
        return False

    def _register(self, equation: Equation, event: Event, index: int) -> bool:
        """Keep a bifurcation, or the more exact of two that are one; return whether it is new."""
        z, p = equation.unpack(event.point.u)
        y = self._full(z)
        copies = self.symmetries.copies(self._x(y, p))
        entries = self.at(p)[0].entries
        for i, known in enumerate(self.events):
            near = abs(equation.pack(z, p)[-1] - equation.pack(z, known.p)[-1]) < _MEETING
            there = self._x(known.y, known.p)
            if near and any(same(entries, copy, there, np.sqrt(_MEETING)) for copy in copies):
                # A branch that goes through is located better than one that turns back.
                new = _Meeting(y, p, event, known.branches)
                better = min(known, new, key=lambda m: (m.event.kind == VERTEX, m.event.error))
                self.events[i] = replace(better, branches=known.branches | {index})
                return False
        self.events.append(_Meeting(y, p, event, frozenset({index})))
        return True

    def _switched(self, equation: Equation, event: Event) -> list[tuple[Array, float]]:
        """Return first points on the branches that meet at a simple branch point."""
        z, p = equation.unpack(event.point.u)
        if event.null.shape[1] != 1:
            self._note(f"at {p:.8g} several branches meet at once: only those that searches found were followed")
            return []
        found = []
        directions = branch_directions(equation, z, p)
        for direction in (*directions, *-directions):
            arm = arclength.follow(equation, z, p, direction=direction, steps=replace(self.steps, most=2))
            if arm is not None and len(arm) == 2:
                found.append((self._full(arm.x[1]), float(arm.p[1])))
        return found

    def _described(self, index: int, equation: Equation, branch: Branch) -> StationaryBranch:
        states, linear, losses, residuals, drifts = [], [], [], [], []
        for z, p in zip(branch.x, branch.p.tolist(), strict=True):
            y, (equations, factor) = self._full(z), self.at(p)
            x = equations.overlaps(y)
            level = settled(equations, y, _SETTLED)[0]
            moments = equations.moments(equations.acting(y[None]), level).value[0]
            states.append(x)
            residuals.append(float(np.abs(moments - x).max()))
            drifts.append(float(equations.acting(y)[0]))
            losses.append(float(equations.coefficients(x).loss))
            linear.append((linear_stability(equations, y, min(level, 3)), factor))
            self.bar.update()
        self._look_for_oscillations(index, branch, [item for item, _ in linear])
        values = np.full((len(branch), _LISTED), np.nan, dtype=np.complex128)
        for row, (item, factor) in zip(values, linear, strict=True):
            first = item.eigenvalues[:_LISTED]
            row[: len(first)] = factor * first
        middle = states[len(states) // 2]
        Q, R = self.at(float(branch.p[0]))[0].entries.unpack(np.array(states))
        return StationaryBranch(
            name=name_of(Q[len(states) // 2], R[len(states) // 2]), parameter=branch.p, Q=Q, R=R,
            loss=np.array(losses), eigenvalues=values,
            unstable_dimension=np.array([item.unstable_dimension for item, _ in linear]),
            centre_dimension=np.array([item.centre_dimension for item, _ in linear]),
            residual=np.array(residuals), copies=len(self.symmetries.copies(middle)),
            is_continuum=self.symmetries.is_rotated(middle),
            ends=(self._end(equation, branch, 0), self._end(equation, branch, -1)), drift=np.array(drifts),
        )  # fmt: skip

    def _look_for_oscillations(self, index: int, branch: Branch, linear: list[LinearStability]) -> None:
        """Say where pairs of complex eigenvalues change the sign of their real parts."""
        for i in range(len(branch) - 1):
            before, after = linear[i].unstable_dimension, linear[i + 1].unstable_dimension
            if abs(after - before) == 2 and max(np.abs(linear[j].eigenvalues[:2].imag).max() for j in (i, i + 1)) > 0.0:
                self._note(
                    f"branch {index} starts or stops to oscillate (Hopf) between {branch.p[i]:.8g} and "
                    f"{branch.p[i + 1]:.8g}"
                )

    def _end(self, equation: Equation, branch: Branch, where: int) -> str:
        """Say more exactly why a branch ends where it does."""
        reason = branch.ends[where]
        if reason == arclength.INADMISSIBLE:
            sizes = branch.x[:, -1]
            return "Q vanishes" if sizes[where] < sizes.max() + 0.5 * np.log(_VANISHED) else "Q grows beyond bounds"
        if reason != arclength.STEP:
            return reason
        forward = equation.pack(branch.x[where], branch.p[where])
        sign = 1.0 if where else -1.0
        ahead = equation.unpack(forward + sign * 1e-3 * branch.tangents[where])
        return "densities cease to exist" if np.isnan(equation.residual(*ahead)).any() else reason

    def _named(self, meeting: _Meeting) -> Bifurcation:
        event, p = meeting.event, meeting.p
        entries = self.at(p)[0].entries
        x = self._x(meeting.y, p)
        Q, R = entries.unpack(x)
        vectors = []
        for null in event.null.T:
            move = self._full(null)
            moved = self._x(meeting.y + 1e-6 * move, p) - self._x(meeting.y - 1e-6 * move, p)
            vectors.append(moved / np.linalg.norm(moved))
        broken, reversed_ = self.symmetries.broken(x, np.array(vectors).reshape(len(vectors), -1))
        kind = event.kind
        if kind in (BRANCH_POINT, VERTEX):
            kind = "pitchfork" if reversed_ or (broken and len(vectors) > 1) else "transcritical"
        return Bifurcation(
            kind=kind, criticality=None, value=p, error=event.error, Q=Q, R=R,
            directions=tuple(entries.unpack(v) for v in vectors),
            frequency=None, broken=() if kind == FOLD else broken, branches=tuple(sorted(meeting.branches)),
        )  # fmt: skip

    def _words(self, y: Array, p: float) -> str:
        return name_of(*self.at(p)[0].entries.unpack(self._x(y, p)))

    def _note(self, text: str) -> None:
        if text not in self.unfinished:
            self.unfinished.append(text)


def _pieces(equation: Equation, branch: Branch, events: list[Event]) -> list[tuple[Branch, list[Event]]]:
    """Cut a branch where it turns back at another one: beyond it comes its mirror image, or its like."""
    cuts = [event for event in events if event.kind == VERTEX]
    pieces: list[tuple[Branch, list[Event]]] = []
    begin = 0
    for cut in (*cuts, None):
        stop = len(branch) if cut is None else cut.interval + 1
        kept = slice(begin, stop)
        inner = [e for e in events if e.kind != VERTEX and begin <= e.interval < stop]
        ends = (
            branch.ends[0] if not pieces else BRANCH_POINT,
            branch.ends[1] if cut is None else BRANCH_POINT,
        )
        part = Branch(
            p=branch.p[kept], x=branch.x[kept], tangents=branch.tangents[kept], matrices=branch.matrices[kept],
            residuals=branch.residuals[kept], ends=ends,
        )  # fmt: skip
        if len(part) > 1:
            pieces.append((part, inner + ([cut] if cut is not None else [])))
        begin = stop
    return pieces
