"""Phase portraits: vector field, nullclines, fixed points and separatrices of the closed ODEs in a plane of states."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.integrate import solve_ivp

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.analysis.basins import default_grid
from mkvlasov.analysis.destinations import find_destinations
from mkvlasov.analysis.fixed_points import FixedPoints, constant_rate, fixed_points
from mkvlasov.analysis.flow import Flow
from mkvlasov.analysis.initial_overlaps import StartGrid
from mkvlasov.analysis.level_lines import level_lines
from mkvlasov.analysis.neighbourhoods import Ends
from mkvlasov.analysis.newton import scales
from mkvlasov.analysis.sections import HELD, INVARIANT, SLAVED, WHOLE, Section, find_roots
from mkvlasov.analysis.stability import Stability
from mkvlasov.errors import InvalidInput
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.problem.contrastive import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE, _SIZE_SLAVED, _SIZE_SEVERAL = 96, 40, 20
"""Points along each axis: one output, with Q from dQ/dt = 0, and several outputs."""
_RTOL = 1e-10, 1e-6
"""Of the coefficients: one output, several."""
_TRACED = 1e-8
_PUSH = 1e-3
"""Distance from a saddle, over its scale, at which its stable manifold is taken to be straight: errs by its square."""
_T_MAX = 100.0
_HALVINGS = 8
_GRADES = 7
"""Halvings of the spacing of the grid around a point where boundaries of basins meet."""
_WIDER = 1.15
_MEANING = {
    WHOLE: "this plane is the whole phase space",
    INVARIANT: "trajectories that start in this plane stay in it",
    SLAVED: "at each point Q is where dQ/dt = 0; trajectories are projected, black lines bound basins of such starts",
    HELD: "the other entries are held: a slice that trajectories leave at once",
}


@dataclass(frozen=True, eq=False)
class PortraitPoint:
    """A fixed point, or a symmetric copy of one, in the plane.

    Attributes
    ----------
    position : ndarray, shape (2,)
    name : str
    stability : Stability
        In all directions, not only those in the plane.
    """

    position: Array
    name: str
    stability: Stability


@dataclass(frozen=True, eq=False)
class PhasePortrait:
    """What `plot` draws.

    Attributes
    ----------
    problem : Problem
    names : pair of str
        The horizontal and the vertical entry.
    kind : str
        "whole" (the plane is all of the phase space), "invariant" (trajectories stay in it), "slaved" (Q is where
        dQ/dt =
        0) or "held" (a slice at constant other entries).
    x, y : ndarray, shapes (X,) and (Y,)
    field : ndarray, shape (2, Y, X)
        Rates of the two entries; zero where `exists` is False: no state with these entries.
    exists : ndarray of bool, shape (Y, X)
    nullclines : pair of tuples of ndarray, shapes (n, 2)
        Where the rate of the horizontal entry vanishes, and that of the vertical one.
    residuals : pair of floats
        The largest absolute rate at the vertices of each nullcline; between them the lines are straight.
    points : tuple of PortraitPoint
        Those that lie in the plane.
    separatrices : tuple of ndarray, shapes (n, 2)
        "whole" and "invariant": stable manifolds of the saddles in the plane, integrated backwards. "slaved":
        boundaries
        of the basins of the starts in the plane. "held": none.
    trajectories : tuple of ndarray, shapes (n, 2)
        Solutions that start in the plane, projected onto it.
    """

    problem: Problem
    names: tuple[str, str]
    kind: str
    x: Array
    y: Array
    field: Array
    exists: npt.NDArray[np.bool_]
    nullclines: tuple[tuple[Array, ...], tuple[Array, ...]]
    residuals: tuple[float, float]
    points: tuple[PortraitPoint, ...]
    separatrices: tuple[Array, ...]
    trajectories: tuple[Array, ...]

    @property
    def caption(self) -> str:
        """What kind of plane this is, in words."""
        return _MEANING[self.kind]

    def plot(self) -> Figure:
        """Draw it."""
        from mkvlasov.plotting.portrait import plot_phase_portrait

        return plot_phase_portrait(self)

    def __str__(self) -> str:
        drawn = ", ".join(f"{point.name} ({point.stability.type})" for point in self.points) or "none"
        return (
            f"phase portrait of {self.names[0]} and {self.names[1]}: {self.caption}\n"
            f"fixed points: {drawn}\n"
            f"nullclines to {max(self.residuals):.1e}; {len(self.separatrices)} separatrices"
        )


def phase_portrait(
    problem: Problem,
    plane: StartGrid | None = None,
    *,
    trajectories: int = 8,
    points: FixedPoints | None = None,
) -> PhasePortrait:
    """Return the phase portrait of the closed ODEs in a plane of two entries of (R, Q).

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none, and a constant learning rate.
    plane : StartGrid, optional
        The plane and its grid. With one output that is free to grow and a plane of two overlaps, its Q is replaced by
        the one at which dQ/dt = 0; otherwise the other entries are held. By default R[0,0] and R[0,1] (other overlaps
        zero for one output), with one feature R[0,0] and Q[0,0].
    trajectories : int
        Number of solutions to draw.
    points : FixedPoints, optional
        What `fixed_points` returned, to save another search.

    Returns
    -------
    PhasePortrait

    Notes
    -----
    Every vertex of a nullcline is refined along an edge of the grid until the rate vanishes to rounding.
    """
    tau = constant_rate(problem)
    closed = ClosedRates(problem, _RTOL[problem.outputs > 1])
    trajectories = _checks.integer("trajectories", trajectories, minimum=0)
    if plane is not None and not isinstance(plane, StartGrid):
        raise InvalidInput("plane", plane, "a StartGrid")
    points = fixed_points(problem) if points is None else points
    section, grid = _section(closed, tau, points, plane)
    x, y = grid.values
    nodes = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    f, exists = section.rates(nodes)
    kind = section.kind(f, exists)
    field = np.moveaxis(f[:, section.shown].reshape(len(y), len(x), 2), -1, 0)
    on_grid = exists.reshape(len(y), len(x))
    lines, residuals = zip(*(_nullcline(section, x, y, field[i], on_grid, i) for i in range(2)), strict=True)
    ends = Ends.of(closed.entries, points)
    shown = [j for j in range(len(ends.x)) if section.holds(ends.x[j])]
    if kind == SLAVED:
        separatrices = _boundaries(section, grid, points, ends)
    elif kind == HELD:
        separatrices = []
    else:
        separatrices = [line for j in shown for line in _manifolds(section, grid, ends.x[j])]
    return PhasePortrait(
        problem=problem, names=section.names, kind=kind, x=x, y=y, field=field, exists=on_grid,
        nullclines=(tuple(lines[0]), tuple(lines[1])), residuals=(residuals[0], residuals[1]),
        points=tuple(
            PortraitPoint(ends.x[j, section.shown], ends.names[j], points[int(ends.point[j])].stability) for j in shown
        ),
        separatrices=tuple(separatrices),
        trajectories=tuple(_trajectories(section, nodes[exists], trajectories)),
    )  # fmt: skip


def _section(
    closed: ClosedRates, tau: float, points: FixedPoints, plane: StartGrid | None
) -> tuple[Section, StartGrid]:
    problem, entries = closed.problem, closed.entries
    if plane is None:
        free = problem.constraint is None and problem.n_features > 1
        size = _SIZE_SEVERAL if problem.outputs > 1 else _SIZE_SLAVED if free else _SIZE
        plane = default_grid(problem, points, size)
        if problem.outputs == 1 and problem.n_features > 1:
            horizontal, vertical = (_WIDER * axis if problem.constraint is None else axis for axis in plane.values)
            plane = StartGrid(plane.entries, (horizontal, vertical), plane.Q, plane.R)
    if plane.R.shape != (problem.outputs, problem.n_features):
        raise InvalidInput("plane", plane.R.tolist(), f"a plane of {problem.outputs} x {problem.n_features} overlaps")
    if min(plane.shape) < 2:
        raise InvalidInput("plane", plane.shape, "two values or more of both entries")
    overlaps = all(name.startswith("R") for name in plane.entries)
    slaved = problem.outputs == 1 and problem.constraint is None and overlaps
    largest = 4.0 * max([float(np.diagonal(p.Q).max()) for p in points] + [float(np.diagonal(plane.Q).max())])
    shown = np.array([entries.names.index(name) for name in plane.entries])
    return Section(closed, tau, plane.entries, shown, entries.pack(plane.Q, plane.R), slaved, largest), plane


def _nullcline(
    section: Section, x: Array, y: Array, rate: Array, exists: npt.NDArray[np.bool_], which: int
) -> tuple[list[Array], float]:
    """Return where the rate of one entry vanishes, and the largest rate that is left at the vertices."""

    def refine(a: Array, b: Array) -> Array:
        def along(s: Array, edges: npt.NDArray[np.int64]) -> Array:
            f, _ = section.rates(a[edges] + s[:, None] * (b - a)[edges])
            return f[:, section.shown[which]]

        every = np.arange(len(a))
        zero, one = np.zeros(len(a)), np.ones(len(a))
        s = find_roots(along, zero, one, along(zero, every), along(one, every))
        return a + s[:, None] * (b - a)

    def misfit(u: Array) -> Array:
        f, _ = section.rates(u)
        return np.abs(f[:, section.shown[which]])

    lines = level_lines(x, y, (rate >= 0.0).astype(np.int64), exists, refine, misfit)
    if not lines:
        return [], 0.0
    return lines, float(misfit(np.concatenate(lines)).max())


def _manifolds(section: Section, grid: StartGrid, saddle: Array) -> list[Array]:
    """Return the two branches of the stable manifold of a saddle in an invariant plane, traced backwards in time."""
    closed, shown = section.closed, section.shown
    J = closed.jacobian(saddle, section.tau).value[np.ix_(shown, shown)]
    values, vectors = np.linalg.eig(J)
    if np.iscomplex(values).any() or not values.real.min() < 0.0 < values.real.max():
        return []
    size = scales(closed.entries, saddle)[shown]
    direction = vectors[:, values.real.argmin()].real
    direction = direction / np.abs(direction / size).max()
    span = np.array([axis[-1] - axis[0] for axis in grid.values])
    low, high = (np.array([axis[k] for axis in grid.values]) for k in (0, -1))

    def backward(_: float, u: Array) -> Array:
        f = section.rates(u[None])[0]
        return -f[0, shown]

    def leaves(_t: float, u: Array) -> float:
        exists = section.lift(u[None])[1]
        return float(min(((high - u) / span).min(), ((u - low) / span).min(), 0.0 if exists[0] else -1.0)) + 1e-9

    leaves.terminal = True  # type: ignore[attr-defined]
    branches = []
    for sign in (1.0, -1.0):
        start = saddle[shown] + sign * _PUSH * direction
        if not section.lift(start[None])[1][0] or leaves(0.0, start) <= 0.0:
            continue
        run = solve_ivp(
            backward, (0.0, _T_MAX), start, rtol=_TRACED, atol=_TRACED * size.min(),
            events=leaves, max_step=1.0,
        )  # fmt: skip
        branches.append(np.concatenate([saddle[None, shown], run.y.T]))
    return branches


def _boundaries(section: Section, grid: StartGrid, points: FixedPoints, ends: Ends) -> list[Array]:
    """Return the boundaries between the basins of starts in the section, by bisection along the edges of a grid.

    Boundaries meet where two directions or more are unstable. There the grid is finer and finer, so that lines end
    within a small part of its spacing of that point, not in an arc around it.
    """
    meet = [j for j, p in enumerate(ends.point) if points[int(p)].stability.unstable_dimension > 1]
    x, y = (
        _graded(axis, [ends.x[j, place] for j in meet if section.holds(ends.x[j])])
        for axis, place in zip(grid.values, section.shown, strict=True)
    )
    nodes = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    exists = section.lift(nodes)[1]
    closed = section.closed
    flow = Flow(closed.problem, _T_MAX, 1e-6)

    def ends_of(u: Array) -> npt.NDArray[np.int64]:
        states, _ = section.lift(u)
        Q, R = closed.entries.unpack(states)
        return find_destinations(flow, Q, R, points, ends, 0.01, progress=False).labels

    def refine(a: Array, b: Array) -> Array:
        first = ends_of(a)
        for _ in range(_HALVINGS):
            middle = 0.5 * (a + b)
            same = (ends_of(middle) == first)[:, None]
            a, b = np.where(same, middle, a), np.where(same, b, middle)
        return 0.5 * (a + b)

    labels = np.full(exists.size, -1)
    labels[exists] = ends_of(nodes[exists])
    shape = len(y), len(x)
    return level_lines(x, y, labels.reshape(shape), exists.reshape(shape), refine)


def _graded(axis: Array, centres: list[Array]) -> Array:
    """Return an axis with further values that crowd around centres, on both sides in steps that halve."""
    width = float(np.diff(axis).max())
    steps = 0.5 ** np.arange(_GRADES)
    # The centre itself as well: a symmetry may keep its row and column apart from what lies on both sides.
    added = [centre + sign * width * steps for centre in centres for sign in (1.0, 0.0, -1.0)]
    values = np.unique(np.concatenate([axis, *added]))
    inside = values[(values >= axis[0]) & (values <= axis[-1])]
    return inside[np.append(True, np.diff(inside) > 1e-3 * width * steps[-1])]


def _trajectories(section: Section, candidates: Array, count: int) -> list[Array]:
    """Return solutions from starts that are spread over the plane, projected onto it."""
    closed = section.closed
    chosen = _spread(candidates, count)
    states, _ = section.lift(chosen)
    lines = []
    for start in states:
        with np.errstate(over="ignore", invalid="ignore"):
            run = solve_ivp(
                lambda _, v: closed.rates(v, section.tau), (0.0, _T_MAX / 2.0), start, method="DOP853",
                rtol=1e-6, atol=1e-8, dense_output=True,
            )  # fmt: skip
        fine = np.concatenate([np.linspace(a, b, 8, endpoint=False) for a, b in pairwise(run.t)] + [run.t[-1:]])
        assert run.sol is not None  # it was asked for
        lines.append(run.sol(fine)[section.shown].T)
    return lines


def _spread(candidates: Array, count: int) -> Array:
    """Return points that are far from each other, the first one the farthest from the mean."""
    if not count or not len(candidates):
        return candidates[:0]
    unit = (candidates - candidates.mean(axis=0)) / np.maximum(np.ptp(candidates, axis=0), 1e-300)
    chosen = [int((unit**2).sum(axis=1).argmax())]
    distance = ((unit - unit[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < min(count, len(unit)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((unit - unit[chosen[-1]]) ** 2).sum(axis=1))
    return candidates[chosen]
