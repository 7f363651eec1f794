"""Results of the two routes that draw, direct SGD and the particle system: every run, and histograms at snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.density import applied, fractions_of, interval
from mkvlasov.errors import InvalidInput
from mkvlasov.order_parameters import cosine_similarity, orthonormalize, readout_alignment
from mkvlasov.problem.continued import on_constraint
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import Empirical, InitialLaw
from mkvlasov.solution import Solution, Status, stored_index

_MOST_ATOMS = 256
"""Laws of loadings with more atoms than this are treated as continuous."""


@dataclass(frozen=True)
class Runs:
    """Every independent run.

    Attributes
    ----------
    Q, R : ndarray, shapes (T, runs, m, m) and (T, runs, m, K)
    loss : ndarray, shape (T, runs)
    """

    Q: Array
    R: Array
    loss: Array


@dataclass(frozen=True)
class Snapshots:
    """Weights of every coordinate (or particle) of every run at some times.

    Attributes
    ----------
    t : ndarray, shape (S,)
    weights : ndarray, shape (S, runs, N, m)
    loadings : ndarray, shape (runs, N, K)
        As drawn from their law. SGD uses the loadings after orthonormalization, which moves them by O(1 / sqrt(N)).
    """

    t: Array
    weights: Array
    loadings: Array


@dataclass(frozen=True)
class Histogram:
    """Empirical density of one output's weights.

    Attributes
    ----------
    edges : ndarray, shape (bins + 1,)
    density : ndarray, shape (bins,)
        Over all runs together; the integral is the fraction that lies within the edges.
    stderr : ndarray, shape (bins,)
        From the spread between runs; with one run from binomial counting. Where no run has a count: one count.
    count : int
        Coordinates that the histogram is made of, inside the edges or not.
    """

    edges: Array
    density: Array
    stderr: Array
    count: int

    @property
    def centers(self) -> Array:
        """Middles of the bins, shape (bins,)."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    def mean_of(self, function: Callable[[Array], Array]) -> float:
        """Return the mean of a function of w over the bins, taken at their middles."""
        return float((self.density * np.diff(self.edges)) @ applied(function, self.centers))

    def cdf(self, w: ArrayLike) -> Array:
        """Return the mass of the bins to the left of w, of the same shape; linear within a bin."""
        return np.asarray(np.interp(_checks.array("w", w), self.edges, self._cumulative))

    def quantile(self, q: ArrayLike) -> Array:
        """Return the weights with the fractions q of the mass of the bins to their left; linear within a bin."""
        reached = fractions_of("q", q) * self._cumulative[-1]
        # The first bin that gets so far is never an empty one.
        bins = np.clip(np.searchsorted(self._cumulative, reached) - 1, 0, len(self.density) - 1)
        height = self.density[bins]
        inside = np.divide(reached - self._cumulative[bins], height, out=np.zeros_like(reached), where=height > 0.0)
        return np.minimum(self.edges[bins] + inside, self.edges[bins + 1])

    def mass(self, low: float, high: float) -> float:
        """Return the mass between two weights; with edges there (``bins=[low, high]``) it has the error of its bin."""
        return float(np.diff(self.cdf(interval(low, high)))[0])

    @property
    def _cumulative(self) -> Array:
        return np.concatenate([[0.0], np.cumsum(self.density * np.diff(self.edges))])


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RunsSolution(Solution):
    """A `Solution` whose Q, R and loss are means over independent runs.

    Attributes
    ----------
    runs : Runs
        Every run.
    snapshots : Snapshots
        Weights at the times that were asked for; without times if none were.
    """

    runs: Runs
    snapshots: Snapshots

    @property
    def n_runs(self) -> int:
        return int(self.runs.Q.shape[1])

    @property
    def cosine_similarity(self) -> Array:
        return cosine_similarity(self.runs.Q, self.runs.R).mean(axis=1)

    @property
    def cosine_similarity_stderr(self) -> Array:
        return standard_error(cosine_similarity(self.runs.Q, self.runs.R))

    @property
    def readout_alignment(self) -> Array:
        return readout_alignment(self.runs.Q, self.runs.R).mean(axis=1)

    @property
    def final(self) -> InitialLaw:
        """The weights of all runs at the last time: an initial law to go on from, along any route.

        Where the law of the loadings has atoms, each keeps its probability, shared equally by the rows that drew it;
        otherwise the loadings of a run are those that it used, orthonormalized.

        Raises
        ------
        InvalidInput
            Unless the last time is among the snapshots.
        """
        t = float(self.t[-1]) if len(self.t) else 0.0
        try:
            index = stored_index("final", t, self.snapshots.t)
        except InvalidInput:
            allowed = f"a solution with the weights at its last time (simulate with snapshots=[..., {t:g}])"
            raise InvalidInput("final", self.status.message, allowed) from None
        drawn = self.snapshots.loadings
        m, k = self.problem.outputs, self.problem.n_features
        weights = self.snapshots.weights[index].reshape(-1, m)
        chances = self._atom_shares(drawn.reshape(-1, k))
        loadings = drawn if chances is not None else orthonormalize(drawn)
        return on_constraint(Empirical(weights, loadings.reshape(-1, k), chances), self.problem)

    def _atom_shares(self, drawn: Array) -> Array | None:
        """Return the probability of every row if the law of the loadings has few atoms and all were drawn."""
        found, which = np.unique(drawn, axis=0, return_inverse=True)
        if max(len(found), 2 ** drawn.shape[1]) > _MOST_ATOMS:
            return None
        points, probabilities = self.initial.loading_nodes(self.problem, 2)
        order = np.lexsort(points.T[::-1])
        if found.shape != points.shape or np.abs(found - points[order]).max() > 1e-9:
            return None
        shares = probabilities[order] / np.bincount(which.ravel())
        return np.asarray(shares[which.ravel()])

    def histogram(
        self, t: float, loading: ArrayLike | None = None, bins: int | ArrayLike = 80, output: int = 0
    ) -> Histogram:
        """Return the empirical density of the weights of coordinates with a given loading at a snapshot.

        Parameters
        ----------
        t : float
            One of `snapshots.t`.
        loading : float or array_like, optional
            A value (a number, or (K,)): coordinates drawn with that atom of a discrete law. A range (low, high) for
            K = 1, or two rows (2, K) low and high: coordinates with every component in its range. By default all.
        bins : int or array_like
            Number of bins between the smallest and the largest weight, or the edges.
        output : int
            Which output's weights, 0 to m - 1.

        Raises
        ------
        InvalidInput
            For a time without snapshot, a loading that does not occur, or an output that does not exist.
        """
        if not len(self.snapshots.t):
            raise InvalidInput("t", t, "a snapshot (none were kept: pass snapshots=[...] to the simulation)")
        index = stored_index("t", t, self.snapshots.t)
        output = _checks.integer("output", output, minimum=0, maximum=self.problem.outputs - 1)
        chosen = _with_loading(self.snapshots.loadings, loading)
        return _histogram(self.snapshots.weights[index, ..., output], chosen, bins)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SgdSolution(RunsSolution):
    """Result of `simulate_sgd`. No discretization error: the algorithm itself was run.

    Attributes
    ----------
    observables : mapping from str to ndarray, shapes (T, runs, ...)
        What the functions that were passed as `observables` returned.
    """

    observables: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ParticleSolution(RunsSolution):
    """Result of `simulate_particles`. Q_error and R_error are those of the time step."""


