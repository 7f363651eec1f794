"""Basins of attraction of the closed ODEs: which fixed point each start ends at, and how long that takes."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.analysis.basin_labels import DIVERGED, INFEASIBLE, UNRESOLVED
from mkvlasov.analysis.destinations import find_destinations
from mkvlasov.analysis.fixed_points import FixedPoints, constant_rate, fixed_points
from mkvlasov.analysis.flow import Flow
from mkvlasov.analysis.initial_overlaps import StartGrid, feasible
from mkvlasov.analysis.neighbourhoods import Ends, unsigned
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.entries import Entries
from mkvlasov.limit.line import has_line_kernel
from mkvlasov.problem.contrastive import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPECIAL = {"diverged": DIVERGED, "unresolved": UNRESOLVED, "infeasible": INFEASIBLE}
_SIZES = (100, 30, 10)
"""Points along each axis of the default grid: coefficients compiled, one output, several outputs."""
_BEYOND = 1.5
"""Range of Q in the default grid, over the largest Q of a fixed point."""
_HALF_LEARNT = 0.5
"""Overlaps of the other outputs in the default grid, over those at a fixed point: room for the first one."""


@dataclass(frozen=True)
class Fraction:
    """Part of the feasible starts, and its standard error where the starts are a sample (else infinite).

    The standard error is that of the posterior under a uniform prior, sqrt(p (1 - p) / (n + 3)), p = (count + 1) /
    (n + 2): it is not zero for a count of zero.
    """

    count: int
    value: float
    stderr: float


@dataclass(frozen=True, eq=False)
class Basins:
    """Where starts end.

    Attributes
    ----------
    problem : Problem
    grid : StartGrid or None
        The grid of the starts, if they are one.
    Q, R : ndarray, shapes (..., m, m) and (..., m, K)
        The starts.
    labels : ndarray of int, shape (...)
        An index into `ends`, or UNRESOLVED (-1), DIVERGED (-2), INFEASIBLE (-3: no weights have such overlaps).
    times : ndarray, shape (...)
        When a start entered the neighbourhood of its end, or diverged; infinite for all others.
    Q_end, R_end : ndarray, shapes (..., m, m) and (..., m, K)
        The state then; of unresolved starts the last one.
    points : FixedPoints
    ends : Ends
        The fixed points with their symmetric copies one by one: `ends.names`, `ends.point`, `ends.copy`.
    radii : ndarray, shape (n,)
        Radius, relative to the scale of an end, of the neighbourhood that counts for starts without symmetry; zero
        where
        there is none (ends that are unstable or degenerate).
    t_max, rtol, tolerance : float
    evaluations : int
        Of the rates.
    seconds : float
        Time for the integration, without the search for fixed points.
    """

    problem: Problem
    grid: StartGrid | None
    Q: Array
    R: Array
    labels: npt.NDArray[np.int64]
    times: Array
    Q_end: Array
    R_end: Array
    points: FixedPoints
    ends: Ends
    radii: Array
    t_max: float
    rtol: float
    tolerance: float
    evaluations: int
    seconds: float

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of starts by the name of their end; "diverged", "unresolved" and "infeasible" are always listed."""
        found = {name: int((self.labels == j).sum()) for j, name in enumerate(self.ends.names)}
        special = {name: int((self.labels == label).sum()) for name, label in _SPECIAL.items()}
        return {name: count for name, count in found.items() if count} | special

    def fractions(self, *, signs: bool = True) -> Mapping[str, Fraction]:
        """Return the part of the feasible starts by name: of ends that some start reaches, and of special labels.

        Parameters
        ----------
        signs : bool
            Whether ends that differ in the signs of features count apart.
        """
        counts: Counter[str] = Counter()
        for name, count in self.counts.items():
            counts[name if signs else unsigned(name)] += count
        total = self.labels.size - counts.pop("infeasible")
        return {name: fraction_of(count, total, sampled=self.grid is None) for name, count in counts.items()}

    def changed_labels(self, *, progress: bool = True) -> npt.NDArray[np.bool_]:
        """Return which labels change, shape (...), with half the steps, tolerance and neighbourhoods.

        Everything is integrated anew; no change says that the labels are not an accident of the numerics.
        """
        flow = Flow(self.problem, self.t_max, 0.5 * self.rtol, fraction=0.5)
        done = find_destinations(flow, self.Q, self.R, self.points, self.ends, 0.5 * self.tolerance, progress=progress)
        return done.labels.reshape(self.labels.shape) != self.labels

    def plot(self) -> Figure:
        """Draw the map of a grid, or the starts of a sample, coloured by where they end, and the times."""
        from mkvlasov.plotting.basins import plot_basins

        return plot_basins(self)

    def __str__(self) -> str:
        what = "a grid of" if self.grid is not None else "a sample of"
        sampled = self.grid is None
        lines = [
            f"basins of {what} {self.labels.size} starts, to t = {self.t_max:g} (tolerance of the integration "
            f"{self.rtol:g}, neighbourhoods within {self.tolerance:g} of the ends)",
            f"{'end':32s}{'starts':>8s}{'fraction':>10s}{'+-' if sampled else '':>9s}{'median time':>13s}"
            f"{'longest':>9s}",
        ]
        for name, fraction in self.fractions().items():
            label = _SPECIAL[name] if name in _SPECIAL else self.ends.names.index(name)
            chosen = self.times[self.labels == label]
            timed = chosen.size and np.isfinite(chosen).all()
            spread = f"{fraction.stderr:9.4f}" if sampled else " " * 9
            when = f"{np.median(chosen):13.3g}{chosen.max():9.3g}" if timed else f"{'-':>13s}{'-':>9s}"
            lines.append(f"{name:32s}{fraction.count:8d}{fraction.value:10.4f}{spread}{when}")
        if self.counts["infeasible"]:
            lines.append(f"infeasible (no weights have such overlaps): {self.counts['infeasible']} starts, left aside")
        return "\n".join(lines)


