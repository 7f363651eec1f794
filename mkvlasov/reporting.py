"""The report folder: report.md, summary.json, figures and results, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from mkvlasov.configuration import RunOptions, to_toml
from mkvlasov.errors import InvalidInput
from mkvlasov.plotting.densities import plot_densities
from mkvlasov.plotting.trajectories import plot_solutions
from mkvlasov.validation.rows import Row
from mkvlasov.validation.validate import Report

SUMMARY = "summary.json"
"""The file by which a folder is known to be a report, which a new one may replace."""


def check_directory(directory: str | Path) -> Path:
    """Return the folder for a report if one can be written there; raise `InvalidInput` before any work is done."""
    path = Path(directory).resolve()
    allowed = "a new or empty folder, or an earlier report"
    if path.exists() and not _replaceable(path):
        raise InvalidInput("report directory", str(directory), allowed)
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InvalidInput("report directory", str(directory), f"{allowed}, where files can be written")
    return path


def _replaceable(path: Path) -> bool:
    return path.is_dir() and (not any(path.iterdir()) or (path / SUMMARY).is_file())


def write_report(report: Report, directory: str | Path) -> Path:
    """Write a report as a folder.

    Everything is written to a temporary folder beside it first, so an interrupted call leaves no half-written report
    and an earlier report stays until the new one is complete.

    Parameters
    ----------
    report : Report
    directory : str or Path
        A new or empty folder, or an earlier report, which is replaced.

    Raises
    ------
    InvalidInput
        If the folder holds anything else.
    """
    path = check_directory(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        _write(report, new)
        if path.exists():
            os.replace(path, Path(scratch) / "old")
        os.replace(new, path)
    return path


def _write(report: Report, path: Path) -> None:
    # One SGD: the literal algorithm, which keeps its weights.
    solutions = [s for name, s in report.solutions.items() if s.route != "sgd" or name == "sgd"]
    _figure(plot_solutions(solutions), path / "trajectories")
    _figure(plot_densities(solutions, report.density_times), path / "densities")
    (path / "results").mkdir()
    for route, solution in report.solutions.items():
        solution.save(path / "results" / f"{route}.nc")
    problem = _problem_file(report)
    if problem is not None:
        (path / "problem.toml").write_text(problem)
    (path / "report.md").write_text(_markdown(report, problem))
    (path / SUMMARY).write_text(json.dumps(_summary(report, problem), indent=2, allow_nan=False) + "\n")


def _problem_file(report: Report) -> str | None:
    """Return the problem and the settings as a problem file, or None if it holds functions that a file cannot name.

    Randomness that did not start from one number cannot be named either; the file then says 0.
    """
    settings = report.settings
    whole = {name: int(settings[name]) for name in ("times", "dimension", "runs", "particles")}
    seed = str(settings["seed"])
    run = RunOptions(t_final=float(settings["t_final"]), seed=int(seed) if seed.isdigit() else 0, **whole)
    try:
        return to_toml(report.problem, report.initial, run)
    except InvalidInput:
        return None


def _figure(figure: Figure, stem: Path) -> None:
    for suffix in (".png", ".svg"):
        figure.savefig(stem.with_suffix(suffix))


def _markdown(report: Report, problem: str | None) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    routes = [
        f"| {route} | {s.status.message} | {s.stats['error_estimate']:.1e} | {s.n_runs} | {s.stats['seconds']:.1f} |"
        for route, s in report.solutions.items()
    ]
    skipped = [f"- {route} was skipped: {reason}" for route, reason in report.skipped.items()]
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    sections = [
        "# Validation report",
        f"**{report.headline}**, in {report.seconds:.1f} s.",
        "\n".join(f"- {failure}" for failure in report.comparison.failures),
        "## Problem",
        f"```python\n{report.problem}\n{report.initial}\n```",
        ""
        if problem is None
        else "The same as a problem file: `problem.toml`, which `mkvlasov validate problem.toml` runs again.",
        f"Settings: {settings}.",
        "## Routes",
        "\n".join(["| route | ended | estimated error | runs | seconds |", "|---|---|---|---|---|", *routes]),
        "\n".join(skipped),
        "## Order parameters",
        "![Order parameters over time](trajectories.png)",
        "Lines: PDE and closed ODEs; dots: particles; circles: mean of the SGD runs with two standard errors.",
        "## Densities",
        "![Density snapshots](densities.png)",
        "Density of the weights of coordinates with the loading given at the left, at the time given above.",
        "## Verdicts",
        "Indices in the table count from zero, those of the figures from one. Routes that draw are judged jointly over "
        "entries and times, with the spread of their runs; the others by their error estimates. The p-values are "
        f"adjusted for their number (Holm): the false-alarm rate of the whole table is {report.comparison.alpha:g}. "
        "The power is the probability that the deviation named in the reason would be seen.",
        _table(report.comparison.rows),
        "## Versions",
        versions + ".",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _table(rows: tuple[Row, ...]) -> str:
    lines = [
        "| comparison | quantity | tested | largest gap | p | power | verdict | reason |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.reference} - {row.other} | {row.quantity} | {row.statistic} | {row.gap:.2e} | {_cell(row.p_value)} | "
        f"{_cell(row.power)} | {row.verdict if row.passed else f'**{row.verdict}**'} | {row.reason} |"
        for row in rows
    ]
    return "\n".join(lines)


def _cell(value: float) -> str:
    return "" if value != value else f"{value:.2g}"


def summary(report: Report) -> dict[str, object]:
    """Return what summary.json holds: verdicts, settings, routes and versions, as JSON can hold them."""
    return _summary(report, _problem_file(report))


def _summary(report: Report, problem: str | None) -> dict[str, object]:
    return {
        "passed": report.passed,
        "verdict": report.verdict,
        "problem": problem,
        "settings": dict(report.settings),
        "alpha": report.comparison.alpha,
        "rows": [_row(row) for row in report.comparison.rows],
        "failures": list(report.comparison.failures),
        "routes": {
            route: {
                "success": s.status.success,
                "message": s.status.message,
                "stats": {name: _finite(value) for name, value in s.stats.items()},
            }
            for route, s in report.solutions.items()
        },
        "skipped": dict(report.skipped),
        "versions": dict(report.versions),
        "seconds": report.seconds,
    }


def _row(row: Row) -> dict[str, object]:
    words = ("reference", "other", "quantity", "statistic", "verdict", "reason")
    numbers = ("gap", "allowed", "p_value", "power")
    return {
        **{name: getattr(row, name) for name in words},
        **{name: _finite(getattr(row, name)) for name in numbers},
        "passed": row.passed,
    }


def _finite(value: float) -> float | None:
    """Return the number as JSON can hold it: null for NaN and infinity."""
    number = float(value)
    return number if abs(number) < float("inf") else None
