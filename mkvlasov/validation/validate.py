"""All routes on one problem, compared: what `mkvlasov validate` runs."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Seed
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit.closure import closure_obstacles
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw, check_initial
from mkvlasov.reduction.fluctuations import Fluctuations, fluctuations
from mkvlasov.solution import Solution
from mkvlasov.solvers.ode import solve_ode
from mkvlasov.solvers.particles.simulate import simulate_particles
from mkvlasov.solvers.pde.solve import solve_pde
from mkvlasov.solvers.sgd.simulate import simulate_sgd
from mkvlasov.validation.compare import compare
from mkvlasov.validation.levels import LEVELS, sizes_of
from mkvlasov.validation.rows import AGREE, DISAGREE, UNDECIDED, Comparison, format_rows

NO_LEVEL = "none"
"""The level of a validation whose sizes are given one by one."""


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """Outcome of `validate`: prints itself, and is saved as a folder.

    Attributes
    ----------
    problem, initial
        What was validated.
    solutions : mapping from route to Solution
        The reference first; "sgd" is the literal algorithm, "chain" the chain of the order parameters, "sgd_large" and
        "sgd_small" the two dimensions that are extrapolated.
    skipped : mapping from route to str
        Routes that do not apply to the problem, with the reason.
    comparison : Comparison
    settings : mapping from str to number or str
        Level, false-alarm rate, times, dimension, runs, particles and seed.
    seconds : float
    versions : mapping from package to version
    """

    problem: Problem
    initial: InitialLaw
    solutions: Mapping[str, Solution]
    skipped: Mapping[str, str]
    comparison: Comparison
    settings: Mapping[str, float | str]
    seconds: float
    versions: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether nothing disagrees with the reference; `verdict` also says whether enough could be seen."""
        return self.comparison.passed

    @property
    def verdict(self) -> str:
        """Whether routes "agree", "disagree", or it is "undecided" for lack of power."""
        return self.comparison.verdict

    @property
    def exit_status(self) -> int:
        """0 passed, 1 not passed, 3 undecided. Sizes of the user's own promise no power: without a level 0 or 1."""
        if self.settings["level"] == NO_LEVEL:
            return 0 if self.passed else 1
        return {AGREE: 0, DISAGREE: 1, UNDECIDED: 3}[self.verdict]

    @property
    def density_times(self) -> tuple[float, ...]:
        """Times at which densities are compared."""
        reference = next(iter(self.solutions.values()))
        return density_times(reference.t)

    def __str__(self) -> str:
        lines = [repr(self.problem), repr(self.initial), ""]
        for route, solution in self.solutions.items():
            lines.append(f"{route:10s} {solution.stats['seconds']:6.1f} s  {solution.status.message}")
        lines += [f"{route:10s}    skipped  {reason}" for route, reason in self.skipped.items()]
        lines += ["", "Joint tests, disagreements, and the largest of the other gaps:", ""]
        lines.append(format_rows(self.comparison.worst(), self.comparison.failures))
        return "\n".join([*lines, "", f"{self.headline} ({self.seconds:.1f} s)."])

    @property
    def headline(self) -> str:
        """The outcome in one line."""
        rows = self.comparison.rows
        counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in (AGREE, DISAGREE, UNDECIDED)}
        word = {0: "PASSED", 1: "NOT PASSED", 3: "UNDECIDED"}[self.exit_status]
        rest = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count and verdict != AGREE)
        return f"{word}: {counts[AGREE]} of {len(rows)} comparisons agree" + (f", {rest}" if rest else "")

    def save(self, directory: str | Path) -> Path:
        """Write report.md, summary.json, figures (PNG and SVG) and results (NetCDF); return the folder.

        Thin delegate to a layer below, imported when used.
        """
        from mkvlasov.reporting import write_report

        return write_report(self, directory)


def density_times(t: np.ndarray) -> tuple[float, ...]:
    """Return four of the output times at which densities are worth a look: start, early, middle, end."""
    wanted = t[-1] * np.array([0.0, 1.0 / 6.0, 0.5, 1.0])
    return tuple(sorted({float(t[np.abs(t - s).argmin()]) for s in wanted}))


