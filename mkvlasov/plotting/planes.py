"""Joint densities p(w_1, w_2 | a) of two outputs: a row per loading, a column per time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.density_plane import PlaneDensity
from mkvlasov.plotting.loadings import shown_groups
from mkvlasov.plotting.style import house_style
from mkvlasov.solution_plane import PlanePdeSolution

_HELD = (0.99, 0.9, 0.5)
"""Shares of the mass that the contours hold."""
_HIDDEN = 1e-4
"""Mass on either side that may lie outside of a panel."""
_MARGIN = 0.08
_POWER = 0.5


def plot_joint_densities(
    solution: PlanePdeSolution, times: Sequence[float], loadings: ArrayLike | None = None
) -> Figure:
    """Draw joint densities in colours, as shares of the peak of each panel, with contours that hold 50, 90, 99 %.

    Colours go with the square root of the density.

    Parameters
    ----------
    solution : PlanePdeSolution
    times : sequence of float
        Stored times.
    loadings : array, shape (L, K), optional
        By default the likeliest loadings, or nodes near zero and along the features.

    Returns
    -------
    matplotlib.figure.Figure
    """
    wanted = _checks.array("times", times, ndim=1, minimum=0.0).tolist()
    groups = shown_groups(solution, loadings)
    rows = [[solution.density(t, group.points[0]) for t in wanted] for group in groups]
    with house_style():
        figure = Figure(figsize=(2.5 * len(wanted) + 1.2, 2.4 * len(groups) + 0.7), layout="constrained")
        axes = figure.subplots(len(groups), len(wanted), squeeze=False)
        for row, group, panels in zip(axes, groups, rows, strict=True):
            for ax, density in zip(row, panels, strict=True):
                _panel(ax, density)
            row[0].set_ylabel(f"{group.label}\nweight $w_2$")
        for ax, t in zip(axes[0], wanted, strict=True):
            ax.set_title(f"$t = {t:.4g}$")
        for ax in axes[-1]:
            ax.set_xlabel("weight $w_1$")
        scale = ScalarMappable(_colors(), "viridis")
        figure.colorbar(scale, ax=axes, label="density $p(w_1, w_2\\,|\\,a)$ / peak of the panel")
        figure.suptitle("joint densities: PDE; contours hold 50, 90 and 99 % of the mass", fontsize=10.0)
        return figure


def _panel(ax: Axes, density: PlaneDensity) -> None:
    shown = np.maximum(density.p, 0.0) / density.p.max()
    w = density.w
    ax.set_facecolor(colormaps["viridis"](0.0))
    ax.pcolormesh(w[..., 0], w[..., 1], shown, cmap="viridis", norm=_colors(), shading="gouraud", rasterized=True)
    levels = np.unique(_levels(shown, density.masses))
    ax.contour(w[..., 0], w[..., 1], shown, levels=levels, colors="white", linewidths=0.8)
    spans = []
    for output in range(2):
        low, high = density.marginal(output).quantile([_HIDDEN, 1.0 - _HIDDEN])
        spans.append((low - _MARGIN * (high - low), high + _MARGIN * (high - low)))
    ax.set(xlim=spans[0], ylim=spans[1])
    ax.grid(visible=False)


def _colors() -> PowerNorm:
    """Return colours that leave the bulk visible beside a spike."""
    return PowerNorm(_POWER, 0.0, 1.0)


def _levels(shown: Array, masses: Array) -> Array:
    """Return the values above which the density holds given shares of the mass."""
    order = np.argsort(-shown, axis=None)
    held = np.cumsum(np.maximum(masses, 0.0).ravel()[order])
    at = np.searchsorted(held / held[-1], _HELD)
    return shown.ravel()[order][np.minimum(at, shown.size - 1)]