@dataclass(frozen=True)
class RunRecord:
    """What a simulation fills in while it runs, before anything is averaged.

    Attributes
    ----------
    Q, R, loss : ndarray
        As in `Runs`.
    diverged : ndarray, shape (runs,)
        Time at which a run was found to have diverged, infinite for the others.
    weights, loadings : ndarray
        As in `Snapshots`.
    """

    Q: Array
    R: Array
    loss: Array
    diverged: Array
    weights: Array
    loadings: Array

    @staticmethod
    def empty(problem: Problem, times: int, kept: int, runs: int, size: int) -> RunRecord:
        """Return a record for runs of `size` coordinates; memory of snapshots is taken up when they are written."""
        m, k = problem.outputs, problem.n_features
        return RunRecord(
            Q=np.zeros((times, runs, m, m)),
            R=np.zeros((times, runs, m, k)),
            loss=np.zeros((times, runs)),
            diverged=np.full(runs, np.inf),
            weights=np.zeros((kept, runs, size, m)),
            loadings=np.zeros((runs, size if kept else 0, k)),
        )

    def part(self, runs: slice) -> RunRecord:
        """Return views of some runs, to be filled independently."""
        return RunRecord(
            self.Q[:, runs],
            self.R[:, runs],
            self.loss[:, runs],
            self.diverged[runs],
            self.weights[:, runs],
            self.loadings[runs],
        )


_Kind = TypeVar("_Kind", bound=RunsSolution)


