"""The closure defect in a figure: the moments that do not close, and where the closed equations lead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mkvlasov._typing import Array
from mkvlasov.plotting.style import ROUTE_LABELS, entry_colors, house_style
from mkvlasov.plotting.trajectories import name_at_the_end

if TYPE_CHECKING:
    from mkvlasov.reduction.closure_defect import ClosureDefect


def plot_closure_defect(found: ClosureDefect) -> Figure:
    """Draw the moments of phi' beside those of the nearest L2 problem, the errors of the rates, and both trajectories.

    The colour tells the entry, named in the last row; lines are the solution, dashes the L2 problem: in the first two
    rows at the overlaps of the solution, in the last along its own trajectory.

    Parameters
    ----------
    found : ClosureDefect

    Returns
    -------
    matplotlib.figure.Figure
    """
    m, k = found.R.shape[1:]
    columns = (
        ("R", [(j, i) for j in range(m) for i in range(k)], "a"),
        ("Q", [(j, i) for j in range(m) for i in range(j, m)], "w"),
    )
    with house_style():
        figure = Figure(figsize=(9.0, 8.0), layout="constrained")
        axes = figure.subplots(3, 2, sharex=True)
        for column, (name, entries, other) in zip(axes.T, columns, strict=True):
            overlap, gradient = getattr(found, name), getattr(found, f"gradient_{other}")
            _pairs(column[0], found.t, gradient, found.t, found.kappa * overlap, entries)
            column[0].set_ylabel(rf"$E[\varphi'(w)\,{other}^\top]$  and  $\kappa {name}$")
            rate = getattr(found, f"{name}_rate")
            _pairs(column[1], found.t, rate, found.t, rate + getattr(found, f"{name}_rate_error"), entries)
            column[1].set_ylabel(f"$d{name}/dt$")
            _pairs(column[2], found.t, overlap, found.ode.t, getattr(found.ode, name), entries)
            column[2].set_ylabel(f"${name}$")
            column[2].set_xlabel("time $t$ = step / $N$")
            if len(entries) > 1:
                labels = [f"${name}_{{{j + 1},{i + 1}}}$" for j, i in entries]
                last = [float(overlap[-1, j, i]) for j, i in entries]
                name_at_the_end(column[2], labels, last, entry_colors(len(entries)))
        route = ROUTE_LABELS[found.solution.route]
        handles = [
            Line2D(
                [], [], color="#555555", lw=2.2, label=f"{route}, {type(found.solution.problem.regularizer).__name__}"
            ),
            Line2D([], [], color="#555555", lw=1.4, ls=(0, (4, 2)), label=rf"nearest L2, $\kappa = {found.kappa:.3g}$"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
        return figure


def _pairs(ax: Axes, t: Array, values: Array, other_t: Array, others: Array, entries: list[tuple[int, int]]) -> None:
    """Draw every entry of the solution as a line and that of the L2 problem dashed, the difference shaded."""
    reached = len(other_t)
    for color, (j, i) in zip(entry_colors(len(entries)), entries, strict=True):
        ax.plot(t, values[:, j, i], color=color, lw=2.2)
        ax.plot(other_t, others[:, j, i], color=color, lw=1.4, ls=(0, (4, 2)))
        ax.fill_between(other_t, values[:reached, j, i], others[:, j, i], color=color, alpha=0.15, lw=0.0)
