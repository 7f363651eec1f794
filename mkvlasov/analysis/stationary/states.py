"""Stationary states of the PDE without time evolution: self-consistent Gibbs densities and their stability."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike, Seed
from mkvlasov.analysis.fixed_points import name_of
from mkvlasov.analysis.stationary.gibbs import gibbs_density
from mkvlasov.analysis.stationary.linearized import LinearStability, linear_stability
from mkvlasov.analysis.stationary.search import SEARCH_LEVEL, SETTLED, copies_of, find_states, settled
from mkvlasov.analysis.stationary.self_consistency import SelfConsistency
from mkvlasov.analysis.symmetries import Symmetries
from mkvlasov.density import Density
from mkvlasov.errors import InvalidInput, UnconfinedError
from mkvlasov.limit.coefficients import Coefficients
from mkvlasov.order_parameters import cosine_similarity
from mkvlasov.problem.contrastive import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SETTLED_STABILITY = 1e-7
"""Change of the moments by finer quadrature over the loadings at which it is fine enough for the eigenvalues."""


@dataclass(frozen=True, eq=False)
class StationaryState:
    """A stationary state of the PDE with one output, and its images under the symmetries of the problem.

    Attributes
    ----------
    problem : Problem
    name : str
        Which feature has been learnt, with signs; "uninformative" for R = 0.
    Q, R : ndarray, shapes (1, 1) and (1, K)
    coefficients : Coefficients
        G, H, Lambda and the loss there.
    drift : float
        Linear drift of the densities: G, on the sphere with the multiplier that keeps Q = 1.
    residual : float
        Largest difference between (Q, R) and the moments of the densities.
    error : float
        Estimated error of the worst entry of (Q, R), from the residual, the quadrature over the loadings and the
        coefficients; across a degenerate direction it says nothing.
    stability : LinearStability
    copies : tuple of pairs (Q, R), length n
        The state and its images; the first one is the state itself.
    copy_names : tuple of str, length n
    is_continuum : bool
        Whether rotations make a continuum of such states; the copies then represent it.
    found : int
        Number of starts that ended here or at a copy.
    """

    problem: Problem
    name: str
    Q: Array
    R: Array
    coefficients: Coefficients
    drift: float
    residual: float
    error: float
    stability: LinearStability
    copies: tuple[tuple[Array, Array], ...]
    copy_names: tuple[str, ...]
    is_continuum: bool
    found: int

    @property
    def cosine_similarity(self) -> Array:
        """q_k = R_k / sqrt(Q), shape (1, K)."""
        return cosine_similarity(self.Q, self.R)

    @property
    def loss(self) -> float:
        """Expected loss."""
        return float(self.coefficients.loss)

    def density(self, loading: ArrayLike) -> Density:
        """Return p(w | a) for any loading a, a number or shape (K,).

        Raises
        ------
        InvalidInput
            For a loading of the wrong shape.
        """
        features = self.R.shape[1]
        a = np.atleast_1d(_checks.array("loading", loading, ndim=(0, 1)))
        if a.shape != (features,):
            raise InvalidInput("loading", loading, f"{features} number(s), one per feature")
        Lambda = float(self.coefficients.Lambda[0, 0])
        beta, s = 2.0 * self.problem.rate(0.0) / Lambda, float(self.coefficients.H[0] @ a)
        found = gibbs_density(self.problem.regularizer, beta=beta, G=self.drift, s=s)
        if found is None:
            raise UnconfinedError(f"density: nothing confines weights of the loading {a.tolist()}")
        return found

    def plot(self) -> Figure:
        """Return the figure of `mkvlasov.plotting.stationary.plot_stationary_densities`."""
        from mkvlasov.plotting.stationary import plot_stationary_densities

        return plot_stationary_densities([self])

    def __str__(self) -> str:
        copies = f"{len(self.copies)} symmetric copies" if len(self.copies) > 1 else "its own mirror image"
        if self.is_continuum:
            copies = "one of a continuum"
        R = np.array2string(np.round(self.R[0], 6) + 0.0, separator=", ")
        cosines = np.array2string(np.round(self.cosine_similarity[0], 6) + 0.0, separator=", ")
        return "\n".join([
            f"{self.name}: Q = {self.Q[0, 0]:.6f}, R = {R}",
            f"  cosines {cosines}, loss {self.loss:.6g}; {copies}",
            f"  residual {self.residual:.1e}, error {self.error:.1e}, reached from {self.found} start(s)",
            f"  {self.stability}",
        ])  # fmt: skip


@dataclass(frozen=True, eq=False)
class StationaryStates:
    """The stationary states that a search found, one per class of symmetric copies, stable ones first.

    Attributes
    ----------
    states : tuple of StationaryState
    symmetries : tuple of str
        What maps solutions to solutions, in words.
    starts : int
        Number of starts, those of the searches beside known states included.
    failures : mapping from str to int
        Starts that ended at no state: "unconfined" (no densities there), "diverged" (Q left the searched range
        upwards), "vanished" (downwards), "stalled" (the residual stopped to fall).
    """

    states: tuple[StationaryState, ...]
    symmetries: tuple[str, ...]
    starts: int
    failures: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[StationaryState]:
        return iter(self.states)

    def __getitem__(self, index: int) -> StationaryState:
        return self.states[index]

    @property
    def stable(self) -> tuple[StationaryState, ...]:
        """The states whose eigenvalues all have negative real parts."""
        return tuple(state for state in self.states if state.stability.is_stable)

    def plot(self) -> Figure:
        """Return the figure of `mkvlasov.plotting.stationary.plot_stationary_densities`."""
        from mkvlasov.plotting.stationary import plot_stationary_densities

        return plot_stationary_densities(self.states)

    def __str__(self) -> str:
        failed = ", ".join(f"{count} {reason}" for reason, count in self.failures.items() if count) or "none"
        head = f"{len(self)} stationary state(s) up to symmetry, from {self.starts} starts (failures: {failed})"
        return "\n".join([head, f"symmetries: {', '.join(self.symmetries) or 'none'}", *map(str, self.states)])


def stationary_states(problem: Problem, *, starts: int | None = None, rng: Seed = 0) -> StationaryStates:
    """Search stationary states of the PDE with one output, for every regularizer, without evolving it in time.

    The stationary densities are p(w | a) ~ exp(-(2 tau / Lambda) [G w^2 / 2 + (H . a) w + phi(w)]) with G, H, Lambda at
    their own moments (Q, R). Newton's method runs from many starts, and again with the states that are known excluded
    (deflation). What is found more than once, or is the image of another state under a symmetry, is one state. Such a
    search can overlook states: more starts show whether there are others. Weights that are all zero are no density, and
    not listed.

    Parameters
    ----------
    problem : Problem
        With ``outputs=1`` and a constant learning rate.
    starts : int, optional
        Number of random starts, 48 unless given.
    rng : seed

    Returns
    -------
    StationaryStates

    Raises
    ------
    UnconfinedError
        If nothing holds the weights back at any of the order parameters searched.
    UnsupportedError
        For several outputs, a learning rate that depends on time, or no diffusion (stationary weights are then points).

    Notes
    -----
    docs/theory.md, section 6.
    """
    found = find_states(problem, starts=starts, rng=rng)
    states = [describe(found.equations, found.symmetries, y, count) for y, count in found.classes]
    states.sort(key=lambda s: (s.stability.unstable_dimension + s.stability.centre_dimension, s.loss))
    return StationaryStates(_distinct(states), found.symmetries.names, found.starts, MappingProxyType(found.failures))


def describe(equations: SelfConsistency, symmetries: Symmetries, y: Array, found: int) -> StationaryState:
    """Return a zero with everything that is known about it."""
    entries = equations.entries
    x = equations.overlaps(y)
    Q, R = entries.unpack(x)
    level, enough = settled(equations, y, SETTLED, _SETTLED_STABILITY)
    enough = max(enough, min(SEARCH_LEVEL, equations.levels[-1]))  # without overlaps the moments show no level
    residual, error = errors_of(equations, y, level)
    copies = tuple(entries.unpack(equations.overlaps(copy)) for copy in copies_of(equations, symmetries, y))
    return StationaryState(
        problem=equations.problem, name=name_of(Q, R), Q=Q, R=R, coefficients=equations.coefficients(x),
        drift=float(equations.acting(y)[0]), residual=residual, error=error,
        stability=linear_stability(equations, y, enough),
        copies=copies, copy_names=tuple(name_of(q, r) for q, r in copies),
        is_continuum=symmetries.is_rotated(x), found=found,
    )  # fmt: skip


def errors_of(equations: SelfConsistency, y: Array, level: int) -> tuple[float, float]:
    """Return the largest entry of M(Q, R) - (Q, R), and the estimated error of the worst entry of (Q, R)."""
    fields = equations.acting(y[None])
    M = equations.moments(fields, level)
    x = equations.overlaps(y)
    rest = np.abs(M.value[0] - x)
    finer = equations.moments(fields, min(level + 1, equations.levels[-1])).value[0]
    relative = float(equations.coefficients(x).error)
    sizes = np.abs(fields[0]) + np.abs(fields[0, :-1]).max()
    sizes[-1] = fields[0, -1]
    unknown = rest + np.abs(finer - M.value[0]) + relative * (np.abs(M.slope[0]) @ sizes)
    unknown += np.finfo(float).eps * np.abs(M.value[0]).max()
    by_m = np.diag(np.append(np.full(len(x) - 1, 1.0 / np.sqrt(x[-1])), 1.0 / x[-1]))
    by_m[:-1, -1] = -0.5 * x[:-1] / x[-1] ** 1.5
    _, J = equations.residual(y[None], level)
    move = np.abs(np.linalg.pinv(J[0], rcond=1e-9) @ by_m) @ unknown
    Q = x[-1]
    if equations.on_sphere:
        return float(rest.max()), float(move[:-1].max())
    in_R = np.sqrt(Q) * move[:-1] + 0.5 * np.abs(x[:-1]) * move[-1]
    return float(rest.max()), float(max(in_R.max(), Q * move[-1]))


def _distinct(states: list[StationaryState]) -> tuple[StationaryState, ...]:
    """Return the states with numbers behind names that several have."""
    counts = Counter(state.name for state in states)
    seen: Counter[str] = Counter()
    result = []
    for state in states:
        seen[state.name] += 1
        several = counts[state.name] > 1
        result.append(replace(state, name=f"{state.name} ({seen[state.name]})") if several else state)
    return tuple(result)