def standard_error(values: Array) -> Array:
    """Return the standard error of the mean over runs, (T, runs, ...) -> (T, ...); infinite with one run."""
    runs = values.shape[1]
    if runs == 1:
        return np.full((values.shape[0], *values.shape[2:]), np.inf)
    return values.std(axis=1, ddof=1) / np.sqrt(runs)


def summarize(
    kind: type[_Kind],
    *,
    route: str,
    problem: Problem,
    initial: InitialLaw,
    t: Array,
    snapshot_times: Array,
    record: RunRecord,
    discretization: tuple[Array, Array],
    stats: Mapping[str, float],
) -> _Kind:
    """Build the solution from the record: average over runs, and end the arrays where the first run diverged.

    `discretization` holds the estimated discretization errors of Q and R at all times `t`.
    """
    first = float(record.diverged.min())
    times, kept = int((t < first).sum()), int((snapshot_times < first).sum())
    Q, R, loss = record.Q[:times], record.R[:times], record.loss[:times]
    return kind(
        route=route,
        problem=problem,
        initial=initial,
        t=t[:times],
        Q=Q.mean(axis=1),
        R=R.mean(axis=1),
        Q_error=discretization[0][:times],
        R_error=discretization[1][:times],
        Q_stderr=standard_error(Q),
        R_stderr=standard_error(R),
        loss=loss.mean(axis=1),
        loss_stderr=standard_error(loss),
        status=_status(record.diverged, times),
        stats=stats,
        runs=Runs(Q, R, loss),
        snapshots=Snapshots(snapshot_times[:kept], record.weights[:kept], record.loadings),
    )


def _status(diverged: Array, times: int) -> Status:
    lost, runs = int(np.isfinite(diverged).sum()), len(diverged)
    if not lost:
        return Status(True, "reached every requested time")
    return Status(
        False,
        f"{lost} of {runs} run(s) diverged, the first at t = {diverged.min():.4g}; {times} output time(s) lie before "
        "that (a smaller learning rate or a stronger regularizer keeps weights bounded)",
    )


def _with_loading(loadings: Array, loading: ArrayLike | None) -> np.ndarray:
    """Return which coordinates (runs, N) have a loading, or one within a range."""
    k = loadings.shape[-1]
    if loading is None:
        return np.ones(loadings.shape[:-1], dtype=bool)
    wanted = _checks.array("loading", loading, ndim=(0, 1, 2))
    if wanted.shape == (k,) or (k == 1 and wanted.ndim == 0):
        chosen = np.isclose(loadings, wanted, rtol=0.0, atol=1e-9).all(axis=-1)
    elif wanted.shape == (2, k) or (k == 1 and wanted.shape == (2,)):
        low, high = wanted.reshape(2, k)
        chosen = ((loadings >= low) & (loadings <= high)).all(axis=-1)
    else:
        raise InvalidInput("loading", loading, f"{k} number(s), or a range given as two of them (low, high)")
    if not chosen.any():
        allowed = "a loading that was drawn"
        atoms = np.unique(loadings[0], axis=0)
        allowed += f", one of {atoms.tolist()}" if len(atoms) <= 12 else ", or a range (low, high) that holds some"
        raise InvalidInput("loading", loading, allowed)
    return np.asarray(chosen)


def _histogram(weights: Array, chosen: np.ndarray, bins: int | ArrayLike) -> Histogram:
    """Count the chosen weights (runs, N) run by run."""
    counted = weights[chosen]
    if np.ndim(bins) == 0:
        edges = np.histogram_bin_edges(counted, bins=_checks.integer("bins", bins, minimum=1))
    else:
        edges = _checks.array("bins", bins, ndim=1)
        if len(edges) < 2 or (np.diff(edges) <= 0.0).any():
            raise InvalidInput("bins", bins, "a number of bins, or increasing edges")
    counts = np.stack([np.histogram(w[c], bins=edges)[0] for w, c in zip(weights, chosen, strict=True)]).astype(float)
    sizes = chosen.sum(axis=1).astype(float)
    total, runs = sizes.sum(), len(sizes)
    fraction = counts.sum(axis=0) / total
    if runs > 1:
        # Runs are independent, coordinates of one run are not: the error of the ratio comes from the spread of runs.
        residual = counts - sizes[:, None] * fraction
        error = np.sqrt(runs / (runs - 1.0) * (residual**2).sum(axis=0)) / total
    else:
        error = np.sqrt(fraction * (1.0 - fraction) / total)
    error = np.where(fraction > 0.0, error, 1.0 / total)
    width = np.diff(edges)
    return Histogram(edges, fraction / width, error / width, int(total))
