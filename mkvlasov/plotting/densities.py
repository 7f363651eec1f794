"""Density snapshots p(w | a): the routes side by side, a row per loading and a column per time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.plotting.style import PALETTE, ROUTE_LABELS, house_style
from mkvlasov.solution import Solution
from mkvlasov.solution_ode import OdeSolution
from mkvlasov.solution_pde import PdeSolution
from mkvlasov.solution_runs import RunsSolution

_MAX_ATOMS = 27
"""Laws of loadings with more atoms than this are shown by ranges, like continuous ones."""

_HALF_WIDTH = 0.25
"""Half the width of a range of loadings: narrow against the law's standard deviation of 1."""


@dataclass(frozen=True)
class LoadingGroup:
    """Coordinates that are shown together: one atom of the law of loadings, or a small range of it.

    Attributes
    ----------
    label : str
    points, weights : ndarray, shapes (n, K) and (n,)
        Loadings whose densities are averaged.
    selection : ndarray
        What `histogram` takes: the atom (K,), or the corners (2, K) of the range.
    """

    label: str
    points: Array
    weights: Array
    selection: Array


def loading_groups(solution: Solution, most: int = 3) -> list[LoadingGroup]:
    """Return up to `most` groups: the likeliest atoms, or ranges about 0 and along the features."""
    problem, initial = solution.problem, solution.initial
    k = problem.n_features
    points, weights = initial.loading_nodes(problem, 2)
    if problem.loadings.is_exact and len(points) <= _MAX_ATOMS:
        chosen = np.sort(np.argsort(-weights, kind="stable")[:most])
        return [LoadingGroup(f"$a = {_vector(points[i])}$", points[[i]], np.ones(1), points[i]) for i in chosen]
    centres = [np.zeros(k), *(1.25 * np.eye(k))][:most]
    return [_range(centre) for centre in centres]


def _range(centre: Array) -> LoadingGroup:
    x, _ = np.polynomial.legendre.leggauss(2)
    grid = np.stack(np.meshgrid(*[x] * len(centre), indexing="ij"), axis=-1).reshape(-1, len(centre))
    points = centre + _HALF_WIDTH * grid
    weights = np.exp(-0.5 * (points**2).sum(axis=1))
    selection = np.stack([centre - _HALF_WIDTH, centre + _HALF_WIDTH])
    return LoadingGroup(rf"$a = {_vector(centre)} \pm {_HALF_WIDTH}$", points, weights / weights.sum(), selection)


def _vector(a: Array) -> str:
    entries = ", ".join(f"{entry:.3g}" for entry in a)
    return entries if len(a) == 1 else f"({entries})"


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
    """
    wanted = _checks.array("times", times, ndim=1, minimum=0.0).tolist()
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
            axes[i, 0].set_ylabel(f"{name}{group.label}\ndensity $p(w\\,|\\,a)$")
        for ax in axes[-1]:
            ax.set_xlabel("weight $w$")
        handles = [_handle(s) for s in solutions]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        return figure


def _snapshot(ax: Axes, solutions: Sequence[Solution], t: float, group: LoadingGroup, output: int) -> None:
    """Draw one panel; the horizontal range is where the lines have their mass."""
    reach: list[Array] = []
    for solution in solutions:
        if isinstance(solution, RunsSolution):
            curve = _histogram(ax, solution, t, group, output)
        elif isinstance(solution, PdeSolution):
            curve = _pde(ax, solution, t, group)
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
    ax.set_ylim(bottom=0.0)


def _histogram(ax: Axes, solution: RunsSolution, t: float, group: LoadingGroup, output: int) -> Array | None:
    if not len(solution.snapshots.t) or np.abs(solution.snapshots.t - t).min() > 1e-9 * max(1.0, t):
        return None
    count = solution.histogram(t, group.selection, bins=1, output=output).count
    # Rice's rule: as many bins as show the shape without showing the counting noise.
    histogram = solution.histogram(t, group.selection, bins=int(np.clip(2.0 * count ** (1 / 3), 8, 50)), output=output)
    if solution.route == "sgd":
        ax.stairs(histogram.density, histogram.edges, fill=True, color=PALETTE[5], alpha=0.45, zorder=1)
        ax.errorbar(
            histogram.centers, histogram.density, histogram.stderr, fmt="none", ecolor=PALETTE[0], lw=0.8, zorder=1.5
        )
    else:
        ax.plot(histogram.centers, histogram.density, ls="none", marker=".", ms=4, color=PALETTE[1], zorder=3)
    # The outermost bins hold single coordinates; the bulk decides what is shown.
    filled = np.flatnonzero(histogram.density > 2e-3 * histogram.density.max())
    return np.array([histogram.edges[filled[0]], histogram.edges[filled[-1] + 1]]) if len(filled) else None


def _pde(ax: Axes, solution: PdeSolution, t: float, group: LoadingGroup) -> Array | None:
    parts = [solution.density(t, point) for point in group.points]
    w = np.unique(np.concatenate([part.w for part in parts]))
    p = sum(
        weight * np.interp(w, part.w, part.p, left=0.0, right=0.0)
        for weight, part in zip(group.weights, parts, strict=True)
    )
    ax.plot(w, p, color="black", lw=1.6, zorder=4)
    return _bulk(w, np.asarray(p))


def _exact(ax: Axes, solution: OdeSolution, t: float, group: LoadingGroup, output: int) -> Array | None:
    laws = [solution.law(t, point).marginal(output) for point in group.points]
    std = np.sqrt(np.concatenate([law.covariances[:, 0, 0] for law in laws]))
    if not std.all():
        return None  # part of the law is a point mass: no density to draw
    mean = np.concatenate([law.means[:, 0] for law in laws])
    w = np.linspace((mean - 5.0 * std).min(), (mean + 5.0 * std).max(), 601)
    p = sum(weight * law.pdf(w) for weight, law in zip(group.weights, laws, strict=True))
    ax.plot(w, p, color=PALETTE[4], lw=1.6, ls=(0, (4, 3)), zorder=5)
    return _bulk(w, np.asarray(p))


def _bulk(w: Array, p: Array) -> Array:
    inside = np.flatnonzero(p > 2e-3 * p.max())
    return np.array([w[inside[0]], w[inside[-1]]])


def _handle(solution: Solution) -> Line2D:
    look: dict[str, object] = {
        "sgd": {"color": PALETTE[5], "lw": 7, "alpha": 0.45},
        "particles": {"color": PALETTE[1], "ls": "none", "marker": ".", "ms": 7},
        "pde": {"color": "black", "lw": 1.6},
        "ode": {"color": PALETTE[4], "lw": 1.6, "ls": (0, (4, 3))},
    }[solution.route]
    label = {"sgd": "SGD", "ode": "exact (from the closed ODEs)"}.get(solution.route, ROUTE_LABELS[solution.route])
    return Line2D([], [], label=label, **look)  # type: ignore[arg-type]
