"""Pseudo-arclength continuation of the zeros of F(x, p), x of any dimension, p one parameter.

A step goes along the tangent of the curve of zeros and is corrected within the plane orthogonal to it, so that the
parameter may turn back (Keller, 1977; Allgower and Georg, Numerical Continuation Methods, 1990). Nothing here knows
what F is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.analysis.equations import Equation

BOUND = "bound"
INADMISSIBLE = "left the admissible set"
CLOSED = "closed loop"
STEP = "step too small"
POINTS = "too many points"
START = "start"

_CORRECTIONS = 12
_SHORTER = 0.37
"""By which a step is shortened: not by halves, with which steps that double would meet the same branch point again."""
_FAST = 7
"""Corrections up to which a step may grow: Broyden's updates take five or six from 1e-3 to 1e-10."""
_RENEWED = 0.3
"""A correction that shrinks by less than this takes a new derivative."""
STRAY = 0.5
"""A correction may move a prediction by this part of the step: more is another branch."""
_PROBES = ((0.35, 0.65), (0.25, 0.75))
"""Where a step across a branch point is looked at: one of the pairs is off the point itself."""
_HERMITE = 0.02
"""Of a step: the cubic through tangents 0.25 apart is ten times closer."""
_NULL = 1e-10
"""Singular values of the bordered matrix below this part of the largest one are not divided by."""
_ZERO = 1e-7
"""Of F over its derivative at a zero."""
_OUTSIDE = 1e-12
_ALONG = 0.5
"""Part of the tangent along p from which p stays fixed in a correction: one p costs less than several."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How far and how exactly to go; lengths are in scaled variables.

    Attributes
    ----------
    first, smallest, largest : float
        Lengths of steps.
    angle : float
        Largest angle between the tangents at the ends of a step.
    most : int
        Number of points at which to stop.
    tolerance : float
        A zero is accepted when a correction is shorter.
    """

    first: float = 0.01
    smallest: float = 1e-6
    largest: float = 0.05
    angle: float = 0.25
    most: int = 1000
    tolerance: float = 1e-10


@dataclass(frozen=True, eq=False)
class Branch:
    """Points on a curve of zeros.

    Attributes
    ----------
    p : ndarray, shape (n,)
    x : ndarray, shape (n, d)
    tangents : ndarray, shape (n, d + 1)
        Unit tangents in the scaled variables of the equation, the parameter last, all in the sense of the curve.
    matrices : ndarray, shape (n, d, d + 1)
        Derivatives of F by the scaled variables.
    residuals : ndarray, shape (n,)
        Largest entry of F.
    ends : pair of str
        Why the curve begins and ends where it does: "bound", "left the admissible set", "closed loop", "step too
        small", "too many points", or "start" at a point that was given and from which it was followed one way only.
    """

    p: Array
    x: Array
    tangents: Array
    matrices: Array
    residuals: Array
    ends: tuple[str, str]

    def __len__(self) -> int:
        return len(self.p)

    @property
    def folds(self) -> npt.NDArray[np.intp]:
        """Indices i of intervals (i, i + 1) within which the parameter turns back."""
        along = self.tangents[:, -1]
        return np.flatnonzero(along[1:] * along[:-1] < 0.0)


class Point(NamedTuple):
    """A zero with the derivative (d, d + 1) and the unit tangent (d + 1,) there, in scaled variables `u`."""

    u: Array
    f: Array
    matrix: Array
    tangent: Array


class Corrected(NamedTuple):
    """Result of a corrector: the scaled zero, F there and the number of corrections; `failure` in words, or empty."""

    u: Array
    f: Array
    corrections: int
    failure: str = ""


def follow(
    equation: Equation, x: Array, p: float, *, direction: Array | None = None, steps: Steps | None = None
) -> Branch | None:
    """Follow the zeros from an approximate one, both ways, or only in the direction given.

    Parameters
    ----------
    equation : Equation
    x : ndarray, shape (d,)
    p : float
        Within the bounds.
    direction : ndarray, shape (d + 1,), optional
        In scaled variables: the tangent at a zero from which to go one way, such as one of `branch_directions`.
    steps : Steps, optional

    Returns
    -------
    Branch or None
        None if no admissible zero is found near the start.
    """
    steps = steps or Steps()
    u = equation.pack(x, p)
    if direction is not None:
        tangent = direction / np.linalg.norm(direction)
        return _joined(equation, [], _trace(equation, Point(u, equation.value(u), equation.matrix(u), tangent), steps))
    start = _start(equation, u, steps)
    if start is None:
        return None
    forward = _trace(equation, start, steps)
    if forward[1] == CLOSED:
        return _joined(equation, [], forward, CLOSED)
    backward = _trace(equation, start._replace(tangent=-start.tangent), steps)
    before = [point._replace(tangent=-point.tangent) for point in backward[0][:0:-1]]
    return _joined(equation, before, forward, backward[1])


