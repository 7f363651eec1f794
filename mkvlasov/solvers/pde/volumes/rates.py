"""What a Fokker-Planck equation needs to know at a time: drift and diffusion, coupled or prescribed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mkvlasov._typing import Array


@dataclass(frozen=True, slots=True)
class Rates:
    """Drift -(linear w + tilt . a + tau phi'(w)) and diffusion D of the equation for the loading a.

    Attributes
    ----------
    linear : float
        tau G, plus the pull back to the sphere.
    tilt : ndarray, shape (K,)
        tau H.
    tau : float
        Learning rate.
    diffusion : float
        D = Lambda / 2.
    loss, error : float
        Expected loss; relative error of the limit coefficients.
    """

    linear: float
    tilt: Array
    tau: float
    diffusion: float
    loss: float = 0.0
    error: float = 0.0

    @property
    def finite(self) -> bool:
        """Whether every coefficient is a number."""
        return bool(np.isfinite(self.linear) and np.isfinite(self.tilt).all() and np.isfinite(self.diffusion))


class RateFunction(Protocol):
    """Rates as a function of time and of the moments (Q, R_1, ..., R_K, E[w phi'(w)])."""

    def __call__(self, t: float, moments: Array) -> Rates:
        """Return the rates; `moments` has shape (K + 2,)."""
