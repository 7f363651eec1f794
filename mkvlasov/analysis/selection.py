"""Which feature a random start selects at finite dimension, and how long it takes to leave the uninformative state.

Source: docs/selection.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from mkvlasov import _checks
from mkvlasov._typing import Array, Seed
from mkvlasov.analysis.basins import Basins, Fraction, basins
from mkvlasov.analysis.escape import Escapes, MeanPath, follow_to_escape
from mkvlasov.analysis.fixed_points import FixedPoints, constant_rate, fixed_points
from mkvlasov.analysis.learnability import learnability
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.random_start import independent_start
from mkvlasov.order_parameters import cosine_similarity
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import Gaussian, InitialLaw, check_initial
from mkvlasov.solution_runs import SgdSolution

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RTOL = 1e-5
_BASIN_RTOL = 1e-6
_TAIL = 8.0
"""The default t_max leaves starts exp(-8) times the typical size time to escape: one in 3000."""
_SETTLING = 20.0
"""Times of the slowest stable direction that an escaped sample has to come to rest."""
PASSES = 3.0
"""Standard errors within which a prediction passes."""


@dataclass(frozen=True, eq=False)
class Selection:
    """Where random starts of dimension N end, and when they escape.

    Attributes
    ----------
    problem : Problem
    initial : InitialLaw
    dimension : int
    level : float
        A sample has escaped when a cosine |q_jk| reaches it.
    t_max : float
    growth_rate : float or None
        Largest growth rate at the uninformative state; None if there is no such state.
    escapes : Escapes
        The samples when they escaped.
    basins : Basins
        Where they went from there.
    """

    problem: Problem
    initial: InitialLaw
    dimension: int
    level: float
    t_max: float
    growth_rate: float | None
    escapes: Escapes
    basins: Basins

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.escapes.times)

    @property
    def escape_times(self) -> Array:
        """When a cosine reached the level, shape (samples,); infinite where none did by t_max."""
        return self.escapes.times

    @property
    def escaped(self) -> float:
        """Part of the samples that have escaped by t_max."""
        return float(np.isfinite(self.escape_times).mean())

    @property
    def settling_times(self) -> Array:
        """When the sample came to rest at its end, or diverged, shape (samples,); infinite if it did neither."""
        return self.escapes.stopped + self.basins.times

    def probabilities(self, *, signs: bool = False) -> Mapping[str, Fraction]:
        """Return count, probability and standard error of each end that was reached, by name.

        "diverged" and "unresolved" are listed as well.

        Parameters
        ----------
        signs : bool
            Whether ends that differ in the signs of features count apart.
        """
        return self.basins.fractions(signs=signs)

    def compare(self, sgd: SgdSolution) -> SelectionComparison:
        """Compare with runs of direct SGD, labelled by the basin of their last state.

        Parameters
        ----------
        sgd : SgdSolution
            Of the same problem and dimension, from the same law, long enough for the runs to escape.

        Raises
        ------
        InvalidInput
            If the runs are of another problem, initial law or dimension.
        """
        return _compare(self, sgd)

    def plot(self) -> Figure:
        """Draw the probabilities and the distribution of the escape times."""
        from mkvlasov.plotting.selection import plot_selection

        return plot_selection(self)

    def __str__(self) -> str:
        ends = self.probabilities()
        width = max(map(len, ends)) + 2
        lines = [
            f"selection at N = {self.dimension} from {self.samples} samples ({self.initial!r})",
            f"{'end':{width}s}{'probability':>12s}{'+-':>9s}",
        ]
        lines += [f"{name:{width}s}{f.value:12.4f}{f.stderr:9.4f}" for name, f in ends.items()]
        lines.append(f"escape (a cosine reaches {self.level:g}): {summary(self.escape_times, self.t_max)}")
        if self.growth_rate is not None:
            lines.append(f"largest growth rate at the uninformative state: {self.growth_rate:.6g}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class SelectionComparison:
    """Predicted probabilities beside the fractions of runs.

    Attributes
    ----------
    prediction : Selection
    names : tuple of str, length n
        Ends, whatever the signs of the features, and "diverged" and "unresolved".
    predicted, found : ndarray, shape (n,)
    error : ndarray, shape (n,)
        Standard error of the difference, of samples and runs together, under the hypothesis that both have the pooled
        probability.
    z : ndarray, shape (n,)
        Differences over their standard errors.
    chi_square, p_value : float
        Of all classes jointly (test of homogeneity of the counts).
    runs : int
    run_escape_times : ndarray, shape (runs,)
        When a cosine of a run passed the level, between output times; infinite if none did.
    escape_z : float
        Difference of the mean escape times over its standard error; times beyond the last one that both samples and
        runs were followed to count as that.
    """

    prediction: Selection
    names: tuple[str, ...]
    predicted: Array
    found: Array
    error: Array
    z: Array
    chi_square: float
    p_value: float
    runs: int
    run_escape_times: Array
    escape_z: float

    @property
    def passed(self) -> bool:
        """Whether every class agrees within three standard errors."""
        return bool((np.abs(self.z) <= PASSES).all())

    def plot(self) -> Figure:
        """Draw the probabilities and the distribution of the escape times, predicted and of the runs."""
        from mkvlasov.plotting.selection import plot_selection

        return plot_selection(self.prediction, self)

    def __str__(self) -> str:
        width = max(map(len, self.names)) + 2
        lines = [
            f"selection at N = {self.prediction.dimension}: {self.prediction.samples} samples, {self.runs} runs",
            f"{'end':{width}s}{'predicted':>10s}{'runs':>10s}{'+-':>9s}{'z':>7s}",
        ]
        rows = zip(self.names, self.predicted, self.found, self.error, self.z, strict=True)
        lines += [f"{name:{width}s}{p:10.4f}{q:10.4f}{error:9.4f}{z:7.2f}" for name, p, q, error, z in rows]
        lines.append(f"all classes: chi-square {self.chi_square:.2f}, p = {self.p_value:.3g}")
        lines.append(f"escapes, predicted: {summary(self.prediction.escape_times, self.prediction.t_max)}")
        lines.append(f"escapes, runs:      {summary(self.run_escape_times)}; z of the mean {self.escape_z:.2f}")
        lines.append("agree within 3 standard errors" if self.passed else "DISAGREE by more than 3 standard errors")
        return "\n".join(lines)


def selection_probability(
    problem: Problem,
    *,
    dimension: int = 1000,
    initial: InitialLaw | None = None,
    samples: int = 2000,
    level: float = 0.5,
    t_max: float | None = None,
    points: FixedPoints | None = None,
    rng: Seed = 0,
    progress: bool = True,
) -> Selection:
    """Return the probabilities that runs of dimension N end at each attractor, and how long they take to escape.

    An ensemble of solutions of dx = [f(x) + f1 / N] dt + N^(-1/2) V^(1/2) dW from the law of independent starts, f the
    closed ODEs, V and f1 covariance and finite-size drift of the steps along the mean solution. When a cosine reaches
    `level` the noise is switched off, and the basin of the state is the end of the sample.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none, and a constant learning rate.
    dimension : int
        N.
    initial : InitialLaw, optional
        Law of a row of weights; by default Gaussian of Q = 1 (for several outputs the identity) without overlaps.
    samples : int
        The standard error of a probability p is sqrt(p (1 - p) / samples).
    level : float
        Cosine, between 0 and 1.
    t_max : float, optional
        Samples that have not escaped by then go on without noise. By default the time that all but about one in 3000
        take.
    points : FixedPoints, optional
        What `fixed_points` returned, to save another search.
    rng : seed
    progress : bool
        Show a progress bar when standard error is a terminal.

    Returns
    -------
    Selection

    Raises
    ------
    ClosureError
        If the moments do not close.
    UnsupportedError
        For a learning rate that depends on time; if `t_max` is not given and there is no uninformative state, or
        nothing grows there.
    InvalidInput

    Notes
    -----
    docs/selection.md. Neglected are terms of relative order 1 / N, among them the noise after the escape and its
    dependence on the overlaps before: they show at small N and large learning rates, where runs can also leave an
    attractor again.
    """
    task = Ensemble.of(problem, initial, samples, level, progress)
    dimension = checked_dimension(problem, "dimension", dimension)
    if points is not None and not isinstance(points, FixedPoints):
        raise InvalidInput("points", points, "what system.fixed_points() returned")
    t_end = task.t_max(t_max, dimension)
    seed = _checks.seed_sequence("rng", rng)
    points = fixed_points(problem) if points is None else points
    found = task.escapes(task.path(t_end), dimension, t_end, seed)
    slowest = min((-p.stability.eigenvalues.real.max() for p in points.stable), default=1.0)
    ends = basins(
        problem, (found.Q, found.R), t_max=max(t_end, _SETTLING / float(slowest)), rtol=_BASIN_RTOL, points=points,
        progress=progress,
    )  # fmt: skip
    return Selection(problem, task.initial, dimension, task.level, t_end, task.growth_rate, found, ends)


@dataclass(frozen=True)
class Ensemble:
    """Checked arguments that both functions share."""

    problem: Problem
    initial: InitialLaw
    samples: int
    level: float
    growth_rate: float | None
    progress: bool

    @classmethod
    def of(
        cls, problem: Problem, initial: InitialLaw | None, samples: object, level: object, progress: object
    ) -> Ensemble:
        constant_rate(problem)
        initial = check_initial(Gaussian(1.0, 0.0) if initial is None else initial, problem)
        samples = _checks.integer("samples", samples, minimum=1)
        level = _checks.number("level", level, minimum=0.0, maximum=1.0, exclusive=True)
        progress = _checks.flag("progress", progress)
        ClosedRates(problem, _RTOL)  # says so if the moments do not close
        try:
            rate = max(learnability(problem, k).growth_rate for k in range(problem.n_features))
        except UnsupportedError:
            rate = None
        return cls(problem, initial, samples, level, rate, progress)

    def t_max(self, given: object, dimension: int) -> float:
        """Return the time at which the ensemble ends."""
        if given is not None:
            return _checks.number("t_max", given, minimum=0.0, exclusive=True)
        if self.growth_rate is None:
            raise UnsupportedError("selection: there is no uninformative state to estimate t_max from; give it")
        if self.growth_rate <= 0.0:
            raise UnsupportedError("selection: no overlap grows at the uninformative state; give t_max all the same")
        return (0.5 * math.log(dimension) + _TAIL) / self.growth_rate

    def path(self, t_max: float) -> MeanPath:
        """Return the mean solution with the noise along it."""
        closed = ClosedRates(self.problem, _RTOL)
        return MeanPath.of(self.problem, self.initial, closed, level=self.level, t_max=t_max)

    def escapes(self, path: MeanPath, dimension: int, t_max: float, seed: np.random.SeedSequence) -> Escapes:
        """Follow the ensemble."""
        return follow_to_escape(
            self.problem, path, ClosedRates(self.problem, _RTOL), dimension=dimension, samples=self.samples,
            level=self.level, t_max=t_max, seed=seed, progress=self.progress,
        )  # fmt: skip


def checked_dimension(problem: Problem, name: str, value: object) -> int:
    return _checks.integer(name, value, minimum=problem.n_features + problem.outputs + 1)


def _compare(prediction: Selection, sgd: SgdSolution) -> SelectionComparison:
    if not isinstance(sgd, SgdSolution):
        raise InvalidInput("sgd", type(sgd).__name__, "what mkvlasov.simulate_sgd returned")
    if sgd.problem != prediction.problem:
        raise InvalidInput("sgd", sgd.problem, f"runs of {prediction.problem!r}")
    if not _same_start(sgd, prediction.initial):
        raise InvalidInput("sgd", sgd.initial, f"runs from {prediction.initial!r}")
    if sgd.stats["dimension"] != prediction.dimension:
        raise InvalidInput("sgd", sgd.stats["dimension"], f"runs of dimension {prediction.dimension}")
    of_samples = prediction.basins
    of_runs = basins(
        sgd.problem, (sgd.runs.Q[-1], sgd.runs.R[-1]), t_max=of_samples.t_max, rtol=of_samples.rtol,
        points=of_samples.points, progress=False,
    )  # fmt: skip
    first, second = of_samples.fractions(signs=False), of_runs.fractions(signs=False)
    names = tuple(dict.fromkeys(n for part in (first, second) for n in part if n not in ("diverged", "unresolved")))
    names += ("diverged", "unresolved")
    counts = np.array([[part[n].count if n in part else 0 for n in names] for part in (first, second)])
    sizes = counts.sum(axis=1)
    pooled = counts.sum(axis=0) / sizes.sum()
    error = np.sqrt(pooled * (1.0 - pooled) * (1.0 / sizes).sum())
    predicted, found = counts / sizes[:, None]
    z = (predicted - found) / np.where(error > 0.0, error, 1.0)
    seen = counts[:, counts.any(axis=0)]
    chi_square, p_value = stats.chi2_contingency(seen, correction=False)[:2] if seen.shape[1] > 1 else (0.0, 1.0)
    times = _run_escapes(sgd, prediction.level)
    return SelectionComparison(
        prediction, names, predicted, found, error, z, float(chi_square), float(p_value), int(sizes[1]), times,
        _z_of_means(prediction.escape_times, times, min(prediction.t_max, float(sgd.t[-1]))),
    )  # fmt: skip


def _same_start(sgd: SgdSolution, initial: InitialLaw) -> bool:
    """Return whether runs start with the overlaps of a law, and with their spread."""
    if not all(map(np.array_equal, sgd.initial.overlaps(sgd.problem), initial.overlaps(sgd.problem))):
        return False
    ours, theirs = (independent_start(sgd.problem, law).covariance for law in (initial, sgd.initial))
    return bool(np.allclose(ours, theirs, rtol=1e-9, atol=1e-12))


def _run_escapes(sgd: SgdSolution, level: float) -> Array:
    """Return when a cosine of each run reached the level, taking it to grow exponentially between output times."""
    cosines = np.abs(cosine_similarity(sgd.runs.Q, sgd.runs.R)).max(axis=(-2, -1))
    reached = cosines >= level
    index = reached.argmax(axis=0)
    runs = np.arange(cosines.shape[1])
    before = np.maximum(index - 1, 0)
    high, low = cosines[index, runs], np.minimum(cosines[before, runs], level)
    part = np.log(high / level) / np.maximum(np.log(high / low), 1e-300)
    times = np.where(index > 0, sgd.t[index] - np.minimum(part, 1.0) * (sgd.t[index] - sgd.t[before]), sgd.t[0])
    return np.where(reached.any(axis=0), times, np.inf)


def _z_of_means(first: Array, second: Array, end: float) -> float:
    """Return the difference of the means of times, cut at `end`, over its standard error; NaN if there is none."""
    parts = [np.minimum(times, end) for times in (first, second)]
    error = math.sqrt(sum(float(part.var()) / len(part) for part in parts))
    return float((parts[0].mean() - parts[1].mean()) / error) if error > 0.0 else math.nan


def summary(times: Array, t_max: float | None = None) -> str:
    """Return mean, spread and quantiles of the times of those that have escaped, and how many have not."""
    known = times[np.isfinite(times)]
    if not len(known):
        return "none has escaped"
    low, middle, high = np.quantile(known, [0.05, 0.5, 0.95])
    error = known.std() / math.sqrt(len(known))
    text = f"mean {known.mean():.4g} +- {error:.2g}, quantiles 5 %, 50 %, 95 %: {low:.4g}, {middle:.4g}, {high:.4g}"
    missing = len(times) - len(known)
    if missing:
        text += f"; not escaped{'' if t_max is None else f' by {t_max:.4g}'}: {missing} of {len(times)}"
    return text