def validate(
    problem: Problem,
    initial: InitialLaw,
    t_final: float,
    *,
    times: int = 31,
    dimension: int | None = None,
    runs: int | None = None,
    particles: int | None = None,
    level: str | None = None,
    alpha: float = 0.01,
    rng: Seed = 0,
    progress: bool = True,
) -> Report:
    """Solve a problem along every route that applies and compare them with error bars.

    The reference is the PDE for one output; for more outputs the closed ODEs where they exist, else the particles.
    SGD starts from exactly the given overlaps, which leaves the fluctuations of the dynamics alone.

    Parameters
    ----------
    problem : Problem
    initial : InitialLaw
    t_final : float
        Last time, in units of step / N.
    times : int
        Number of output times from 0 to `t_final`.
    dimension, runs : int, optional
        N and the number of independent runs of literal SGD; as many particle systems. Without a level 1000 and 16.
    particles : int, optional
        Particles of each system; without a level 10 000.
    level : {"quick", "standard", "thorough"}, optional
        A budget (docs/validation.md) that chooses the sizes that are not given, adds simulations of SGD that decide
        about small deviations (the chain of the order parameters at a large dimension, or two dimensions that are
        extrapolated), and states the power against deviations of 10%, 5%, 2%. Without one, sizes are those given, and
        the deviation is 10%.
    alpha : float
        False-alarm rate of the whole validation.
    rng : int, SeedSequence or Generator
        Source of everything random.
    progress : bool
        Show progress bars when standard error is a terminal.

    Returns
    -------
    Report
    """
    check_initial(initial, problem)
    t_final = _checks.number("t_final", t_final, minimum=0.0, maximum=np.inf, exclusive=True)
    times = _checks.integer("times", times, minimum=2)
    budget = None if level is None else LEVELS[_checks.choice("level", level, [*LEVELS])]
    drawable = not np.isinf(problem.batch_size)
    deciding: tuple[int, ...] = ()
    if budget is None or not drawable:
        size = 1000
    else:
        found = sizes_of(budget, problem, t_final, times)
        size, deciding = found.literal, found.deciding
    if dimension is not None:
        # The times are those of this dimension, and the others multiples of it.
        size = _checks.integer("dimension", dimension, minimum=problem.n_features + problem.outputs + 1)
        deciding = tuple(size * max(1, round(n / size)) for n in deciding)
    runs = _given("runs", runs, 16 if budget is None else budget.literal_runs)
    particles = _given("particles", particles, 10_000 if budget is None else budget.particles)
    alpha = _checks.number("alpha", alpha, minimum=0.0, maximum=1.0, exclusive=True)
    if size < 1.0 / (t_final / (times - 1)):
        raise InvalidInput("dimension", size, f"at least {(times - 1) / t_final:.0f}, so that the times differ")
    seeds = _checks.seed_sequence("rng", rng)
    particle_seed, sgd_seed, *more_seeds = seeds.spawn(4)
    # Output times on whole steps, so that SGD is recorded where the others are.
    t = np.round(np.linspace(0.0, t_final, times) * size) / size
    started = time.perf_counter()
    solutions: dict[str, Solution] = {}
    skipped: dict[str, str] = {}
    if problem.outputs == 1:
        solutions["pde"] = solve_pde(problem, initial, t_eval=t, progress=progress)
    else:
        skipped["pde"] = "the PDE is solved for one output only"
    obstacles = closure_obstacles(problem)
    if obstacles:
        skipped["ode"] = "the moments do not close: " + "; ".join(obstacles)
    else:
        solutions["ode"] = solve_ode(problem, initial, t_eval=t, progress=progress)
    snapshots = density_times(t)
    solutions["particles"] = simulate_particles(
        problem, initial, t_eval=t, particles=particles, runs=runs, rng=particle_seed, snapshots=snapshots,
        progress=progress,
    )  # fmt: skip
    if not drawable:
        skipped["sgd"] = "an infinite batch cannot be drawn"
    else:
        solutions["sgd"] = simulate_sgd(
            problem, initial, t_eval=t, dimension=size, runs=runs, rng=sgd_seed, exact_overlaps=True,
            snapshots=snapshots, method="literal", progress=progress,
        )  # fmt: skip
        names = ("chain",) if len(deciding) == 1 else ("sgd_large", "sgd_small")
        for name, n, seed in zip(names, deciding, more_seeds, strict=False):
            assert budget is not None
            solutions[name] = simulate_sgd(
                problem, initial, t_eval=t, dimension=n, runs=budget.deciding_runs, rng=seed, exact_overlaps=True,
                loss_batches=1, progress=progress,
            )  # fmt: skip
    theory = None
    if budget is not None and budget.theory and "chain" in solutions:
        theory = _theory(problem, initial, t, skipped)
    reference, *others = solutions.values()
    return Report(
        problem=problem, initial=initial, solutions=solutions, skipped=skipped,
        comparison=compare(
            reference, *others, alpha=alpha, deviation=0.1 if budget is None else budget.deviation, fluctuations=theory
        ),
        settings={
            "level": level or NO_LEVEL, "alpha": alpha, "t_final": t_final, "times": times, "dimension": size,
            "runs": runs, "particles": particles, "seed": str(seeds.entropy),
        },
        seconds=time.perf_counter() - started,
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("mkvlasov", "numpy", "scipy", "matplotlib", "xarray")},
        },
    )  # fmt: skip


def _given(name: str, value: int | None, default: int) -> int:
    return default if value is None else _checks.integer(name, value, minimum=2)


def _theory(problem: Problem, initial: InitialLaw, t: np.ndarray, skipped: dict[str, str]) -> Fluctuations | None:
    """Return the predicted bias and spread, to a percent, or None with the reason among what was skipped."""
    try:
        return fluctuations(problem, initial, t, exact_overlaps=True, rtol=1e-2)
    except UnsupportedError as error:
        skipped["fluctuations"] = str(error)
        return None
