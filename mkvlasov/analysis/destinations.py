"""From starts to the ends they reach: symmetric starts once, each in the subspace that its symmetries keep it in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.analysis.basin_labels import DIVERGED, INFEASIBLE, UNRESOLVED
from mkvlasov.analysis.fixed_points import FixedPoints, constant_rate
from mkvlasov.analysis.flow import UNDERFLOW, Flow
from mkvlasov.analysis.initial_overlaps import feasible
from mkvlasov.analysis.neighbourhoods import Ends, find_neighbourhoods
from mkvlasov.analysis.symmetries import Symmetries, find_symmetries, same
from mkvlasov.analysis.symmetry_group import SymmetryGroup
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.problem.contrastive import Problem

_SYMMETRY_RTOL = 1e-8
_GROWN = 10.0
"""A step that underflows is a blow-up in finite time if an entry has grown by this factor beyond start and ends."""


class Destinations(NamedTuple):
    """Labels and times (S,), states (S, d) when decided, radii of the neighbourhoods (n,), evaluations."""

    labels: npt.NDArray[np.int64]
    times: Array
    states: Array
    radii: Array
    evaluations: int


def find_destinations(
    flow: Flow, Q: Array, R: Array, points: FixedPoints, ends: Ends, tolerance: float, *, progress: bool
) -> Destinations:
    """Return where starts Q (..., m, m), R (..., m, K) end, stacked along one axis."""
    problem = flow.problem
    tau, closed = constant_rate(problem), ClosedRates(problem, _SYMMETRY_RTOL)
    starts = closed.entries.pack(Q, R).reshape(-1, closed.entries.size)
    labels = np.full(len(starts), INFEASIBLE)
    times, states = np.full(len(starts), np.inf), starts.copy()
    known = feasible(Q, R).reshape(-1) & _on_sphere(problem, Q).reshape(-1)
    symmetries = find_symmetries(closed, tau)
    group = SymmetryGroup.of(symmetries)
    turned = _turned(symmetries, starts[known])
    representatives, which, element = group.fold(turned)
    projectors, classes = group.isotropy(representatives)
    # On the starts' own subspaces, symmetric to the last bit.
    representatives = np.einsum("sij,sj->si", projectors[classes], representatives)
    targets = find_neighbourhoods(closed, tau, points, ends, group, projectors, tolerance=tolerance, rtol=flow.rtol)
    found = flow.follow(representatives, classes, projectors, targets, progress=progress)
    largest = np.maximum(np.abs(representatives).max(axis=1, initial=0.0), np.abs(ends.x).max(initial=0.0))
    blown_up = (found.labels == UNDERFLOW) & (np.abs(found.states).max(axis=1, initial=0.0) > _GROWN * largest)
    label = np.where(blown_up, DIVERGED, np.where(found.labels == UNDERFLOW, UNRESOLVED, found.labels))
    back = _permutations(group, symmetries, ends)
    labels[known] = np.where(label[which] >= 0, back[element, np.maximum(label[which], 0)], label[which])
    times[known] = np.where(label == UNRESOLVED, np.inf, found.times)[which]
    reached = np.einsum("sji,sj->si", group.matrices[element], found.states[which])
    states[known] = _turned_back(symmetries, starts[known], reached)
    return Destinations(labels, times, states, targets.radii[0], found.evaluations)


def _on_sphere(problem: Problem, Q: Array) -> npt.NDArray[np.bool_]:
    """Return which starts keep the constraint, if there is one."""
    if problem.constraint != "sphere":
        return np.ones(Q.shape[:-2], dtype=bool)
    kept: npt.NDArray[np.bool_] = np.abs(np.diagonal(Q, axis1=-2, axis2=-1) - 1.0).max(axis=-1) <= 1e-12
    return kept


def _permutations(group: SymmetryGroup, symmetries: Symmetries, ends: Ends) -> npt.NDArray[np.int64]:
    """Return the end (g, n) that the inverse of each element makes of each end."""
    table = np.zeros((len(group), len(ends.x)), dtype=np.int64)
    for g, matrix in enumerate(group.matrices):
        for j, x in enumerate(ends.x):
            image = symmetries.unrotated(matrix.T @ x)
            (match,) = (k for k, other in enumerate(ends.x) if same(group.entries, image, symmetries.unrotated(other)))
            table[g, j] = match
    return table


def _turned(symmetries: Symmetries, starts: Array) -> Array:
    """Return the starts (S, d) with every block of rotated features turned onto its first one.

    For one output: there the direction within a block is conserved. Those of several outputs stay as they are.
    """
    x = starts.copy()
    if symmetries.entries.outputs == 1:
        for block in symmetries.rotated:
            x[:, block[0]] = np.linalg.norm(starts[:, block], axis=1)
            x[:, block[1:]] = 0.0
    return x


def _turned_back(symmetries: Symmetries, starts: Array, states: Array) -> Array:
    """Return the states (S, d) that turned starts reached as those that the starts themselves reach."""
    x = states.copy()
    if symmetries.entries.outputs == 1:
        for block in symmetries.rotated:
            length = np.linalg.norm(starts[:, block], axis=1, keepdims=True)
            directions = np.where(length > 0.0, starts[:, block] / np.where(length > 0.0, length, 1.0), 0.0)
            x[:, block] = directions * states[:, block[:1]]
    return x
