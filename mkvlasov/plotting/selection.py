"""Selection at finite dimension in figures: probabilities of the ends, and the times that starts take to escape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mkvlasov._typing import Array
from mkvlasov.plotting.style import PALETTE, house_style

if TYPE_CHECKING:
    from mkvlasov.analysis.growth import EscapeGrowth
    from mkvlasov.analysis.selection import Selection, SelectionComparison

_QUANTILES = (0.05, 0.5, 0.95)
_MARKERS = ("v", "o", "^")
_WIDTH = 18
"""Characters of a name in one line under a bar."""


def plot_selection(found: Selection, comparison: SelectionComparison | None = None) -> Figure:
    """Draw the probabilities of the ends, and which part of the samples has escaped over time.

    Parameters
    ----------
    found : Selection
    comparison : SelectionComparison, optional
        With it the runs are drawn beside the prediction.

    Returns
    -------
    matplotlib.figure.Figure
        Error bars are one standard error of samples and of runs.
    """
    with house_style():
        figure = Figure(figsize=(9.0, 3.8), layout="constrained")
        bars, times = figure.subplots(1, 2)
        _probabilities(bars, found, comparison)
        _cumulative(times, found.escape_times, "predicted", PALETTE[0], "-")
        if comparison is not None:
            _cumulative(times, comparison.run_escape_times, "SGD", PALETTE[1], "--")
            times.legend(loc="lower right")
        times.set(
            xlabel=f"escape time $t$ = step / $N$ (a cosine reaches {found.level:g})", ylabel="part that has escaped",
            ylim=(0.0, 1.02),
        )  # fmt: skip
        figure.suptitle(f"random starts at $N = {found.dimension}$", fontsize=10.0)
        return figure


def plot_escape_growth(found: EscapeGrowth, comparisons: Sequence[SelectionComparison] = ()) -> Figure:
    """Draw mean and quantiles of the escape times over log N, with the slope that the growth rate predicts.

    Parameters
    ----------
    found : EscapeGrowth
    comparisons : sequence of SelectionComparison
        Their runs are drawn as open markers at their dimensions.

    Returns
    -------
    matplotlib.figure.Figure
    """
    n = found.dimensions
    with house_style():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        ax = figure.subplots()
        for level, marker, color in zip(_QUANTILES, _MARKERS, (PALETTE[5], PALETTE[0], PALETTE[2]), strict=True):
            values = np.quantile(found.times, level, axis=1, method="inverted_cdf")
            ax.plot(n, values, marker=marker, color=color, lw=1.2, label=f"{100 * level:g} % quantile")
            for item in comparisons:
                value = np.quantile(item.run_escape_times, level, method="inverted_cdf")
                ax.plot(item.prediction.dimension, value, marker=marker, ms=10, mfc="none", mec=color, mew=1.4, ls="")
        if comparisons:
            ax.plot([], [], "o", ms=10, mfc="none", mec="#555555", mew=1.4, label="SGD, same quantiles")
        middle = np.quantile(found.times, 0.5, axis=1, method="inverted_cdf")
        line = middle[-1] + found.predicted_slope * np.log(n / n[-1])
        ax.plot(n, line, ls=":", color=PALETTE[6], lw=1.6, label=rf"slope $1/2\gamma$ = {found.predicted_slope:.3g}")
        ax.set_xscale("log")
        ax.set(xlabel="dimension $N$", ylabel=f"escape time (a cosine reaches {found.level:g})")
        ax.legend()
        return figure


def _probabilities(ax: Axes, found: Selection, comparison: SelectionComparison | None) -> None:
    known = found.probabilities()
    names = tuple(known) if comparison is None else comparison.names
    kept = [n for n in names if n not in ("diverged", "unresolved") or _occurs(n, found, comparison)]
    place = np.arange(len(kept))
    values = [known[n].value if n in known else 0.0 for n in kept]
    errors = [known[n].stderr if n in known else 0.0 for n in kept]
    ax.bar(place, values, 0.6, yerr=errors, color=PALETTE[0], alpha=0.75, capsize=5, label="predicted")
    if comparison is not None:
        of_runs = np.array([comparison.found[comparison.names.index(n)] for n in kept])
        spread = np.sqrt(of_runs * (1.0 - of_runs) / comparison.runs)
        ax.errorbar(place + 0.15, of_runs, spread, fmt="D", color=PALETTE[1], mec="white", capsize=5, label="SGD")
        ax.legend()
    ax.set_xticks(place, [_wrapped(name) for name in kept])
    ax.grid(axis="x", visible=False)
    ax.set(ylabel="probability of ending there", ylim=(0.0, 1.0))


def _occurs(name: str, found: Selection, comparison: SelectionComparison | None) -> bool:
    if found.probabilities()[name].count:
        return True
    return comparison is not None and bool(comparison.found[comparison.names.index(name)] > 0.0)


def _cumulative(ax: Axes, times: Array, label: str, color: str, style: str) -> None:
    """Draw the part of all times, infinite ones included, up to each."""
    known = np.sort(times[np.isfinite(times)])
    part = np.arange(1, len(known) + 1) / len(times)
    ax.step(known, part, where="post", color=color, ls=style, label=label)


def _wrapped(name: str) -> str:
    """Break a long name at its spaces."""
    lines = [""]
    for word in name.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= _WIDTH:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
