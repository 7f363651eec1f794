"""One run of the spectral elements: from initial laws through all output times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.regularizers import Regularizer
from mkvlasov.solvers.pde.elements.basis import Basis
from mkvlasov.solvers.pde.elements.kernels import Mesh, moments, order_parameters, wall_mass
from mkvlasov.solvers.pde.elements.march import (
    REGRID,
    SHRUNK,
    UNBOUNDED,
    Progress,
    Settings,
)
from mkvlasov.solvers.pde.elements.mesh import LineLaw, Snapshot, initial_elements, slopes
from mkvlasov.solvers.pde.elements.regrid import regrid
from mkvlasov.solvers.pde.elements.tableau import Tableau


class Rates(Protocol):
    """Where rates come from: evaluated one by one, and inside the time loop."""

    def evaluate(self, times: Array, y: Array) -> Array:
        """Return rates (S, 5 + K) at times (S,) and moments (S, K + 2)."""

    def march(
        self, settings: Settings, basis: Basis, mesh: Mesh, progress: Progress, p: Array, target: float
    ) -> tuple[int, Array]:
        """Step until something has to be done; return what (see `elements_march`), and the densities."""


_ROWS = 512
_MOST_STEPS = 50_000
_MOST_ELEMENTS = 2_000


@dataclass(frozen=True)
class Equations:
    """What is solved: Fokker-Planck equations of L loadings, coupled through their rates.

    Attributes
    ----------
    loadings, weights : ndarray, shapes (L, K) and (L,)
    regularizer : Regularizer
    rates : Rates
    largest : float
        Q beyond which weights count as blown up.
    """

    loadings: Array
    weights: Array
    regularizer: Regularizer
    rates: Rates
    largest: float


@dataclass(frozen=True)
class Trace:
    """What a run leaves behind.

    Attributes
    ----------
    log : ndarray, shape (S, 1 + (K + 2) + (5 + K))
        Time, moments and rates, at the start and after every step.
    times : ndarray, shape (T,)
        Output times that were reached.
    snapshots : list of Snapshot
    rejected, regrids, elements : int
        Rejected steps, adaptations, most elements at a time.
    wall_mass : float
        Largest mass at an end of the elements.
    failure : str
    """

    log: Array
    times: Array
    snapshots: list[Snapshot]
    rejected: int
    regrids: int
    elements: int
    wall_mass: float
    failure: str


def run(
    equations: Equations,
    laws: Sequence[LineLaw],
    *,
    start: float,
    basis: Basis,
    tableau: Tableau,
    tolerance: float,
    space: float,
    outputs: Array,
    first_step: float,
    observer: Callable[[float], None] = lambda t: None,
) -> Trace:
    """March all loadings through the output times.

    Parameters
    ----------
    equations : Equations
    laws : sequence of L laws
        With densities, at time `start`.
    start : float
    basis, tableau
    tolerance : float
        Largest error of a step.
    space : float
        Largest error indicator of an element, for a loading of average weight.
    outputs : ndarray, shape (T,)
    first_step : float
    observer : callable
        Told the time now and then.
    """
    # Copies are contiguous and writable, so that kernels are compiled once for all origins of the arrays.
    loadings, weights = np.array(equations.loadings, order="C"), np.array(equations.weights)
    # Errors count by the weight of their loading, but no loading is neglected.
    shares = np.clip(1.0 / np.sqrt(np.maximum(len(weights) * weights, 1e-300)), 1.0, 10.0)
    settings = Settings(
        tableau.c,
        tableau.a,
        tableau.error,
        tableau.order,
        tolerance,
        space * shares,
        loadings,
        weights,
        equations.regularizer.linear_strength is not None,
        equations.largest,
    )
    regularizer = equations.regularizer
    # The third derivative of a density jumps where phi'' does.
    breaks = tuple(sorted({*regularizer.kinks, *regularizer.bends}))
    frame = _first_frame(laws, settings.moving)
    mesh, p = initial_elements(basis, laws, frame, breaks, settings.limits)
    mesh = _sloped(equations, basis, mesh, settings.moving)
    y = order_parameters(moments(basis, mesh, frame, p), loadings, weights)
    now = equations.rates.evaluate(np.array([start]), y[None])
    size = len(y)
    progress = Progress(
        np.array([start, first_step, y[0]]),
        np.zeros(4, np.int64),
        np.zeros((2, 1 + 2 * size)),
        now,
        frame,
        np.zeros((_ROWS, 1 + size + now.shape[1])),
    )
    logs = [np.concatenate([[start], y, now[0]])[None]]
    snapshots: list[Snapshot] = []
    times: list[float] = []
    regrids, steps, most, wall = 0, 0, len(mesh.left), wall_mass(basis, mesh, p)
    failure = "" if np.isfinite(now).all() else "the coefficients are not finite at t = 0"
    for target in outputs:
        while progress.clock[0] < target and not failure:
            reason, p = equations.rates.march(settings, basis, mesh, progress, p, float(target))
            observer(float(progress.clock[0]))
            wall = max(wall, wall_mass(basis, mesh, p))
            if reason == REGRID:
                mesh, p = regrid(basis, mesh, p, settings.limits)
                mesh = _sloped(equations, basis, mesh, settings.moving)
                progress.counts[3] = 0
                regrids += 1
                most = max(most, len(mesh.left))
            if progress.counts[1] == _ROWS:
                logs.append(progress.log[: progress.counts[1]].copy())
                steps += int(progress.counts[1])
                progress.counts[1] = 0
            failure = _failure(reason, progress, steps, len(mesh.left) / len(laws))
        if failure:
            break
        times.append(float(target))
        snapshots.append(Snapshot(mesh, progress.frame.copy(), p))
    logs.append(progress.log[: progress.counts[1]].copy())
    return Trace(
        np.concatenate(logs), np.array(times), snapshots, int(progress.counts[2]), regrids, most, wall, failure
    )


def _failure(reason: int, progress: Progress, steps: int, elements: float) -> str:
    t = float(progress.clock[0])
    if reason == UNBOUNDED:
        return f"Q grew to {progress.clock[2]:.3g} at t = {t:.6g}, which counts as unbounded"
    if reason == SHRUNK:
        return f"the steps shrank to nothing at t = {t:.6g}: the solution ceases to exist near there"
    if steps > _MOST_STEPS:
        return f"{steps} steps were not enough: only t = {t:.6g} was reached"
    if elements > _MOST_ELEMENTS:
        return f"at t = {t:.6g} the densities need more than {_MOST_ELEMENTS} elements: too rough for polynomials"
    return ""


def _first_frame(laws: Sequence[LineLaw], moving: bool) -> Array:
    if not moving:
        return np.tile([0.0, 1.0], (len(laws), 1))
    result = np.empty((len(laws), 2))
    for row, law in zip(result, laws, strict=True):
        mean = float(law.mean[0])
        row[0] = mean
        row[1] = np.sqrt(max(float(law.second_moment[0, 0]) - mean * mean, 1e-300))
    return result


def _sloped(equations: Equations, basis: Basis, mesh: Mesh, moving: bool) -> Mesh:
    return mesh if moving else mesh._replace(slope=slopes(equations.regularizer, basis, mesh))
