"""Command line. Exit status: 0 done and passed, 1 not passed, 2 bad input (one line on standard error), 3 undecided."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

import mkvlasov as mv
from mkvlasov import _checks
from mkvlasov.configuration import DEFAULT_PROBLEM, ProblemFile, builtin_problems, builtin_text, read_problem_file
from mkvlasov.errors import InvalidInput, MkvlasovError, UnsupportedError

if TYPE_CHECKING:
    from mkvlasov.analysis.basins import Basins
    from mkvlasov.analysis.portrait import PhasePortrait
    from mkvlasov.analysis.selection import Selection
    from mkvlasov.solution import Solution

# Solvers and figures are reached through `mv`, which loads them when a command needs them: help and errors in a
# problem file do not wait for scipy and matplotlib.

T = TypeVar("T")

BAD_INPUT, INTERRUPTED = 2, 130


@click.group(no_args_is_help=False)
@click.version_option(package_name="mkvlasov", message="%(prog)s %(version)s")
def cli() -> None:
    """Training dynamics of nonlinear contrastive learning in the high-dimensional limit."""


@cli.command()
@click.argument("problem", required=False, metavar="[PROBLEM.toml]")
@click.option("-o", "--output", default="report", metavar="DIR", help="Folder of the report (default: report).")
@click.option(
    "--level",
    type=click.Choice(["quick", "standard", "thorough"]),
    help="Budget: about 10 s, 1 min, 15 min on two cores (default: the sizes of the table [run]).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON and nothing else.")
@click.pass_context
def validate(context: click.Context, problem: str | None, output: str, level: str | None, as_json: bool) -> None:
    """Compare PDE, closed ODEs and particles with each other and with direct SGD, and write a report.

    PROBLEM.toml is a problem file or the name of a built-in problem; without it, the first built-in one is taken.
    Exit status: 0 all agree, 1 something disagrees, 3 undecided (a level that could not see its deviation).
    """
    from mkvlasov.reporting import check_directory, summary  # brings matplotlib along

    content = read_problem_file(problem or DEFAULT_PROBLEM)
    check_directory(output)
    run = content.run
    report = _within_run(
        content,
        lambda: mv.validate(
            content.problem,
            content.initial,
            run.t_final,
            times=run.times,
            dimension=None if level else run.dimension,
            runs=None if level else run.runs,
            particles=None if level else run.particles,
            level=level,
            rng=run.seed,
        ),
    )
    folder = report.save(output)
    if as_json:
        click.echo(json.dumps(summary(report), indent=2, allow_nan=False))
    else:
        click.echo(f"{report}\n\nReport: {folder}")
    context.exit(report.exit_status)


@cli.command()
@click.argument("problem", metavar="PROBLEM.toml")
@click.option("--method", required=True, type=click.Choice(["pde", "particles", "ode", "sgd"]), help="Which route.")
@click.option("-o", "--output", metavar="FILE", help="NetCDF file for the result, which mkvlasov.load reads.")
@click.pass_context
def solve(context: click.Context, problem: str, method: str, output: str | None) -> None:
    """Solve a problem along one route; print the order parameters, or save everything.

    PROBLEM.toml is a problem file or the name of a built-in problem.
    """
    if output is not None:
        _checks.output_file("output", output)
    content = read_problem_file(problem)
    solution = _within_run(content, lambda: _solve(content, method))
    if output is None:
        click.echo(_table(solution))
    else:
        solution.save(output)
        click.echo(f"{solution!r}\nSaved: {output}")
    context.exit(0 if solution.status.success else 1)


@cli.command()
@click.argument("problem", metavar="PROBLEM.toml")
def reduce(problem: str) -> None:
    """Derive the closed ODEs of a problem: in words, as rates at the start, in LaTeX, and their fixed points.

    PROBLEM.toml is a problem file or the name of a built-in problem.
    """
    content = read_problem_file(problem)
    system = mv.reduce(content.problem)
    Q, R = content.initial.overlaps(content.problem)
    dQ, dR = system.rates(Q, R)
    click.echo(system.explain())
    click.echo(f"\nAt the start: Q = {Q.tolist()}, R = {R.tolist()}")
    click.echo(f"dQ/dt = {dQ.tolist()}, dR/dt = {dR.tolist()}\n")
    click.echo(system.latex())
    try:
        click.echo(f"\n{system.fixed_points()}\n")
        for feature in range(content.problem.n_features):
            click.echo(system.learnability(feature))
    except UnsupportedError as error:  # no reason to fail: everything else has been printed
        click.echo(error)


@cli.command()
@click.argument("problem", metavar="PROBLEM.toml")
@click.option("-o", "--output", default=".", metavar="DIR", help="Folder of the figures (default: the present one).")
def basins(problem: str, output: str) -> None:
    """Tell which fixed point each start ends at, and when, and what random starts select at finite dimension.

    PROBLEM.toml is a problem file or the name of a built-in problem. The figures are NAME_basins.png (map),
    NAME_portrait.png (phase portrait) and NAME_selection.png (probabilities at the dimension of the file).
    """
    folder = _checks.output_folder("output", output)
    content = read_problem_file(problem)
    system = mv.reduce(content.problem)
    points = system.fixed_points()
    click.echo(f"{points}\n")
    Q, _ = content.initial.overlaps(content.problem)
    several = content.problem.outputs > 1  # where coefficients take a thousand times as long
    starts = mv.random_starts(content.problem, 12 if several else 1000, Q=Q, rng=content.run.seed)
    click.echo(f"Random starts, R uniform in the admissible set at Q = {Q.tolist()}:")
    sample = system.basins(starts, points=points)
    click.echo(f"{sample}\nLabels that change with half the steps and tolerances: {sample.changed_labels().sum()}\n")
    drawn: dict[str, Basins | PhasePortrait | Selection] = {}
    try:
        drawn["selection"] = system.selection_probability(
            dimension=content.run.dimension, samples=24 if several else 2000, points=points, rng=content.run.seed
        )
        click.echo(f"{drawn['selection']}\n")
    except UnsupportedError as error:
        click.echo(error)
    try:
        drawn["basins"] = system.basins(points=points)
        click.echo(f"{drawn['basins']}\n")
        drawn["portrait"] = system.phase_portrait(points=points)
        click.echo(f"{drawn['portrait']}\n")
    except UnsupportedError as error:  # a single overlap has no plane; everything else has been printed
        click.echo(error)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, shown in drawn.items():
        path = folder / f"{Path(problem).stem}_{kind}.png"
        shown.plot().savefig(path)
        click.echo(path)


@cli.command()
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", default=".", metavar="DIR", help="Folder of the figures (default: the present one).")
def plot(file: str, output: str) -> None:
    """Draw the figures of a saved result: order parameters, densities, and densities over time in colours.

    FILE is what `mkvlasov solve -o FILE` or Solution.save wrote.
    """
    from mkvlasov.plotting.saved import save_figures

    for path in save_figures(mv.load(file), output, name=Path(file).stem):
        click.echo(path)


@cli.command()
@click.argument("name", required=False, metavar="[NAME]")
def examples(name: str | None) -> None:
    """List the built-in problems, or print the file of one."""
    if name is not None:
        click.echo(builtin_text(name), nl=False)
        return
    problems = builtin_problems()
    width = max(map(len, problems))
    for known, description in problems.items():
        click.echo(f"{known:{width}s}  {description}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error that a user can cause ends as one line and an exit status."""
    try:
        # Not `cli.main`, which prints an empty line of its own when interrupted.
        with cli.make_context("mkvlasov", sys.argv[1:] if arguments is None else list(arguments)) as context:
            cli.invoke(context)
        sys.exit(0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "mkvlasov"
        _fail(f"{error.format_message().rstrip('.')} (see {command} --help)", BAD_INPUT)
    except click.ClickException as error:
        _fail(error.format_message(), BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", INTERRUPTED)
    except MkvlasovError as error:
        _fail(str(error), BAD_INPUT)
    except MemoryError as error:
        _fail(f"not enough memory for this problem ({error})", BAD_INPUT)
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing is wrong, and nothing can be printed any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", BAD_INPUT)


def _fail(message: str, status: int) -> None:
    click.echo("mkvlasov: " + " ".join(message.split()), err=True)
    sys.exit(status)


def _within_run(content: ProblemFile, work: Callable[[], T]) -> T:
    """Name fields of the table [run] by their path in the file, as the user knows them."""
    try:
        return work()
    except InvalidInput as error:
        if error.field in {f.name for f in fields(content.run)}:
            raise error.within("run") from None
        raise


def _solve(content: ProblemFile, method: str) -> Solution:
    problem, initial, run = content.problem, content.initial, content.run
    t = run.t_eval
    if method == "pde":
        return mv.solve_pde(problem, initial, t_eval=t)
    if method == "ode":
        return mv.solve_ode(problem, initial, t_eval=t)
    if method == "particles":
        return mv.simulate_particles(problem, initial, t_eval=t, particles=run.particles, runs=run.runs, rng=run.seed)
    return mv.simulate_sgd(problem, initial, t_eval=t, dimension=run.dimension, runs=run.runs, rng=run.seed)


def _table(solution: Solution) -> str:
    """Return the order parameters over time as a table, with standard errors where there are any."""
    m, k = solution.R.shape[1:]
    columns = [("t", solution.t)]
    for name, values, errors in (
        ("R", solution.R, solution.R_stderr),
        ("Q", solution.Q, solution.Q_stderr),
        ("q", solution.cosine_similarity, solution.cosine_similarity_stderr),
    ):
        for j in range(m):
            for i in range(m if name == "Q" else k):
                columns.append((f"{name}[{j},{i}]", values[:, j, i]))
                if solution.n_runs > 1:
                    columns.append(("+-", errors[:, j, i]))
    columns.append(("loss", solution.loss))
    lines = ["".join(f"{title:>10s}" for title, _ in columns)]
    lines += ["".join(f"{values[i]:10.4f}" for _, values in columns) for i in range(len(solution.t))]
    return "\n".join([*lines, solution.status.message])
