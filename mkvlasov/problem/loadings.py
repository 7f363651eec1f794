"""Laws of the feature loadings a = sqrt(N) U_i in R^K of one coordinate, with E[a a^T] = identity."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from scipy import special

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.problem.value import Value


class LoadingNodes(NamedTuple):
    """Points (L, K) and their probabilities (L,): the atoms of a discrete law, or a quadrature of a continuous one."""

    points: Array
    weights: Array


@runtime_checkable
class LoadingLaw(Protocol):
    """What the package asks of a law of loadings."""

    @property
    def is_exact(self) -> bool:
        """Whether `nodes` are the atoms of the law (whatever the order)."""

    def check(self, n_features: int) -> None:
        """Raise `InvalidInput` unless the law exists for K = `n_features`."""

    def mean(self, n_features: int) -> Array:
        """E[a], shape (K,)."""

    def sample(self, rng: np.random.Generator, n: int, n_features: int) -> Array:
        """Draw n independent loadings, shape (n, K)."""

    def nodes(self, n_features: int, order: int) -> LoadingNodes:
        """Return atoms, or a quadrature with `order` points per feature."""


class _AnyDimension(Value):
    """Laws with independent components, for every K."""

    __slots__ = ()

    def check(self, n_features: int) -> None:
        pass

    def mean(self, n_features: int) -> Array:
        return np.zeros(n_features)


@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(_AnyDimension):
    """Standard normal loadings: features without structure."""

    @property
    def is_exact(self) -> bool:
        return False

    def sample(self, rng: np.random.Generator, n: int, n_features: int) -> Array:
        return rng.standard_normal((n, n_features))

    def nodes(self, n_features: int, order: int) -> LoadingNodes:
        _check_count(order, n_features)
        x, weights = special.roots_hermitenorm(order)
        return _product(x, weights / weights.sum(), n_features)


@dataclass(frozen=True, eq=False, repr=False)
class Rademacher(_AnyDimension):
    """Every loading is +1 or -1."""

    @property
    def is_exact(self) -> bool:
        return True

    def sample(self, rng: np.random.Generator, n: int, n_features: int) -> Array:
        return 2.0 * rng.integers(0, 2, size=(n, n_features)).astype(np.float64) - 1.0

    def nodes(self, n_features: int, order: int) -> LoadingNodes:
        return _product(np.array([-1.0, 1.0]), np.array([0.5, 0.5]), n_features)


@dataclass(frozen=True, eq=False, repr=False)
class Sparse(Value):
    """Features that live on a fraction of the coordinates.

    K = 1: a = 1 / sqrt(density) with probability `density`, else 0. K > 1: independent components, each
    +-1 / sqrt(density) with probability density / 2 (the random sign makes E[a a^T] the identity).
    """

    density: float

    def __post_init__(self) -> None:
        checked = _checks.number("loadings.density", self.density, minimum=0.0, maximum=1.0)
        if checked == 0.0:
            raise InvalidInput("loadings.density", self.density, "a finite number > 0 and <= 1")
        object.__setattr__(self, "density", checked)

    @property
    def is_exact(self) -> bool:
        return True

    def check(self, n_features: int) -> None:
        pass

    def mean(self, n_features: int) -> Array:
        return np.full(1, np.sqrt(self.density)) if n_features == 1 else np.zeros(n_features)

    def sample(self, rng: np.random.Generator, n: int, n_features: int) -> Array:
        size = 1.0 / np.sqrt(self.density)
        u = rng.random((n, n_features))
        if n_features == 1:
            return size * (u < self.density)
        return size * ((u < self.density / 2.0).astype(np.float64) - (u >= 1.0 - self.density / 2.0))

    def nodes(self, n_features: int, order: int) -> LoadingNodes:
        size, density = 1.0 / np.sqrt(self.density), self.density
        if n_features == 1:
            atoms, weights = np.array([0.0, size]), np.array([1.0 - density, density])
        else:
            atoms, weights = np.array([-size, 0.0, size]), np.array([density / 2.0, 1.0 - density, density / 2.0])
        return _product(atoms[weights > 0.0], weights[weights > 0.0], n_features)


@dataclass(frozen=True, eq=False, repr=False)
class Discrete(Value):
    """Any law on finitely many points with E[a a^T] = identity.

    Parameters
    ----------
    atoms : array, shape (A, K)
        Points; a list of A numbers means K = 1.
    weights : array, shape (A,)
        Their probabilities.
    """

    atoms: Array
    weights: Array

    def __post_init__(self) -> None:
        atoms = _checks.array("loadings.atoms", self.atoms, ndim=(1, 2))
        atoms = atoms[:, None] if atoms.ndim == 1 else atoms
        object.__setattr__(self, "atoms", atoms)
        object.__setattr__(self, "weights", _checks.probabilities("loadings.weights", self.weights, len(atoms)))
        check_identity("loadings.atoms", atoms, self.weights)

    @property
    def is_exact(self) -> bool:
        return True

    def check(self, n_features: int) -> None:
        if self.atoms.shape[1] != n_features:
            raise InvalidInput("loadings.atoms", self.atoms, f"atoms of {n_features} component(s), one per feature")

    def mean(self, n_features: int) -> Array:
        return self.weights @ self.atoms

    def sample(self, rng: np.random.Generator, n: int, n_features: int) -> Array:
        return self.atoms[rng.choice(len(self.atoms), size=n, p=self.weights)]

    def nodes(self, n_features: int, order: int) -> LoadingNodes:
        return LoadingNodes(self.atoms, self.weights)


@dataclass(frozen=True, eq=False, repr=False)
class Empirical(Value):
    """The law of observed loadings: every row of `values` (n, K) with the same probability."""

    values: Array

    def __post_init__(self) -> None:
        values = _checks.array("loadings.values", self.values, ndim=(1, 2))
        values = values[:, None] if values.ndim == 1 else values
        object.__setattr__(self, "values", values)
        check_identity("loadings.values", values, np.full(len(values), 1.0 / len(values)))

    @property
    def is_exact(self) -> bool:
        return True

    def check(self, n_features: int) -> None:
        if self.values.shape[1] != n_features:
            raise InvalidInput("loadings.values", self.values, f"rows of {n_features} component(s), one per feature")

    def mean(self, n_features: int) -> Array:
        return self.values.mean(axis=0)

    def sample(self, rng: np.random.Generator, n: int, n_features: int) -> Array:
        return self.values[rng.integers(0, len(self.values), size=n)]

    def nodes(self, n_features: int, order: int) -> LoadingNodes:
        return unique_rows(self.values)


def unique_rows(values: Array) -> LoadingNodes:
    """Return the distinct rows and their frequencies."""
    points, counts = np.unique(values, axis=0, return_counts=True)
    return LoadingNodes(points, counts / len(values))


def check_identity(field: str, points: Array, weights: Array) -> None:
    """Raise `InvalidInput` unless E[a a^T] is the identity to 1e-6."""
    second = (points * weights[:, None]).T @ points
    if np.abs(second - np.eye(points.shape[1])).max() > 1e-6:
        raise InvalidInput(field, points, f"loadings with E[a a^T] = identity (it is {second.round(6).tolist()})")


MOST_NODES = 20_000
"""Product rules with more points than this are too many densities for one PDE."""


def _check_count(values: int, n_features: int) -> None:
    if values**n_features > MOST_NODES:
        raise UnsupportedError(
            f"loadings: {values} values in each of {n_features} features make more than {MOST_NODES} loadings; "
            "take fewer features, a Discrete law, or a simulation"
        )


def _product(atoms: Array, weights: Array, n_features: int) -> LoadingNodes:
    _check_count(len(atoms), n_features)
    points = np.array(list(product(atoms, repeat=n_features)), dtype=np.float64)
    return LoadingNodes(points, np.array([np.prod(ws) for ws in product(weights, repeat=n_features)]))
