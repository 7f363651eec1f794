"""Finite volumes on meshes that move with the densities, all loadings in one tridiagonal system."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.density import Density
from mkvlasov.solution_pde import PdeSolution
from mkvlasov.solvers.pde.task import PdeMethod, Task
from mkvlasov.solvers.pde.volumes.accuracy import doubled_steps
from mkvlasov.solvers.pde.volumes.density import solve_density
from mkvlasov.solvers.pde.volumes.fluxes import CENTRAL, EXPONENTIAL, Scheme
from mkvlasov.solvers.pde.volumes.loadings import settle_loadings
from mkvlasov.solvers.pde.volumes.march import Path
from mkvlasov.solvers.pde.volumes.run import Run, run
from mkvlasov.solvers.pde.volumes.scout import Outline, scout
from mkvlasov.solvers.pde.volumes.setup import CoupledRates, Family, family_of
from mkvlasov.solvers.pde.volumes.solution import Runs, solution_of_runs

_FEWEST_CELLS = 20


@dataclass(frozen=True, slots=True)
class FiniteVolumes:
    """Finite volumes with the exponential flux: conservative, never negative, for every problem with a density.

    One mesh per loading; a cheap first pass finds where the densities go, and the meshes move with them (they grow
    where weights grow). Kinks of phi stay on nodes, in cells graded to the width of the spike that forms there. Second
    order in the spacing. Time steps are those of TR-BDF2 with error control; mass is conserved to rounding. Runs with
    half the cells, steps twice as long and another number of loading nodes give the error estimates: about three times
    the error each, added up.

    Parameters
    ----------
    cells : int
        Per loading, at least 20.

    Notes
    -----
    Flux: Scharfetter and Gummel, IEEE Trans. Electron Devices 16, 1969. Densities narrower than about two cells (a
    point mass in its first instants) are spread over two cells.
    """

    cells: int = 400

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", _checks.integer("cells", self.cells, minimum=_FEWEST_CELLS))

    def solve(self, task: Task) -> PdeSolution:
        """Solve the task."""
        return _solve(task, self, self.cells, EXPONENTIAL)

    def density(self, solution: PdeSolution, *, t: float, loading: Array) -> Density:
        """Return p(w | a), solved for along the stored coefficients."""
        return solve_density(solution, t=t, loading=loading, cells=self.cells, scheme=EXPONENTIAL)


@dataclass(frozen=True, slots=True)
class UniformCentral:
    """Finite volumes with the central flux on uniform meshes: an oracle for tests.

    For an affine drift its moments, with the second one read at midpoints, obey the closed ODEs exactly: there, a
    disagreement is a bug and not discretization. Densities may go negative where a cell's potential difference exceeds
    Lambda. Meshes move with the densities; with kinks of phi they are at rest, with one kink on a node.

    Parameters
    ----------
    cells : int
        Per loading, at least 20.
    """

    cells: int = 400

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", _checks.integer("cells", self.cells, minimum=_FEWEST_CELLS))

    def solve(self, task: Task) -> PdeSolution:
        """Solve the task."""
        return _solve(task, self, self.cells, CENTRAL)

    def density(self, solution: PdeSolution, *, t: float, loading: Array) -> Density:
        """Return p(w | a), solved for along the stored coefficients."""
        return solve_density(solution, t=t, loading=loading, cells=self.cells, scheme=CENTRAL)


def _solve(task: Task, method: PdeMethod, cells: int, scheme: Scheme) -> PdeSolution:
    """Run on the meshes asked for and, to see the error, on coarser ones and with longer steps."""
    started = time.perf_counter()
    rates = CoupledRates(task.problem, task.limit, task.largest)
    loadings = settle_loadings(task, rates)
    family = family_of(task.problem, task.initial, loadings.nodes, rates=rates, scheme=scheme, largest=task.largest)
    outline = scout(family, float(task.t[-1]))
    fine = _march(task, family, outline, task.t[task.t <= outline.times[-1]], cells=cells)
    outputs = np.array(fine.path.snapshot_times)

    def coarse(steps: Array) -> Path:
        return run(
            family, outline, cells=cells // 2, outputs=outputs, tolerance=task.rtol, steps=steps, margin=fine.margin
        ).path

    runs = Runs(
        outline=outline,
        fine=fine,
        coarse_mesh=coarse(np.array(fine.path.times)[1:]),
        coarse_steps=coarse(doubled_steps(fine.path.times)),
        loadings=loadings,
    )
    # Numbers of evaluations and times are about all runs, since the user waits for all of them.
    effort = {"cells": cells, "coefficient_evaluations": rates.evaluations, "seconds": time.perf_counter() - started}
    return solution_of_runs(task, method, family.equations, runs, effort)


def _march(task: Task, family: Family, outline: Outline, outputs: Array, *, cells: int) -> Run:
    """Run with error control and a progress bar."""
    end = float(outputs[-1]) if len(outputs) else 0.0
    with tqdm(total=end, disable=None if task.progress else True, desc="PDE", unit="t") as bar:

        def observe(t: float, nodes: Array, mass: Array) -> None:
            bar.update(t - bar.n)

        return run(family, outline, cells=cells, outputs=outputs, tolerance=task.rtol, observer=observe)
