"""Laws of the hidden variables c in R^K: how strong each feature is in a sample. All have mean zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from scipy import special

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.problem.value import Value

MOST_NODES = 100_000
"""Product rules with more points than this would take minutes for every evaluation of the limit."""


class HiddenNodes(NamedTuple):
    """A law of c written as a finite mixture: c = one of `points` + an independent centred Gaussian.

    Attributes
    ----------
    points : ndarray, shape (n, K)
    weights : ndarray, shape (n,)
        Probabilities of the points.
    covariance : ndarray, shape (K, K)
        Covariance of the Gaussian part, zero for laws without one.
    """

    points: Array
    weights: Array
    covariance: Array


@runtime_checkable
class HiddenLaw(Protocol):
    """What the package asks of a law of the hidden variables."""

    @property
    def n_features(self) -> int:
        """Number of features K."""

    @property
    def covariance(self) -> Array:
        """E[c c^T], shape (K, K)."""

    @property
    def kurtosis(self) -> Array:
        """E[c_k^4] / E[c_k^2]^2, shape (K,)."""

    @property
    def is_exact(self) -> bool:
        """Whether `nodes` represents the law exactly whatever the order."""

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw independent c; result has shape ``shape + (K,)``."""

    def nodes(self, order: int) -> HiddenNodes:
        """Return the law as points and weights, `order` per feature where it is continuous."""


@dataclass(frozen=True, eq=False, repr=False)
class _Independent(Value):
    """Independent components that share a shape and differ in variance."""

    variance: Array

    def __post_init__(self) -> None:
        variance = _checks.array("hidden.variance", self.variance, ndim=(0, 1), minimum=0.0, exclusive=True)
        variance = np.atleast_1d(variance)
        variance.flags.writeable = False
        object.__setattr__(self, "variance", variance)

    @property
    def n_features(self) -> int:
        return len(self.variance)

    @property
    def covariance(self) -> Array:
        return np.diag(self.variance)


@dataclass(frozen=True, eq=False, repr=False)
class Rademacher(_Independent):
    """c_k = +sqrt(variance_k) or -sqrt(variance_k) with equal probability (kurtosis 1)."""

    @property
    def kurtosis(self) -> Array:
        return np.ones(self.n_features)

    @property
    def is_exact(self) -> bool:
        return True

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        signs = 2.0 * rng.integers(0, 2, size=(*shape, self.n_features)).astype(np.float64) - 1.0
        return signs * np.sqrt(self.variance)

    def nodes(self, order: int) -> HiddenNodes:
        return _independent_atoms([(np.array([-s, s]), np.array([0.5, 0.5])) for s in np.sqrt(self.variance)])


@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(_Independent):
    """c_k ~ N(0, variance_k) (kurtosis 3)."""

    @property
    def kurtosis(self) -> Array:
        return np.full(self.n_features, 3.0)

    @property
    def is_exact(self) -> bool:
        return True

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return rng.standard_normal((*shape, self.n_features)) * np.sqrt(self.variance)

    def nodes(self, order: int) -> HiddenNodes:
        return HiddenNodes(np.zeros((1, self.n_features)), np.ones(1), self.covariance)


@dataclass(frozen=True, eq=False, repr=False)
class Uniform(_Independent):
    """c_k uniform on [-sqrt(3 variance_k), sqrt(3 variance_k)] (kurtosis 9/5)."""

    @property
    def kurtosis(self) -> Array:
        return np.full(self.n_features, 1.8)

    @property
    def is_exact(self) -> bool:
        return False

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return rng.uniform(-1.0, 1.0, size=(*shape, self.n_features)) * np.sqrt(3.0 * self.variance)

    def nodes(self, order: int) -> HiddenNodes:
        x, weights = special.roots_legendre(order)
        return _independent_atoms([(x * np.sqrt(3.0 * v), weights / 2.0) for v in self.variance])


@dataclass(frozen=True, eq=False, repr=False)
class Laplace(_Independent):
    """c_k with density proportional to exp(-sqrt(2 / variance_k) |c|) (kurtosis 6)."""

    @property
    def kurtosis(self) -> Array:
        return np.full(self.n_features, 6.0)

    @property
    def is_exact(self) -> bool:
        return False

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return rng.laplace(size=(*shape, self.n_features)) * np.sqrt(self.variance / 2.0)

    def nodes(self, order: int) -> HiddenNodes:
        # Gauss-Laguerre on each side of the kink of the density at zero.
        x, weights = special.roots_laguerre(order)
        both, halves = np.concatenate([-x[::-1], x]), np.concatenate([weights[::-1], weights]) / 2.0
        keep = halves > 1e-25  # the outermost weights are below anything that a sum of them could show
        both, halves = both[keep], halves[keep] / halves[keep].sum()
        return _independent_atoms([(both * np.sqrt(v / 2.0), halves) for v in self.variance])


