"""Bifurcation diagrams: fixed points over a parameter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mkvlasov._typing import Array
from mkvlasov.analysis.diagram import Bifurcation, BifurcationDiagram, FixedPointBranch
from mkvlasov.errors import InvalidInput
from mkvlasov.order_parameters import cosine_similarity
from mkvlasov.plotting.style import PALETTE, house_style

_MARKERS = {"fold": "s", "pitchfork": "o", "transcritical": "D", "Hopf": "^"}
_ENTRY = re.compile(r"(cosine|R|Q)(?:\[(\d+),\s*(\d+)\])?")
_SYMBOLS = {"cosine": "q", "R": "R", "Q": "Q"}
_TITLES = {"cosine": "cosine similarity", "R": "overlap", "Q": "overlap of the weights"}


def plot_bifurcations(diagram: BifurcationDiagram, entry: str = "cosine") -> Figure:
    """Draw fixed points over the parameter, stable ones solid, unstable ones dashed, bifurcations marked.

    Colours tell the branches; symmetric copies are drawn once.

    Parameters
    ----------
    diagram : BifurcationDiagram
    entry : str
        "cosine", "R" or "Q" for a panel per entry (the first four), or a single one such as "cosine[0,1]".

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InvalidInput
        If there is no such entry.
    """
    entries = _entries(diagram, entry)
    with house_style():
        rows, columns = (len(entries) + 1) // 2, min(len(entries), 2)
        figure = Figure(figsize=(1.6 + 4.4 * columns, 1.2 + 3.2 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for ax, (kind, index) in zip(axes, entries, strict=False):
            _panel(ax, diagram, kind, index)
        for ax in axes[len(entries) :]:
            ax.set_visible(False)
        for ax in axes[: len(entries)][-2:]:
            ax.set_xlabel(diagram.name)
        figure.legend(handles=_handles(diagram), loc="outside right upper")
        return figure


def _panel(ax: Axes, diagram: BifurcationDiagram, kind: str, index: tuple[int, int]) -> None:
    for i, branch in enumerate(diagram.branches):
        values = _values(branch, kind)[:, *index]
        for stable, begin, stop in _runs(branch.is_stable):
            # Runs share a point, so that no gap is left between strokes.
            part = slice(begin, min(stop + 1, len(branch)))
            style: dict[str, Any] = {"ls": "-", "lw": 2.2} if stable else {"ls": (0, (4, 2)), "lw": 1.2}
            ax.plot(branch.parameter[part], values[part], color=PALETTE[i % len(PALETTE)], zorder=2 + stable, **style)
    for point in diagram.bifurcations:
        value = _values(point, kind)[index]
        ax.plot(point.value, value, _MARKERS[point.kind], ms=7, mfc="white", mec="black", mew=1.3, ls="none", zorder=5)
    if diagram.logarithmic:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylabel(f"{_TITLES[kind]}, ${_SYMBOLS[kind]}_{{{index[0] + 1},{index[1] + 1}}}$")


def _handles(diagram: BifurcationDiagram) -> list[Line2D]:
    handles = [
        Line2D([], [], color=PALETTE[i % len(PALETTE)], label=f"{i}: {branch.name}")
        for i, branch in enumerate(diagram.branches)
    ]
    handles.append(Line2D([], [], color="black", lw=2.2, label="stable"))
    handles.append(Line2D([], [], color="black", lw=1.2, ls=(0, (4, 2)), label="unstable"))
    kinds = [kind for kind in _MARKERS if diagram.of_kind(kind)]
    handles += [
        Line2D([], [], ls="none", marker=_MARKERS[kind], ms=7, mfc="white", mec="black", mew=1.3, label=kind)
        for kind in kinds
    ]
    return handles


def _runs(flags: Sequence[bool] | np.ndarray) -> list[tuple[bool, int, int]]:
    """Return runs of equal values: the value, the first index and the one behind the last."""
    changes = [0, *(np.flatnonzero(np.diff(np.asarray(flags).astype(int))) + 1).tolist(), len(flags)]
    return [(bool(flags[a]), a, b) for a, b in pairwise(changes)]


def _values(item: FixedPointBranch | Bifurcation, kind: str) -> Array:
    if kind == "cosine":
        return cosine_similarity(item.Q, item.R)
    return np.asarray(getattr(item, kind))


def _entries(diagram: BifurcationDiagram, entry: str) -> list[tuple[str, tuple[int, int]]]:
    m, k = diagram.problem.outputs, diagram.problem.n_features
    match = _ENTRY.fullmatch(entry) if isinstance(entry, str) else None
    if match is None:
        raise InvalidInput("entry", entry, "'cosine', 'R', 'Q', or one entry such as 'cosine[0,1]'")
    columns = m if match[1] == "Q" else k
    if match[2] is not None:
        j, i = int(match[2]), int(match[3])
        if j >= m or i >= columns:
            raise InvalidInput("entry", entry, f"indices below {m} and {columns}")
        return [(match[1], (j, i))]
    every = [(j, i) for j in range(m) for i in range(columns) if match[1] != "Q" or j <= i]
    return [(match[1], index) for index in every[:4]]
