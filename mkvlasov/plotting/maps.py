"""The density p(w | a) over time, in colours."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import InvalidInput
from mkvlasov.plotting.distributions import interval_masses, reach, times_of
from mkvlasov.plotting.given import one_solution
from mkvlasov.plotting.loadings import shown_groups
from mkvlasov.plotting.style import ROUTE_LABELS, house_style
from mkvlasov.solution import Solution
from mkvlasov.solution_runs import RunsSolution

_ROWS, _ROWS_COUNTED = 300, 60
"""Intervals of w in a figure: for densities, and for counts of coordinates."""

_POWER = 0.35


def plot_density_map(solution: Solution, loadings: ArrayLike | None = None) -> Figure:
    """Draw p(w | a) over time in colours, a panel per loading (and output).

    A colour is the mass of an interval of w divided by its width, so that a spike narrower than an interval keeps its
    mass. Colours go with the power 0.35 of the density, which leaves the bulk visible beside a spike.

    Parameters
    ----------
    solution : Solution
        With two or more times at which it knows densities (simulations: snapshots).
    loadings : array, shape (L, K), optional
        By default the likeliest loadings, or such near zero and along the features.

    Returns
    -------
    matplotlib.figure.Figure
    """
    times = times_of(one_solution(solution))
    if len(times) < 2:
        raise InvalidInput("solution", times.tolist(), "a solution with densities at two or more times")
    groups = shown_groups(solution, loadings)
    rows = [(group, output) for output in range(solution.problem.outputs) for group in groups]
    intervals = _ROWS_COUNTED if isinstance(solution, RunsSolution) else _ROWS
    with house_style():
        figure = Figure(figsize=(6.4, 2.3 * len(rows) + 0.6), layout="constrained")
        axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for ax, (group, output) in zip(axes, rows, strict=True):
            spans = np.array([reach(solution, t, group, output) for t in times])
            edges = np.linspace(spans[:, 0].min(), spans[:, 1].max(), intervals + 1)
            masses = np.array([interval_masses(solution, t, group, output, edges) for t in times])
            shown = masses.T / np.diff(edges)[:, None]
            image = ax.pcolormesh(
                _around(times),
                edges,
                shown,
                cmap="viridis",
                norm=PowerNorm(_POWER, 0.0, float(shown.max())),
                rasterized=True,
            )
            ax.grid(visible=False)
            name = f"output {output + 1}, " if solution.problem.outputs > 1 else ""
            ax.set_title(f"{name}{group.label}", loc="left")
            ax.set_ylabel("weight $w$")
            ticks = _ticks(float(shown.max()))
            bar = figure.colorbar(image, ax=ax, label="density $p(w\\,|\\,a)$", ticks=ticks)
            bar.ax.set_yticklabels([f"{tick:g}" for tick in ticks])
        axes[-1].set_xlabel("time $t$ = step / $N$")
        figure.suptitle(f"densities over time: {ROUTE_LABELS[solution.route]}", fontsize=10.0)
        return figure


def _around(times: Array) -> Array:
    """Return edges around the times, half-way between them."""
    middles = 0.5 * (times[1:] + times[:-1])
    return np.concatenate([times[:1], middles, times[-1:]])


def _ticks(top: float) -> list[float]:
    """Return numbers with one digit at about equal distances in the colours, from zero to the largest density."""
    wanted = top * np.array([0.25, 0.5, 0.75, 1.0]) ** (1.0 / _POWER)
    digit = 10.0 ** np.floor(np.log10(wanted))
    return [0.0, *(np.floor(wanted / digit) * digit).tolist()]
