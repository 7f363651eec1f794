"""The noise question in figures: maps over strength and correlation, and what the effect is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.plotting.style import PALETTE, house_style

if TYPE_CHECKING:
    from mkvlasov.analysis.noise import NoiseStudy

_PARTS = {
    "diffusion": ("diffusion, $d\\,\\log\\,\\Lambda$", "o", "-"),
    "confinement": ("confinement, $-d\\,\\log\\,M$", "s", "-"),
    "norm": ("norm, $-d\\,\\log\\,Q$", "^", "-"),
    "direct": ("at the same $(Q, R)$", "", (0, (5, 2))),
    "indirect": ("through $(Q, R)$", "", (0, (1, 1.5))),
}


def plot_noise_map(study: NoiseStudy) -> Figure:
    """Draw the steady cosine and the critical variance over the noise.

    Left the cosine of the stable informative state, black lines where its derivative by the correlation changes sign,
    hatches where there is no such state, crosses where there is one that does not grow from nothing. Right the variance
    above which the feature is learnt, on a logarithmic scale, with dots at its smallest value for each strength.

    Parameters
    ----------
    study : NoiseStudy
        With two or more strengths and correlations.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if min(study.labels.shape) < 2:
        raise InvalidInput("study", study.labels.shape, "a study of two or more strengths and correlations")
    with house_style():
        figure = Figure(figsize=(10.4, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _steady(figure, left, study)
        _learnable(figure, right, study)
        for ax in (left, right):
            ax.set_xlabel(r"correlation of the noise, $\rho$")
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.grid(visible=False)
        left.set_ylabel("standard deviation of the noise")
        return figure


def plot_decomposition(study: NoiseStudy, std: float) -> Figure:
    """Draw what the effect of the correlation on log(1 - |q|^2) is made of, at one strength.

    Above zero a more negative correlation lowers the misalignment. Left the parts of the identity, diffusion,
    confinement and norm; right the effect at the same (Q, R) and the one through (Q, R). Both sum up to the total.

    Parameters
    ----------
    study : NoiseStudy
    std : float
        One of ``study.stds``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    std = _checks.number("std", std)
    (rows,) = np.nonzero(np.isclose(study.stds, std, rtol=1e-9, atol=0.0))
    if not len(rows):
        raise InvalidInput("std", std, f"one of the strengths of the study, {study.stds.tolist()}")
    i = int(rows[0])
    pick = (i, np.arange(len(study.correlations)), study.output[i])
    effect = study.by_correlation
    with house_style():
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        colors = iter(PALETTE)
        for ax, names in zip(axes, (("diffusion", "confinement", "norm"), ("direct", "indirect")), strict=True):
            ax.axhline(0.0, color="0.6", lw=0.8)
            for name in names:
                label, marker, stroke = _PARTS[name]
                values = getattr(effect, name)[pick]
                ax.plot(study.correlations, values, ls=stroke, marker=marker, ms=4, color=next(colors), label=label)
            ax.plot(study.correlations, effect.total[pick], color="black", lw=2.6, alpha=0.6, label="total")
            ax.set_xlabel(r"correlation of the noise, $\rho$")
            ax.legend()
        axes[0].set_ylabel(r"$d\,\log(1 - |q|^2)\,/\,d\rho$")
        figure.suptitle(f"standard deviation {std:g}: above zero, a more negative correlation helps", fontsize=10.0)
        return figure


def _steady(figure: Figure, ax: Axes, study: NoiseStudy) -> None:
    rho, std = study.correlations, study.stds
    known = ~np.isnan(study.cosine)
    ax.set_xlim(*_edges(rho)[[0, -1]])
    ax.set_ylim(*_edges(std)[[0, -1]])
    handles: list[Artist] = []
    if known.any():
        image = ax.pcolormesh(_edges(rho), _edges(std), np.ma.masked_invalid(study.cosine), cmap="viridis")
        figure.colorbar(image, ax=ax, label=f"steady cosine with feature {study.feature}")
        slope = np.take_along_axis(study.by_correlation.total, study.output[..., None], axis=-1)[..., 0]
        decided = np.ma.masked_where(~np.isin(study.labels, ("helps", "hurts")), slope)
        if (decided < 0.0).any() and (decided > 0.0).any():
            ax.contour(rho, std, decided, levels=[0.0], colors="black", linewidths=2.0)
            ax.contour(rho, std, decided, levels=[0.0], colors="white", linewidths=0.8)
            handles.append(Line2D([], [], color="black", lw=2.0, label=r"$d|q|/d\rho = 0$"))
        if (study.labels == "hurts").any():
            rows, columns = np.nonzero(study.labels == "hurts")
            ax.plot(rho[columns], std[rows], ls="none", marker="_", ms=7, mew=1.6, color=PALETTE[1])
            label = r"lowering $\rho$ hurts"
            handles.append(Line2D([], [], ls="none", marker="_", ms=7, mew=1.6, color=PALETTE[1], label=label))
    if not known.all():
        ax.patch.set(hatch="///", edgecolor="0.6")  # shows where nothing is drawn over it
        handles.append(Patch(facecolor="white", edgecolor="0.6", hatch="///", label="no informative state"))
    rows, columns = np.nonzero(known & ~study.is_reachable)
    if len(rows):
        ax.plot(rho[columns], std[rows], ls="none", marker="x", ms=5, color="white", mew=2.6)
        ax.plot(rho[columns], std[rows], ls="none", marker="x", ms=5, color="black", mew=1.2)
        handles.append(Line2D([], [], ls="none", marker="x", color="black", label="not grown from nothing"))
    if handles:
        ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _learnable(figure: Figure, ax: Axes, study: NoiseStudy) -> None:
    critical = study.critical_variance
    if np.isnan(critical).all():
        ax.text(0.5, 0.5, "no critical variance", transform=ax.transAxes, ha="center")
        return
    rho, std = study.correlations, study.stds
    image = ax.pcolormesh(_edges(rho), _edges(std), np.ma.masked_invalid(critical), cmap="cividis_r", norm="log")
    bar = figure.colorbar(
        image, ax=ax, label=r"critical variance $\langle c^2 \rangle$", ticks=LogLocator(subs=(1, 2, 3, 5))
    )
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.minorticks_off()
    rows = np.flatnonzero(~np.isnan(critical).all(axis=1) & (std > 0.0))
    ax.plot(
        rho[np.nanargmin(critical[rows], axis=1)], std[rows], ls="none", marker="o", ms=6, mfc="white", mec="black",
        label="easiest to learn at this strength",
    )  # fmt: skip
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _edges(values: Array) -> Array:
    """Return edges half-way between values, and half a step beyond the ends."""
    middles = 0.5 * (values[1:] + values[:-1])
    return np.concatenate([[1.5 * values[0] - 0.5 * values[1]], middles, [1.5 * values[-1] - 0.5 * values[-2]]])