@dataclass(frozen=True, eq=False, repr=False)
class Sparse(_Independent):
    """c_k = 0, or +-sqrt(variance_k * kurtosis_k) with probability 1 / (2 kurtosis_k) each.

    Parameters
    ----------
    variance : float or sequence, shape (K,)
    kurtosis : float or sequence, shape (K,)
        E c^4 / (E c^2)^2, at least 1; 1 gives the Rademacher law.
    """

    kurtosis: Array

    def __post_init__(self) -> None:
        super().__post_init__()
        kurtosis = _checks.array("hidden.kurtosis", self.kurtosis, ndim=(0, 1), minimum=1.0)
        if kurtosis.ndim and kurtosis.shape != self.variance.shape:
            raise InvalidInput("hidden.kurtosis", self.kurtosis, f"one number, or {self.n_features} like the variance")
        kurtosis = np.broadcast_to(kurtosis, self.variance.shape)
        object.__setattr__(self, "kurtosis", kurtosis)

    @property
    def is_exact(self) -> bool:
        return True

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        u = rng.random((*shape, self.n_features))
        size = np.sqrt(self.variance * self.kurtosis)
        half = 0.5 / self.kurtosis
        return size * ((u < half).astype(np.float64) - (u >= 1.0 - half))

    def nodes(self, order: int) -> HiddenNodes:
        features = []
        for variance, kurtosis in zip(self.variance, self.kurtosis, strict=True):
            size, half = np.sqrt(variance * kurtosis), 0.5 / kurtosis
            atoms, weights = np.array([-size, 0.0, size]), np.array([half, 1.0 - 2.0 * half, half])
            features.append((atoms[weights > 0.0], weights[weights > 0.0]))
        return _independent_atoms(features)


@dataclass(frozen=True, eq=False, repr=False)
class Discrete(Value):
    """Any law on finitely many points; components may depend on each other.

    Parameters
    ----------
    atoms : array, shape (A, K)
        Points; a list of A numbers means K = 1.
    weights : array, shape (A,)
        Their probabilities. The mean must be zero.
    """

    atoms: Array
    weights: Array

    def __post_init__(self) -> None:
        atoms = _as_rows(_checks.array("hidden.atoms", self.atoms, ndim=(1, 2)))
        object.__setattr__(self, "atoms", atoms)
        object.__setattr__(self, "weights", _checks.probabilities("hidden.weights", self.weights, len(atoms)))
        _check_centred("hidden.atoms", atoms, self.weights)

    @property
    def n_features(self) -> int:
        return int(self.atoms.shape[1])

    @property
    def covariance(self) -> Array:
        return (self.atoms * self.weights[:, None]).T @ self.atoms

    @property
    def kurtosis(self) -> Array:
        return self.weights @ self.atoms**4 / (self.weights @ self.atoms**2) ** 2

    @property
    def is_exact(self) -> bool:
        return True

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return self.atoms[rng.choice(len(self.atoms), size=shape, p=self.weights)]

    def nodes(self, order: int) -> HiddenNodes:
        return HiddenNodes(self.atoms, self.weights, np.zeros((self.n_features, self.n_features)))


@dataclass(frozen=True, eq=False, repr=False)
class Empirical(Value):
    """The law of a sample: every row of `samples` with the same probability.

    Parameters
    ----------
    samples : array, shape (n, K)
        Observed hidden variables, centred by the user (mean zero to 1e-6 of their standard deviation).
    """

    samples: Array

    def __post_init__(self) -> None:
        samples = _as_rows(_checks.array("hidden.samples", self.samples, ndim=(1, 2)))
        object.__setattr__(self, "samples", samples)
        _check_centred("hidden.samples", samples, np.full(len(samples), 1.0 / len(samples)))

    @property
    def n_features(self) -> int:
        return int(self.samples.shape[1])

    @property
    def covariance(self) -> Array:
        return self.samples.T @ self.samples / len(self.samples)

    @property
    def kurtosis(self) -> Array:
        return (self.samples**4).mean(axis=0) / (self.samples**2).mean(axis=0) ** 2

    @property
    def is_exact(self) -> bool:
        return True

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return self.samples[rng.integers(0, len(self.samples), size=shape)]

    def nodes(self, order: int) -> HiddenNodes:
        n = len(self.samples)
        return HiddenNodes(self.samples, np.full(n, 1.0 / n), np.zeros((self.n_features, self.n_features)))


def _as_rows(points: Array) -> Array:
    rows = points[:, None] if points.ndim == 1 else points
    rows.flags.writeable = False
    return rows


def _check_centred(field: str, points: Array, weights: Array) -> None:
    mean, second = weights @ points, weights @ points**2
    if (second <= 0.0).any():
        raise InvalidInput(field, points, "points with a positive variance in every feature")
    if (np.abs(mean) > 1e-6 * np.sqrt(second)).any():
        raise InvalidInput(field, points, f"points with mean zero in every feature (the mean is {mean.tolist()})")


def _independent_atoms(features: list[tuple[Array, Array]]) -> HiddenNodes:
    """Combine one-dimensional rules into the product rule."""
    size = math.prod(len(atoms) for atoms, _ in features)
    if size > MOST_NODES:
        raise UnsupportedError(
            f"hidden: the limit of {len(features)} independent features averages over {size:.3g} joint values of c, at "
            f"most {MOST_NODES} are feasible; take fewer features, a Gaussian or a Discrete law, or simulate_sgd"
        )
    points = np.array(list(product(*(atoms for atoms, _ in features))), dtype=np.float64)
    weights = np.array([np.prod(ws) for ws in product(*(weights for _, weights in features))], dtype=np.float64)
    return HiddenNodes(points, weights, np.zeros((len(features), len(features))))
