"""Density snapshots p(w | a): the routes side by side, a row per loading and a column per time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.plotting.distributions import density_of
from mkvlasov.plotting.given import several_solutions
from mkvlasov.plotting.loadings import LoadingGroup, holds_some, loading_groups
from mkvlasov.plotting.style import PALETTE, ROUTE_LABELS, house_style
from mkvlasov.solution import Solution
from mkvlasov.solution_ode import OdeSolution
from mkvlasov.solution_pde import PdeSolution
from mkvlasov.solution_plane import PlanePdeSolution
from mkvlasov.solution_runs import RunsSolution

_LETTERS = 28
"""Labels of more letters than fit beside a panel are set smaller."""

_HIDDEN_TAIL = 1e-6
"""Mass on either side that no figure shows."""


def plot_densities(solutions: Sequence[Solution], times: Sequence[float]) -> Figure:
    """Draw density snapshots of several routes: histograms for SGD, dots for particles, lines for PDE and exact law.

    Parameters
    ----------
    solutions : sequence of Solution
        Of the same problem; those without densities at a time are left out of that panel.
    times : sequence of float
        Stored times (for simulations: snapshots).

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        For a time at which no solution knows densities.
    """
    solutions = several_solutions(solutions)
    wanted = _checks.array("times", times, ndim=1, minimum=0.0).tolist()
    for t in wanted:
        if not any(_knows(solution, t) for solution in solutions):
            raise InvalidInput("times", t, "times at which a solution knows densities (simulations: snapshots=[...])")
    groups = loading_groups(solutions[0])
    rows = [(group, output) for group in groups for output in range(solutions[0].problem.outputs)]
    with house_style():
        figure = Figure(figsize=(2.7 * len(wanted) + 0.6, 1.9 * len(rows) + 0.8), layout="constrained")
        axes = figure.subplots(len(rows), len(wanted), squeeze=False)
        for i, (group, output) in enumerate(rows):
            for j, t in enumerate(wanted):
                _snapshot(axes[i, j], solutions, t, group, output)
                if i == 0:
                    axes[i, j].set_title(f"$t = {t:.4g}$")
            name = f"output {output + 1}\n" if solutions[0].problem.outputs > 1 else ""
            size = min(10.0, 10.0 * _LETTERS / len(group.label.replace("\\", "")))
            axes[i, 0].set_ylabel(f"{name}{group.label}\ndensity $p(w\\,|\\,a)$", size=size)
        for ax in axes[-1]:
            ax.set_xlabel("weight $w$")
        handles = [route_handle(s) for s in solutions]
        for handle, solution in zip(handles, solutions, strict=True):
            if solution.route == "sgd":
                handle.set_label("SGD (bars: standard errors)")
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        return figure


def _snapshot(ax: Axes, solutions: Sequence[Solution], t: float, group: LoadingGroup, output: int) -> None:
    """Draw one panel; the horizontal range is where the lines have their mass."""
    reach: list[Array] = []
    for solution in solutions:
        if isinstance(solution, RunsSolution):
            curve = _histogram(ax, solution, t, group, output)
        elif isinstance(solution, (PdeSolution, PlanePdeSolution)):
            curve = _pde(ax, solution, t, group, output)
        elif isinstance(solution, OdeSolution):
            curve = _exact(ax, solution, t, group, output)
        else:
            curve = None
        if curve is not None:
            reach.append(curve)
    if reach:
        low, high = min(r[0] for r in reach), max(r[1] for r in reach)
        margin = 0.05 * (high - low)
        ax.set_xlim(low - margin, high + margin)
    else:
        ax.text(0.5, 0.5, "no density", transform=ax.transAxes, ha="center", va="center", color="#555555")
        ax.set(xticks=[], yticks=[])
    ax.set_ylim(bottom=0.0)


def _knows(solution: Solution, t: float) -> bool:
    """Return whether a simulation has a snapshot at a time; the other routes know all stored times, and say so."""
    if not isinstance(solution, RunsSolution):
        return True
    stored = solution.snapshots.t
    return bool(len(stored) and np.abs(stored - t).min() <= 1e-9 * max(1.0, t))


def _histogram(ax: Axes, solution: RunsSolution, t: float, group: LoadingGroup, output: int) -> Array | None:
    if not (_knows(solution, t) and holds_some(solution, group)):
        return None
    count = solution.histogram(t, group.selection, bins=1, output=output).count
    # Rice's rule: as many bins as show the shape without showing the counting noise.
    histogram = solution.histogram(t, group.selection, bins=int(np.clip(2.0 * count ** (1 / 3), 8, 50)), output=output)
    if solution.route == "sgd":
        ax.stairs(histogram.density, histogram.edges, fill=True, zorder=1, **_COUNTED)
        ax.errorbar(
            histogram.centers, histogram.density, histogram.stderr, fmt="none", ecolor=PALETTE[0], lw=0.8, zorder=1.5
        )
    else:
        ax.plot(histogram.centers, histogram.density, ms=4, zorder=3, **_LOOKS["particles"])
    # The outermost bins hold single coordinates; the bulk decides what is shown.
    filled = np.flatnonzero(histogram.density > 2e-3 * histogram.density.max())
    return np.array([histogram.edges[filled[0]], histogram.edges[filled[-1] + 1]]) if len(filled) else None


def _pde(
    ax: Axes, solution: PdeSolution | PlanePdeSolution, t: float, group: LoadingGroup, output: int
) -> Array | None:
    parts = [density_of(solution, t, point, output) for point in group.points]
    nodes = np.unique(np.concatenate([part.w for part in parts]))
    # Nodes of polynomials of high order lie too far apart for straight lines between them.
    w = np.interp(np.arange(0.0, len(nodes) - 0.9, 0.25), np.arange(len(nodes)), nodes)
    p = sum(weight * part.pdf(w) for weight, part in zip(group.weights, parts, strict=True))
    ax.plot(w, p, zorder=4, **_LOOKS["pde"])
    return _bulk(w, np.asarray(p))


def _exact(ax: Axes, solution: OdeSolution, t: float, group: LoadingGroup, output: int) -> Array | None:
    laws = [solution.law(t, point).marginal(output) for point in group.points]
    if not all(law.is_smooth for law in laws):
        return None  # part of the law is a point mass: no density to draw
    ends = np.array([law.ends(_HIDDEN_TAIL) for law in laws])
    w = np.linspace(ends[:, 0].min(), ends[:, 1].max(), 601)
    p = sum(weight * law.pdf(w) for weight, law in zip(group.weights, laws, strict=True))
    ax.plot(w, p, zorder=5, **_LOOKS["ode"])
    return _bulk(w, np.asarray(p))


def _bulk(w: Array, p: Array) -> Array:
    inside = np.flatnonzero(p > 2e-3 * p.max())
    return np.array([w[inside[0]], w[inside[-1]]])


_LOOKS: dict[str, dict[str, Any]] = {
    "particles": {"color": PALETTE[1], "ls": "none", "marker": "."},
    "pde": {"color": "black", "lw": 1.6},
    "ode": {"color": PALETTE[4], "lw": 1.6, "ls": (0, (4, 3))},
}
_COUNTED: dict[str, Any] = {"color": PALETTE[5], "alpha": 0.45}


def density_artist(ax: Axes, solution: Solution, edges: Array) -> Line2D | StepPatch:
    """Return the artist of the densities of a route, without data: steps between the edges for SGD, else a line."""
    if solution.route == "sgd":
        return ax.stairs(np.zeros(len(edges) - 1), edges, fill=True, **_COUNTED)
    (line,) = ax.plot([], [], ms=4, **_LOOKS[solution.route])
    return line


def route_handle(solution: Solution) -> Line2D:
    """Return how the densities of a route are drawn, with its name."""
    look = {"lw": 7, **_COUNTED} if solution.route == "sgd" else {"ms": 7, **_LOOKS[solution.route]}
    label = {"sgd": "SGD", "ode": "exact (from the closed ODEs)"}.get(solution.route, ROUTE_LABELS[solution.route])
    return Line2D([], [], label=label, **look)
