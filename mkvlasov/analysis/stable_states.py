"""Stable states of the closed ODEs over a grid of problems: found by searches, followed from neighbour to neighbour."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mkvlasov._typing import Array, Seed
from mkvlasov.analysis import newton
from mkvlasov.analysis.fixed_points import FixedPoint, accuracy, fixed_points
from mkvlasov.analysis.stability import stability_at
from mkvlasov.analysis.symmetries import Symmetries, find_symmetries, same
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.entries import Entries
from mkvlasov.problem.contrastive import Problem

INFORMATIVE = 1e-6
"""Cosine with the feature from which a state is informative: a zero within the accuracy of fixed points is none."""

_Place = tuple[int, int]


@dataclass(frozen=True)
class StableStates:
    """Stable states at each point of a grid.

    Attributes
    ----------
    states : list of lists of lists of ndarray (d,)
        At point (i, j): one of each class of symmetric copies, the copy that knows most of the mode.
    searched : ndarray of bool, shape (n, p)
        Where a full search was made.
    mode : ndarray, shape (K,)
    closed : dict of (int, int) to ClosedRates
        The closed rates of each point.
    """

    states: list[list[list[Array]]]
    searched: npt.NDArray[np.bool_]
    mode: Array
    closed: dict[_Place, ClosedRates]

    @property
    def entries(self) -> Entries:
        """The entries of a state."""
        return self.closed[0, 0].entries

    @property
    def points(self) -> list[_Place]:
        """Indices of the grid, row by row."""
        rows, columns = self.searched.shape
        return list(product(range(rows), range(columns)))

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Number of stable states up to symmetry, (n, p)."""
        return np.array([[len(states) for states in row] for row in self.states])

    def informative(self, i: int, j: int) -> Array | None:
        """Return the state that knows most of the mode; None if none knows anything."""
        known = [(float(_knowledge(self.entries, x, self.mode)), n) for n, x in enumerate(self.states[i][j])]
        best, n = max(known, default=(0.0, 0))
        return self.states[i][j][n] if best > INFORMATIVE else None


def follow_stable_states(
    problems: list[list[Problem]], mode: Array, *, starts: int | None, rng: Seed, bar: tqdm
) -> StableStates:
    """Search at the corners and in the middle, follow what is found, search again where nothing informative arrives.

    Parameters
    ----------
    problems : n lists of p problems
        Neighbours in the lists are neighbours in their parameters; all have the same symmetries.
    mode : ndarray, shape (K,)
        Unit vector of features.
    starts, rng
        Of `fixed_points`.
    bar : tqdm
        Advanced by one per point.
    """
    n, p = len(problems), len(problems[0])
    walk = _Walk(problems, mode, starts, rng)
    always = dict.fromkeys([(0, 0), (0, p - 1), (n - 1, 0), (n - 1, p - 1), (n // 2, p // 2)])
    for place in [*always, *(place for place in walk.result.points if place not in always)]:
        if place in always or walk.result.informative(*place) is None:
            walk.search(place)
            walk.follow()
        bar.update(int((walk.result.counts > 0).sum()) - bar.n)
    bar.update(n * p - bar.n)
    return walk.result


class _Walk:
    """The grid while it is filled; a branch is what was found once, and followed."""

    def __init__(self, problems: list[list[Problem]], mode: Array, starts: int | None, rng: Seed) -> None:
        n, p = len(problems), len(problems[0])
        self.problems, self.starts, self.rng = problems, starts, rng
        self.closed = {
            (i, j): ClosedRates(problem, accuracy(problem))
            for i, row in enumerate(problems)
            for j, problem in enumerate(row)
        }
        middle = self.closed[n // 2, p // 2]
        self.tau = middle.problem.rate(0.0)
        self.symmetries: Symmetries = find_symmetries(ClosedRates(middle.problem, 1e-6), self.tau)
        self.result = StableStates(
            [[[] for _ in range(p)] for _ in range(n)], np.zeros((n, p), dtype=bool), mode, self.closed
        )
        self.branches: dict[_Place, set[int]] = {place: set() for place in self.closed}
        self.ahead: deque[tuple[_Place, int, Array]] = deque()
        self.count = 0

    def search(self, place: _Place) -> None:
        """Add the stable states of a full search, each as a new branch unless it is known."""
        i, j = place
        self.result.searched[place] = True
        found = fixed_points(self.problems[i][j], starts=self.starts, rng=self.rng)
        for point in found:
            if _is_stable(point):
                x = self._best_copy(self.result.entries.pack(point.Q, point.R))
                if not self._is_known(place, x):
                    self._add(place, self.count, x)
                    self.count += 1

    def follow(self) -> None:
        """Carry every new state to the neighbours of its point, until there is nowhere left to go."""
        while self.ahead:
            place, branch, x = self.ahead.popleft()
            for neighbour in self._neighbours(place):
                if branch in self.branches[neighbour]:
                    continue
                arrived = self._arrival(neighbour, x)
                if arrived is None:
                    continue
                if self._is_known(neighbour, arrived):
                    self.branches[neighbour].add(branch)
                else:
                    self._add(neighbour, branch, arrived)

    def _add(self, place: _Place, branch: int, x: Array) -> None:
        self.result.states[place[0]][place[1]].append(x)
        self.branches[place].add(branch)
        self.ahead.append((place, branch, x))

    def _arrival(self, place: _Place, x: Array) -> Array | None:
        """Return the stable state that Newton's method reaches from x, or None."""
        closed = self.closed[place]
        found = newton.polish(closed, x[None], self.tau)
        if found.ended[0] != newton.CONVERGED:
            return None
        end = found.x[0]
        linear = stability_at(closed, end, self.tau)
        rotated = self.symmetries.is_rotated(end)
        if linear.unstable_dimension or (linear.centre_dimension and not rotated):
            return None
        return self._best_copy(end)

    def _best_copy(self, x: Array) -> Array:
        copies = self.symmetries.copies(x)
        best: Array = copies[np.argmax([_knowledge(self.result.entries, copy, self.result.mode) for copy in copies])]
        return best

    def _is_known(self, place: _Place, x: Array) -> bool:
        copies = self.symmetries.copies(x)
        entries = self.result.entries
        states = self.result.states[place[0]][place[1]]
        return any(same(entries, self.symmetries.unrotated(state), copy) for state in states for copy in copies)

    def _neighbours(self, place: _Place) -> list[_Place]:
        i, j = place
        around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        return [other for other in around if other in self.closed]


def _is_stable(point: FixedPoint) -> bool:
    """Whether a point attracts, up to rotations that connect it with its copies."""
    linear = point.stability
    return linear.is_stable or (point.is_continuum and not linear.unstable_dimension)


def _knowledge(entries: Entries, x: Array, mode: Array) -> float:
    """Return the largest cosine of an output with the mode, with its sign."""
    Q, R = entries.unpack(x)
    norms = np.sqrt(np.diagonal(Q))
    return float(((R @ mode) / np.where(norms > 0.0, norms, 1.0)).max())
