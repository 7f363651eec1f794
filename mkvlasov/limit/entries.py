"""The independent entries of the order parameters as one vector: R row by row, then the upper triangle of Q."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mkvlasov._typing import Array


@dataclass(frozen=True)
class Entries:
    """Packs (Q, R) into vectors (..., d), d = m K + m (m + 1) / 2, and back.

    Parameters
    ----------
    outputs, features : int
        m and K.
    """

    outputs: int
    features: int

    @cached_property
    def triangle(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the upper triangle of Q."""
        rows, columns = np.triu_indices(self.outputs)
        return rows, columns

    @property
    def overlaps(self) -> int:
        """Number of entries of R, which come first."""
        return self.outputs * self.features

    @property
    def size(self) -> int:
        """Number of entries d."""
        return self.overlaps + self.outputs * (self.outputs + 1) // 2

    @property
    def names(self) -> tuple[str, ...]:
        """Names such as "R[0,1]" and "Q[0,0]", in order."""
        first = [f"R[{j},{k}]" for j in range(self.outputs) for k in range(self.features)]
        return (*first, *(f"Q[{j},{k}]" for j, k in zip(*self.triangle, strict=True)))

    def pack(self, Q: Array, R: Array) -> Array:
        """Return the vectors (..., d) of Q (..., m, m) and R (..., m, K)."""
        rows, columns = self.triangle
        return np.concatenate([R.reshape(*R.shape[:-2], -1), Q[..., rows, columns]], axis=-1)

    def unpack(self, x: Array) -> tuple[Array, Array]:
        """Return Q (..., m, m), symmetric, and R (..., m, K) of vectors (..., d)."""
        rows, columns = self.triangle
        R = x[..., : self.overlaps].reshape(*x.shape[:-1], self.outputs, self.features)
        Q = np.empty((*x.shape[:-1], self.outputs, self.outputs))
        Q[..., rows, columns] = Q[..., columns, rows] = x[..., self.overlaps :]
        return Q, R
