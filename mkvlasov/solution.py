"""What every route returns: one shape of result, frozen, that knows its errors and says how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.density import Density as Density
from mkvlasov.errors import InvalidInput
from mkvlasov.order_parameters import cosine_error, cosine_similarity, readout_alignment
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Status:
    """How a run ended.

    Attributes
    ----------
    success : bool
        Whether every requested time was reached.
    message : str
        In words; names the time at which a run stopped short.
    """

    success: bool
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Solution:
    """Order parameters along a route, with their errors; T output times, m outputs, K features.

    Attributes
    ----------
    route : str
        "ode", "pde", "particles" or "sgd".
    problem, initial
        What was solved.
    t : ndarray, shape (T,)
        Times step / N that were reached (all requested ones unless ``status.success`` is False).
    Q, R : ndarray, shapes (T, m, m) and (T, m, K)
        Overlaps; means over the runs for the routes that draw.
    Q_error, R_error : ndarray, same shapes
        Estimated discretization error (zero for SGD, which has none).
    Q_stderr, R_stderr : ndarray, same shapes
        Standard error of the mean over runs (zero for the deterministic routes).
    loss, loss_stderr : ndarray, shape (T,)
        Expected training loss and the standard error of its mean over runs.
    status : Status
    stats : mapping from str to number
        Steps, error estimates, time spent and the like.
    """

    route: str
    problem: Problem
    initial: InitialLaw
    t: Array
    Q: Array
    R: Array
    Q_error: Array
    R_error: Array
    Q_stderr: Array
    R_stderr: Array
    loss: Array
    loss_stderr: Array
    status: Status
    stats: Mapping[str, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stats", MappingProxyType(dict(self.stats)))

    @property
    def n_runs(self) -> int:
        """Number of independent runs behind the means; 1 for the deterministic routes."""
        return 1

    @property
    def cosine_similarity(self) -> Array:
        """q_jk = R_jk / sqrt(Q_jj), shape (T, m, K); the mean over runs for the routes that draw."""
        return cosine_similarity(self.Q, self.R)

    @property
    def cosine_similarity_error(self) -> Array:
        """Estimated discretization error of the cosine similarity, shape (T, m, K)."""
        return cosine_error(self.Q, self.R, self.Q_error, self.R_error)

    @property
    def cosine_similarity_stderr(self) -> Array:
        """Standard error of the mean over runs, shape (T, m, K)."""
        return np.zeros_like(self.R)

    @property
    def readout_alignment(self) -> Array:
        """Cosine between each feature and the best linear read-out of the outputs, shape (T, K)."""
        return readout_alignment(self.Q, self.R)

    @property
    def final(self) -> InitialLaw:
        """The law of the weights at the last time: an initial law to go on from.

        Time starts at 0 again, so a learning-rate schedule goes on as `schedules.Continued`. The errors of what follows
        do not include those of this solution.
        """
        raise NotImplementedError

    def time_index(self, t: float) -> int:
        """Return the index of a stored time; raises `InvalidInput` for a time that was not stored."""
        return stored_index("t", t, self.t)

    def __repr__(self) -> str:
        m, k = self.R.shape[1:]
        runs = f", {self.n_runs} runs" if self.n_runs > 1 else ""
        head = f"{type(self).__name__}: {len(self.t)} times"
        span = f" from {self.t[0]:g} to {self.t[-1]:g}" if len(self.t) else ""
        return f"{head}{span}, {m} output(s), {k} feature(s){runs}; {self.status}"

    # Thin delegates to the layers below, imported when used: the one exception to the direction of imports.

    def plot(self) -> Figure:
        """Draw the order parameters over time."""
        from mkvlasov.plotting.trajectories import plot_solutions

        return plot_solutions([self])

    def plot_density(self, times: Sequence[float]) -> Figure:
        """Draw density snapshots p(w | a) at stored times (for simulations: snapshots), a row per loading."""
        from mkvlasov.plotting.densities import plot_densities

        return plot_densities([self], times)

    def plot_density_map(self, loadings: ArrayLike | None = None) -> Figure:
        """Draw p(w | a) over time in colours, a panel per loading: those given, (L, K), or the likeliest ones."""
        from mkvlasov.plotting.maps import plot_density_map

        return plot_density_map(self, loadings)

    def animate_density(self, path: str | Path, *, loadings: ArrayLike | None = None, seconds: float = 8.0) -> Path:
        """Write an animation of p(w | a) to a GIF or MP4 file; returns its path."""
        from mkvlasov.plotting.animation import animate_density

        return animate_density([self], path, loadings=loadings, seconds=seconds)

    def to_xarray(self) -> xarray.Dataset:
        """Return everything as a labelled dataset."""
        from mkvlasov.storage import to_xarray

        return to_xarray(self)

    def save(self, path: str | Path) -> None:
        """Write everything to a NetCDF file that `mkvlasov.load` reads."""
        from mkvlasov.storage import save

        save(self, path)


def stored_index(field: str, t: float, stored: Array) -> int:
    """Return the index of time `t` among the stored ones."""
    t = _checks.number(field, t)
    if len(stored):
        index = int(np.abs(stored - t).argmin())
        if abs(stored[index] - t) <= 1e-9 * max(1.0, abs(t)):
            return index
    raise InvalidInput(field, t, f"one of the stored times {np.array2string(stored, precision=6, threshold=12)}")
