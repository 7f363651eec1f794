"""Growth rates of a feature over a parameter, and the critical values."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from mkvlasov.plotting.style import PALETTE, house_style

if TYPE_CHECKING:
    from mkvlasov.analysis.learnability import CriticalValues


def plot_critical_values(found: CriticalValues) -> Figure:
    """Draw the growth rate at the uninformative state over a parameter, with its zeros and jumps.

    Where there is no uninformative state the background is grey.

    Parameters
    ----------
    found : CriticalValues

    Returns
    -------
    matplotlib.figure.Figure
    """
    everything = np.sort(np.concatenate([found.grid, found.without_state]))
    with house_style():
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        ax = figure.subplots()
        if everything[0] > 0.0:
            ax.set_xscale("log")
        ax.axhline(0.0, color="#777777", lw=1.0)
        lost = np.isin(everything, found.without_state)
        for i in np.flatnonzero(lost).tolist():
            left, right = everything[max(i - 1, 0)], everything[min(i + 1, len(everything) - 1)]
            ax.axvspan(
                left, right, color="#e6e6e6", lw=0.0, label="no uninformative state" if i == lost.argmax() else None
            )
        # No line across a jump, nor across values without a state.
        breaks = [everything[0], *np.sort(np.concatenate([found.jumps, found.without_state])), everything[-1]]
        for low, high in pairwise(breaks):
            here = (found.grid >= low) & (found.grid <= high)
            if not here.any():
                continue
            alone = "." if here.sum() == 1 else None
            ax.plot(found.grid[here], found.growth_rates[here], color=PALETTE[0], marker=alone)
        for number, jump in enumerate(found.jumps):
            label = None if number else "jump: the uninformative state changes"
            ax.axvline(jump, color=PALETTE[3], ls=(0, (4, 2)), lw=1.4, label=label)
        for number, value in enumerate(found.values):
            ax.plot(
                value, 0.0, "os^Dv"[number % 5], color=PALETTE[1], mec="white", ms=9.0, zorder=3,
                label=f"critical value {value:.6g}",
            )  # fmt: skip
        ax.margins(x=0.0)
        ax.set_xlabel(found.name)
        ax.set_ylabel("growth rate of $R$ at the uninformative state")
        if ax.get_legend_handles_labels()[0]:
            figure.legend(loc="outside upper center", ncols=2)
        return figure
