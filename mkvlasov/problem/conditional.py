"""Laws of one row of weights w in R^m given its loading: what solvers ask of them, and mixtures of Gaussians."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from scipy import special

from mkvlasov._typing import Array
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.value import Value


@runtime_checkable
class ConditionalLaw(Protocol):
    """What the package asks of the law of w given a loading; the last three are for one output (m = 1) only."""

    @property
    def mean(self) -> Array:
        """E[w], shape (m,)."""

    @property
    def second_moment(self) -> Array:
        """E[w w^T], shape (m, m)."""

    @property
    def is_smooth(self) -> bool:
        """Whether there is a density without jumps."""

    def affine(self, A: Array, shift: Array, P: Array) -> ConditionalLaw:
        """Return the law of A w + shift + N(0, P); A and P are (m, m), shift is (m,)."""

    def marginal(self, output: int) -> ConditionalLaw:
        """Return the law of one entry of the vector."""

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        """Draw n independent rows, shape (n, m)."""

    def pdf(self, w: Array) -> Array:
        """Return the density at w (n,)."""

    def cdf(self, w: Array) -> Array:
        """Return the distribution function at w (n,)."""

    def ends(self, tail: float) -> tuple[float, float]:
        """Return an interval that holds all but at most the mass `tail` on either side."""


@dataclass(frozen=True, eq=False, repr=False)
class GaussianMixture(Value):
    """Law of a vector in R^m: weights (J,), means (J, m), covariances (J, m, m), which may be singular."""

    weights: Array
    means: Array
    covariances: Array

    def affine(self, A: Array, shift: Array, P: Array) -> GaussianMixture:
        """Return the law of A w + shift + N(0, P); A and P are (m, m), shift is (m,)."""
        return GaussianMixture(self.weights, self.means @ A.T + shift, A @ self.covariances @ A.T + P)

    def marginal(self, output: int) -> GaussianMixture:
        """Return the law of one entry of the vector, as a mixture with m = 1."""
        j = slice(output, output + 1)
        return GaussianMixture(self.weights, self.means[:, j], self.covariances[:, j, j])

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        """Draw n independent rows, shape (n, m)."""
        which = rng.choice(len(self.weights), size=n, p=self.weights)
        roots = square_root(self.covariances)
        normals = rng.standard_normal((n, self.means.shape[1]))
        return self.means[which] + (roots[which] @ normals[..., None])[..., 0]

    @property
    def mean(self) -> Array:
        """E[w], shape (m,)."""
        return self.weights @ self.means

    @property
    def second_moment(self) -> Array:
        """E[w w^T], shape (m, m)."""
        return np.einsum("j,jab->ab", self.weights, self.covariances) + (self.weights * self.means.T) @ self.means

    @property
    def is_smooth(self) -> bool:
        """Whether there is a smooth density: no point masses, and for m > 1 none on a line or plane."""
        return bool((np.linalg.eigvalsh(self.covariances)[:, 0] > 0.0).all())

    def ends(self, tail: float) -> tuple[float, float]:
        """Return an interval that holds all but at most the mass `tail` on either side, for m = 1."""
        mean, std = self._scalar()
        reach = -float(special.ndtri(tail))
        return float((mean - reach * std).min()), float((mean + reach * std).max())

    def pdf(self, w: Array) -> Array:
        """Return the density at w (n,), for m = 1; components without variance are left out (they have none)."""
        mean, std = self._scalar()
        spread = std > 0.0
        z = (w[:, None] - mean[spread]) / std[spread]
        return np.exp(-0.5 * z * z) @ (self.weights[spread] / (np.sqrt(2.0 * np.pi) * std[spread]))

    def joint_pdf(self, w: Array) -> Array:
        """Return the density at w (n, m), for covariances that are not singular."""
        total = np.zeros(len(w))
        for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True):
            root = np.linalg.cholesky(covariance)
            z = np.linalg.solve(root, (w - mean).T)
            scale = np.prod(np.diagonal(root)) * (2.0 * np.pi) ** (0.5 * len(mean))
            total += weight / scale * np.exp(-0.5 * (z * z).sum(axis=0))
        return total

    def cdf(self, w: Array) -> Array:
        """Return the distribution function at w (n,), for m = 1."""
        mean, std = self._scalar()
        distance = w[:, None] - mean
        z = np.where(std > 0.0, distance / np.where(std > 0.0, std, 1.0), np.where(distance >= 0.0, np.inf, -np.inf))
        return special.ndtr(z) @ self.weights

    def _scalar(self) -> tuple[Array, Array]:
        if self.means.shape[1] != 1:
            raise ValueError(f"densities on a line need one output, this law has {self.means.shape[1]}")
        # An affine image of a point mass may have a variance of minus rounding.
        return self.means[:, 0], np.sqrt(np.maximum(self.covariances[:, 0, 0], 0.0))


def invert(cdf: Callable[[Array], Array], q: Array, low: Array | float, high: Array | float) -> Array:
    """Return where an increasing function takes the values q (n,), by bisection between the bounds, to rounding."""
    below, above = np.full_like(q, low), np.full_like(q, high)
    for _ in range(60):
        middle = 0.5 * (below + above)
        reached = cdf(middle) >= q
        below, above = np.where(reached, below, middle), np.where(reached, middle, above)
    return above
