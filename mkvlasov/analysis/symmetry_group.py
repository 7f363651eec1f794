"""The finite group that the discrete symmetries of a closed system generate, as matrices on the packed entries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.analysis.newton import scales
from mkvlasov.analysis.symmetries import Symmetries
from mkvlasov.limit.entries import Entries

_MOST_ELEMENTS = 400
"""A larger group costs more than it saves, and is left aside: then no start counts as symmetric."""
_FIXED = 1e-12
"""A state is symmetric if a map moves it by less than this part of its scale."""
_DIGITS = 11
"""Decimals, relative to the scale of all states, to which two states are one."""


@dataclass(frozen=True, eq=False)
class SymmetryGroup:
    """Orthogonal matrices (g, d, d) on the entries of (R, Q), the identity first, closed under products."""

    entries: Entries
    matrices: Array

    def __len__(self) -> int:
        return len(self.matrices)

    @classmethod
    def of(cls, symmetries: Symmetries) -> SymmetryGroup:
        """Return the group that the discrete symmetries generate."""
        entries = symmetries.entries
        unit = np.eye(entries.size)
        generators = [symmetry(entries, unit).T for symmetry in symmetries.discrete]
        found = [unit]
        for element in found:  # grows while it is read
            for generator in generators:
                product = generator @ element
                if not any(np.array_equal(product, known) for known in found):
                    found.append(product)
            if len(found) > _MOST_ELEMENTS:
                return cls(entries, unit[None])
        return cls(entries, np.array(found))

    def fold(self, x: Array) -> tuple[Array, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return one state of each class of images among the states x (S, d).

        Returns
        -------
        representatives : ndarray, shape (n, d)
        which : ndarray of int, shape (S,)
            The representative of each state.
        element : ndarray of int, shape (S,)
            The element that takes each state to its representative, up to rounding.
        """
        size = float(np.abs(x).max()) or 1.0
        images = np.einsum("gij,sj->sgi", self.matrices, x)
        keys = np.round(images / size, _DIGITS) + 0.0
        candidate = np.ones(keys.shape[:2], dtype=bool)
        for i in range(keys.shape[2]):
            best = np.where(candidate, keys[:, :, i], -np.inf).max(axis=1)
            candidate &= keys[:, :, i] == best[:, None]
        element = candidate.argmax(axis=1)
        chosen = keys[np.arange(len(x)), element]
        _, first, which = np.unique(chosen, axis=0, return_index=True, return_inverse=True)
        return images[first, element[first]], which.reshape(-1), element

    def isotropy(self, x: Array) -> tuple[Array, npt.NDArray[np.int64]]:
        """Return the projectors (c, d, d) onto the subspaces in which states stay, and the one of each state (S,).

        A state that some elements leave where it is stays in the subspace of all such states for ever. The first
        projector is the identity: states without any symmetry.
        """
        size = scales(self.entries, x)
        moved = np.abs(np.einsum("gij,sj->sgi", self.matrices, x) - x[:, None]) / size[:, None]
        patterns = (moved <= _FIXED).all(axis=-1)
        patterns[:, 0] = True
        generic = np.arange(len(self)) == 0
        kinds, which = np.unique(np.concatenate([generic[None], patterns]), axis=0, return_inverse=True)
        which = which.reshape(-1)
        order = np.argsort(np.arange(len(kinds)) != which[0], kind="stable")  # the generic one first
        projectors = np.array([self.matrices[kinds[k]].mean(axis=0) for k in order])
        return projectors, np.argsort(order)[which[1:]]