def basins(
    problem: Problem,
    starts: StartGrid | tuple[ArrayLike, ArrayLike] | None = None,
    *,
    t_max: float = 100.0,
    rtol: float = 1e-6,
    tolerance: float = 0.01,
    points: FixedPoints | None = None,
    progress: bool = True,
) -> Basins:
    """Return at which fixed point of the closed ODEs each start ends, and when.

    A start has converged when it enters a neighbourhood of a stable fixed point, in the directions in which its
    symmetries let it move, within which a quadratic Lyapunov function falls (checked at samples, see
    `neighbourhoods.find_neighbourhoods`). It is unresolved if that does not happen by t_max, or if it passes a
    saddle so
    close to its stable manifold that the errors of the integration decide the side.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none, and a constant learning rate.
    starts : StartGrid, or pair (Q, R) of arrays, shapes (..., m, m) and (..., m, K), optional
        By default what `default_grid` returns.
    t_max : float
    rtol : float
        Relative tolerance of the Runge-Kutta method of order 8 (absolute: a hundredth of it) and of the coefficients.
    tolerance : float
        Largest radius of the neighbourhoods, relative to the scale of the fixed point: R over sqrt(max Q_jj), Q over
        max Q_jj.
    points : FixedPoints, optional
        What `fixed_points` returned, to save another search.
    progress : bool
        Show a progress bar when standard error is a terminal.

    Returns
    -------
    Basins

    Raises
    ------
    ClosureError
        If the moments do not close.
    UnsupportedError
        For a learning rate that depends on time.
    InvalidInput
        If starts are not overlaps of any weights (on a `StartGrid` these have a label of their own).

    Notes
    -----
    Ends are those that `fixed_points` finds: a start that ends at one which was overlooked, at a degenerate one or on a
    cycle is unresolved. Starts that symmetries of the problem map onto each other are integrated once. One output with
    compiled coefficients runs in one compiled loop on all processors, everything else as stacked arrays.
    """
    constant_rate(problem)
    entries = ClosedRates(problem).entries  # says so if the moments do not close
    t_max = _checks.number("t_max", t_max, minimum=0.0, exclusive=True)
    rtol = _checks.number("rtol", rtol, minimum=1e-12, maximum=1e-3)
    tolerance = _checks.number("tolerance", tolerance, minimum=10.0 * rtol, maximum=0.1)
    progress = _checks.flag("progress", progress)
    if points is not None and not isinstance(points, FixedPoints):
        raise InvalidInput("points", points, "what system.fixed_points() returned")
    states = None if starts is None else _checked(problem, starts)
    points = fixed_points(problem) if points is None else points
    grid = default_grid(problem, points) if starts is None else starts if isinstance(starts, StartGrid) else None
    Q, R = _checked(problem, grid) if states is None else states
    ends = Ends.of(entries, points)
    before = time.perf_counter()
    found = find_destinations(Flow(problem, t_max, rtol), Q, R, points, ends, tolerance, progress=progress)
    lead = Q.shape[:-2]
    Q_end, R_end = entries.unpack(found.states)
    return Basins(
        problem=problem, grid=grid, Q=Q, R=R, labels=found.labels.reshape(lead), times=found.times.reshape(lead),
        Q_end=Q_end.reshape(Q.shape), R_end=R_end.reshape(R.shape), points=points, ends=ends, radii=found.radii,
        t_max=t_max, rtol=rtol, tolerance=tolerance, evaluations=found.evaluations,
        seconds=time.perf_counter() - before,
    )  # fmt: skip