def _start(equation: Equation, u: Array, steps: Steps) -> Point | None:
    """Return the admissible zero nearest to a guess, with the tangent towards larger p."""
    found = correct(equation, u, None, None, steps)
    if found.failure or not equation.admissible(*equation.unpack(found.u)):
        return None
    matrix = equation.matrix(found.u)
    return Point(found.u, found.f, matrix, tangent_of(matrix, np.eye(len(u))[-1]))


def _trace(equation: Equation, start: Point, steps: Steps) -> tuple[list[Point], str]:
    """Return the points from a start in the direction of its tangent, and why they end."""
    points, step, first = [start], min(steps.first, steps.largest), True
    failure = STEP
    while len(points) < steps.most:
        if step < steps.smallest:
            return points, failure
        last = points[-1]
        # At a branch point the derivative of the start is singular: the first step takes the one at the prediction.
        found = _advanced(equation, last, step, None if first else last.matrix, steps)
        bounded = found.failure == BOUND
        if bounded:
            found = _landed(equation, last, step, steps)
        if not found.failure and not equation.admissible(*equation.unpack(found.u)):
            found = found._replace(failure=INADMISSIBLE)
        if found.failure:
            failure, step = found.failure, _SHORTER * step
            continue
        matrix = equation.matrix(found.u)
        if not np.isfinite(matrix).all():
            failure, step = STEP, _SHORTER * step
            continue
        tangent = tangent_of(matrix, last.tangent)
        turned = float(np.arccos(np.clip(tangent @ last.tangent, -1.0, 1.0)))
        if turned > steps.angle:
            failure, step = STEP, _SHORTER * step
            continue
        point = Point(found.u, found.f, matrix, tangent)
        if not _continues(equation, last, point, steps):
            failure, step = STEP, _SHORTER * step
            continue
        if len(points) > 2 and _passes(last.u, point.u, start):
            return [*points, start], CLOSED
        points.append(point)
        if bounded:
            return points, BOUND
        first = False
        wanted = min(2.0, 0.5 * steps.angle / max(turned, 1e-12)) if found.corrections <= _FAST else 0.7
        # Where x has grown far beyond its scale, steps keep their length relative to it.
        step = min(step * max(wanted, 0.5), steps.largest * max(1.0, float(np.abs(point.u[:-1]).max())))
    return points, POINTS


def _continues(equation: Equation, last: Point, point: Point, steps: Steps) -> bool:
    """Whether the curve leads from one point to the next, and not the step from one curve to another.

    Asked where the bordered determinant changes its sign, as at a branch point: near a broken one steps may jump.
    """
    signs = [np.linalg.slogdet(np.vstack([q.matrix, q.tangent]))[0] for q in (last, point)]
    if signs[0] * signs[1] >= 0.0:
        return True
    chord = point.u - last.u
    length = float(np.linalg.norm(chord))

    def is_met(s: float) -> bool:
        """Whether the curve passes the cubic of Hermite at a fraction of the step."""
        guess = last.u + s * s * (3.0 - 2.0 * s) * chord
        guess += length * s * (1.0 - s) * ((1.0 - s) * last.tangent - s * point.tangent)
        if not _within(guess):
            return True
        found = correct(equation, guess, plane_across(chord / length), None, steps)
        return not found.failure and bool(np.linalg.norm(found.u - guess) <= _HERMITE * length)

    return any(all(is_met(s) for s in pair) for pair in _PROBES)


