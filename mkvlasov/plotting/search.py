"""A search in a figure: the goal over each parameter, every evaluation and the best of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from mkvlasov.plotting.style import PALETTE, house_style

if TYPE_CHECKING:
    from mkvlasov.analysis.search import SearchResult

_MISSED_AT = 0.05
"""Height, in parts of a panel, at which evaluations without a value are marked."""
_SPAN = 10.0
"""Parameters and values that span more than this factor have a logarithmic axis."""


def plot_search(result: SearchResult) -> Figure:
    """Draw the goal over each parameter: all evaluations, later ones darker, and the best as a star.

    Evaluations that have no value, because the goal was missed or the trajectory failed, are crosses at the foot.

    Parameters
    ----------
    result : SearchResult

    Returns
    -------
    matplotlib.figure.Figure
    """
    n = len(result.names)
    columns = 2 if n == 4 else min(n, 3)
    valued = (result.ended == "reached") & np.isfinite(result.values)
    order = np.arange(len(result.values))
    with house_style():
        rows = -(-n // columns)
        figure = Figure(figsize=(3.6 * columns + 1.2, 3.4 * rows + 0.4), layout="constrained")
        axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for ax in axes[n:]:
            ax.set_visible(False)
        points = None
        for ax, name, column, (low, high) in zip(axes, result.names, result.parameters.T, result.bounds, strict=False):
            points = ax.scatter(
                column[valued], result.values[valued], c=order[valued], cmap="viridis_r", vmin=0, vmax=len(order) - 1,
                s=14, zorder=2, label="reached",
            )  # fmt: skip
            if not valued.all():
                foot = np.full((~valued).sum(), _MISSED_AT)
                ax.plot(
                    column[~valued], foot, ls="none", marker="x", color=PALETTE[1], transform=ax.get_xaxis_transform(),
                    label="not reached",
                )  # fmt: skip
            if np.isfinite(result.value):
                ax.plot(
                    result.best[name], result.value, ls="none", marker="*", ms=15, color=PALETTE[1], mec="black",
                    zorder=3, label="best",
                )  # fmt: skip
            if low > 0.0 and high > _SPAN * low:
                ax.set_xscale("log")
            ax.set_xlabel(name)
        for ax in axes[:n:columns]:
            ax.set_ylabel(result.goal.label)
        shown = result.values[valued]
        if len(shown) and shown.min() > 0.0 and shown.max() > _SPAN * shown.min():
            axes[0].set_yscale("log")
        if points is not None:
            figure.colorbar(points, ax=axes[:n].tolist(), label="evaluation")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        return figure
