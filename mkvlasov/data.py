"""Real data as an instance of the model: x = U c + sqrt(eta) (I - U U^T) z with everything but z measured.

The leading principal directions of the samples play the features, the projections on them the hidden variables, and
what is left the background, which the theory takes for white noise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import InvalidInput
from mkvlasov.problem import hidden, loadings
from mkvlasov.problem.activations import Activation
from mkvlasov.problem.augmentations import Augmentation
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.losses import Loss
from mkvlasov.problem.regularizers import Regularizer
from mkvlasov.problem.value import Value

FAR_FROM_WHITE = 0.5
"""Relative spread of the eigenvalues of the background beyond which `from_data` warns; that of white noise seen through
four samples per coordinate. What follows for training curves was measured: docs/real-data.md."""

# Eigenvalues below this fraction of the largest are rounding.
_RANK_TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class DataModel(Value):
    """What the theory needs to know of real data, and the samples themselves; prints itself with its numbers.

    Made by `from_data`. Samples are centred and divided by one number, so that the background has the mean variance 1
    per direction: learning rates and noise mean what they mean in the model with eta = 1.

    Attributes
    ----------
    samples : ndarray, shape (n, N)
        Without coordinates that are constant.
    features : ndarray, shape (N, K)
        U, the leading principal directions, orthonormal; the sign makes the largest entry of each positive.
    hidden : hidden.Empirical
        Law of c: the projections of the samples, uncorrelated between features.
    loadings : loadings.Empirical
        a_i = sqrt(N) U_i of every coordinate.
    spectrum : ndarray, shape (N - K,)
        Variances of the background along its own principal directions, decreasing; the mean is 1.
    mean : ndarray, shape (N,)
    scale : float
        Samples are (x - mean) / scale in the units of the data; scale^2 is the measured variance of the background.
    kept : ndarray of bool
        Which coordinates of the data are the N of the model; the others are constant.
    """

    samples: Array
    features: Array
    hidden: hidden.Empirical
    loadings: loadings.Empirical
    spectrum: Array
    mean: Array
    scale: float
    kept: np.ndarray

    @property
    def dimension(self) -> int:
        """N."""
        return int(self.samples.shape[1])

    @property
    def n_features(self) -> int:
        """K."""
        return int(self.features.shape[1])

    @property
    def background_variance(self) -> float:
        """eta, which is 1 in the units of `samples`."""
        return 1.0

    @property
    def spread(self) -> float:
        """Standard deviation of the eigenvalues of the background, relative to their mean; 0 if it is white."""
        return float(self.spectrum.std() / self.spectrum.mean())

    @property
    def white_spread(self) -> float:
        """The same for white noise seen through as many samples (Marchenko-Pastur): sqrt((N - K) / (n - 1))."""
        return math.sqrt(len(self.spectrum) / (len(self.samples) - 1))

    @property
    def participating(self) -> float:
        """Participation ratio of the background: how many directions of equal variance would spread as it does."""
        return len(self.spectrum) / (1.0 + self.spread**2)

    def problem(
        self,
        *,
        activation: str | Activation,
        learning_rate: float | Callable[[float], float],
        regularizer: Regularizer | None = None,
        augmentation: Augmentation | None = None,
        loss: Loss | None = None,
        outputs: int = 1,
        batch_size: float = 1,
        constraint: str | None = None,
    ) -> Problem:
        """Return the problem with the laws of these data; arguments as in `Problem`."""
        return Problem(
            hidden=self.hidden,
            loadings=self.loadings,
            background_variance=self.background_variance,
            activation=activation,
            learning_rate=learning_rate,
            regularizer=regularizer,
            augmentation=augmentation,
            loss=loss,
            outputs=outputs,
            batch_size=batch_size,
            constraint=constraint,
        )

    def check(self, problem: Problem) -> None:
        """Raise `InvalidInput` unless the laws of the problem are those of these data."""
        for name in ("hidden", "loadings", "background_variance"):
            if getattr(problem, name) != getattr(self, name):
                allowed = "that of the data: make the problem with DataModel.problem"
                raise InvalidInput(f"problem.{name}", getattr(problem, name), allowed)

    def __repr__(self) -> str:
        n, dimension = self.samples.shape
        return f"DataModel({n} samples, dimension={dimension}, n_features={self.n_features}, spread={self.spread:.3g})"

    def __str__(self) -> str:
        (n, dimension), constant = self.samples.shape, int((~self.kept).sum())
        dropped = f" ({constant} more are constant, dropped)" if constant else ""
        lines = [
            f"{n} samples of {dimension} coordinates{dropped}, centred and divided by {self.scale:.4g}",
            f"{'feature':>10}{'variance':>12}{'skewness':>12}{'kurtosis':>12}",
        ]
        variance = np.diagonal(self.hidden.covariance)
        skewness = (self.hidden.samples**3).mean(axis=0) / variance**1.5
        for k, numbers in enumerate(zip(variance, skewness, self.hidden.kurtosis, strict=True)):
            lines.append(f"{k:10d}" + "".join(f"{number:12.4g}" for number in numbers))
        lines.append(f"background: mean variance 1 in {len(self.spectrum)} directions; {self._whiteness()}")
        return "\n".join(lines)

    def _whiteness(self) -> str:
        """Compare the spectrum of the background with that of white noise, in words."""
        low, high = max(0.0, 1.0 - self.white_spread) ** 2, (1.0 + self.white_spread) ** 2
        return (
            f"eigenvalues {self.spectrum[-1]:.3g} to {self.spectrum[0]:.3g}, spread {self.spread:.3g} "
            f"(white noise in as many samples: {low:.3g} to {high:.3g}, spread {self.white_spread:.3g}), as if "
            f"{self.participating:.3g} of the directions were white and the others empty"
        )


def from_data(X: ArrayLike, *, n_features: int) -> DataModel:
    """Read features, hidden variables and background off a data matrix.

    Samples are centred, and coordinates that are constant are dropped. The K leading eigenvectors of the covariance
    matrix are the features; the mean of the other eigenvalues is the variance of the background, and everything is
    divided by its square root.

    Parameters
    ----------
    X : array_like, shape (samples, coordinates)
        Finite numbers. The limit wants many more samples than coordinates: it takes every sample for a fresh one.
    n_features : int
        K, at least 1 and less than the number of directions in which the samples vary.

    Returns
    -------
    DataModel

    Warns
    -----
    UserWarning
        If the background is far from white: the standard deviation of its eigenvalues is more than half of their mean.
        More features take the largest ones out of the background.

    Raises
    ------
    InvalidInput
        Entries that are not finite, too few samples, `n_features` out of its range.

    Notes
    -----
    Costs one eigenvalue problem of the size of the covariance matrix. docs/real-data.md.
    """
    given = _checks.array("X", X, ndim=2)
    kept = given.max(axis=0) > given.min(axis=0)
    mean = given[:, kept].mean(axis=0)
    centred = given[:, kept] - mean
    # Squares and their sums must neither overflow nor vanish.
    size = float(np.abs(centred).max(initial=0.0))
    centred = centred / size if size > 0.0 else centred
    n, dimension = centred.shape
    values, vectors = np.linalg.eigh(centred.T @ centred / n)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > _RANK_TOLERANCE * values.max(initial=0.0)).sum())
    if rank < 2:
        raise InvalidInput("X", given, f"samples that vary in at least 2 directions ({n} samples vary in {rank})")
    k = _checks.integer("n_features", n_features, minimum=1, maximum=rank - 1)

    background = np.maximum(values[k:], 0.0)
    root = math.sqrt(background.mean())
    leading = vectors[:, :k]
    features = leading * np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(k)])
    samples = centred / root
    model = DataModel(
        samples=_frozen(samples),
        features=_frozen(features),
        hidden=hidden.Empirical(samples @ features),
        loadings=loadings.Empirical(math.sqrt(dimension) * features),
        spectrum=_frozen(background / root**2),
        mean=_frozen(mean),
        scale=size * root,
        kept=kept,
    )
    if model.spread > FAR_FROM_WHITE:
        warnings.warn(f"the background of the data is far from white: {model._whiteness()}", stacklevel=2)
    return model


def _frozen(values: Array) -> Array:
    values.flags.writeable = False
    return values
