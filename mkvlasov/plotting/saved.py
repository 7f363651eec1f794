"""All the figures that one solution has, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.plotting.densities import plot_densities
from mkvlasov.plotting.distributions import times_of
from mkvlasov.plotting.loadings import holds_some, loading_groups
from mkvlasov.plotting.maps import plot_density_map
from mkvlasov.plotting.trajectories import plot_solutions
from mkvlasov.solution import Solution

_SNAPSHOTS = 4


def save_figures(solution: Solution, folder: str | Path, *, name: str) -> list[Path]:
    """Write order parameters, density snapshots and density maps as PNG files, as far as the solution has them.

    Parameters
    ----------
    solution : Solution
        With at least one time.
    folder : str or Path
        Made if it is missing.
    name : str
        First part of the names of the files.

    Returns
    -------
    list of Path
    """
    if not len(solution.t):
        raise InvalidInput("solution", str(solution.status), "a solution that reached a time")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figure] = {"order_parameters": plot_solutions([solution])}
    try:
        times = times_of(solution)
    except InvalidInput:
        times = np.zeros(0)  # a simulation without snapshots has its order parameters to show
    if len(times):
        figures["densities"] = plot_densities([solution], _spread(times))
    if len(times) > 1 and any(holds_some(solution, group) for group in loading_groups(solution)):
        figures["density_map"] = plot_density_map(solution)
    paths = []
    for kind, figure in figures.items():
        paths.append(target / f"{name}_{kind}.png")
        figure.savefig(paths[-1])
    return paths


def _spread(times: Array) -> list[float]:
    """Return a few of the times, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(times) - 1, min(len(times), _SNAPSHOTS)).round().astype(int))
    return [float(t) for t in times[chosen]]
