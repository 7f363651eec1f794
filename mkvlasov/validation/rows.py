"""What a comparison says: a row per question with its verdict and the reason, and the verdict of all."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

AGREE, DISAGREE, UNDECIDED = "agree", "disagree", "undecided"

JOINT = "all entries, all times"
"""The statistic of the rows on which the verdict of a comparison rests."""

_WIDTH = 150


@dataclass(frozen=True)
class Row:
    """One question to a pair of routes.

    Attributes
    ----------
    reference, other : str
        The routes.
    quantity : str
        "order parameters", or an entry such as ``R[0, 1]``, counted from zero, or a density.
    statistic : str
        What was tested: "all entries, all times", "all times", "worst time" (without random errors), "spread", ...
    gap : float
        Largest gap over time.
    allowed : float
        Largest gap that counts as agreement, where a test has one (NaN where it is a joint one).
    p_value : float
        Probability of such a gap by chance, adjusted by Holm's method for all rows of the table that have one; NaN for
        routes without random errors.
    power : float
        Probability that the stated deviation would be seen (NaN where nothing is drawn).
    verdict : str
        "agree", "disagree" or "undecided".
    reason : str
        The verdict in words.
    """

    reference: str
    other: str
    quantity: str
    statistic: str
    gap: float
    allowed: float
    p_value: float
    power: float
    verdict: str
    reason: str

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against agreement: the verdict is not "disagree"."""
        return self.verdict != DISAGREE


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
        """Whether nothing disagrees and no run failed; `verdict` also says whether enough could be seen."""
        return not self.failures and all(row.passed for row in self.rows)

    @property
    def verdict(self) -> str:
        """Whether all agree, some disagree, or it is undecided: no simulation of a route had the power wanted."""
        if not self.passed:
            return DISAGREE
        joint = [row for row in self.rows if row.statistic == JOINT]
        decided = {_route(row) for row in joint if row.verdict == AGREE}
        return AGREE if decided == {_route(row) for row in joint} else UNDECIDED

    def worst(self) -> tuple[Row, ...]:
        """Return what to look at first: joint rows, rows that disagree, and the largest of the other gaps.

        Of the gaps without random errors, one row for each pair of routes and each kind of quantity.
        """
        best: dict[tuple[str, str], Row] = {}
        for row in self.rows:
            key = (row.other, row.quantity.split("[")[0])
            if row.p_value != row.p_value and (key not in best or _strain(row) > _strain(best[key])):
                best[key] = row
        kept = [*best.values()]
        return tuple(row for row in self.rows if row.statistic == JOINT or not row.passed or row in kept)

    def __str__(self) -> str:
        return format_rows(self.rows, self.failures)


def format_rows(rows: tuple[Row, ...], failures: tuple[str, ...]) -> str:
    """Return rows as a table of fixed width, with the reasons below."""
    header = ("comparison", "quantity", "tested", "largest gap", "p", "power", "verdict")
    lines = [header] + [
        (
            f"{row.reference} - {row.other}", row.quantity, row.statistic, f"{row.gap:.2e}", _number(row.p_value),
            _number(row.power), row.verdict.upper() if row.verdict == DISAGREE else row.verdict,
        )
        for row in rows
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    table = ["  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip() for line in lines]
    table.insert(1, "-" * max(len(line) for line in table))
    for i, row in enumerate(rows):
        table[i + 2] += "\n" + textwrap.fill(row.reason, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([*table, *(f"FAILED: {failure}" for failure in failures)])


def _route(row: Row) -> str:
    """Return the route without its size: several simulations of one route decide together."""
    return row.other.split(" (")[0]


def _number(value: float) -> str:
    return "" if value != value else f"{value:.2g}"


def _strain(row: Row) -> float:
    return row.gap / row.allowed if row.gap == row.gap and row.allowed < float("inf") else float("inf")
