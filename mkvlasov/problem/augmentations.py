"""Augmentations: how two views of one sample are made, and what remains of them in the limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.problem.value import Value


@runtime_checkable
class Augmentation(Protocol):
    """What the package asks of an augmentation."""

    @property
    def is_gaussian(self) -> bool:
        """Whether the views differ from the sample by additive Gaussian noise."""

    def noise_covariance(self, background_variance: float) -> Array:
        """Return S (2, 2), the covariance of the noises of the two views in one coordinate, as seen in the limit."""

    def views(self, rng: np.random.Generator, x: Array) -> tuple[Array, Array]:
        """Return two augmented views of samples x (..., N)."""


@dataclass(frozen=True, eq=False, repr=False)
class GaussianNoise(Value):
    """Additive Gaussian noise, independent over coordinates, correlated between the two views of a sample.

    Parameters
    ----------
    std : float or pair of floats
        Standard deviation s_v >= 0, one for both views or one per view.
    correlation : float
        rho in [-1, 1]: S_12 = rho s_1 s_2.
    """

    std: Array
    correlation: float = 0.0

    def __post_init__(self) -> None:
        std = _checks.array("augmentation.std", self.std, ndim=(0, 1), minimum=0.0)
        if std.ndim and std.shape != (2,):
            raise InvalidInput("augmentation.std", self.std, "one number, or two (one per view)")
        object.__setattr__(self, "std", np.broadcast_to(std, (2,)))
        rho = _checks.number("augmentation.correlation", self.correlation, minimum=-1.0, maximum=1.0)
        object.__setattr__(self, "correlation", rho)

    @property
    def is_gaussian(self) -> bool:
        return True

    def noise_covariance(self, background_variance: float) -> Array:
        s1, s2 = self.std
        return np.array([[s1 * s1, self.correlation * s1 * s2], [self.correlation * s1 * s2, s2 * s2]])

    def views(self, rng: np.random.Generator, x: Array) -> tuple[Array, Array]:
        if not self.std.any():
            return x, x
        first, second = rng.standard_normal(x.shape), rng.standard_normal(x.shape)
        s1, s2 = self.std
        mixed = self.correlation * first + np.sqrt(1.0 - self.correlation**2) * second
        return x + s1 * first, x + s2 * mixed


@dataclass(frozen=True, eq=False, repr=False)
class RandomMask(Value):
    """Random masking: a view keeps an entry with probability `keep`, divided by `keep`, else sets it to zero.

    Parameters
    ----------
    keep : float
        Probability in (0, 1].
    overlap : float, optional
        Probability that both views keep an entry, between max(0, 2 keep - 1) and keep; keep^2 (independent masks)
        if not given, 0 at keep = 1/2 for complementary masks.

    Notes
    -----
    In the limit the same as Gaussian noise with S_vv' = eta (E[b^(v) b^(v')] / keep^2 - 1): docs/theory.md, section 9.
    """

    keep: float
    overlap: float | None = None

    def __post_init__(self) -> None:
        keep = _checks.number("augmentation.keep", self.keep, minimum=0.0, maximum=1.0)
        if keep == 0.0:
            raise InvalidInput("augmentation.keep", self.keep, "a finite number > 0 and <= 1")
        object.__setattr__(self, "keep", keep)
        overlap = keep * keep if self.overlap is None else self.overlap
        least = max(0.0, 2.0 * keep - 1.0)
        object.__setattr__(
            self, "overlap", _checks.number("augmentation.overlap", overlap, minimum=least, maximum=keep)
        )

    @property
    def is_gaussian(self) -> bool:
        return False

    def noise_covariance(self, background_variance: float) -> Array:
        assert self.overlap is not None
        own = 1.0 / self.keep - 1.0
        shared = self.overlap / self.keep**2 - 1.0
        return background_variance * np.array([[own, shared], [shared, own]])

    def views(self, rng: np.random.Generator, x: Array) -> tuple[Array, Array]:
        assert self.overlap is not None
        # One uniform number decides both masks: [0, overlap) both, then first only, then second only.
        u = rng.random(x.shape)
        first = u < self.keep
        second = (u < self.overlap) | ((u >= self.keep) & (u < 2.0 * self.keep - self.overlap))
        return x * first / self.keep, x * second / self.keep