def default_grid(problem: Problem, points: FixedPoints, size: int | None = None) -> StartGrid:
    """Return a grid around the stable fixed points.

    The other entries are taken from the stable point of the lowest loss: Q without its off-diagonal, and half the
    overlaps of the other outputs; the other overlaps of a single output are zero. Over R[0,0] and R[0,1]; with one
    feature over the overlaps of two outputs, or for one output over R[0,0] and Q[0,0]
    (on the sphere there is only R[0,0], and no such plane).

    Parameters
    ----------
    problem : Problem
    points : FixedPoints
    size : int, optional
        Points along each axis, an even number by default, so that no start lies on an axis.
    """
    entries = Entries(problem.outputs, problem.n_features)
    chosen = min(points.stable or points.points, key=lambda point: point.loss)
    Q = np.diag(np.diagonal(chosen.Q)) if chosen.Q.any() else np.eye(problem.outputs)
    R = _HALF_LEARNT * chosen.R if problem.outputs > 1 else np.zeros_like(chosen.R)
    if size is None:
        size = _SIZES[0 if has_line_kernel(problem) else 1 if problem.outputs == 1 else 2]
    limit = float(np.sqrt(Q[0, 0]))
    around = np.linspace(-limit, limit, size)
    if problem.n_features > 1:
        return StartGrid(("R[0,0]", "R[0,1]"), (around, around), Q, R)
    if problem.outputs > 1:
        return StartGrid(("R[0,0]", "R[1,0]"), (around, around), Q, R)
    if problem.constraint == "sphere":
        raise UnsupportedError("starts: one overlap is all there is on this sphere, no plane for a grid; give (Q, R)")
    largest = _BEYOND * max(float(point.Q[0, 0]) for point in points if point.Q.any())
    return StartGrid(
        (entries.names[0], entries.names[1]),
        (np.linspace(-1.0, 1.0, size) * np.sqrt(largest), largest * np.arange(1, size + 1) / size),
        Q,
        R,
    )


def _checked(problem: Problem, starts: object) -> tuple[Array, Array]:
    """Return Q and R of starts that fit the problem; those of a sample have to be feasible."""
    if isinstance(starts, StartGrid):
        if starts.R.shape != (problem.outputs, problem.n_features):
            raise InvalidInput(
                "starts", starts.R.tolist(), f"a grid of {problem.outputs} x {problem.n_features} overlaps"
            )
        return starts.states()
    if not isinstance(starts, tuple) or len(starts) != 2:
        raise InvalidInput("starts", starts, "a StartGrid, or a pair (Q, R)")
    Q, R = _checks.overlaps(*starts, problem.outputs, problem.n_features)
    if not Q.size:
        raise InvalidInput("starts", starts, "one start or more")
    if not feasible(Q, R).all():
        raise InvalidInput("R", R, "overlaps with Q - R R^T positive semidefinite in every start")
    if problem.constraint == "sphere" and (np.abs(np.diagonal(Q, axis1=-2, axis2=-1) - 1.0) > 1e-12).any():
        raise InvalidInput("Q", Q, "Q_jj = 1 on the sphere, in every start")
    return Q, R


def fraction_of(count: int, total: int, *, sampled: bool) -> Fraction:
    """Return a count as a part of the total."""
    p = (count + 1.0) / (total + 2.0)
    return Fraction(count, count / max(total, 1), math.sqrt(p * (1.0 - p) / (total + 3.0)) if sampled else math.inf)
