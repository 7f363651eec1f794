"""Laws to go on from: the image of another law under a linear equation, and densities given as tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import InvalidInput
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.conditional import ConditionalLaw
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.loadings import LoadingNodes, check_identity
from mkvlasov.problem.tabulated import TabulatedLaw, trapezoidal
from mkvlasov.problem.value import Value

if TYPE_CHECKING:
    from mkvlasov.problem.initial import InitialLaw


_MOST_NEGATIVE = 0.1
"""Negative mass of a density beyond which it is none."""


@dataclass(frozen=True, eq=False, repr=False)
class Affine(Value):
    """A row is w = A w_0 + C a + N(0, P), with w_0 from another law: where the closed equations lead.

    Parameters
    ----------
    start : initial law
        Law of w_0 given the loading a.
    A, C, P : arrays, shapes (m, m), (m, K) and (m, m)
        P is symmetric, positive semidefinite.
    """

    start: InitialLaw
    A: Array
    C: Array
    P: Array

    def __post_init__(self) -> None:
        from mkvlasov.problem.initial import InitialLaw  # which knows this module

        if isinstance(self.start, type) or not isinstance(self.start, InitialLaw):
            raise InvalidInput("initial.start", self.start, "a law from mkvlasov.initial")
        put = object.__setattr__
        put(self, "A", _checks.array("initial.A", self.A, ndim=2))
        put(self, "C", _checks.array("initial.C", self.C, shape=(len(self.A), None)))
        put(self, "P", _checks.symmetric_matrix("initial.P", self.P, len(self.A)))
        if np.linalg.eigvalsh(self.P).min() < -1e-9 * np.abs(self.P).max():
            raise InvalidInput("initial.P", self.P, "a positive semidefinite matrix")

    def check(self, problem: Problem) -> None:
        self.start.check(problem)
        m, k = problem.outputs, problem.n_features
        _checks.array("initial.A", self.A, shape=(m, m))
        _checks.array("initial.C", self.C, shape=(m, k))

    def overlaps(self, problem: Problem) -> tuple[Array, Array]:
        Q, R = self.start.overlaps(problem)
        cross = self.A @ R @ self.C.T
        return self.A @ Q @ self.A.T + cross + cross.T + self.C @ self.C.T + self.P, self.A @ R + self.C

    def conditional(self, loading: Array, problem: Problem) -> ConditionalLaw:
        return self.start.conditional(loading, problem).affine(self.A, self.C @ loading, self.P)

    def loading_nodes(self, problem: Problem, order: int) -> LoadingNodes:
        return self.start.loading_nodes(problem, order)

    def sample(self, rng: np.random.Generator, a: Array, problem: Problem) -> Array:
        return self._moved(rng, self.start.sample(rng, a, problem), a)

    def sample_rows(self, rng: np.random.Generator, n: int, problem: Problem) -> tuple[Array, Array]:
        w, a = self.start.sample_rows(rng, n, problem)
        return self._moved(rng, w, a), a

    def _moved(self, rng: np.random.Generator, w: Array, a: Array) -> Array:
        noise = rng.standard_normal(w.shape) @ square_root(self.P)
        return w @ self.A.T + a @ self.C.T + noise


@dataclass(frozen=True, eq=False, repr=False)
class Tabulated(Value):
    """One output: the density of w for each of a finite number of loadings, given on nodes.

    The loadings are the atoms of their law, or a quadrature of it, and take the place of `problem.loadings`.

    Parameters
    ----------
    loadings : array, shape (L, K), or (L,) for K = 1
    probabilities : array, shape (L,)
        Positive, summing to one, with E[a a^T] = identity to 1e-6.
    w, p : arrays, shape (L, n)
        For every loading increasing nodes and the density there; of its mass 0.1 at most may be negative, as
        accurate methods leave it.
    quadrature : array, shape (L, n), optional
        Weights >= 0 with which the density is summed; those of the trapezoidal rule by default. The mass of every
        density must be one to 1e-3; it is then made exactly one.
    """

    loadings: Array
    probabilities: Array
    w: Array
    p: Array
    quadrature: Array

    def __init__(
        self,
        loadings: ArrayLike,
        probabilities: ArrayLike,
        w: ArrayLike,
        p: ArrayLike,
        quadrature: ArrayLike | None = None,
    ) -> None:
        put = object.__setattr__
        points = _checks.array("initial.loadings", loadings, ndim=(1, 2))
        points = points[:, None] if points.ndim == 1 else points
        nodes = _checks.array("initial.w", w, shape=(len(points), None))
        if nodes.shape[1] < 3 or (np.diff(nodes, axis=1) <= 0.0).any():
            raise InvalidInput("initial.w", w, "at least three increasing nodes for every loading")
        density = _checks.array("initial.p", p, shape=nodes.shape)
        if quadrature is None:
            rule = np.array([trapezoidal(row) for row in nodes])
        else:
            rule = _checks.array("initial.quadrature", quadrature, shape=nodes.shape, minimum=0.0)
        lacking = float(-(rule * np.minimum(density, 0.0)).sum(axis=1).min())
        if lacking > _MOST_NEGATIVE:
            raise InvalidInput("initial.p", p, f"densities that are not negative (here the mass {-lacking:.3g} is)")
        mass = (rule * density).sum(axis=1, keepdims=True)
        if np.abs(mass - 1.0).max() > 1e-3:
            raise InvalidInput(
                "initial.p", p, f"densities of mass one (here {mass[:, 0].min():.6g} to {mass[:, 0].max():.6g})"
            )
        if len(np.unique(points, axis=0)) < len(points):
            raise InvalidInput("initial.loadings", loadings, "loadings that all differ")
        put(self, "loadings", points)
        put(self, "probabilities", _checks.probabilities("initial.probabilities", probabilities, len(points)))
        check_identity("initial.loadings", points, self.probabilities)
        put(self, "w", nodes)
        put(self, "p", density / mass)
        put(self, "quadrature", rule)

    def check(self, problem: Problem) -> None:
        if problem.outputs != 1:
            raise InvalidInput("initial", self, f"a law of {problem.outputs} outputs (tables are for one)")
        if self.loadings.shape[1] != problem.n_features:
            raise InvalidInput(
                "initial.loadings", self.loadings, f"rows of {problem.n_features} number(s), one per feature"
            )

    def overlaps(self, problem: Problem) -> tuple[Array, Array]:
        self.check(problem)
        masses = self.quadrature * self.p
        mean, second = (masses * self.w).sum(axis=1), (masses * self.w**2).sum(axis=1)
        Q = np.array([[self.probabilities @ second]])
        return Q, (self.probabilities * mean @ self.loadings)[None]

    def conditional(self, loading: Array, problem: Problem) -> TabulatedLaw:
        self.check(problem)
        near = matching(self.loadings, loading)
        if not len(near):
            raise InvalidInput("loading", np.asarray(loading).tolist(), "a loading for which a density is given")
        return TabulatedLaw(self.w[near[0]], self.p[near[0]], self.quadrature[near[0]])

    def loading_nodes(self, problem: Problem, order: int) -> LoadingNodes:
        return LoadingNodes(self.loadings, self.probabilities)

    def sample(self, rng: np.random.Generator, a: Array, problem: Problem) -> Array:
        return sample_each(self, rng, a, problem)

    def sample_rows(self, rng: np.random.Generator, n: int, problem: Problem) -> tuple[Array, Array]:
        a = self.loadings[rng.choice(len(self.loadings), size=n, p=self.probabilities)]
        return self.sample(rng, a, problem), a


def on_constraint(law: InitialLaw, problem: Problem) -> InitialLaw:
    """Return the law itself or, on the sphere, its image with Q_jj = 1, from which it is off by the errors of a run."""
    if problem.constraint != "sphere":
        return law
    Q, R = law.overlaps(problem)
    return Affine(law, np.diag(1.0 / np.sqrt(np.diagonal(Q))), np.zeros_like(R), np.zeros_like(Q))


def sample_each(law: InitialLaw, rng: np.random.Generator, a: Array, problem: Problem) -> Array:
    """Draw rows of weights (n, m) for given loadings (n, K), one distinct loading after the other."""
    points, which = np.unique(a, axis=0, return_inverse=True)
    rows = np.empty((len(a), problem.outputs))
    for i, point in enumerate(points):
        mine = which.ravel() == i
        rows[mine] = law.conditional(point, problem).sample(rng, int(mine.sum()))
    return rows


def matching(points: Array, loading: Array) -> npt.NDArray[np.int_]:
    """Return which points (L, K) are the loading (K,), to rounding."""
    return np.flatnonzero(np.isclose(points, loading, rtol=0.0, atol=1e-9).all(axis=1))
