"""Starts to ask for their basins: a grid over two entries of (R, Q), or random overlaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike, Seed
from mkvlasov.errors import InvalidInput
from mkvlasov.limit.entries import Entries
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.contrastive import Problem

_MOST_TRIES = 2000


@dataclass(frozen=True, eq=False)
class StartGrid:
    """States that differ in two entries of (R, Q).

    Parameters
    ----------
    entries : pair of str
        Such as ``("R[0,0]", "R[0,1]")``: the horizontal and the vertical one, names as in `ReducedSystem.names`.
    values : pair of arrays, shapes (X,) and (Y,)
        Increasing.
    Q : array, shape (m, m), or float
        The other entries; a number means a multiple of the identity.
    R : array, shape (m, K)
    """

    entries: tuple[str, str]
    values: tuple[Array, Array]
    Q: Array
    R: Array

    def __post_init__(self) -> None:
        R = _checks.array("R", self.R, ndim=(1, 2))
        R = R[None] if R.ndim == 1 else R
        m, k = R.shape
        Q = _checks.array("Q", self.Q, ndim=(0, 2))
        Q = Q * np.eye(m) if not Q.ndim else _checks.symmetric_matrix("Q", Q, m)
        names = Entries(m, k).names
        if (
            not isinstance(self.entries, (tuple, list))
            or len(self.entries) != 2
            or any(name not in names for name in self.entries)
            or self.entries[0] == self.entries[1]
        ):
            raise InvalidInput("entries", self.entries, f"two different ones of {', '.join(names)}")
        if not isinstance(self.values, (tuple, list)) or len(self.values) != 2:
            raise InvalidInput("values", self.values, "two increasing lists of numbers")
        values = tuple(_checks.array("values", axis, ndim=1) for axis in self.values)
        if any((np.diff(axis) <= 0.0).any() for axis in values):
            raise InvalidInput("values", self.values, "two increasing lists of numbers")
        object.__setattr__(self, "entries", tuple(self.entries))
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "Q", Q)
        object.__setattr__(self, "R", R)

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X): rows are values of the vertical entry."""
        return len(self.values[1]), len(self.values[0])

    def states(self) -> tuple[Array, Array]:
        """Return Q (Y, X, m, m) and R (Y, X, m, K)."""
        return self.at(*np.meshgrid(*self.values))

    def at(self, horizontal: Array, vertical: Array) -> tuple[Array, Array]:
        """Return Q (..., m, m) and R (..., m, K) for values (...) of the two entries."""
        entries = Entries(*self.R.shape)
        x = np.broadcast_to(entries.pack(self.Q, self.R), (*np.shape(horizontal), entries.size)).copy()
        for name, values in zip(self.entries, (horizontal, vertical), strict=True):
            x[..., entries.names.index(name)] = values
        return entries.unpack(x)


def feasible(Q: Array, R: Array) -> np.ndarray:
    """Return whether Q - R R^T >= 0, within rounding, for overlaps of any leading shape."""
    least = np.linalg.eigvalsh(Q - R @ R.mT)[..., 0]
    result: np.ndarray = least >= -1e-12 * np.abs(Q).max(axis=(-2, -1))
    return result


def random_starts(
    problem: Problem, count: int, *, Q: ArrayLike = 1.0, dimension: int | None = None, rng: Seed = 0
) -> tuple[Array, Array]:
    r"""Return random overlaps of weights of a given Q with the features.

    Parameters
    ----------
    problem : Problem
    count : int
    Q : float or array, shape (m, m)
        Positive definite; a number means a multiple of the identity. With a constraint to the sphere, Q_jj = 1.
    dimension : int, optional
        With it R is that of weights drawn independently of the features at this N: the columns of R are N(0, Q / N).
        Without it R is uniform in the admissible set, R = Q^(1/2) V with V uniform among the m x K matrices of spectral
        norm at most 1 (for one output: the ball \|R\|^2 <= Q).
    rng : seed

    Returns
    -------
    Q : ndarray, shape (count, m, m)
    R : ndarray, shape (count, m, K)

    Notes
    -----
    Of the Gaussian law the part outside the admissible set is drawn again.
    """
    count = _checks.integer("count", count, minimum=1)
    m, k = problem.outputs, problem.n_features
    matrix = _checks.array("Q", Q, ndim=(0, 2))
    matrix = matrix * np.eye(m) if not matrix.ndim else _checks.symmetric_matrix("Q", matrix, m)
    if np.linalg.eigvalsh(matrix)[0] <= 0.0:
        raise InvalidInput("Q", Q, "a positive definite matrix, or a positive number")
    if dimension is not None:
        dimension = _checks.integer("dimension", dimension, minimum=m + k)
    generator = np.random.default_rng(_checks.seed_sequence("rng", rng))
    found = np.zeros((0, m, k))
    for _ in range(_MOST_TRIES):
        if dimension is None:
            # Rows of a contraction lie in the unit ball: uniform ones there, and those of norm at most 1 are kept.
            V = generator.normal(size=(count, m, k))
            V *= generator.random((count, m, 1)) ** (1.0 / k) / np.linalg.norm(V, axis=-1, keepdims=True)
        else:
            V = generator.normal(size=(count, m, k)) / np.sqrt(dimension)
        found = np.concatenate([found, V[np.linalg.norm(V, ord=2, axis=(-2, -1)) <= 1.0]])
        if len(found) >= count:
            break
    else:
        raise InvalidInput("count", count, f"few enough admissible overlaps of {m} outputs with {k} features to draw")
    return np.broadcast_to(matrix, (count, m, m)).copy(), square_root(matrix) @ found[:count]
