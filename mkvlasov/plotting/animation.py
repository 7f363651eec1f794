"""Animations of the density p(w | a)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.plotting.densities import density_artist, route_handle
from mkvlasov.plotting.distributions import interval_masses, reach, times_of
from mkvlasov.plotting.given import several_solutions
from mkvlasov.plotting.loadings import LoadingGroup, shown_groups
from mkvlasov.plotting.style import house_style
from mkvlasov.solution import Solution
from mkvlasov.solution_runs import RunsSolution

_INTERVALS, _INTERVALS_COUNTED = 300, 40
_MOST_FRAMES = 120


def animate_density(
    solutions: Sequence[Solution], path: str | Path, *, loadings: ArrayLike | None = None, seconds: float = 8.0
) -> Path:
    """Write an animation of p(w | a) at the stored times, a panel per loading (and output).

    The vertical scale of a panel grows and shrinks with its peak, in steps: 1, 2 and 5 times powers of ten.

    Parameters
    ----------
    solutions : sequence of Solution
        Of the same problem; frames are the times at which all know densities, at most 120 of them.
    path : str or Path
        Ending in ".gif", or ".mp4" where the program ffmpeg is installed.
    loadings : array, shape (L, K), optional
        By default the likeliest loadings, or such near zero and along the features.
    seconds : float
        How long the animation takes.

    Returns
    -------
    Path
    """
    solutions = several_solutions(solutions)
    target = _checks.path("path", path)
    seconds = _checks.number("seconds", seconds, minimum=0.0, exclusive=True)
    writer = _writer(target)
    times = _common_times(solutions)
    frames = times[np.unique(np.linspace(0, len(times) - 1, min(len(times), _MOST_FRAMES)).round().astype(int))]
    groups = shown_groups(solutions[0], loadings)
    rows = [(group, output) for output in range(solutions[0].problem.outputs) for group in groups]
    with house_style():
        figure = Figure(figsize=(6.4, 1.9 * len(rows) + 0.9), layout=ConstrainedLayoutEngine(w_pad=0.12), dpi=100.0)
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
        panels = [_Panel(ax, solutions, frames, *row) for ax, row in zip(axes, rows, strict=True)]
        axes[-1].set_xlabel("weight $w$")
        handles = [route_handle(solution) for solution in solutions]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # what was laid out stays, and is not laid out again for every frame
        film = writer(fps=max(1, round(len(frames) / seconds)))
        with film.saving(figure, str(target), dpi=figure.dpi):
            for frame in range(len(frames)):
                for panel in panels:
                    panel.show(frame)
                film.grab_frame()
    return target


class _Panel:
    """One loading: all its frames, and what is drawn of them."""

    def __init__(
        self, ax: Axes, solutions: Sequence[Solution], frames: Array, group: LoadingGroup, output: int
    ) -> None:
        spans = np.array([reach(solution, t, group, output) for solution in solutions for t in frames])
        low, high = spans[:, 0].min(), spans[:, 1].max()
        self._artists: list[tuple[Line2D | StepPatch, Array, Array]] = []
        for solution in solutions:
            count = _INTERVALS_COUNTED if isinstance(solution, RunsSolution) else _INTERVALS
            edges = np.linspace(low, high, count + 1)
            shown = np.array([interval_masses(solution, t, group, output, edges) for t in frames]) / np.diff(edges)
            self._artists.append((density_artist(ax, solution, edges), 0.5 * (edges[1:] + edges[:-1]), shown))
        peaks = np.max([shown.max(axis=1) for _, _, shown in self._artists], axis=0)
        self._tops = np.array([_ceiling(1.05 * peak) for peak in peaks])
        self._ax, self._frames = ax, frames
        ax.set(xlim=(low, high), ylim=(0.0, self._tops[0]), ylabel="density $p(w\\,|\\,a)$")
        ax.set_title(group.label + (f", output {output + 1}" if solutions[0].problem.outputs > 1 else ""), loc="left")
        self._clock = ax.text(0.98, 0.95, "", transform=ax.transAxes, ha="right", va="top")

    def show(self, frame: int) -> None:
        """Draw one frame."""
        for artist, w, shown in self._artists:
            if isinstance(artist, Line2D):
                artist.set_data(w, shown[frame])
            else:
                artist.set_data(shown[frame])
        self._ax.set_ylim(0.0, self._tops[frame])
        self._clock.set_text(f"$t = {self._frames[frame]:.2f}$")


def _ceiling(value: float) -> float:
    """Return the next of 1, 2, 5, 10, ... times a power of ten."""
    if not value > 0.0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(power * step for step in (1.0, 2.0, 5.0, 10.0) if power * step >= value))


def _common_times(solutions: Sequence[Solution]) -> Array:
    """Return the times at which all solutions know densities, two or more."""
    times = times_of(solutions[0])
    for solution in solutions[1:]:
        gaps = np.abs(times[:, None] - times_of(solution))
        times = times[gaps.min(axis=1) <= 1e-9 * np.maximum(1.0, times)]
    if len(times) < 2:
        raise InvalidInput("solutions", times.tolist(), "solutions with densities at two or more common times")
    return times


def _writer(target: Path) -> type[PillowWriter] | type[FFMpegWriter]:
    """Return what writes this kind of file; raises before anything is drawn."""
    kinds: dict[str, type[PillowWriter] | type[FFMpegWriter]] = {".gif": PillowWriter, ".mp4": FFMpegWriter}
    if target.suffix not in kinds:
        raise InvalidInput("path", str(target), "a file name that ends in .gif or .mp4")
    _checks.output_file("path", target)
    if not kinds[target.suffix].isAvailable():
        raise UnsupportedError("animate_density: MP4 files need the program ffmpeg, which is not installed; use .gif")
    return kinds[target.suffix]
