"""One run on one family of meshes: scout, mesh, march; again with more room if a density touches a wall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.solvers.pde.volumes.grid import Mesh, deposit
from mkvlasov.solvers.pde.volumes.march import Observer, Path, march
from mkvlasov.solvers.pde.volumes.meshes import build_mesh
from mkvlasov.solvers.pde.volumes.rates import Rates
from mkvlasov.solvers.pde.volumes.scout import Outline
from mkvlasov.solvers.pde.volumes.setup import Family

TOUCHED = 1e-7
"""Mass at a wall from which on a run is repeated with wider meshes."""

_MOST_WIDENINGS = 2


@dataclass(frozen=True)
class Run:
    """A finished march and the mesh that it used; `widened` counts the repetitions with wider meshes."""

    path: Path
    mesh: Mesh
    margin: float
    widened: int


def run(
    family: Family,
    outline: Outline,
    *,
    cells: int,
    outputs: Array,
    tolerance: float,
    observer: Observer | None = None,
    steps: Array | None = None,
    margin: float = 1.0,
) -> Run:
    """March all loadings through the outputs on meshes that follow the outline.

    Parameters
    ----------
    family : Family
    outline : Outline
    cells : int
    outputs : ndarray, shape (T,)
    tolerance : float
    observer : callable, optional
        Of (t, nodes, mass), after every step.
    steps : ndarray, optional
        Times of the steps to take (no error control).
    margin : float
        Factor on the room beyond the outline to begin with.
    """
    widened = -1
    while True:
        widened += 1
        mesh = build_mesh(family, outline, cells=cells, margin=margin)
        nodes = mesh.at(0.0)
        mass = np.array([deposit(law, row) for law, row in zip(family.laws, nodes, strict=True)])

        def destination(t: float, dt: float, _nodes: Array, _mass: Array, _rates: Rates, mesh: Mesh = mesh) -> Array:
            return mesh.at(t + dt)

        path = march(
            family.equations,
            nodes,
            mass,
            outputs=outputs,
            tolerance=tolerance,
            destination=destination,
            observer=observer or _ignore,
            prescribed_steps=() if steps is None else tuple(steps),
            largest_second_moment=family.largest,
        )
        if path.wall_mass < TOUCHED or widened == _MOST_WIDENINGS:
            return Run(path, mesh, margin, widened)
        margin = 4.0 * margin


def _ignore(t: float, nodes: Array, mass: Array) -> None:
    """Observe nothing."""
