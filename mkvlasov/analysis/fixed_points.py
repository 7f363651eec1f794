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

_SEARCH_RTOL = 1e-6
_NEARBY = 1e-4
"""Ends of searches closer than this are polished together."""
_SAME = 1e-6
_STATIONARY = 1e-6
"""Rates below this, relative to the learning rate and the scale of the state, count as none."""
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

    @property
    def cosine_similarity(self) -> Array:
        """q_jk = R_jk / sqrt(Q_jj), shape (m, K)."""
        return cosine_similarity(self.Q, self.R)

    def __str__(self) -> str:
        copies = f"{len(self.copies)} symmetric copies" if len(self.copies) > 1 else "its own mirror image"
        if self.is_continuum:
            copies = "one of a continuum"
        lines = [
            f"{self.name}: Q = {_show(self.Q)}, R = {_show(self.R)}",
            f"  cosines {_show(self.cosine_similarity)}, loss {self.loss:.6g}; {copies}",
            f"  residual {self.residual:.1e}, error {self.error:.1e}, reached from {self.found} start(s)",
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
        Number of starts.
    failures : mapping from str to int
        Starts that ended at no fixed point: "diverged" (Q left the searched range upwards), "vanished" (downwards),
        "stalled" (the residual stopped to fall).
    """

    points: tuple[FixedPoint, ...]
    symmetries: tuple[str, ...]
    starts: int
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
        head = f"{len(self)} fixed point(s) up to symmetry, from {self.starts} starts (failures: {failed})"
        return "\n".join([head, f"symmetries: {', '.join(self.symmetries) or 'none'}", *map(str, self.points)])


def fixed_points(problem: Problem, *, starts: int | None = None, rng: Seed = 0) -> FixedPoints:
    """Search the admissible states (Q - R R^T >= 0) for fixed points of the closed ODEs.

    Newton's method from random starts, and from some without overlaps or along single features. What is found more
    than once, or is the image of another point under a symmetry, is one point. Such a search can overlook points: more
    starts show whether there are others.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none, and a constant learning rate.
    starts : int, optional
        Number of random starts: 64 for one output, 16 for more (where coefficients take a thousand times as long).
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
    begin = make_starts(coarse, bounds, number, generator)
    found = newton.search(coarse, begin, tau, (1e-4 * bounds[0], 10.0 * bounds[1]))
    failures = Counter(dict.fromkeys((newton.DIVERGED, newton.VANISHED, newton.STALLED), 0))
    failures.update(reason for reason in found.ended if reason != newton.CONVERGED)
    classes: list[tuple[Array, int]] = []
    for x, count in _merged(symmetries, [(x, 1) for x in found.x[found.ended == newton.CONVERGED]], _NEARBY):
        refined = newton.polish(closed, x[None], tau)
        if refined.ended[0] == newton.CONVERGED:
            classes.append((refined.x[0], count))
        else:
            failures[newton.STALLED] += count
    origin = np.zeros(closed.entries.size)
    if _is_zero_fixed(closed, origin, tau):
        classes.append((origin, failures[newton.VANISHED]))
        failures[newton.VANISHED] = 0
    points = [_describe(closed, symmetries, x, tau, count) for x, count in _merged(symmetries, classes, _SAME)]
    points.sort(key=lambda p: (p.stability.unstable_dimension + p.stability.centre_dimension, p.loss))
    return FixedPoints(_distinct(points), symmetries.names, len(begin), MappingProxyType(dict(failures)))


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


def _merged(symmetries: Symmetries, states: list[tuple[Array, int]], tolerance: float) -> list[tuple[Array, int]]:
    """Return one of each class of states that are equal or images of each other, and how often it was found."""
    classes: list[tuple[Array, int]] = []
    for x, count in states:
        for i, (copies, known) in enumerate(classes):
            if any(same(symmetries.entries, symmetries.unrotated(x), copy, tolerance) for copy in copies):
                classes[i] = (copies, known + count)
                break
        else:
            classes.append((symmetries.copies(x), count))
    return [(copies[0], count) for copies, count in classes]


def _describe(closed: ClosedRates, symmetries: Symmetries, x: Array, tau: float, found: int) -> FixedPoint:
    entries = closed.entries
    Q, R = entries.unpack(x)
    coefficients = LimitCoefficients(closed.problem, accuracy(closed.problem))(Q, R)
    noise = float(coefficients.error) * _terms(closed.problem, coefficients, Q, R, tau)
    free, linear = closed.free, stability_at(closed, x, tau)
    rates = closed.rates(x, tau)
    error = newton.error_of(linear.jacobian, newton.scales(entries, x)[free], np.abs(rates[free]) + noise)
    copies = tuple(entries.unpack(copy) for copy in symmetries.copies(x))
    return FixedPoint(
        name=_name(Q, R), Q=Q, R=R, loss=float(coefficients.loss),
        residual=float(np.abs(rates).max()), error=float(error.max()),
        stability=linear, copies=copies,
        copy_names=tuple(_name(q, r) for q, r in copies),
        is_continuum=symmetries.is_rotated(x), found=found,
    )  # fmt: skip


def _terms(problem: Problem, c: Coefficients, Q: Array, R: Array, tau: float) -> float:
    """Return the size of the terms of the rates, to which the error of the coefficients is relative."""
    G, H = np.abs(c.G), np.abs(c.H)
    drift = sum(float(part.max()) for part in (G @ np.abs(Q), H @ np.abs(R).T, G @ np.abs(R), H))
    return tau * drift + float(np.abs(c.Lambda).max())


def _name(Q: Array, R: Array) -> str:
    if not Q.any():
        return "zero weights"
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
