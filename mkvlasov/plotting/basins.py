"""Basins of attraction: which start ends where, and how long it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mkvlasov._typing import Array
from mkvlasov.analysis.basin_labels import DIVERGED, INFEASIBLE, UNRESOLVED
from mkvlasov.order_parameters import cosine_similarity
from mkvlasov.plotting.style import entry_colors, house_style

if TYPE_CHECKING:
    from mkvlasov.analysis.basin_fractions import BasinFractions
    from mkvlasov.analysis.basins import Basins

_SPECIAL = {
    UNRESOLVED: ("unresolved", "#ffffff"),
    DIVERGED: ("diverged", "#555555"),
    INFEASIBLE: ("infeasible", "#e4e4e4"),
}
_MARKERS = "os^Dv<>pP"


def plot_basins(found: Basins) -> Figure:
    """Draw the starts, coloured by where they end, and beside it by the time that takes.

    A grid is drawn as a map with the fixed points; a sample by the cosines of the first two overlaps (with a single
    one,
    over its place in the sample).

    Parameters
    ----------
    found : Basins

    Returns
    -------
    matplotlib.figure.Figure
    """
    with house_style():
        figure = Figure(figsize=(11.0, 5.4), layout="constrained")
        where, when = figure.subplots(1, 2)
        present = [int(label) for label in np.unique(found.labels)]
        reached = [label for label in present if label >= 0]
        colors = dict(zip(reached, entry_colors(len(reached)), strict=True))
        colors |= {label: color for label, (_, color) in _SPECIAL.items()}
        if found.grid is None:
            _draw_sample(figure, where, when, found, present, colors)
        else:
            _draw_map(figure, where, when, found, present, colors)
        where.set_title("where a start ends")
        when.set_title("time until it is there")
        figure.legend(handles=_handles(found, present, colors), loc="outside lower center", ncols=4)
        return figure


def plot_basin_fractions(found: BasinFractions) -> Figure:
    """Draw the parts of the starts that end at each fixed point over the parameter, with their standard errors.

    Parameters
    ----------
    found : BasinFractions

    Returns
    -------
    matplotlib.figure.Figure
    """
    with house_style():
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        ax = figure.subplots()
        shown = [j for j in range(len(found.ends)) if found.fraction[:, j].any()]
        for i, (j, color) in enumerate(zip(shown, entry_colors(len(shown)), strict=True)):
            ax.errorbar(
                found.values, found.fraction[:, j], found.stderr[:, j], color=color, marker=_MARKERS[i % len(_MARKERS)],
                ms=5, capsize=2.0, label=found.ends[j],
            )  # fmt: skip
        ax.set(xlabel=found.name, ylabel="fraction of the starts", ylim=(-0.02, 1.02))
        ax.set_title(found.measure)
        ax.legend()
        return figure


def _draw_map(
    figure: Figure, where: Axes, when: Axes, found: Basins, present: list[int], colors: dict[int, str]
) -> None:
    grid = found.grid
    assert grid is not None
    place = np.searchsorted(present, found.labels)
    norm = BoundaryNorm(np.arange(len(present) + 1) - 0.5, len(present))
    chosen = ListedColormap([colors[label] for label in present])
    x, y = grid.values
    where.pcolormesh(x, y, place, cmap=chosen, norm=norm, shading="nearest", alpha=0.75, rasterized=True)
    image = when.pcolormesh(
        x, y, np.ma.masked_invalid(found.times), cmap="viridis_r", shading="nearest", rasterized=True
    )
    figure.colorbar(image, ax=when, label="time $t$")
    for ax in (where, when):
        ax.grid(visible=False)
        ax.set(xlabel=_tex(grid.entries[0]), ylabel=_tex(grid.entries[1]))
        if all(name.startswith("R") for name in grid.entries):
            ax.set_aspect("equal")
    names = found.ends.entries.names
    shown = [names.index(name) for name in grid.entries]
    for j, label in enumerate(found.ends.point):
        position = found.ends.x[j, shown]
        inside = all(axis[0] <= value <= axis[-1] for axis, value in zip(grid.values, position, strict=True))
        if inside:
            stable = found.points[int(label)].stability.is_stable
            marker = _MARKERS[present.index(j) % len(_MARKERS)] if j in present else "D"
            where.plot(*position, marker, mfc="black" if stable else "white", mec="black", ms=7, zorder=3)


def _draw_sample(
    figure: Figure, where: Axes, when: Axes, found: Basins, present: list[int], colors: dict[int, str]
) -> None:
    m, k = found.R.shape[-2:]
    cosines = cosine_similarity(found.Q.reshape(-1, m, m), found.R.reshape(-1, m, k)).reshape(-1, m * k)
    labels, times = found.labels.ravel(), found.times.ravel()
    order = np.arange(len(labels))
    x, y = (cosines[:, 0], cosines[:, 1]) if m * k > 1 else (order, cosines[:, 0])
    for label in present:
        these = labels == label
        where.plot(
            x[these], y[these], ls="", marker=_marker(present, label), mfc=colors[label], mec="#333333", mew=0.4, ms=5
        )
    image = when.scatter(x, y, c=np.ma.masked_invalid(times), s=18, cmap="viridis_r")
    figure.colorbar(image, ax=when, label="time $t$")
    for ax in (where, when):
        if m * k > 1:
            ax.set(xlabel="cosine of the first overlap", ylabel="cosine of the second overlap")
        else:
            ax.set(xlabel="start", ylabel="cosine")


def _marker(present: list[int], label: int) -> str:
    return _MARKERS[present.index(label) % len(_MARKERS)] if label >= 0 else "x" if label == UNRESOLVED else "*"


def _handles(found: Basins, present: list[int], colors: dict[int, str]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    counts: Array = np.array([(found.labels == label).sum() for label in present])
    for label, count in zip(present, counts, strict=True):
        name = found.ends.names[label] if label >= 0 else _SPECIAL[label][0]
        text = f"{name}: {count}"
        if found.grid is not None and label < 0:
            handles.append(Patch(facecolor=colors[label], edgecolor="#333333", lw=0.5, label=text))
        else:
            marker = _marker(present, label)
            handles.append(Line2D([], [], ls="", marker=marker, mfc=colors[label], mec="#333333", ms=8, label=text))
    return handles


def _tex(name: str) -> str:
    return f"${name.replace('[', '_{').replace(']', '}')}$"
