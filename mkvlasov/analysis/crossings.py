"""Between the points of a branch: where a test function vanishes, and which branches meet at a branch point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.interpolate import BarycentricInterpolator
from scipy.optimize import brentq

from mkvlasov._typing import Array
from mkvlasov.analysis.arclength import STRAY, Branch, Point, Steps, correct, plane_across, tangent_of
from mkvlasov.analysis.equations import Equation

_AROUND = np.array([-1.0, -2.0 / 3.0, -1.0 / 3.0, 1.0 / 3.0, 2.0 / 3.0, 1.0])
_RADII = (0.25, 0.05, 0.01)
"""Where to interpolate, around a zero and in parts of the interval."""
_EXACT = 10.0


def point_at(
    equation: Equation, branch: Branch, interval: int, fraction: float, steps: Steps | None = None
) -> Point | None:
    """Return the zero at a fraction of the way from one point of a branch to the next, None if not found there."""
    steps = steps or Steps()
    i = interval
    u, v = (equation.pack(branch.x[j], branch.p[j]) for j in (i, i + 1))
    chord = v - u
    length = float(np.linalg.norm(chord))
    s = fraction
    # Cubic of Hermite: the arc is longer than the chord by a part of order angle^2 only.
    guess = (1 + 2 * s) * (1 - s) ** 2 * u + s**2 * (3 - 2 * s) * v
    guess += length * (s * (1 - s) ** 2 * branch.tangents[i] - s**2 * (1 - s) * branch.tangents[i + 1])
    guess[-1] = np.clip(guess[-1], 0.0, 1.0)
    matrix = (1.0 - s) * branch.matrices[i] + s * branch.matrices[i + 1]
    found = correct(equation, guess, plane_across(chord / length), matrix, steps)
    if found.failure or np.linalg.norm(found.u - guess) > STRAY * length + steps.tolerance:
        return None
    matrix = equation.matrix(found.u)
    return Point(found.u, found.f, matrix, tangent_of(matrix, branch.tangents[i] + branch.tangents[i + 1]))


def crossing(
    equation: Equation,
    branch: Branch,
    interval: int,
    test: Callable[[Point], float],
    steps: Steps | None = None,
    *,
    noise: float = 0.0,
) -> tuple[Point, float] | None:
    """Return the zero of a test function between two points of a branch, and an error of its scaled position.

    The curve and the test function are interpolated through points on both sides: at a branch point itself, where the
    derivative is singular, nothing is solved.

    Parameters
    ----------
    equation : Equation
    branch : Branch
    interval : int
        Index i of the interval between the points i and i + 1, where the test function has opposite signs.
    test : function of a Point
    steps : Steps, optional
    noise : float
        Error of the test function.

    Returns
    -------
    (Point, float) or None
        None if the branch cannot be followed there, or the function does not change its sign. The error is the change
        of the scaled point when the two outermost points are left out, the noise over the slope of the test function,
        and at least the tolerance of the zeros.
    """
    steps = steps or Steps()

    def sample(fractions: Array) -> tuple[Array, Array]:
        """Return fractions at which the branch was met, and (u, tangent, test function) there."""
        met = [(s, q) for s in fractions if (q := point_at(equation, branch, interval, float(s), steps)) is not None]
        return np.array([s for s, _ in met]), np.array([[*q.u, *q.tangent, test(q)] for _, q in met])

    i = interval
    ends = [
        test(Point(equation.pack(branch.x[j], branch.p[j]), np.zeros(0), branch.matrices[j], branch.tangents[j]))
        for j in (i, i + 1)
    ]
    if ends[0] * ends[1] > 0.0:
        return None
    zero, best = ends[0] / (ends[0] - ends[1]) if ends[0] != ends[1] else 0.5, None
    chord = equation.pack(branch.x[i + 1], branch.p[i + 1]) - equation.pack(branch.x[i], branch.p[i])
    length = float(np.linalg.norm(chord))
    for radius in _RADII:
        found = _interpolated(*sample(zero + radius * _AROUND))
        if found is None:
            continue
        zero, row, error, slope = found
        error += noise / max(slope, 1e-300) * length + steps.tolerance
        if best is None or error < best[1]:
            best = row, error
        if error <= _EXACT * steps.tolerance:
            break
    if best is None:
        return None
    u, tangent = np.split(best[0][:-1], 2)
    point = Point(u, equation.value(u), equation.matrix(u), tangent / np.linalg.norm(tangent))
    return point, best[1]


def _interpolated(s: Array, values: Array) -> tuple[float, Array, float, float] | None:
    """Return the zero of the last column, the row there, the error of its point, and the slope of the last column."""
    if len(s) < len(_AROUND) - 1:
        return None
    zeros = []
    for kept in (slice(None), slice(1, -1)):
        curve = BarycentricInterpolator(s[kept], values[kept])
        low, high = s[0], s[-1]
        if curve(low)[-1] * curve(high)[-1] > 0.0:
            return None
        zero = float(brentq(lambda x, curve=curve: float(curve(x)[-1]), low, high, xtol=1e-15))
        zeros.append((zero, curve(zero)))
    (zero, row), (_, other) = zeros
    n = (len(row) - 1) // 2
    slope = abs(float(values[-1, -1] - values[0, -1]) / (s[-1] - s[0]))
    return zero, row, float(np.linalg.norm(row[:n] - other[:n])), slope


def branch_directions(equation: Equation, x: Array, p: float, *, step: float = 1e-3) -> Array:
    """Return the tangents of the branches that meet at a simple branch point, from its null vectors.

    With null vectors v, w of the derivative by (x, p) and psi from the left, tangents a v + b w solve the quadratic
    branching equation psi . F''[a v + b w, a v + b w] = 0 (Keller, 1977).

    Parameters
    ----------
    equation : Equation
    x : ndarray, shape (d,)
    p : float
    step : float
        Of the differences of the derivative, in scaled variables.

    Returns
    -------
    ndarray, shape (2, d + 1) or (0, d + 1)
        Unit vectors in scaled variables, up to sign; none where the zero is isolated (no real root).
    """
    u = equation.pack(x, p)
    left, _, right = np.linalg.svd(equation.matrix(u))
    psi, null = left[:, -1], right[-2:]
    # The plane of the null vectors, turned so that only one of them moves the parameter.
    along, across = null[:, -1], np.array([-null[1, -1], null[0, -1]])
    if np.linalg.norm(along) > 0.0:
        null = np.array([along, across]) / np.linalg.norm(along) @ null
    room = np.array([min(u[-1], 1.0 - u[-1]) / max(abs(v[-1]), 1e-300) for v in null])
    sizes = np.minimum(step, room)
    if not (sizes > 0.0).all():
        return np.zeros((0, len(u)))
    slopes = [
        psi @ (equation.matrix(u + h * v) - equation.matrix(u - h * v)) / (2 * h)
        for h, v in zip(sizes, null, strict=True)
    ]
    form = np.array([[slope @ v for v in null] for slope in slopes])
    form = 0.5 * (form + form.T)
    values, vectors = np.linalg.eigh(form)
    if values[0] * values[1] >= 0.0:
        return np.zeros((0, len(u)))
    # On the zeros of a quadratic form of eigenvalues - + the components have the ratio sqrt(-l2) : sqrt(l1).
    weights = np.sqrt(np.abs(values[::-1]))
    pairs = np.array([[weights[0], weights[1]], [weights[0], -weights[1]]]) @ vectors.T
    return np.asarray(pairs / np.linalg.norm(pairs, axis=1, keepdims=True) @ null)
