"""Where zeros of F(x, p) on a branch change their stability or turn back: folds, branch points and Hopf points.

Test functions along a branch: the part of the tangent along the parameter (folds), and the real parts of the
eigenvalues of dF/dx in falling order (everything else). What vanishes is located by Brent's method on the arc
(Kuznetsov, Elements of Applied Bifurcation Theory, chapter 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.analysis.arclength import Branch, Point, Steps
from mkvlasov.analysis.crossings import crossing
from mkvlasov.analysis.equations import Equation

FOLD, BRANCH_POINT, VERTEX, HOPF = "fold", "branch point", "vertex", "Hopf"

_RANK = 1e-5
"""Singular values of the derivative below this part of the largest one make a branch point of a fold."""
_ONE = 1e-4
"""Crossings closer than this, in scaled variables, are one."""
_NULL = 1e-4
"""Singular values of dF/dx below this part of the derivative nearby count as null directions at a crossing."""
_TURNING = 1e-4
"""Imaginary parts above this part of the largest eigenvalue make a Hopf point."""
_CLEAR = 10.0
"""Points further from a bifurcation than this multiple of its error lie on one side of it."""


class Event(NamedTuple):
    """What happens at one point of a branch.

    Attributes
    ----------
    kind : str
        FOLD; BRANCH_POINT where a real eigenvalue vanishes and the branch goes on; VERTEX where the branch turns back
        because it meets another one; HOPF.
    interval : int
        It lies between the points i and i + 1.
    point : Point
    p, error : float
        Value of the parameter and its estimated error.
    null : ndarray, shape (d, n)
        Unit null vectors of dF/dx in the scaled variables; for a Hopf point none.
    frequency : float or None
        Imaginary part of the eigenvalue of a Hopf point.
    """

    kind: str
    interval: int
    point: Point
    p: float
    error: float
    null: Array
    frequency: float | None


class Events(NamedTuple):
    """Events along a branch in order, and intervals (i, i + 1) in which something changed that was not located."""

    found: list[Event]
    unresolved: list[int]


def eigenvalues(equation: Equation, matrix: Array) -> npt.NDArray[np.complex128]:
    """Return the eigenvalues of dF/dx by falling real part, from the derivative (..., d, d + 1) by scaled variables."""
    values = np.linalg.eigvals(matrix[..., :-1] / equation.scale).astype(np.complex128)
    order = np.argsort(-values.real, axis=-1, kind="stable")
    return np.take_along_axis(values, order, axis=-1)


def _eigenvalue_errors(equation: Equation, matrix: Array, errors: Array) -> Array:
    """Return the errors of the eigenvalues, in the order of `eigenvalues`, that errors (d, d) of dF/dx cause.

    To first order |y|^T E |x| / |y^T x| with eigenvectors from the left and right.
    """
    values, vectors = np.linalg.eig(matrix[:, :-1] / equation.scale)
    errors = errors + np.finfo(float).eps * np.abs(matrix[:, :-1] / equation.scale).max()
    found = np.einsum("ki,ij,jk->k", np.abs(np.linalg.pinv(vectors)), errors, np.abs(vectors))
    return np.asarray(found[np.argsort(-values.real, kind="stable")])


def find_events(equation: Equation, branch: Branch, errors: Array, steps: Steps | None = None) -> Events:
    """Return the folds, branch points and Hopf points of a branch.

    Parameters
    ----------
    equation : Equation
    branch : Branch
    errors : ndarray, shape (n, d, d)
        Errors of dF/dx at the points. Eigenvalues below what these do to them have no sign.
    steps : Steps, optional

    Notes
    -----
    Two crossings of the same eigenvalue between neighbouring points are overlooked.
    """
    steps = steps or Steps()
    real = eigenvalues(equation, branch.matrices).real
    noise = np.array([_eigenvalue_errors(equation, m, e) for m, e in zip(branch.matrices, errors, strict=True)])
    found: list[Event] = []
    unresolved: list[int] = []
    turning = set(branch.folds.tolist())
    for i in range(len(branch) - 1):
        here: list[Event] = []
        # An eigenvalue that is zero within its error on both sides, as along a continuum, does not change.
        decided = np.maximum(*(np.abs(real[j]) / np.maximum(noise[j], 1e-300) for j in (i, i + 1))) > 1.0
        changed = (real[i] * real[i + 1] < 0.0) & decided
        if i in turning:
            turn = _turn(equation, branch, i, steps)
            here += [turn] if turn else []
            if turn is None:
                unresolved.append(i)
        for k in np.flatnonzero(changed):
            event = _vanishing(equation, branch, i, int(k), float(max(noise[i, k], noise[i + 1, k])), steps)
            if event is None:
                unresolved.append(i)
            elif not any(np.linalg.norm(event.point.u - other.point.u) < _ONE for other in here):
                here.append(event)
        start = equation.pack(branch.x[i], branch.p[i])
        found += sorted(here, key=lambda event: float(np.linalg.norm(event.point.u - start)))
    return Events(found, sorted(set(unresolved)))


def _turn(equation: Equation, branch: Branch, i: int, steps: Steps) -> Event | None:
    """Return the fold or vertex where the tangent has no part along the parameter."""
    located = crossing(equation, branch, i, lambda point: float(point.tangent[-1]), steps)
    if located is None:
        return None
    point, error = located
    p = equation.unpack(point.u)[1]
    values = np.linalg.svd(point.matrix, compute_uv=False)
    kind = FOLD if values[-1] > _RANK * values[0] else VERTEX
    return Event(
        kind,
        i,
        point,
        p,
        error * _unit(equation, p),
        _null(point.matrix[:, :-1], float(np.linalg.norm(branch.matrices[i]))),
        None,
    )


def _vanishing(equation: Equation, branch: Branch, i: int, k: int, noise: float, steps: Steps) -> Event | None:
    """Return the point where the real part of the k-th eigenvalue vanishes."""

    def real_part(point: Point) -> float:
        return float(eigenvalues(equation, point.matrix)[k].real)

    located = crossing(equation, branch, i, real_part, steps, noise=noise)
    if located is None:
        return None
    point, error = located
    p = equation.unpack(point.u)[1]
    values = eigenvalues(equation, point.matrix)
    error *= _unit(equation, p)
    frequency = abs(float(values[k].imag))
    if frequency > _TURNING * np.abs(values).max():
        return Event(HOPF, i, point, p, error, np.zeros((len(values), 0)), frequency)
    return Event(
        BRANCH_POINT, i, point, p, error, _null(point.matrix[:, :-1], float(np.linalg.norm(branch.matrices[i]))), None
    )


class Passage(NamedTuple):
    """A branch at a bifurcation: p (n,), unstable dimensions (n,), and the index of the point nearest to it."""

    p: Array
    unstable: npt.NDArray[np.int64]
    nearest: int


def criticality(value: float, error: float, passages: Sequence[Passage]) -> str | None:
    """Return "supercritical" or "subcritical": how the branch that emerges at a pitchfork p = value + c s^2 curves.

    Supercritical where it lies on the side on which the trunk, the branch that goes on, has more unstable directions.

    Parameters
    ----------
    value, error : float
        Of the parameter at the pitchfork.
    passages : sequence of Passage
        The trunk, and branches that begin or end there.

    Returns
    -------
    str or None
        None if there is no trunk or no emerging branch.
    """
    less_stable, curvature = 0.0, 0.0
    for p, unstable, nearest in passages:
        gaps = p - value
        clear = np.abs(gaps) > _CLEAR * error
        before, after = np.flatnonzero(clear[: nearest + 1]), nearest + np.flatnonzero(clear[nearest:])
        if nearest in (0, len(p) - 1):
            beyond = after if nearest == 0 else before[::-1]
            # Past the first point, which may lie as near as the branch could be followed.
            curvature = gaps[beyond[beyond != nearest][0]] if (beyond != nearest).any() else 0.0
            continue
        if clear[nearest]:  # then it counts on its own side
            before, after = (before[:-1], after) if gaps[nearest] * gaps[nearest + 1] > 0.0 else (before, after[1:])
        if len(before) and len(after) and gaps[before[-1]] * gaps[after[0]] < 0.0:
            i, j = before[-1], after[0]
            less_stable = float(unstable[j] - unstable[i]) * np.sign(gaps[j])
    if not less_stable * curvature:
        return None
    return "supercritical" if less_stable * curvature > 0.0 else "subcritical"


def _null(matrix: Array, size: float) -> Array:
    """Return the null vectors (d, n) of a square matrix that is part of one of this size, at least one."""
    _, values, right = np.linalg.svd(matrix)
    number = max(1, int((values <= _NULL * size).sum()))
    return right[-number:].T


def _unit(equation: Equation, p: float) -> float:
    """Return the change of p per unit of the scaled parameter."""
    low, high = equation.bounds
    return p * float(np.log(high / low)) if equation.logarithmic else high - low


def turned(branch: Branch, events: list[Event]) -> tuple[Branch, list[Event], Event]:
    """Return a loop that begins behind the interval of its first vertex, its events, and that vertex."""
    head = next(event for event in events if event.kind == VERTEX)
    n, first = len(branch) - 1, head.interval + 1  # the last point is the first one again
    order = np.roll(np.arange(n), -first)
    loop = Branch(
        p=branch.p[order], x=branch.x[order], tangents=branch.tangents[order], matrices=branch.matrices[order],
        residuals=branch.residuals[order], ends=branch.ends,
    )  # fmt: skip
    moved = [event._replace(interval=(event.interval - first) % n) for event in events]
    return loop, sorted(moved, key=lambda event: event.interval), head


def part_of(equation: Equation, branch: Branch, kept: slice, head: Event | None, tail: Event | None) -> Branch:
    """Return part of a branch between the points at which it was cut."""
    first, last = ([] if event is None else [event.point] for event in (head, tail))
    begin, end = ([equation.unpack(point.u) for point in points] for points in (first, last))
    return Branch(
        p=np.array([*(p for _, p in begin), *branch.p[kept], *(p for _, p in end)]),
        x=np.array([*(x for x, _ in begin), *branch.x[kept], *(x for x, _ in end)]),
        tangents=np.array([*(q.tangent for q in first), *branch.tangents[kept], *(q.tangent for q in last)]),
        matrices=np.array([*(q.matrix for q in first), *branch.matrices[kept], *(q.matrix for q in last)]),
        residuals=np.array(
            [*(np.abs(q.f).max() for q in first), *branch.residuals[kept], *(np.abs(q.f).max() for q in last)]
        ),
        ends=(branch.ends[0] if head is None else BRANCH_POINT, branch.ends[1] if tail is None else BRANCH_POINT),
    )  # fmt: skip
