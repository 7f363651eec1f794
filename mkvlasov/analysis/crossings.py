"""Between the points of a branch: where a test function vanishes, and which branches meet at a branch point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from mkvlasov._typing import Array
from mkvlasov.analysis.arclength import STRAY, Branch, Equation, Point, Steps, correct, tangent_of


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
    plane = chord / length
    found = correct(equation, guess, plane, None, steps)
    if found.failure or np.linalg.norm(found.u - guess) > STRAY * length + steps.tolerance:
        return None
    matrix = equation.matrix(found.u)
    return Point(found.u, found.f, matrix, tangent_of(matrix, branch.tangents[i] + branch.tangents[i + 1]))


def crossing(
    equation: Equation, branch: Branch, interval: int, test: Callable[[Point], float], steps: Steps | None = None
) -> tuple[Point, float] | None:
    """Return the zero of a test function between two points of a branch, and an error of its scaled position.

    Parameters
    ----------
    equation : Equation
    branch : Branch
    interval : int
        Index i of the interval between the points i and i + 1, where the test function has opposite signs.
    test : function of a Point

    Returns
    -------
    (Point, float) or None
        None if the branch cannot be followed there, or the function does not change its sign. The error is what is left
        of the test function over its slope, and at least the tolerance of the zeros: the scaled arclength.
    """
    steps = steps or Steps()

    def value(fraction: float) -> float:
        point = point_at(equation, branch, interval, float(fraction), steps)
        if point is None:
            raise ArithmeticError
        return test(point)

    try:
        if value(0.0) * value(1.0) > 0.0:
            return None
        fraction = float(brentq(value, 0.0, 1.0, xtol=1e-12, rtol=1e-12))
        around = max(0.0, fraction - 1e-3), min(1.0, fraction + 1e-3)
        slope = abs(value(around[1]) - value(around[0])) / (around[1] - around[0])
        rest = abs(value(fraction))
    except ArithmeticError:
        return None
    point = point_at(equation, branch, interval, fraction, steps)
    if point is None:
        return None
    chord = np.linalg.norm(
        equation.pack(branch.x[interval + 1], branch.p[interval + 1])
        - equation.pack(branch.x[interval], branch.p[interval])
    )
    return point, float(rest / max(slope, 1e-300) * chord + steps.tolerance)


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
