"""Lines between regions of a plane: where a grid tells two neighbours apart, the crossing is found on the edge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array

Refine = Callable[[Array, Array], Array]
"""Takes the ends (E, 2), (E, 2) of edges that a line crosses, and returns a point (E, 2) of the line on each."""

Misfit = Callable[[Array], Array]
"""Takes points (P, 2) and returns how far (P,) from the line they are, in any measure."""


def level_lines(
    x: Array,
    y: Array,
    regions: npt.NDArray[np.int64],
    valid: npt.NDArray[np.bool_],
    refine: Refine,
    misfit: Misfit | None = None,
) -> list[Array]:
    """Return the lines between regions as polylines (n, 2), whose vertices lie on the edges of the grid.

    Parameters
    ----------
    x, y : ndarray, shapes (X,) and (Y,)
    regions : ndarray of int, shape (Y, X)
        For a level line of a function: its sign.
    valid : ndarray of bool, shape (Y, X)
        Edges with an end elsewhere have no crossings.
    refine : function
    misfit : function, optional
        In a cell with four crossings the connection whose middle fits best is taken; without it the shorter one of
        those
        that do not cross.

    Notes
    -----
    Marching squares. Where three regions meet, segments meet in the middle of the crossings.
    """
    nodes = np.stack(np.meshgrid(x, y), axis=-1)
    number = np.arange(regions.size).reshape(regions.shape)
    pairs = np.concatenate([
        np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], axis=1),
        np.stack([number[:-1].ravel(), number[1:].ravel()], axis=1),
    ])  # fmt: skip
    kind, ok = regions.ravel()[pairs], valid.ravel()[pairs].all(axis=1)
    crossed = pairs[ok & (kind[:, 0] != kind[:, 1])]
    if not len(crossed):
        return []
    flat = nodes.reshape(-1, 2)
    points = list(refine(flat[crossed[:, 0]], flat[crossed[:, 1]]))
    place = {(int(a), int(b)): i for i, (a, b) in enumerate(crossed)}
    links: dict[int, list[int]] = defaultdict(list)
    width = len(x)
    for corner in {c for a, b in place for c in _cells(a, b, width)}:
        row, column = divmod(corner, width)
        if row < 0 or row >= len(y) - 1 or column >= width - 1:
            continue
        edges = [(corner, corner + 1), (corner + 1, corner + 1 + width), (corner + width, corner + width + 1),
                 (corner, corner + width)]  # fmt: skip
        found = [place[edge] for edge in edges if edge in place]
        for i, j in _segments(found, points, misfit):
            links[i].append(j)
            links[j].append(i)
    return [np.array([points[i] for i in chain]) for chain in _chains(links)]


def _cells(a: int, b: int, width: int) -> tuple[int, int]:
    """Return the lower left corners of the two cells beside an edge."""
    if b == a + 1:
        return a, a - width
    return a, a - 1 if a % width else a


def _segments(found: list[int], points: list[Array], misfit: Misfit | None) -> list[tuple[int, int]]:
    """Return which crossings of the edges of one cell, listed round it, are connected."""
    if len(found) == 2:
        return [(found[0], found[1])]
    if len(found) == 4:
        a, b, c, d = found
        options = [[(a, b), (c, d)], [(b, c), (d, a)]]
        if misfit is None:
            return min(options, key=lambda pairs: sum(float(np.linalg.norm(points[i] - points[j])) for i, j in pairs))
        options.append([(a, c), (b, d)])
        middles = np.array([[0.5 * (points[i] + points[j]) for i, j in pairs] for pairs in options])
        return options[int(misfit(middles.reshape(-1, 2)).reshape(3, 2).max(axis=1).argmin())]
    if len(found) == 3:
        points.append(np.mean([points[i] for i in found], axis=0))
        return [(i, len(points) - 1) for i in found]
    return []


def _chains(links: dict[int, list[int]]) -> list[list[int]]:
    """Return the paths and loops that links make; they are used up."""
    chains = []
    ends = [i for i, others in links.items() if len(others) != 2]
    for start in [*ends, *links]:
        while links[start]:
            chain, here = [start], start
            while links[here]:
                there = links[here].pop()
                links[there].remove(here)
                chain.append(there)
                here = there
                if len(links[here]) != 1:
                    break
            chains.append(chain)
    return chains
