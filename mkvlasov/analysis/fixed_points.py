"""Fixed points of the closed ODEs in the admissible states, with their stability (docs/theory.md, sections 4 and 9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike, Seed
from mkvlasov.analysis import newton
from mkvlasov.analysis.stability import Stability, stability_at
from mkvlasov.analysis.starts import make_starts, overlap_range
from mkvlasov.analysis.symmetries import Symmetries, find_symmetries, same
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit.coefficients import Coefficients, LimitCoefficients
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.order_parameters import cosine_similarity
from mkvlasov.problem.contrastive import Problem

ZERO_WEIGHTS = "zero weights"

_SEARCH_RTOL = 1e-6
_NEARBY = 1e-4
"""Ends of searches closer than this are polished together."""
_SAME = 1e-6
_STATIONARY = 1e-6
"""Rates below this, relative to the learning rate and the scale of the state, count as none."""
_ROUNDS = 10
_DEFLATED = 32
"""Random starts of a round with deflation for one output; a quarter of them for more."""
_PRESENT = 1e-6
"""Cosine from which a feature counts as present in a name."""


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """A fixed point of the closed ODEs, and its images under the symmetries of the problem.

    Attributes
    ----------
    name : str
        Which feature each output has learnt, with signs; "uninformative" for R = 0, "zero weights" for Q = 0.
    Q, R : ndarray, shapes (m, m) and (m, K)
    loss : float
    residual : float
        Largest entry of (dQ/dt, dR/dt).
    error : float
        Estimated error of the worst entry of (Q, R), from the residual, the error of the coefficients and the
        Jacobian; across a degenerate direction it says nothing.
    stability : Stability
    copies : tuple of pairs (Q, R), length n
        The point and its images; the first one is the point itself.
    copy_names : tuple of str, length n
    is_continuum : bool
        Whether rotations make a continuum of such points; the copies then represent it.
    found : int
        Number of starts that ended here or at a copy.
    round : int
        Round of the search that found it: 0 without deflation, r > 0 after deflating what r rounds had found.
    """

    name: str
    Q: Array
    R: Array
    loss: float
    residual: float
    error: float
    stability: Stability
    copies: tuple[tuple[Array, Array], ...]
    copy_names: tuple[str, ...]
    is_continuum: bool
    found: int
    round: int

    @property
    def cosine_similarity(self) -> Array:
        """q_jk = R_jk / sqrt(Q_jj), shape (m, K)."""
        return cosine_similarity(self.Q, self.R)

    def __str__(self) -> str:
        copies = f"{len(self.copies)} symmetric copies" if len(self.copies) > 1 else "its own mirror image"
        if self.is_continuum:
            copies = "one of a continuum"
        by = f", by deflation (round {self.round})" if self.round else ""
        lines = [
            f"{self.name}: Q = {_show(self.Q)}, R = {_show(self.R)}",
            f"  cosines {_show(self.cosine_similarity)}, loss {self.loss:.6g}; {copies}",
            f"  residual {self.residual:.1e}, error {self.error:.1e}, reached from {self.found} start(s){by}",
            f"  {self.stability}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class FixedPoints:
    """The fixed points that a search found, one per class of symmetric copies, stable ones first.

    Attributes
    ----------
    points : tuple of FixedPoint
    symmetries : tuple of str
        What maps solutions to solutions, in words.
    starts : int
        Number of starts, those of all rounds.
    rounds : int
        Number of rounds with deflation, the last of which found nothing new (or the tenth, if every one did).
    failures : mapping from str to int
        Starts that ended at no fixed point: "diverged" (Q left the searched range upwards), "vanished" (downwards),
        "stalled" (the residual stopped to fall).
    """

    points: tuple[FixedPoint, ...]
    symmetries: tuple[str, ...]
    starts: int
    rounds: int
    failures: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[FixedPoint]:
        return iter(self.points)

    def __getitem__(self, index: int) -> FixedPoint:
        return self.points[index]

    @property
    def stable(self) -> tuple[FixedPoint, ...]:
        """The points whose eigenvalues all have negative real parts."""
        return tuple(point for point in self.points if point.stability.is_stable)

    def __str__(self) -> str:
        failed = ", ".join(f"{count} {reason}" for reason, count in self.failures.items() if count) or "none"
        rounds = f"{self.starts} starts in 1 + {self.rounds} rounds"
        head = f"{len(self)} fixed point(s) up to symmetry, from {rounds} (failures: {failed})"
        return "\n".join([head, f"symmetries: {', '.join(self.symmetries) or 'none'}", *map(str, self.points)])


@dataclass(frozen=True, eq=False)
class _Class:
    """A fixed point and its copies (n, d), the number of starts that led there, and the round of the first."""

    copies: Array
    found: int
    round: int


def fixed_points(problem: Problem, *, starts: int | None = None, rng: Seed = 0) -> FixedPoints:
    """Search the admissible states (Q - R R^T >= 0) for fixed points of the closed ODEs.

    Newton's method from random starts, and from some without overlaps or along single features; then more rounds in
    which the points found and their copies are deflated, until a round finds nothing new. What is found more than once,
    or is the image of another point under a symmetry, is one point. Such a search can still overlook points: more
    starts show whether there are others.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none, and a constant learning rate.
    starts : int, optional
        Number of random starts of the first round: 64 for one output, 16 for more (where coefficients take a thousand
        times as long). Rounds with deflation have 32, or 8.
    rng : seed

    Returns
    -------
    FixedPoints

    Raises
    ------
    ClosureError
        If the moments do not close.
    UnsupportedError
        For a learning rate that depends on time.
    """
    closed = ClosedRates(problem, accuracy(problem))
    tau = constant_rate(problem)
    number = (64 if problem.outputs == 1 else 16) if starts is None else _checks.integer("starts", starts, minimum=1)
    generator = np.random.default_rng(_checks.seed_sequence("rng", rng))
    coarse = ClosedRates(problem, _SEARCH_RTOL)
    bounds = overlap_range(problem, tau)
    symmetries = find_symmetries(coarse, tau)
    limits = (1e-4 * bounds[0], 10.0 * bounds[1])
    failures = Counter(dict.fromkeys((newton.DIVERGED, newton.VANISHED, newton.STALLED), 0))
    classes: list[_Class] = []
    begin = make_starts(coarse, bounds, number, generator)
    total, deflations = 0, 0
    fewer = _DEFLATED if problem.outputs == 1 else _DEFLATED // 4
    while True:
        deflation = _deflation(symmetries, classes)
        found = newton.search(coarse, begin, tau, limits, deflation)
        total += len(begin)
        failures.update(reason for reason in found.ended if reason != newton.CONVERGED)
        new = False
        for x, count in _merged(symmetries, list(found.x[found.ended == newton.CONVERGED]), _NEARBY):
            refined = newton.polish(closed, x[None], tau)
            if refined.ended[0] == newton.CONVERGED:
                new |= _keep(symmetries, classes, refined.x[0], count, deflations)
            else:
                failures[newton.STALLED] += count
        if deflations and (not new or deflations == _ROUNDS):
            break
        deflations += 1
        begin = make_starts(coarse, bounds, fewer, generator)
    origin = np.zeros(closed.entries.size)
    if _is_zero_fixed(closed, origin, tau):
        classes.append(_Class(origin[None], failures[newton.VANISHED], 0))
        failures[newton.VANISHED] = 0
    points = [_describe(closed, symmetries, kind, tau) for kind in classes]
    points.sort(key=lambda p: (p.stability.unstable_dimension + p.stability.centre_dimension, p.loss))
    return FixedPoints(_distinct(points), symmetries.names, total, deflations, MappingProxyType(dict(failures)))


def stability(problem: Problem, point: FixedPoint | tuple[ArrayLike, ArrayLike]) -> Stability:
    """Return the stability of a fixed point, found by `fixed_points` or given as (Q, R).

    Raises
    ------
    InvalidInput
        If the rates do not vanish there.
    """
    if isinstance(point, FixedPoint):
        Q, R = point.Q, point.R
    elif isinstance(point, tuple) and len(point) == 2:
        Q, R = _checks.overlaps(*point, problem.outputs, problem.n_features)
        if Q.ndim > 2:
            raise InvalidInput("point", point, "one pair (Q, R), not several")
    else:
        raise InvalidInput("point", point, "a FixedPoint, or a pair (Q, R)")
    closed, tau = ClosedRates(problem, accuracy(problem)), constant_rate(problem)
    x = closed.entries.pack(Q, R)
    if newton.smallest_eigenvalue(closed.entries, x) < -1e-9 * np.abs(Q).max():
        raise InvalidInput("point", point, "overlaps with Q - R R^T positive semidefinite")
    rest = float(np.abs(closed.rates(x, tau) / newton.scales(closed.entries, x)).max())
    if rest > _STATIONARY * tau:
        raise InvalidInput(
            "point", point, f"a state at which the rates vanish (relative to its scale they are {rest:.3g})"
        )
    return stability_at(closed, x, tau)


def accuracy(problem: Problem) -> float:
    """Return the tolerance of the coefficients: rounding for one output; less for more, where each digit costs."""
    return 1e-11 if problem.outputs == 1 else 1e-9


def constant_rate(problem: Problem) -> float:
    """Return the learning rate; raises `UnsupportedError` for a schedule."""
    if not problem.rate_is_constant:
        raise UnsupportedError("learning_rate: with a schedule nothing is stationary; give a number for each time")
    return problem.rate(0.0)


def _is_zero_fixed(closed: ClosedRates, origin: Array, tau: float) -> bool:
    """Whether weights that are all zero stay so; not on the sphere, nor where kinks leave no limit."""
    if closed.problem.constraint == "sphere":
        return False
    try:
        return bool(np.abs(closed.rates(origin, tau)).max() <= newton.ACCEPTED * tau)
    except UnsupportedError:
        return False


def _merged(symmetries: Symmetries, states: list[Array], tolerance: float) -> list[tuple[Array, int]]:
    """Return one of each class of states that are equal or images of each other, and how often it was found."""
    classes: list[_Class] = []
    for x in states:
        _keep(symmetries, classes, x, 1, 0, tolerance)
    return [(kind.copies[0], kind.found) for kind in classes]


def _keep(
    symmetries: Symmetries, classes: list[_Class], x: Array, found: int, round_: int, tolerance: float = _SAME
) -> bool:
    """Count a state for the class that it belongs to, or make it a new one; return whether it is new."""
    image = symmetries.unrotated(x)
    for i, kind in enumerate(classes):
        if any(same(symmetries.entries, image, copy, tolerance) for copy in kind.copies):
            classes[i] = replace(kind, found=kind.found + found)
            return False
    classes.append(_Class(symmetries.copies(x), found, round_))
    return True


def _deflation(symmetries: Symmetries, classes: list[_Class]) -> newton.Deflation:
    """Return the factor that keeps a search away from all copies of the points found so far."""
    known = [copy for kind in classes for copy in kind.copies]
    if not known:
        return newton.Deflation.of_none()
    states = np.array(known)
    return newton.Deflation(symmetries.invariants(states), symmetries.invariant_scales(states), symmetries.invariants)


def _describe(closed: ClosedRates, symmetries: Symmetries, kind: _Class, tau: float) -> FixedPoint:
    entries, x = closed.entries, kind.copies[0]
    Q, R = entries.unpack(x)
    coefficients = LimitCoefficients(closed.problem, accuracy(closed.problem))(Q, R)
    noise = float(coefficients.error) * _terms(closed.problem, coefficients, Q, R, tau)
    free, linear = closed.free, stability_at(closed, x, tau)
    rates = closed.rates(x, tau)
    error = newton.error_of(linear.jacobian, newton.scales(entries, x)[free], np.abs(rates[free]) + noise)
    copies = tuple(entries.unpack(copy) for copy in kind.copies)
    return FixedPoint(
        name=name_of(Q, R), Q=Q, R=R, loss=float(coefficients.loss),
        residual=float(np.abs(rates).max()), error=float(error.max()),
        stability=linear, copies=copies,
        copy_names=tuple(name_of(q, r) for q, r in copies),
        is_continuum=symmetries.is_rotated(x), found=kind.found, round=kind.round,
    )  # fmt: skip


def _terms(problem: Problem, c: Coefficients, Q: Array, R: Array, tau: float) -> float:
    """Return the size of the terms of the rates, to which the error of the coefficients is relative."""
    G, H = np.abs(c.G), np.abs(c.H)
    drift = sum(float(part.max()) for part in (G @ np.abs(Q), H @ np.abs(R).T, G @ np.abs(R), H))
    return tau * drift + float(np.abs(c.Lambda).max())


def name_of(Q: Array, R: Array) -> str:
    """Return which feature each output has learnt, in words."""
    if not Q.any():
        return ZERO_WEIGHTS
    cosines = cosine_similarity(Q, R)
    if (np.abs(cosines) <= _PRESENT).all():
        return "uninformative"
    if len(cosines) == 1:
        return _learnt(cosines[0])
    return "; ".join(f"output {j}: {_learnt(row)}" for j, row in enumerate(cosines))


def _learnt(cosines: Array) -> str:
    """Return the features of one output, such as "feature 0 - feature 1"."""
    present = np.flatnonzero(np.abs(cosines) > _PRESENT)
    text = " ".join(f"{'-' if cosines[k] < 0.0 else '+'} feature {k}" for k in present)
    return (
        text.removeprefix("+ ").replace("- ", "-", 1) if text.startswith("- ") else text.removeprefix("+ ") or "nothing"
    )


def _distinct(points: list[FixedPoint]) -> tuple[FixedPoint, ...]:
    """Return the points with numbers behind names that several have."""
    counts = Counter(point.name for point in points)
    seen: Counter[str] = Counter()
    result = []
    for point in points:
        seen[point.name] += 1
        several = counts[point.name] > 1
        result.append(replace(point, name=f"{point.name} ({seen[point.name]})") if several else point)
    return tuple(result)


def _show(values: Array) -> str:
    return " ".join(np.array2string(np.round(values, 6) + 0.0, separator=", ").split())
