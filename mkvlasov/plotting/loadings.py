"""Which loadings a figure shows: atoms of their law, small ranges of it, or those that were asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import InvalidInput
from mkvlasov.solution import Solution
from mkvlasov.solution_pde import PdeSolution

_MAX_ATOMS = 27
"""Laws of loadings with more atoms than this are shown by ranges, like continuous ones."""

_HALF_WIDTH = 0.25
"""Half the width of a range of loadings: narrow against the law's standard deviation of 1."""


@dataclass(frozen=True)
class LoadingGroup:
    """Coordinates that are shown together: one atom of the law of loadings, or a small range of it.

    Attributes
    ----------
    label : str
    points, weights : ndarray, shapes (n, K) and (n,)
        Loadings whose densities are averaged.
    selection : ndarray
        What `histogram` takes: the atom (K,), or the corners (2, K) of the range.
    """

    label: str
    points: Array
    weights: Array
    selection: Array


def loading_groups(solution: Solution, most: int = 3) -> list[LoadingGroup]:
    """Return up to `most` groups: the likeliest atoms, or ranges about 0 and along the features."""
    problem, initial = solution.problem, solution.initial
    k = problem.n_features
    points, weights = initial.loading_nodes(problem, 2)
    if problem.loadings.is_exact and len(points) <= _MAX_ATOMS:
        chosen = np.sort(np.argsort(-weights, kind="stable")[:most])
        return [LoadingGroup(f"$a = {_vector(points[i])}$", points[[i]], np.ones(1), points[i]) for i in chosen]
    centres = [np.zeros(k), *(1.25 * np.eye(k))][:most]
    return [_range(centre) for centre in centres]


def _range(centre: Array) -> LoadingGroup:
    x, _ = np.polynomial.legendre.leggauss(2)
    grid = np.stack(np.meshgrid(*[x] * len(centre), indexing="ij"), axis=-1).reshape(-1, len(centre))
    points = centre + _HALF_WIDTH * grid
    weights = np.exp(-0.5 * (points**2).sum(axis=1))
    selection = np.stack([centre - _HALF_WIDTH, centre + _HALF_WIDTH])
    return LoadingGroup(rf"$a = {_vector(centre)} \pm {_HALF_WIDTH}$", points, weights / weights.sum(), selection)


def _vector(a: Array) -> str:
    entries = ", ".join(f"{entry:.3g}" for entry in a)
    return entries if len(a) == 1 else f"({entries})"


def shown_groups(solution: Solution, loadings: ArrayLike | None) -> list[LoadingGroup]:
    """Return a group for each of the loadings (L, K), or those of `loading_groups`.

    Densities of the PDE at many times are read off at its own loading nodes: without a wish, those nearest to the
    middles of the ranges are taken.
    """
    k = solution.problem.n_features
    if loadings is None:
        groups = loading_groups(solution)
        if not isinstance(solution, PdeSolution) or all(len(group.points) == 1 for group in groups):
            return groups
        middles = np.array([group.selection.mean(axis=0) for group in groups])
        gaps = np.linalg.norm(middles[:, None] - solution.loading_points, axis=-1)
        return [_single(solution, solution.loading_points[i]) for i in gaps.argmin(axis=1)]
    wanted = _checks.array("loadings", loadings, ndim=(0, 1, 2))
    if wanted.size % k or (wanted.ndim == 2 and wanted.shape[1] != k):
        raise InvalidInput("loadings", loadings, f"rows of {k} number(s), one per feature")
    return [_single(solution, point) for point in wanted.reshape(-1, k)]


def _single(solution: Solution, point: Array) -> LoadingGroup:
    """Return the group of one loading; simulations count a range around it where the law is continuous."""
    if solution.problem.loadings.is_exact:
        return LoadingGroup(f"$a = {_vector(point)}$", point[None], np.ones(1), point)
    selection = np.stack([point - _HALF_WIDTH, point + _HALF_WIDTH])
    return LoadingGroup(f"$a = {_vector(point)}$", point[None], np.ones(1), selection)
