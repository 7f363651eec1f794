"""Do two routes agree? Gaps between trajectories of order parameters against statistical and discretization errors.

Routes that draw are judged jointly over entries and times: entries and times are correlated, so their gaps are
projected on a few directions fixed beforehand (`directions`) and judged together by Hotelling's test with the spread of
the runs (`joint`), once for all entries and once per entry. Routes that do not draw are judged by their own error
estimates. All p-values of a table are corrected by Holm's method, so `alpha` is the false-alarm rate of the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.limit.entries import Entries
from mkvlasov.reduction.fluctuations import Fluctuations
from mkvlasov.solution import Solution
from mkvlasov.solution_pde import PdeSolution
from mkvlasov.solution_runs import RunsSolution
from mkvlasov.validation.densities import cell_gap, with_atom
from mkvlasov.validation.directions import affordable, trajectory_directions
from mkvlasov.validation.joint import Spread, covariance_power, covariance_test, holm, joint_test, power, runs_factor
from mkvlasov.validation.joint import spread_of as spread_of_samples
from mkvlasov.validation.rows import AGREE, DISAGREE, JOINT, UNDECIDED, Comparison, Row
from mkvlasov.validation.tracks import (
    BIAS_PER_VARIANCE,
    Track,
    entries_of,
    name_of,
    runs_of,
    same_times,
    start_of,
    tracks,
)

WANTED_POWER = 0.9
"""A row says "agree" only if the stated deviation would have been seen with this probability."""

_CONSTANT = 1e-9
"""Entries whose runs differ by less than this, relative to the size of the entry, are not random."""

_MOST_ATOMS = 4
"""Densities of more loadings are not judged: every one is a comparison that costs the others power."""

_WIDER = 1.2
"""Factor of all variances against which the power of a spread is stated."""


def compare(
    reference: Solution,
    *others: Solution,
    alpha: float = 0.01,
    deviation: float = 0.1,
    fluctuations: Fluctuations | None = None,
) -> Comparison:
    """Compare order parameters of solutions with those of a reference.

    Parameters
    ----------
    reference, *others : Solution
        With the same output times and shapes. SGD at two or more dimensions is extrapolated in 1/N, unless
        `fluctuations` are given.
    alpha : float
        False-alarm rate of the whole table.
    deviation : float
        Relative deviation that must be visible before a row says "agree": all entries have moved, since time zero, too
        far by this share. Where a route does not draw, its errors must be below this share of R or Q.
    fluctuations : Fluctuations, optional
        ``mkvlasov.reduce(problem).fluctuations(initial, t_eval, exact_overlaps)`` for the simulations of SGD: the
        predicted bias is subtracted, and the predicted spread is judged at the largest dimension.

    Returns
    -------
    Comparison
        Prints itself; ``.passed``, ``.verdict``.

    Raises
    ------
    InvalidInput
        If there is nothing to compare, a simulation has a single run, times or shapes differ, or `fluctuations` are not
        those of these runs.
    """
    alpha = _checks.number("alpha", alpha, minimum=0.0, maximum=1.0, exclusive=True)
    deviation = _checks.number("deviation", deviation, minimum=0.0, maximum=1.0, exclusive=True)
    solutions = (reference, *others)
    for solution in solutions:
        if not isinstance(solution, Solution):
            raise InvalidInput("compare", solution, "solutions of the four routes")
        if isinstance(solution, RunsSolution) and solution.n_runs < 2:
            raise InvalidInput("compare", solution, "simulations of at least 2 runs, which give a standard error")
    if not others:
        raise InvalidInput("compare", solutions, "a reference and at least one other solution")
    if fluctuations is not None and not isinstance(fluctuations, Fluctuations):
        raise InvalidInput("fluctuations", fluctuations, "what system.fluctuations(...) returns")
    failures = tuple(f"{name_of(s)}: {s.status.message}" for s in solutions if not s.status.success)
    if not reference.status.success:
        return Comparison((), failures, alpha)
    finished = [other for other in others if other.status.success]
    for other in finished:
        _check_same_grid(reference, other)
    theirs = tracks([reference], None)[0]
    pairs = [Pair(reference, theirs, track, deviation) for track in tracks(finished, fluctuations)]
    questions = [row for pair in pairs for row in pair.rows()]
    if isinstance(reference, PdeSolution):
        for other in finished:
            if isinstance(other, RunsSolution):
                questions += _density_rows(reference, other, deviation)
    if fluctuations is not None:
        questions += _spread_rows(theirs.name, finished, fluctuations)
    return Comparison(judged(questions, alpha), failures, alpha)


@dataclass(frozen=True)
class Question:
    """A row whose verdict waits for the number of all comparisons.

    Attributes
    ----------
    row : Row
        With the p-value of this test alone.
    facts : str
        Its numbers in words.
    spread, half_width, change, runs
        What the power depends on; the deviation is `change`. None for tests whose power is not asked for.
    """

    row: Row
    facts: str
    spread: Spread | None = None
    half_width: Array | None = None
    change: Array | None = None
    runs: int = 0
    deviation: str = ""
    variances: int = 0


@dataclass(frozen=True)
class Pair:
    """A reference and another route: what is asked about their trajectories."""

    reference: Solution
    theirs: Track
    other: Track
    deviation: float

    @cached_property
    def samples(self) -> tuple[tuple[float, Array], ...]:
        """Weights and runs (T, n, d) of both routes."""
        return self.theirs.samples + self.other.samples

    @cached_property
    def gap(self) -> Array:
        """Gap of the trajectories (T, d)."""
        return self.other.value - self.theirs.value

    @cached_property
    def half_width(self) -> Array:
        """Bound on discretization and bias of both routes (T, d)."""
        return self.theirs.error + self.other.error + self.theirs.bias + self.other.bias

    @cached_property
    def random(self) -> np.ndarray:
        """Which entries (d,) are random."""
        size = 1.0 + np.abs(self.theirs.value).max(axis=0)
        spread = [runs.std(axis=1).max(axis=0) for _, runs in self.samples]
        return np.any([s > _CONSTANT * size for s in spread], axis=0) if spread else np.zeros(len(size), dtype=bool)

    def projected(self, directions: Array) -> tuple[Array, Spread, Array]:
        """Return gap (p,), its spread and the bounds of its bias (p,) along directions (p, T, d)."""
        runs = [(weight, np.einsum("pti,tni->np", directions, sample)) for weight, sample in self.samples]
        gap = np.einsum("pti,ti->p", directions, self.gap)
        return gap, spread_of_samples(runs), np.einsum("pti,ti->p", np.abs(directions), self.half_width)

    def directions(self, chosen: np.ndarray) -> Array:
        """Return directions (p, T, d) of the chosen entries, as many as the number of runs allows."""
        freedom = min(runs.shape[1] for _, runs in self.samples) - 1.0
        few = trajectory_directions(self.reference.t, len(chosen), affordable(freedom))
        full = np.zeros((*few.shape[:2], self.gap.shape[1]))
        full[:, :, chosen] = few
        return full

    def rows(self) -> list[Question]:
        """Return the questions: all random entries together, each of them, and each entry that is not random."""
        entries = entries_of(self.reference)
        finite = np.isfinite(self.gap) & np.isfinite(self.half_width)
        sound = self.random & finite.all(axis=0)
        drawn = np.flatnonzero(sound)
        found = []
        if len(drawn):
            found.append(self._joint(drawn, "order parameters", JOINT))
        for index, name in enumerate(_labels(entries)):
            if sound[index]:
                found.append(self._joint(np.array([index]), name, "all times"))
            else:
                found.append(Question(self._worst_time(index, name, finite[:, index]), ""))
        return found

    def _joint(self, chosen: np.ndarray, quantity: str, statistic: str) -> Question:
        directions = self.directions(chosen)
        gap, spread, half_width = self.projected(directions)
        test = joint_test(gap, spread, half_width)
        moved = self.deviation * (self.theirs.value - start_of(self.reference))
        row = Row(
            self.theirs.name, self.other.name, quantity, statistic, gap=float(np.abs(self.gap[:, chosen]).max()),
            allowed=math.nan, p_value=test.p_value, power=math.nan, verdict="", reason="",
        )  # fmt: skip
        runs = self.theirs.runs + self.other.runs
        facts = f"T^2 = {test.statistic:.1f} along {test.dimension} directions with {spread.freedom:.0f} degrees of "
        facts += f"freedom from {runs} runs"
        if statistic == JOINT:
            notes = [track.note for track in (self.theirs, self.other) if track.note]
            largest = float((self.theirs.error + self.other.error).max())
            facts += "; " + "; ".join([*notes, f"discretization errors up to {largest:.1g} are allowed for"])
        change = np.einsum("pti,ti->p", directions, moved)
        what = f"{self.deviation:.0%} more change since the start"
        return Question(row, facts, spread, half_width, change, runs, what)

    def _worst_time(self, index: int, name: str, finite: np.ndarray) -> Row:
        """Judge an entry without random errors at the time where its gap is largest relative to the errors."""
        gap, allowed = np.abs(self.gap[:, index]), self.half_width[:, index]
        strain = np.where(finite, gap / np.where(finite, allowed, 1.0), np.inf)
        worst = int(strain.argmax())
        kind = [i for i, label in enumerate(_labels(entries_of(self.reference))) if label[0] == name[0]]
        wanted = self.deviation * float(np.abs(self.theirs.value[:, kind]).max())
        where = f"gap {gap[worst]:.2g} at t = {self.reference.t[worst]:.4g}"
        if not strain[worst] <= 1.0:
            verdict, relation = DISAGREE, "beyond" if finite[worst] else "not a number, or its error is unknown:"
        elif float(allowed.max()) > wanted > 0.0:
            verdict, relation = (
                UNDECIDED,
                f"errors hide {self.deviation:.0%} of {name[0]}; smaller ones would do: within",
            )
        else:
            verdict, relation = AGREE, "within"
        return Row(
            self.theirs.name, self.other.name, name, "worst time", gap=float(gap[worst]),
            allowed=float(allowed[worst]), p_value=math.nan, power=math.nan, verdict=verdict,
            reason=f"{where} is {relation} the error estimates of both routes, {allowed[worst]:.2g}",
        )  # fmt: skip


def judged(questions: list[Question], alpha: float) -> tuple[Row, ...]:
    """Return rows with adjusted p-values, power and verdicts."""
    drawn = [i for i, question in enumerate(questions) if not math.isnan(question.row.p_value)]
    adjusted = holm(np.array([questions[i].row.p_value for i in drawn]))
    # A test of one of n is certain to reject if its own p-value is below alpha / n.
    level = alpha / max(1, len(drawn))
    rows = [question.row for question in questions]
    for i, p_value in zip(drawn, adjusted.tolist(), strict=True):
        rows[i] = _verdict(questions[i], p_value, alpha, level, len(drawn))
    return tuple(rows)


def _verdict(question: Question, p_value: float, alpha: float, level: float, count: int) -> Row:
    row, seen, advice = question.row, math.nan, ""
    if question.variances:
        seen = covariance_power(_WIDER, question.variances, question.runs, level)
        advice = " (more runs show more)"
    elif question.spread is not None and question.half_width is not None and question.change is not None:
        seen = power(question.change, question.spread, question.half_width, level)
        if seen < WANTED_POWER and p_value > alpha:
            advice = _advice(question, level)
    if p_value <= alpha:
        verdict = DISAGREE
    elif not math.isnan(seen) and seen < WANTED_POWER:
        verdict = UNDECIDED
    else:
        verdict = AGREE
    reason = f"{question.facts}: p = {row.p_value:.2g} alone, {p_value:.2g} among {count} (Holm; alpha = {alpha:g})"
    if not math.isnan(seen):
        reason += f"; {question.deviation} would be seen with probability {seen:.2g}"
    return replace(
        row, p_value=p_value, power=seen, verdict=verdict, reason=reason + (advice if verdict == UNDECIDED else "")
    )


def _advice(question: Question, level: float) -> str:
    assert question.spread is not None
    assert question.half_width is not None
    assert question.change is not None
    if not np.abs(question.change).max() > 0.0:
        return " (nothing moves)"
    factor = runs_factor(question.change, question.spread, question.half_width, alpha=level, wanted=WANTED_POWER)
    if math.isinf(factor):
        return " (no number of runs would do: discretization errors or the bias hide it)"
    return f" (about {math.ceil(factor * question.runs):,} runs would do for {WANTED_POWER:g})"


def _spread_rows(reference: str, finished: list[Solution], theory: Fluctuations) -> list[Question]:
    """Judge the predicted spread of SGD at the largest dimension, in the middle and at the end."""
    simulations = [s for s in finished if isinstance(s, RunsSolution) and s.route == "sgd" and "dimension" in s.stats]
    if not simulations:
        return []
    largest = max(simulations, key=lambda s: s.stats["dimension"])
    dimension, runs = int(largest.stats["dimension"]), runs_of(largest)
    found = []
    for index in sorted({len(largest.t) // 2, len(largest.t) - 1}):
        test = covariance_test(runs[index], theory.covariance[index] / dimension)
        if not test.dimension:
            continue
        predicted = theory.std(dimension)[index]
        seen = runs[index].std(axis=0, ddof=1)
        row = Row(
            reference, f"SGD (N = {dimension:,})", f"spread at t = {largest.t[index]:.4g}", "covariance of the runs",
            gap=float(np.abs(seen - predicted).max()), allowed=math.nan, p_value=test.p_value, power=math.nan,
            verdict="", reason="",
        )  # fmt: skip
        facts = f"likelihood ratio {test.statistic:.1f} for {test.dimension} entries from {runs.shape[1]} runs"
        what = f"variances {_WIDER - 1.0:.0%} larger"
        found.append(Question(row, facts, runs=runs.shape[1], deviation=what, variances=test.dimension))
    return found


def _density_rows(reference: PdeSolution, other: RunsSolution, deviation: float) -> list[Question]:
    """Judge the densities at the snapshots, where the law of the loadings has a few atoms."""
    atoms = reference.loading_points
    if not reference.problem.loadings.is_exact or len(atoms) > _MOST_ATOMS:
        return []
    found = []
    track, total = tracks([other], None)[0], runs_of(other).var(axis=1, ddof=1).sum(axis=-1)
    for index, t in enumerate(other.snapshots.t.tolist()):
        if t == 0.0 or np.abs(reference.t - t).min() > 1e-9:
            continue
        now = reference.time_index(t)
        for atom in atoms:
            samples = with_atom(other, index, atom)
            if not samples:
                continue
            density = reference.density(t, atom)
            cells = cell_gap(samples, density, deviation)
            spread = spread_of_samples([(1.0, cells.fractions)])
            # Half the error in L1 bounds that of a mass; errors of the other route in R and Q move its weights.
            moved = float(track.error[now].max()) * (1.0 + float(np.abs(atom).max()))
            half = 0.5 * float(reference.density_error[now]) + float(density.p.max()) * moved
            half += BIAS_PER_VARIANCE * float(total[: now + 1].max())
            half_width = np.full(len(cells.gap), half)
            test = joint_test(cells.gap, spread, half_width)
            row = Row(
                "PDE", track.name, f"density of a = {np.array2string(atom, precision=3)} at t = {t:.4g}",
                "fractions in cells", gap=cells.kolmogorov, allowed=math.nan, p_value=test.p_value, power=math.nan,
                verdict="", reason="",
            )  # fmt: skip
            facts = f"T^2 = {test.statistic:.1f} for {test.dimension + 1} cells from {len(samples)} runs; distribution "
            facts += f"functions differ by {cells.kolmogorov:.2g}, Wasserstein-1 distance {cells.wasserstein:.2g}; "
            facts += f"{half:.1g} is allowed for errors of the densities and the bias"
            what = f"weights {deviation:.0%} larger"
            found.append(Question(row, facts, spread, half_width, cells.change, len(samples), what))
    return found


def _labels(entries: Entries) -> list[str]:
    return [name.replace(",", ", ") for name in entries.names]


def _check_same_grid(reference: Solution, other: Solution) -> None:
    if reference.R.shape[1:] != other.R.shape[1:]:
        raise InvalidInput("compare", other, f"order parameters of shape {reference.R.shape}, like the reference's")
    if not same_times(reference.t, other.t):
        raise InvalidInput("compare", other.t, "the same output times as the reference's")