def _advanced(equation: Equation, last: Point, step: float, matrix: Array | None, steps: Steps) -> Corrected:
    """Return the zero in the plane at the end of a step along the tangent."""
    guess = last.u + step * last.tangent
    if not _within(guess):
        return Corrected(guess, last.f, 0, BOUND)
    found = correct(equation, guess, plane_across(last.tangent), matrix, steps)
    strays = np.linalg.norm(found.u - guess) > STRAY * step
    if (found.failure or strays) and matrix is not None:
        # The derivative of the last point misleads where it is nearly singular, next to a branch point.
        return _advanced(equation, last, step, None, steps)
    return found._replace(failure=STEP) if strays and not found.failure else found


def plane_across(tangent: Array) -> Array | None:
    """Return the normal of the plane in which a prediction is corrected; None for the plane of its p."""
    return None if abs(tangent[-1]) > _ALONG else tangent


def _landed(equation: Equation, last: Point, step: float, steps: Steps) -> Corrected:
    """Return the zero at the bound of the parameter that a step would cross."""
    end = 1.0 if last.tangent[-1] > 0.0 else 0.0
    along = (end - last.u[-1]) / last.tangent[-1] if last.tangent[-1] else np.inf
    if not steps.smallest <= along <= 2.0 * step:
        return Corrected(last.u, last.f, 0, BOUND)
    guess = last.u + along * last.tangent
    guess[-1] = end
    found = correct(equation, guess, None, None, steps)
    if not found.failure and np.linalg.norm(found.u - guess) > STRAY * along:
        return found._replace(failure=BOUND)
    return found


def correct(equation: Equation, guess: Array, normal: Array | None, matrix: Array | None, steps: Steps) -> Corrected:
    """Return the zero near a guess within the plane orthogonal to a normal; without one, at the same p.

    Newton's method, with Broyden's updates as long as they contract.
    """
    row = np.eye(len(guess))[-1] if normal is None else normal
    u, f, before = guess, equation.value(guess), np.inf
    renewed = False
    for count in range(1, _CORRECTIONS + 1):
        if not np.isfinite(f).all():
            return Corrected(u, f, count, STEP)
        if matrix is None:
            matrix, renewed = equation.matrix(u), True
            if not np.isfinite(matrix).all():
                return Corrected(u, f, count, STEP)
        bordered = np.vstack([matrix, row])
        rest = np.append(f, row @ (u - guess))
        move = -np.linalg.lstsq(bordered, rest, rcond=_NULL)[0]
        length = float(np.linalg.norm(move))
        if length > _RENEWED * before and not renewed:
            matrix = None
            continue
        if length > before and length > steps.tolerance:
            return Corrected(u, f, count, STEP)
        u = u + move
        if normal is None:
            u[-1] = guess[-1]
        if not _within(u):
            return Corrected(u, f, count, BOUND)
        f = equation.value(u)
        if length <= steps.tolerance:
            # Along null vectors nothing is corrected, so that a short correction alone proves no zero.
            vanishes = np.linalg.norm(f) <= _ZERO * np.linalg.norm(matrix)
            return Corrected(u, f, count, "" if vanishes else STEP)
        matrix = matrix + np.outer(f, move) / (move @ move)
        before, renewed = length, False
    return Corrected(u, f, _CORRECTIONS, STEP)


def _within(u: Array) -> bool:
    return bool(-_OUTSIDE <= u[-1] <= 1.0 + _OUTSIDE)


def tangent_of(matrix: Array, along: Array) -> Array:
    """Return the unit null vector of a derivative (d, d + 1) nearest to a direction."""
    tangent = np.linalg.svd(matrix)[2][-1]
    return -tangent if tangent @ along < 0.0 else tangent


def _passes(u: Array, v: Array, start: Point) -> bool:
    """Whether the curve comes back to its start between two points."""
    chord = v - u
    length = float(np.linalg.norm(chord))
    along = float((start.u - u) @ chord) / length
    off = np.linalg.norm(start.u - u - along * chord / length)
    return bool(0.0 < along <= length and off < 0.2 * length and start.tangent @ chord > 0.8 * length)


def _joined(equation: Equation, before: list[Point], after: tuple[list[Point], str], begin: str = START) -> Branch:
    points = [*before, *after[0]]
    x, p = zip(*(equation.unpack(point.u) for point in points), strict=True)
    return Branch(
        p=np.array(p), x=np.array(x),
        tangents=np.array([point.tangent for point in points]),
        matrices=np.array([point.matrix for point in points]),
        residuals=np.array([np.abs(point.f).max() for point in points]),
        ends=(begin, after[1]),
    )  # fmt: skip
