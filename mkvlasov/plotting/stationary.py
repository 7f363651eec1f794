"""Stationary densities of the PDE: a panel per state, a line per loading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.plotting.style import entry_colors, house_style

if TYPE_CHECKING:
    from mkvlasov.analysis.stationary.states import StationaryState

_MOST_LINES = 5
_TYPICAL = (-2.0, 0.0, 2.0)
_STROKES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_COLUMNS = 3
_SHOWN = 2e-3
"""Of the peak of a density: the range of weights goes to there."""


def plot_stationary_densities(states: Sequence[StationaryState]) -> Figure:
    """Draw the densities p(w | a) of stationary states of one problem, with their names and stability.

    Loadings with few atoms are drawn one by one; of others, -2, 0 and 2 along each state's strongest feature.

    Raises
    ------
    InvalidInput
        Without states.
    """
    if not len(states):
        raise InvalidInput("states", states, "at least one stationary state")
    columns = min(len(states), _COLUMNS)
    rows = -(-len(states) // columns)
    with house_style():
        figure = Figure(figsize=(3.4 * columns + 0.4, 2.7 * rows + 0.3), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, state in zip(axes, states, strict=False):
            _draw(ax, state)
        for ax in axes[len(states) :]:
            ax.set_visible(False)
        return figure


def _draw(ax: Axes, state: StationaryState) -> None:
    loadings = _loadings(state)
    colors = entry_colors(len(loadings))
    peaks, low, high = [], np.inf, -np.inf
    for a, color, stroke in zip(loadings, colors, _STROKES, strict=False):
        density = state.density(a)
        inside = density.w[density.p > _SHOWN * density.p.max()]
        low, high = min(low, inside[0]), max(high, inside[-1])
        peaks.append(float(density.p.max()))
        label = ", ".join(f"{value:.3g}" for value in a)
        # Nodes of polynomials of high order lie too far apart for straight lines between them.
        w = np.interp(np.arange(0.0, len(density.w) - 0.9, 0.2), np.arange(len(density.w)), density.w)
        ax.plot(
            w, density.pdf(w), color=color, ls=stroke, label=f"$a = {label}$" if len(a) == 1 else f"$a = ({label})$"
        )
    ax.set(xlim=(low - 0.05 * (high - low), high + 0.05 * (high - low)), xlabel="weight $w$", ylabel=r"$p(w\,|\,a)$")
    if max(peaks) > 20.0 * min(peaks):
        ax.set_yscale("log")  # a spike beside a wide density
        ax.set_ylim(1e-3 * min(peaks), 2.0 * max(peaks))
    else:
        ax.set_ylim(0.0, 1.35 * max(peaks))
    ax.set_title(f"{state.name}\n{state.stability.type}")
    ax.legend(loc="upper left")


def _loadings(state: StationaryState) -> list[Array]:
    law, features = state.problem.loadings, state.R.shape[1]
    if law.is_exact:
        points = law.nodes(features, 2).points
        if len(points) <= _MOST_LINES:
            return list(points)
    direction = np.eye(features)[np.abs(state.R[0]).argmax()]
    return [value * direction for value in _TYPICAL]
