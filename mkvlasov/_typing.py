"""Aliases for the arrays that the package passes around."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
"""Array of double-precision numbers."""

ArrayLike = float | Sequence[float] | Sequence[Sequence[float]] | npt.NDArray[np.generic]
"""What a user may give where an array is stored."""

ScalarFunction = Callable[[Array], Array]
"""Function applied entry by entry."""

Seed = int | None | np.random.SeedSequence | np.random.Generator
"""What a user may give as ``rng``."""
