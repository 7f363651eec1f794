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
from mkvlasov.errors import InvalidInput
from mkvlasov.limit.closure import closure_obstacles
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw, check_initial
from mkvlasov.solution import Solution
from mkvlasov.solvers.ode import solve_ode
from mkvlasov.solvers.particles.simulate import simulate_particles
from mkvlasov.solvers.pde.solve import solve_pde
from mkvlasov.solvers.sgd.simulate import simulate_sgd
from mkvlasov.validation.compare import Comparison, compare, format_rows


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """Outcome of `validate`: prints itself, and is saved as a folder.

    Attributes
    ----------
    problem, initial
        What was validated.
    solutions : mapping from route to Solution
        The reference first.
    skipped : mapping from route to str
        Routes that do not apply to the problem, with the reason.
    comparison : Comparison
    settings : mapping from str to number
        Times, dimension, runs, particles and seed.
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
        """Whether every route agrees with the reference within the errors."""
        return self.comparison.passed

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
        lines += ["", "Largest gap for each kind of quantity:", ""]
        lines.append(format_rows(self.comparison.worst(), self.comparison.failures))
        count, bad = len(self.comparison.rows), sum(not row.passed for row in self.comparison.rows)
        verdict = "PASSED" if self.passed else "NOT PASSED"
        lines += ["", f"{verdict}: {count - bad} of {count} comparisons agree ({self.seconds:.1f} s)."]
        return "\n".join(lines)

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
    dimension: int = 1000,
    runs: int = 16,
    particles: int = 10_000,
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
    dimension, runs : int
        N and the number of independent runs of SGD; as many particle systems.
    particles : int
        Particles of each system.
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
    dimension = _checks.integer("dimension", dimension, minimum=problem.n_features + problem.outputs + 1)
    runs = _checks.integer("runs", runs, minimum=2)
    particles = _checks.integer("particles", particles, minimum=2)
    if dimension < 1.0 / (t_final / (times - 1)):
        raise InvalidInput("dimension", dimension, f"at least {(times - 1) / t_final:.0f}, so that the times differ")
    seeds = _checks.seed_sequence("rng", rng)
    particle_seed, sgd_seed = seeds.spawn(2)
    # Output times on whole steps, so that SGD is recorded where the others are.
    t = np.round(np.linspace(0.0, t_final, times) * dimension) / dimension
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
    if np.isinf(problem.batch_size):
        skipped["sgd"] = "an infinite batch cannot be drawn"
    else:
        solutions["sgd"] = simulate_sgd(
            problem, initial, t_eval=t, dimension=dimension, runs=runs, rng=sgd_seed, exact_overlaps=True,
            snapshots=snapshots, method="literal", progress=progress,
        )  # fmt: skip
    reference, *others = solutions.values()
    return Report(
        problem=problem, initial=initial, solutions=solutions, skipped=skipped,
        comparison=compare(reference, *others),
        settings={
            "t_final": t_final, "times": times, "dimension": dimension, "runs": runs, "particles": particles,
            "seed": str(seeds.entropy),
        },
        seconds=time.perf_counter() - started,
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("mkvlasov", "numpy", "scipy", "matplotlib", "xarray")},
        },
    )  # fmt: skip
