"""Order parameters over time, one or several routes in the same panels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mkvlasov._typing import Array
from mkvlasov.plotting.style import PALETTE, ROUTE_LABELS, house_style
from mkvlasov.solution import Solution


def plot_solutions(solutions: Sequence[Solution]) -> Figure:
    """Draw R, Q, the cosine similarity and the training loss over time.

    The colour tells the entry, the stroke tells the route: lines for PDE (solid) and ODEs (dashed), dots for
    particles, and means with bars of two standard errors for SGD.

    Parameters
    ----------
    solutions : sequence of Solution
        Of the same problem shape.

    Returns
    -------
    matplotlib.figure.Figure
    """
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
        handles = [_route_handle(s) for s in solutions]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        return figure


def _panel(ax: Axes, solutions: Sequence[Solution], name: str, entries: Sequence[tuple[int, ...]], ylabel: str) -> None:
    for color, index in zip(_colors(len(entries)), entries, strict=True):
        for solution in solutions:
            values, stderr = getattr(solution, name), getattr(solution, name + "_stderr")
            _stroke(ax, solution, values[(slice(None), *index)], stderr[(slice(None), *index)], color)
    ax.set_ylabel(ylabel)
    if len(entries) > 1:
        symbol = {"R": "R", "Q": "Q", "cosine_similarity": "q"}[name]
        labels = [f"${symbol}_{{{','.join(str(i + 1) for i in index)}}}$" for index in entries]
        handles = [Line2D([], [], color=c, label=label) for c, label in zip(_colors(len(entries)), labels, strict=True)]
        ax.legend(handles=handles, ncols=2 if len(entries) > 3 else 1)


def _stroke(ax: Axes, solution: Solution, values: Array, stderr: Array, color: str) -> None:
    t = solution.t
    if solution.route == "sgd":
        # Some twenty bars stay legible whatever the number of output times.
        every = max(1, round(len(t) / 20))
        ax.errorbar(
            t[::every], values[::every], 2.0 * stderr[::every], color=color, fmt="o", ms=3.5, mfc="white", lw=1.2,
            capsize=2.0, zorder=3,
        )  # fmt: skip
    elif solution.route == "particles":
        ax.plot(t, values, color=color, ls="none", marker=".", ms=4.0, alpha=0.9, zorder=2.5)
    elif solution.route == "ode":
        ax.plot(t, values, color="black", ls=(0, (4, 3)), lw=1.0, zorder=4)
    else:
        ax.plot(t, values, color=color, alpha=0.75, lw=2.4, zorder=2)


def _route_handle(solution: Solution) -> Line2D:
    label = ROUTE_LABELS[solution.route]
    if solution.n_runs > 1:
        label += f" ({solution.n_runs} runs" + (", bars: 2 standard errors)" if solution.route == "sgd" else ")")
    look = {
        "sgd": {"ls": "none", "marker": "o", "ms": 5, "mfc": "white", "color": "#555555"},
        "particles": {"ls": "none", "marker": ".", "ms": 7, "color": "#555555"},
        "ode": {"ls": (0, (4, 3)), "lw": 1.0, "color": "black"},
        "pde": {"ls": "-", "lw": 2.4, "alpha": 0.75, "color": "#555555"},
    }[solution.route]
    return Line2D([], [], label=label, **look)  # type: ignore[arg-type]


def _colors(n: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in np.arange(n)]
