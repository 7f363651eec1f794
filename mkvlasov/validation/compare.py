"""Do two routes agree? Gaps between order parameters against statistical and discretization errors.

For every entry X of R, Q and of the cosine similarity two statistics are tested: the gap at the worst of the output
times, and the gap of the average over time (whose standard error is taken from the time averages of the runs, so that
it knows how the runs are correlated in time). A gap is allowed to be

    discretization error of both + q * standard error + bias,

where q is the quantile of Student's t distribution for a false-alarm rate `alpha`, corrected by Bonferroni for all
comparisons made against the reference, and the bias of a mean over finite systems, O(1/N), is bounded by the variance
between runs: for X of order one the bias is half the second derivative of the dynamics (order one) times that
variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.order_parameters import cosine_similarity
from mkvlasov.solution import Solution
from mkvlasov.solution_runs import RunsSolution

_ROUNDING = 1e-10
"""Gaps below this times the size of the quantity are rounding."""

_QUANTITIES = {"R": "R", "Q": "Q", "cosine similarity": "cosine_similarity"}


@dataclass(frozen=True)
class Row:
    """One entry of one order parameter, one route against the reference.

    Attributes
    ----------
    reference, other : str
        The routes.
    quantity : str
        Such as ``R[0, 1]``, counted from zero.
    statistic : str
        "worst time" or "time average".
    time : float
        Where the gap is largest relative to what is allowed (NaN for the time average).
    gap, allowed : float
    standard_errors, discretization, bias : float
        The three parts of `allowed`.
    quantile : float
        Number of standard errors in `standard_errors` (zero if neither route draws).
    passed : bool
    """

    reference: str
    other: str
    quantity: str
    statistic: str
    time: float
    gap: float
    allowed: float
    standard_errors: float
    discretization: float
    bias: float
    quantile: float

    @property
    def passed(self) -> bool:
        """Whether the gap is within what is allowed; False if either is not finite, for then nothing is known."""
        return bool(np.isfinite(self.allowed) and self.gap <= self.allowed)

    @property
    def reason(self) -> str:
        """The verdict in words."""
        where = "" if np.isnan(self.time) else f" at t = {self.time:.4g}"
        parts = [f"{self.discretization:.2g} discretization"]
        if self.quantile:
            parts.append(f"{self.standard_errors:.2g} from {self.quantile:.1f} standard errors")
            parts.append(f"{self.bias:.1g} finite-size bias")
        relation = "within" if self.passed else "beyond"
        return f"gap {self.gap:.2g}{where} is {relation} {self.allowed:.2g} = " + " + ".join(parts)


@dataclass(frozen=True)
class Comparison:
    """Verdicts of one reference against other solutions.

    Attributes
    ----------
    rows : tuple of Row
    failures : tuple of str
        Runs that could not be compared because they ended early, in words.
    alpha : float
        False-alarm rate of the whole table, if every error estimate is right.
    """

    rows: tuple[Row, ...]
    failures: tuple[str, ...]
    alpha: float

    @property
    def passed(self) -> bool:
        """Whether all rows passed and no run failed."""
        return not self.failures and all(row.passed for row in self.rows)

    def worst(self) -> tuple[Row, ...]:
        """Return, for each pair of routes and each kind of quantity, the row with the largest gap over allowance."""
        best: dict[tuple[str, str], Row] = {}
        for row in self.rows:
            key = (row.other, row.quantity.split("[")[0])
            if key not in best or _strain(row) > _strain(best[key]):
                best[key] = row
        return tuple(best.values())

    def __str__(self) -> str:
        return format_rows(self.rows, self.failures)


def format_rows(rows: tuple[Row, ...], failures: tuple[str, ...]) -> str:
    """Return rows as a table of fixed width, with the verdict below."""
    header = ("comparison", "quantity", "statistic", "gap", "allowed", "verdict", "reason")
    lines = [header] + [
        (
            f"{row.reference} - {row.other}", row.quantity, row.statistic, f"{row.gap:.2e}", f"{row.allowed:.2e}",
            "agree" if row.passed else "DISAGREE", row.reason,
        )
        for row in rows
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(header) - 1)]
    table = ["  ".join([*(cell.ljust(n) for cell, n in zip(line, widths, strict=False)), line[-1]]) for line in lines]
    table.insert(1, "-" * min(max(len(line) for line in table), 150))
    return "\n".join([*table, *(f"FAILED: {failure}" for failure in failures)])


def compare(reference: Solution, *others: Solution, alpha: float = 0.01) -> Comparison:
    """Compare order parameters of solutions with those of a reference, entry by entry.

    Parameters
    ----------
    reference, *others : Solution
        With the same output times and shapes.
    alpha : float
        False-alarm rate of the whole table.

    Returns
    -------
    Comparison
        Prints itself; ``.passed``.

    Raises
    ------
    InvalidInput
        If there is nothing to compare, a simulation has a single run, or times or shapes differ.
    """
    alpha = _checks.number("alpha", alpha, minimum=0.0, maximum=1.0, exclusive=True)
    solutions = (reference, *others)
    for solution in solutions:
        if not isinstance(solution, Solution):
            raise InvalidInput("compare", solution, "solutions of the four routes")
        if isinstance(solution, RunsSolution) and solution.n_runs < 2:
            raise InvalidInput("compare", solution, "simulations of at least 2 runs, which give a standard error")
    if not others:
        raise InvalidInput("compare", solutions, "a reference and at least one other solution")
    failures = tuple(f"{_name(s)}: {s.status.message}" for s in solutions if not s.status.success)
    if not reference.status.success:
        return Comparison((), failures, alpha)
    finished = [other for other in others if other.status.success]
    for other in finished:
        _check_same_grid(reference, other)
    entries = sum(getattr(reference, name)[0].size for name in _QUANTITIES.values())
    comparisons = max(1, len(finished)) * entries * (len(reference.t) + 1)
    rows = [row for other in finished for row in _pair(reference, other, alpha / comparisons)]
    return Comparison(tuple(rows), failures, alpha)


class _Track(NamedTuple):
    """One quantity of one solution: value, discretization error, standard error over time (T, ...), and its runs."""

    value: Array
    error: Array
    stderr: Array
    runs: Array | None


def _track(solution: Solution, quantity: str) -> _Track:
    name = _QUANTITIES[quantity]
    value, error, stderr = (getattr(solution, name + suffix) for suffix in ("", "_error", "_stderr"))
    runs = None
    if isinstance(solution, RunsSolution):
        Q, R = solution.runs.Q, solution.runs.R
        runs = {"R": R, "Q": Q}.get(quantity)
        runs = cosine_similarity(Q, R) if runs is None else runs
    return _Track(value, error, stderr, runs)


def _pair(reference: Solution, other: Solution, alpha: float) -> list[Row]:
    rows = []
    for quantity in _QUANTITIES:
        a, b = _track(reference, quantity), _track(other, quantity)
        for index in np.ndindex(a.value.shape[1:]):
            if quantity == "Q" and index[0] > index[1]:
                continue  # Q is symmetric
            entry = [_at(track, index) for track in (a, b)]
            label = f"{quantity}[{index[0]}, {index[1]}]"
            rows.append(_worst_time(reference, other, label, entry, alpha))
            rows.append(_time_average(reference, other, label, entry, alpha))
    return rows


def _at(track: _Track, index: tuple[int, ...]) -> _Track:
    """Return one entry of a quantity over time (T,), with its runs (T, runs)."""
    runs = None if track.runs is None else track.runs[:, :, index[0], index[1]]
    value, error, stderr = (values[:, index[0], index[1]] for values in (track.value, track.error, track.stderr))
    return _Track(value, error, stderr, runs)


def _worst_time(reference: Solution, other: Solution, label: str, entry: list[_Track], alpha: float) -> Row:
    gap = np.abs(entry[0].value - entry[1].value)
    return _row(reference, other, label, reference.t, gap, [(t.error, t.stderr, _n(t)) for t in entry], alpha, entry)


def _time_average(reference: Solution, other: Solution, label: str, entry: list[_Track], alpha: float) -> Row:
    gap = np.abs(np.mean(entry[0].value - entry[1].value, keepdims=True))
    errors = []
    for track in entry:
        stderr = np.zeros(1)
        if track.runs is not None:
            averages = track.runs.mean(axis=0)
            stderr = np.array([averages.std(ddof=1) / np.sqrt(len(averages))])
        errors.append((track.error.mean(keepdims=True), stderr, _n(track)))
    return _row(reference, other, label, np.full(1, np.nan), gap, errors, alpha, entry)


def _n(track: _Track) -> int:
    return 1 if track.runs is None else int(track.runs.shape[1])


def _row(
    reference: Solution,
    other: Solution,
    label: str,
    times: Array,
    gap: Array,
    errors: list[tuple[Array, Array, int]],
    alpha: float,
    entry: list[_Track],
) -> Row:
    """Put a gap and the errors of both sides together and pick the time at which the gap is worst."""
    scale = max(float(np.abs(track.value).max()) for track in entry)
    discretization = errors[0][0] + errors[1][0] + _ROUNDING * (1.0 + scale)
    variance = errors[0][1] ** 2 + errors[1][1] ** 2
    quantile = _quantile(errors, variance, alpha)
    statistical = quantile * np.sqrt(variance)
    bias = errors[0][2] * errors[0][1] ** 2 + errors[1][2] * errors[1][1] ** 2
    allowed = discretization + statistical + bias
    known = np.isfinite(gap) & np.isfinite(allowed)
    worst = int(np.argmax(np.where(known, gap / np.where(known, allowed, 1.0), np.inf)))
    return Row(
        reference=_name(reference), other=_name(other), quantity=label,
        statistic="time average" if np.isnan(times[worst]) else "worst time", time=float(times[worst]),
        gap=float(gap[worst]), allowed=float(allowed[worst]), standard_errors=float(statistical[worst]),
        discretization=float(discretization[worst]), bias=float(bias[worst]), quantile=float(quantile[worst]),
    )  # fmt: skip


def _quantile(errors: list[tuple[Array, Array, int]], variance: Array, alpha: float) -> Array:
    """Return the two-sided quantile of t with Welch's degrees of freedom; zero where nothing is drawn."""
    parts = sum(stderr**4 / max(n - 1, 1) for _, stderr, n in errors)
    drawn = variance > 0.0
    freedom = np.where(drawn, variance**2 / np.where(drawn, parts, 1.0), 1.0)
    return np.where(drawn, stats.t.isf(alpha / 2.0, freedom), 0.0)


def _strain(row: Row) -> float:
    return row.gap / row.allowed if np.isfinite(row.gap) and np.isfinite(row.allowed) else np.inf


def _name(solution: Solution) -> str:
    return solution.route.upper() if solution.route != "particles" else solution.route


def _check_same_grid(reference: Solution, other: Solution) -> None:
    if reference.R.shape != other.R.shape:
        raise InvalidInput("compare", other, f"order parameters of shape {reference.R.shape}, like the reference's")
    if not np.allclose(reference.t, other.t, rtol=1e-9, atol=1e-9):
        raise InvalidInput("compare", other.t, "the same output times as the reference's")
