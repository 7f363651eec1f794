"""From finished runs to a `PdeSolution`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw
from mkvlasov.solution import Status
from mkvlasov.solution_pde import CoefficientHistory, PdeSolution
from mkvlasov.solvers.pde.accuracy import coefficient_errors, density_errors, moment_errors
from mkvlasov.solvers.pde.fluxes import volumes
from mkvlasov.solvers.pde.march import Equations, Path
from mkvlasov.solvers.pde.run import TOUCHED, Run
from mkvlasov.solvers.pde.scout import Outline


def build_solution(
    problem: Problem,
    initial: InitialLaw,
    equations: Equations,
    *,
    requested: Array,
    outline: Outline,
    fine: Run,
    coarse_mesh: Path,
    coarse_steps: Path,
    fewer_loadings: Path | None,
    options: tuple[int, str, float],
    effort: Mapping[str, float],
) -> PdeSolution:
    """Collect what the runs found.

    Parameters
    ----------
    problem, initial, equations
        What was solved.
    requested : ndarray, shape (T,)
        Output times that were asked for; those that were reached are in `fine`.
    outline : Outline
    fine : Run
    coarse_mesh, coarse_steps : Path
        With half the cells, and then with twice the steps as well.
    fewer_loadings : Path or None
        With fewer loading nodes, to be compared with `coarse_mesh`.
    options : (cells, flux, rtol)
    effort : mapping
        Further entries of ``stats``.
    """
    path = fine.path
    t = np.array(path.snapshot_times)
    at = np.searchsorted(path.times, t * (1.0 - 1e-11))
    moments = np.array(path.moments)[at]
    loss = np.array([path.rates[i].loss for i in at])
    parts = [
        moment_errors(path, coarse_mesh, t),
        moment_errors(coarse_mesh, coarse_steps, t),
        coefficient_errors(path, t),
    ]
    if fewer_loadings is not None:
        parts.append(moment_errors(coarse_mesh, fewer_loadings, t))
    cells, flux, rtol = options
    # The tolerance itself is added, since steps that are not small yet do not err by a third of the difference.
    scale = np.abs(moments[:, 0])
    Q_error = sum((part.Q for part in parts), rtol * scale)
    R_error = sum((part.R for part in parts), rtol * np.sqrt(scale)[:, None])
    # Mass that a wall has held back is wrong wherever it went.
    density_error = rtol + path.wall_mass + density_errors(path, coarse_mesh, t, equations.weights)
    density_error += density_errors(coarse_mesh, coarse_steps, t, equations.weights)
    shape = (len(t), *fine.mesh.at(0.0).shape)
    nodes = np.array(path.snapshot_nodes).reshape(shape)
    mass = np.array(path.snapshot_mass).reshape(shape)
    sizes = np.array([volumes(np.diff(row, axis=1)) for row in nodes]).reshape(shape)
    stats = {
        "steps": len(path.times) - 1,
        "rejected_steps": path.rejected,
        "limited_steps": path.limited,
        "cells": cells,
        "loadings": len(equations.weights),
        "mass_error": float(np.abs(mass.sum(axis=-1) - 1.0).max(initial=0.0)),
        "mass_restored": path.mass_restored,
        "clipped_mass": path.clipped,
        "smallest_density": float((mass / sizes).min()) if len(t) else 0.0,
        "wall_mass": path.wall_mass,
        "meshes_widened": fine.widened,
        "error_estimate": float(max(Q_error.max(initial=0.0), R_error.max(initial=0.0))),
        "density_error": float(density_error.max(initial=0.0)),
        "coefficient_error": max(rates.error for rates in path.rates),
        "loading_error": float(parts[-1].R.max(initial=0.0)) if fewer_loadings is not None else 0.0,
        **effort,
    }
    return PdeSolution(
        route="pde",
        problem=problem,
        initial=initial,
        t=t,
        Q=moments[:, :1, None],
        R=moments[:, None, 1:-1],
        Q_error=Q_error[:, None, None],
        R_error=R_error[:, None, :],
        Q_stderr=np.zeros((len(t), 1, 1)),
        R_stderr=np.zeros((len(t), 1, equations.loadings.shape[1])),
        loss=loss,
        loss_stderr=np.zeros(len(t)),
        status=_status(path, outline, requested, nodes),
        stats=stats,
        loading_points=equations.loadings,
        loading_weights=equations.weights,
        nodes=nodes,
        densities=mass / sizes,
        density_error=density_error,
        coefficients=CoefficientHistory(
            t=np.array(path.times),
            linear=np.array([rates.linear for rates in path.rates]),
            tilt=np.array([rates.tilt for rates in path.rates]),
            tau=np.array([rates.tau for rates in path.rates]),
            diffusion=np.array([rates.diffusion for rates in path.rates]),
        ),
        cells=cells,
        flux=flux,
        rtol=rtol,
    )


def _status(path: Path, outline: Outline, requested: Array, nodes: Array) -> Status:
    reached = len(path.snapshot_times)
    if reached < len(requested):
        reason = path.failure or outline.path.failure
        return Status(False, f"stopped: {reason}; {reached} of {len(requested)} output times were reached")
    held_back = f"; walls held back a mass of {path.wall_mass:.1e}" if path.wall_mass > TOUCHED else ""
    widths = (nodes[:, :, -1] - nodes[:, :, 0]).max(axis=1)
    return Status(
        True,
        f"reached t = {requested[-1]:g} in {len(path.times) - 1} steps; the meshes followed the densities "
        f"(widest: {widths[0]:.3g} at first, {widths[-1]:.3g} at the end, {widths.max():.3g} at most){held_back}",
    )
