"""Which loadings a figure shows: atoms of their law, small ranges of it, or those that were asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.solution import Solution
from mkvlasov.solution_pde import PdeSolution
from mkvlasov.solution_plane import PlanePdeSolution
from mkvlasov.solution_runs import RunsSolution

_MAX_ATOMS = 27
"""Laws of loadings with more atoms than this are shown by ranges, like continuous ones."""

_HALF_WIDTHS = {1: 0.25, 2: 0.25, 3: 0.45, 4: 0.6, 5: 0.7, 6: 0.8}
_WIDEST = 1.0
"""Half the width of a range of loadings, by the number of features: some two per cent of all Gaussian loadings are in
the range about 0. Narrow against the law's standard deviation of 1 as long as there are few features."""

_MOST_SHOWN = 6
"""Loadings of more entries are named by the first three and the last."""

_SAMPLE = 256
"""How many are drawn of atoms that cannot be listed."""

_MOST_NODES = 64
"""Nodes of the average over a range."""


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
    centres = [np.zeros(k), *(1.25 * np.eye(k))][:most]
    if problem.loadings.is_exact:
        try:
            points, weights = initial.loading_nodes(problem, 2)
        except UnsupportedError:  # more atoms than can be listed: some of them
            points = problem.loadings.sample(np.random.default_rng(0), _SAMPLE, k)
            weights = np.full(_SAMPLE, 1.0 / _SAMPLE)
        if len(points) <= _MAX_ATOMS:
            return [_atom(points[i]) for i in np.sort(np.argsort(-weights, kind="stable")[:most])]
        if k > 2:  # single atoms, since hardly any are in a range
            chosen: list[int] = []
            for centre in centres:
                nearest = np.linalg.norm(points - centre, axis=1).argsort(kind="stable")
                chosen.append(next(int(i) for i in nearest if i not in chosen))
            return [_atom(points[i]) for i in chosen]
    return [_range(centre) for centre in centres]


def _atom(point: Array) -> LoadingGroup:
    return LoadingGroup(f"$a = {_vector(point)}$", point[None], np.ones(1), point)


def _range(centre: Array) -> LoadingGroup:
    k = len(centre)
    half = _half_width(k)
    if 2**k <= _MOST_NODES:
        x, _ = np.polynomial.legendre.leggauss(2)
        grid = np.stack(np.meshgrid(*[x] * k, indexing="ij"), axis=-1).reshape(-1, k)
    else:
        grid = np.random.default_rng(0).uniform(-1.0, 1.0, (_MOST_NODES, k))
    points = centre + half * grid
    weights = np.exp(-0.5 * (points**2).sum(axis=1))
    selection = np.stack([centre - half, centre + half])
    return LoadingGroup(rf"$a = {_vector(centre)} \pm {half:g}$", points, weights / weights.sum(), selection)


def _half_width(features: int) -> float:
    return _HALF_WIDTHS.get(features, _WIDEST)


def holds_some(solution: Solution, group: LoadingGroup) -> bool:
    """Return whether a simulation has drawn loadings of a group; the other routes know every loading."""
    if not isinstance(solution, RunsSolution):
        return True
    drawn, chosen = solution.snapshots.loadings, np.atleast_2d(group.selection)
    return bool(((drawn >= chosen[0] - 1e-9) & (drawn <= chosen[-1] + 1e-9)).all(axis=-1).any())


def _vector(a: Array) -> str:
    entries = [f"{entry:.3g}" if len(a) < 3 else f"{round(float(entry), 2):g}" for entry in a]
    if len(entries) > _MOST_SHOWN:
        entries = [*entries[:3], r"\ldots", entries[-1]]
    return entries[0] if len(a) == 1 else f"({', '.join(entries)})"


def shown_groups(solution: Solution, loadings: ArrayLike | None) -> list[LoadingGroup]:
    """Return a group for each of the loadings (L, K), or those of `loading_groups`.

    Densities of the PDE at many times are read off at its own loading nodes: without a wish, those nearest to the
    middles of the ranges are taken.
    """
    k = solution.problem.n_features
    if loadings is None:
        groups = [group for group in loading_groups(solution) if holds_some(solution, group)]
        if not groups:
            raise InvalidInput("loadings", None, "some that were drawn (those near 0 and along the features were not)")
        if not isinstance(solution, (PdeSolution, PlanePdeSolution)) or all(len(group.points) == 1 for group in groups):
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
        return _atom(point)
    half = _half_width(len(point))
    selection = np.stack([point - half, point + half])
    return LoadingGroup(f"$a = {_vector(point)}$", point[None], np.ones(1), selection)
