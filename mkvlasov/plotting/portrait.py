"""Phase portraits of the closed ODEs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mkvlasov.plotting.style import PALETTE, house_style

if TYPE_CHECKING:
    from mkvlasov.analysis.portrait import PhasePortrait

_OUTSIDE = "#eeeeee"
_MARKERS = {
    "stable": ("o", "black", "stable"),
    "saddle": ("D", "white", "saddle"),
    "unstable": ("o", "white", "unstable"),
    "degenerate": ("s", "0.6", "degenerate"),
}
"""Marker, fill and name by the first word of the type."""


def plot_phase_portrait(portrait: PhasePortrait) -> Figure:
    """Draw the vector field, nullclines, fixed points by type, separatrices and some trajectories.

    Parameters
    ----------
    portrait : PhasePortrait

    Returns
    -------
    matplotlib.figure.Figure
    """
    with house_style():
        figure = Figure(figsize=(6.6, 7.4), layout="constrained")
        ax = figure.subplots()
        figure.legend(handles=draw_phase_portrait(ax, portrait), loc="outside lower center", ncols=3)
        figure.suptitle("\n".join(_wrapped(portrait.caption)), fontsize=10)
        return figure


def draw_phase_portrait(ax: Axes, portrait: PhasePortrait) -> list[Line2D | Patch]:
    """Draw a portrait into axes and return what its legend shows."""
    p = portrait
    ax.grid(visible=False)
    handles: list[Line2D | Patch] = []
    if not p.exists.all():
        ax.contourf(p.x, p.y, p.exists.astype(float), levels=[-0.5, 0.5], colors=[_OUTSIDE])
        handles.append(Patch(color=_OUTSIDE, label="no such state"))
    hidden = ~p.exists
    u, v = (np.ma.array(part, mask=hidden) for part in p.field)
    ax.streamplot(
        np.linspace(p.x[0], p.x[-1], len(p.x)), np.linspace(p.y[0], p.y[-1], len(p.y)), u, v,
        color="#bbbbbb", linewidth=0.6, arrowsize=0.7, density=1.4, zorder=1,
    )  # fmt: skip
    for line in p.trajectories:
        ax.plot(*line.T, color=PALETTE[2], lw=1.2, zorder=2)
        ax.plot(*line[0], ".", color=PALETTE[2], ms=5, zorder=2)
    for lines, name, color, dashes in zip(p.nullclines, p.names, PALETTE, ("solid", (0, (5, 2))), strict=False):
        ax.add_collection(LineCollection(list(lines), colors=color, linestyles=[dashes], linewidths=1.6, zorder=3))
        handles.append(Line2D([], [], color=color, ls=dashes, label=f"d{name}/dt = 0"))
    ax.add_collection(LineCollection(list(p.separatrices), colors="black", linewidths=2.4, zorder=4))
    for point in p.points:
        marker, fill, _ = _MARKERS[point.stability.type.split()[0]]
        ax.plot(*point.position, marker, mfc=fill, mec="black", ms=8, mew=1.4, zorder=5, clip_on=False)
    if p.separatrices:
        boundary = "boundary of basins" if p.kind == "slaved" else "separatrix"
        handles.append(Line2D([], [], color="black", lw=2.4, label=boundary))
    if p.trajectories:
        handles.append(Line2D([], [], color=PALETTE[2], lw=1.2, marker=".", label="trajectory from its start"))
    present = {point.stability.type.split()[0] for point in p.points}
    for kind, (marker, fill, name) in _MARKERS.items():
        if kind in present:
            handles.append(Line2D([], [], ls="", marker=marker, mfc=fill, mec="black", ms=8, label=name))
    ax.set(xlabel=f"${p.names[0].replace('[', '_{').replace(']', '}')}$")
    ax.set(ylabel=f"${p.names[1].replace('[', '_{').replace(']', '}')}$")
    ax.set(xlim=(p.x[0], p.x[-1]), ylim=(p.y[0], p.y[-1]))
    if all(name.startswith("R") for name in p.names):
        ax.set_aspect("equal")
    return handles


def _wrapped(text: str) -> list[str]:
    """Return the parts of a caption on lines of their own."""
    return [part.strip() for part in text.split(";")]
