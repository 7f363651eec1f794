"""Initial laws: the distribution of a row of weights w in R^m given its loading a in R^K, at t = 0.

Given the loading, every law here is a finite mixture of Gaussians (point masses included), so the exact solution
under L2 regularization is one as well (docs/theory.md, section 5). Laws to continue from, where a solution ended, are
in `continued`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import InvalidInput
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.conditional import ConditionalLaw as ConditionalLaw
from mkvlasov.problem.conditional import GaussianMixture as GaussianMixture
from mkvlasov.problem.continued import Affine as Affine
from mkvlasov.problem.continued import Tabulated as Tabulated
from mkvlasov.problem.continued import matching, sample_each
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.loadings import LoadingNodes, check_identity
from mkvlasov.problem.value import Value


@runtime_checkable
class InitialLaw(Protocol):
    """What the package asks of an initial law; `problem` gives m, K and the law of the loadings."""

    def check(self, problem: Problem) -> None:
        """Raise `InvalidInput` unless the law fits the problem."""

    def overlaps(self, problem: Problem) -> tuple[Array, Array]:
        """Return Q = E[w w^T] (m, m) and R = E[w a^T] (m, K)."""

    def conditional(self, loading: Array, problem: Problem) -> ConditionalLaw:
        """Return the law of w given the loading (K,)."""

    def loading_nodes(self, problem: Problem, order: int) -> LoadingNodes:
        """Return the law of the loadings as points and weights."""

    def sample(self, rng: np.random.Generator, a: Array, problem: Problem) -> Array:
        """Draw independent rows of weights (n, m) for given loadings (n, K)."""

    def sample_rows(self, rng: np.random.Generator, n: int, problem: Problem) -> tuple[Array, Array]:
        """Draw n independent rows: weights (n, m) and loadings (n, K)."""


class _GivenLoading(Value):
    """Laws that take the loadings from the problem."""

    __slots__ = ()

    def loading_nodes(self, problem: Problem, order: int) -> LoadingNodes:
        return problem.loadings.nodes(problem.n_features, order)

    def sample_rows(self, rng: np.random.Generator, n: int, problem: Problem) -> tuple[Array, Array]:
        a = problem.loadings.sample(rng, n, problem.n_features)
        return self.sample(rng, a, problem), a

    def sample(self, rng: np.random.Generator, a: Array, problem: Problem) -> Array:
        raise NotImplementedError


@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(_GivenLoading):
    """w given a is normal with mean R a and covariance Q - R R^T.

    Parameters
    ----------
    Q : float or array, shape (m, m)
        E[w w^T]; a number means that number times the identity.
    R : float or array, shape (m, K), or (K,) for m = 1
        E[w a^T]; the number 0 means no overlap, any other number m = K = 1.
    """

    Q: Array
    R: Array

    def __init__(self, Q: ArrayLike = 1.0, R: ArrayLike = 0.0) -> None:
        q = _checks.array("initial.Q", Q, ndim=(0, 2))
        r = _checks.array("initial.R", R, ndim=(0, 1, 2))
        if q.ndim == 2:
            q = _checks.symmetric_matrix("initial.Q", Q, q.shape[0])
        r = r[None, :] if r.ndim == 1 else r
        r.flags.writeable = False
        object.__setattr__(self, "Q", q)
        object.__setattr__(self, "R", r)
        if (np.linalg.eigvalsh(np.atleast_2d(q)) <= 0.0).any():
            raise InvalidInput("initial.Q", Q, "a positive number or a positive definite matrix")
        if r.ndim == 2 and q.ndim == 2 and len(r) != len(q):
            raise InvalidInput("initial.R", R, f"an array with {len(q)} row(s), one per output, like Q")
        m, k = r.shape if r.ndim == 2 else (len(q) if q.ndim == 2 else 1, 1)
        self._covariance(*self._matrices(m, k))

    @staticmethod
    def _covariance(Q: Array, R: Array) -> Array:
        covariance = Q - R @ R.T
        smallest = float(np.linalg.eigvalsh(covariance).min())
        if smallest < -1e-12 * np.abs(Q).max():
            allowed = f"overlaps with Q - R R^T positive semidefinite (its smallest eigenvalue is {smallest:.6g})"
            raise InvalidInput("initial.R", R.tolist(), allowed)
        return covariance

    def _matrices(self, m: int, k: int) -> tuple[Array, Array]:
        Q = self.Q * np.eye(m) if self.Q.ndim == 0 else self.Q
        R = np.full((m, k), self.R) if self.R.ndim == 0 else self.R
        return Q, R

    def check(self, problem: Problem) -> None:
        m, k = problem.outputs, problem.n_features
        if self.Q.ndim == 2 and self.Q.shape != (m, m):
            raise InvalidInput("initial.Q", self.Q, f"a number or an array of shape ({m}, {m})")
        if self.R.ndim == 2 and self.R.shape != (m, k):
            allowed = f"an array of shape ({m}, {k})" + (f" or ({k},)" if m == 1 else "")
            raise InvalidInput("initial.R", self.R, allowed)
        if self.R.ndim == 0 and self.R != 0.0 and (m, k) != (1, 1):
            raise InvalidInput("initial.R", float(self.R), f"0 or an array of shape ({m}, {k})")

    def overlaps(self, problem: Problem) -> tuple[Array, Array]:
        self.check(problem)
        return self._matrices(problem.outputs, problem.n_features)

    def conditional(self, loading: Array, problem: Problem) -> GaussianMixture:
        Q, R = self.overlaps(problem)
        return GaussianMixture(np.ones(1), (R @ loading)[None], self._covariance(Q, R)[None])

    def sample(self, rng: np.random.Generator, a: Array, problem: Problem) -> Array:
        Q, R = self.overlaps(problem)
        return a @ R.T + rng.standard_normal((len(a), len(Q))) @ square_root(self._covariance(Q, R))


@dataclass(frozen=True, eq=False, repr=False)
class Point(_GivenLoading):
    """Every row starts at the same w, whatever its loading.

    Parameters
    ----------
    w : float or array, shape (m,)
        A number means that number for every output.
    """

    w: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "w", _checks.array("initial.w", self.w, ndim=(0, 1)))

    def check(self, problem: Problem) -> None:
        if self.w.ndim and len(self.w) != problem.outputs:
            raise InvalidInput("initial.w", self.w, f"a number or {problem.outputs} number(s), one per output")

    def overlaps(self, problem: Problem) -> tuple[Array, Array]:
        w = self._row(problem)
        return np.outer(w, w), np.outer(w, problem.loadings.mean(problem.n_features))

    def conditional(self, loading: Array, problem: Problem) -> GaussianMixture:
        w = self._row(problem)
        return GaussianMixture(np.ones(1), w[None], np.zeros((1, len(w), len(w))))

    def sample(self, rng: np.random.Generator, a: Array, problem: Problem) -> Array:
        w = self._row(problem)
        return np.tile(w, (len(a), 1))

    def _row(self, problem: Problem) -> Array:
        self.check(problem)
        return np.array(np.broadcast_to(self.w, (problem.outputs,)))


@dataclass(frozen=True, eq=False, repr=False)
class Mixture(_GivenLoading):
    """A row follows component i with probability weights[i], whatever its loading.

    Parameters
    ----------
    weights : sequence, shape (n,)
        Positive, summing to one.
    components : sequence of `Gaussian` or `Point`
    """

    weights: Array
    components: tuple[Gaussian | Point, ...]

    def __init__(self, weights: ArrayLike, components: Sequence[Gaussian | Point]) -> None:
        allowed = "a non-empty list of Gaussian or Point laws"
        try:
            parts = tuple(components)
        except TypeError:
            raise InvalidInput("initial.components", components, allowed) from None
        if not parts or not all(isinstance(part, (Gaussian, Point)) for part in parts):
            raise InvalidInput("initial.components", components, allowed)
        object.__setattr__(self, "components", parts)
        object.__setattr__(self, "weights", _checks.probabilities("initial.weights", weights, len(parts)))

    def check(self, problem: Problem) -> None:
        for part in self.components:
            part.check(problem)

    def overlaps(self, problem: Problem) -> tuple[Array, Array]:
        parts = [part.overlaps(problem) for part in self.components]
        Q = sum(p * q for p, (q, _) in zip(self.weights, parts, strict=True))
        R = sum(p * r for p, (_, r) in zip(self.weights, parts, strict=True))
        return np.asarray(Q), np.asarray(R)

    def conditional(self, loading: Array, problem: Problem) -> GaussianMixture:
        parts = [part.conditional(loading, problem) for part in self.components]
        means, covariances = (np.concatenate([getattr(p, name) for p in parts]) for name in ("means", "covariances"))
        return GaussianMixture(self.weights, means, covariances)

    def sample(self, rng: np.random.Generator, a: Array, problem: Problem) -> Array:
        which = rng.choice(len(self.components), size=len(a), p=self.weights)
        w = np.empty((len(a), problem.outputs))
        for i, part in enumerate(self.components):
            w[which == i] = part.sample(rng, a[which == i], problem)
        return w


@dataclass(frozen=True, eq=False, repr=False)
class Empirical(Value):
    """Rows taken from a sample of weights and loadings, such as trained or pretrained weights.

    The law of the loadings is then that of the sample; it takes the place of `problem.loadings`.

    Parameters
    ----------
    weights : array, shape (n, m), or (n,) for m = 1
    loadings : array, shape (n, K), or (n,) for K = 1
        With mean of a a^T equal to the identity to 1e-6.
    probabilities : array, shape (n,), optional
        Of the rows, summing to one; equal by default.
    """

    weights: Array
    loadings: Array
    probabilities: Array | None = None

    def __post_init__(self) -> None:
        weights = _checks.array("initial.weights", self.weights, ndim=(1, 2))
        loadings = _checks.array("initial.loadings", self.loadings, ndim=(1, 2))
        weights = weights[:, None] if weights.ndim == 1 else weights
        loadings = loadings[:, None] if loadings.ndim == 1 else loadings
        if len(weights) != len(loadings):
            raise InvalidInput("initial.loadings", self.loadings, f"{len(weights)} rows, like the weights")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "loadings", loadings)
        if self.probabilities is not None:
            chances = _checks.probabilities("initial.probabilities", self.probabilities, len(weights))
            object.__setattr__(self, "probabilities", chances)
        check_identity("initial.loadings", loadings, self.row_probabilities)

    @property
    def row_probabilities(self) -> Array:
        """Probability of every row, shape (n,)."""
        n = len(self.weights)
        return np.full(n, 1.0 / n) if self.probabilities is None else self.probabilities

    def check(self, problem: Problem) -> None:
        if self.weights.shape[1] != problem.outputs:
            raise InvalidInput("initial.weights", self.weights, f"rows of {problem.outputs} number(s), one per output")
        if self.loadings.shape[1] != problem.n_features:
            allowed = f"rows of {problem.n_features} number(s), one per feature"
            raise InvalidInput("initial.loadings", self.loadings, allowed)

    def overlaps(self, problem: Problem) -> tuple[Array, Array]:
        self.check(problem)
        weighted = (self.weights * self.row_probabilities[:, None]).T
        return weighted @ self.weights, weighted @ self.loadings

    def conditional(self, loading: Array, problem: Problem) -> GaussianMixture:
        self.check(problem)
        rows = matching(self.loadings, loading)
        if not len(rows):
            raise InvalidInput("loading", np.asarray(loading).tolist(), "a loading that occurs in the initial sample")
        chances, m = self.row_probabilities[rows], problem.outputs
        return GaussianMixture(chances / chances.sum(), self.weights[rows], np.zeros((len(rows), m, m)))

    def loading_nodes(self, problem: Problem, order: int) -> LoadingNodes:
        points, which = np.unique(self.loadings, axis=0, return_inverse=True)
        return LoadingNodes(
            points, np.asarray(np.bincount(which.ravel(), weights=self.row_probabilities), dtype=np.float64)
        )

    def sample(self, rng: np.random.Generator, a: Array, problem: Problem) -> Array:
        return sample_each(self, rng, a, problem)

    def sample_rows(self, rng: np.random.Generator, n: int, problem: Problem) -> tuple[Array, Array]:
        self.check(problem)
        if self.probabilities is None:
            rows = rng.integers(0, len(self.weights), size=n)
        else:
            rows = rng.choice(len(self.weights), size=n, p=self.probabilities)
        return self.weights[rows], self.loadings[rows]


def check_initial(initial: object, problem: object) -> InitialLaw:
    """Return the initial law if it is one and fits the problem; raise `InvalidInput` otherwise, or for no problem."""
    if not isinstance(problem, Problem):
        raise InvalidInput("problem", problem, "a mkvlasov.Problem")
    if isinstance(initial, type) or not isinstance(initial, InitialLaw):
        raise InvalidInput("initial", initial, "a law from mkvlasov.initial")
    initial.check(problem)
    if problem.constraint == "sphere":
        norms = np.diagonal(initial.overlaps(problem)[0])
        if np.abs(norms - 1.0).max() > 1e-9:
            raise InvalidInput("initial", initial, f"a law with Q_jj = 1, on the sphere (Q_jj is {norms.tolist()})")
    return initial
