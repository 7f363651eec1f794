"""One look for all figures: colours that colour-blind readers can tell apart, and how each route is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from cycler import cycler

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, the well-separated ones first."""

ROUTE_LABELS = {"ode": "closed ODEs", "pde": "PDE", "particles": "particles", "sgd": "SGD"}

_SETTINGS: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.8,
    "figure.dpi": 110.0,
    "savefig.dpi": 150.0,
    "svg.fonttype": "none",
    "axes.prop_cycle": cycler(color=PALETTE),
}


def entry_colors(n: int) -> list[str]:
    """Return n colours that all differ: the palette, or for more a scale from dark to light."""
    if n <= len(PALETTE):
        return list(PALETTE[:n])
    scale = mpl.colormaps["viridis"]
    return [mpl.colors.to_hex(scale(0.85 * i / (n - 1))) for i in range(n)]


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the look inside a `with` block, leaving the user's own settings alone outside it."""
    with mpl.rc_context(_SETTINGS):
        yield
