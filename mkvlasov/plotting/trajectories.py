"""Order parameters over time, one or several routes in the same panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mkvlasov._typing import Array
from mkvlasov.plotting.given import several_solutions
from mkvlasov.plotting.style import ROUTE_LABELS, entry_colors, house_style
from mkvlasov.solution import Solution

_LABEL_GAP = 0.062
"""Of the height of a panel, between the names of two entries."""


def plot_solutions(solutions: Sequence[Solution]) -> Figure:
    """Draw R, Q, the cosine similarity and the training loss over time.

    The colour tells the entry, whose name stands at the right end; the stroke tells the route: lines for PDE (solid)
    and ODEs (dashed, black over those of the PDE), dots for particles, and means with bars of two standard errors for
    SGD. A single time is a dot or a diamond for PDE and ODEs.

    Parameters
    ----------
    solutions : sequence of Solution
        Of the same problem shape.

    Returns
    -------
    matplotlib.figure.Figure
    """
    solutions = several_solutions(solutions)
    with house_style():
        figure = Figure(figsize=(9.6, 6.6), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True)
        m, k = solutions[0].R.shape[1:]
        overlap = [(j, i) for j in range(m) for i in range(k)]
        norms = [(j, i) for j in range(m) for i in range(j, m)]
        _panel(axes[0, 0], solutions, "R", overlap, "overlap with the features, $R$")
        _panel(axes[0, 1], solutions, "Q", norms, "overlap of the weights, $Q$")
        _panel(axes[1, 0], solutions, "cosine_similarity", overlap, "cosine similarity, $q$")
        _panel(axes[1, 1], solutions, "loss", [()], "training loss, $F$")
        for ax in axes[1]:
            ax.set_xlabel("time $t$ = step / $N$")
        looks = [_look(solution, solutions, "#555555") for solution in solutions]
        handles = [Line2D([], [], label=_route_label(s), **look) for s, look in zip(solutions, looks, strict=True)]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        return figure


def _panel(ax: Axes, solutions: Sequence[Solution], name: str, entries: Sequence[tuple[int, ...]], ylabel: str) -> None:
    colors = entry_colors(len(entries))
    for color, index in zip(colors, entries, strict=True):
        for solution in solutions:
            values, stderr = getattr(solution, name), getattr(solution, name + "_stderr")
            look = _look(solution, solutions, color)
            _stroke(ax, solution, values[(slice(None), *index)], stderr[(slice(None), *index)], look)
    ax.set_ylabel(ylabel)
    last = next((solution for solution in solutions if len(solution.t)), None)
    if len(entries) > 1 and last is not None:
        symbol = {"R": "R", "Q": "Q", "cosine_similarity": "q"}[name]
        labels = [f"${symbol}_{{{','.join(str(i + 1) for i in index)}}}$" for index in entries]
        name_at_the_end(ax, labels, [float(getattr(last, name)[(-1, *index)]) for index in entries], colors)


def name_at_the_end(ax: Axes, labels: Sequence[str], values: Sequence[float], colors: Sequence[str]) -> None:
    """Write the names of curves beside the right end of the panel, at their last values but not over each other."""
    low, high = ax.get_ylim()
    ax.set_ylim(low, high)
    order = np.argsort(values, kind="stable")
    heights = (np.asarray(values)[order] - low) / (high - low)
    gap = min(_LABEL_GAP, 1.0 / len(order))
    steps = gap * np.arange(len(order))
    # Pushed up as little as possible, then down from the top.
    heights = np.maximum.accumulate(np.maximum(heights, 0.0) - steps) + steps
    heights = np.minimum(heights, 1.0 - gap * np.arange(len(order))[::-1])
    size = min(9.0, 9.0 * gap / _LABEL_GAP)
    for i, height in zip(order, heights, strict=True):
        ax.text(1.02, float(height), labels[i], color=colors[i], transform=ax.transAxes, va="center", size=size)


def _stroke(ax: Axes, solution: Solution, values: Array, stderr: Array, look: dict[str, Any]) -> None:
    t = solution.t
    if solution.route == "sgd":
        # Some twenty bars stay legible whatever the number of output times.
        every = max(1, round(len(t) / 20))
        ax.errorbar(t[::every], values[::every], 2.0 * stderr[::every], lw=1.2, capsize=2.0, zorder=3, **look)
    else:
        ax.plot(t, values, zorder={"particles": 2.5, "ode": 4.0}.get(solution.route, 2.0), **look)


def _look(solution: Solution, solutions: Sequence[Solution], color: str) -> dict[str, Any]:
    """Return how a route is drawn among the others."""
    single = len(solution.t) == 1
    if solution.route == "sgd":
        return {"ls": "none", "marker": "o", "ms": 3.5, "mfc": "white", "color": color}
    if solution.route == "particles":
        return {"ls": "none", "marker": ".", "ms": 4.0, "alpha": 0.9, "color": color}
    if solution.route == "ode":
        over = any(other.route == "pde" for other in solutions)
        marker = {"marker": "D", "ms": 5.0, "mfc": "none"} if single else {}
        return {"ls": (0, (4, 3)), "lw": 1.0 if over else 1.6, "color": "black" if over else color, **marker}
    return {"ls": "-", "lw": 2.4, "alpha": 0.75, "color": color, **({"marker": "o", "ms": 7.0} if single else {})}


def _route_label(solution: Solution) -> str:
    label = ROUTE_LABELS[solution.route]
    if solution.n_runs > 1:
        label += f" ({solution.n_runs} runs" + (", bars: 2 standard errors)" if solution.route == "sgd" else ")")
    return label
