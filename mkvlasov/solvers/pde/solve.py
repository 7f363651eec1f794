"""`solve_pde`: checks what it is given and hands it to a method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import ArrayLike
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.problem.conditional import ConditionalLaw, GaussianMixture
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw, check_initial
from mkvlasov.problem.loadings import MOST_NODES
from mkvlasov.solution import Status
from mkvlasov.solution_pde import PdeSolution
from mkvlasov.solution_plane import PlanePdeSolution
from mkvlasov.solvers.pde.elements.method import SpectralElements
from mkvlasov.solvers.pde.plane.method import PlaneSplitting
from mkvlasov.solvers.pde.task import PdeMethod, Task
from mkvlasov.solvers.pde.volumes.finite_volumes import FiniteVolumes

LARGEST_GROWTH = 1e4
"""Factor on Q (and 1) beyond which weights count as blown up."""

_WEAK_DIFFUSION = 1e-3
"""Of Lambda / (tau Q), the share of the variance that diffusion renews while the drift acts."""
_MOST_NEGATIVE = 0.02
"""Negative mass beyond which densities in the plane count as unresolved."""
_FEW_POINTS = 8
"""Point masses per loading that polynomials follow from their first moment on."""


def solve_pde(
    problem: Problem,
    initial: InitialLaw,
    *,
    t_eval: ArrayLike,
    method: PdeMethod | PlaneSplitting | None = None,
    rtol: float = 1e-4,
    loading_order: int | None = None,
    progress: bool = True,
) -> PdeSolution | PlanePdeSolution:
    """Solve the McKean-Vlasov PDE with one or two outputs, for every regularizer or none.

    For each loading a the density p(w | a) follows

        dp/dt = div [ tau (G w + H a + grad phi(w)) p ] + (1/2) div div [ Lambda p ],

    with G, H, Lambda functions of Q = E[w w^T] and R = E[w a^T], which couple the loadings.

    Parameters
    ----------
    problem : Problem
        With one or two outputs.
    initial : initial law
    t_eval : array, shape (T,)
        Increasing output times, not negative; integration starts at 0.
    method : method from `mkvlasov.methods`, optional
        Unless given, `SpectralElements()`, the most accurate for its time, which refines until `rtol` is met; but
        `FiniteVolumes()`, which never goes negative, where the start is rough (a set of many weights, a density with
        jumps), or where phi is not quadratic and diffusion so weak (Lambda < 0.001 tau Q at the start) that fronts
        would be too sharp for polynomials. For two outputs `PlaneSplitting()`, or `PlaneSplitting(positive=True)` where
        that finds more than 0.02 of the mass negative. The status says which one was chosen, and why.
    rtol : float
        Bound on the error of one time step, of the densities in L1 and of Q and R relatively.
    loading_order : int, optional
        Quadrature nodes per feature for loadings without atoms; left to the method unless given.
    progress : bool
        Show a bar on a terminal.

    Returns
    -------
    PdeSolution, or for two outputs PlanePdeSolution
        ``Q_error``, ``R_error`` and ``density_error`` are estimates of the method, larger than the errors but for rare
        cases (docs/numerics.md). ``stats`` has the counts of steps, ``mass_error``, ``smallest_density`` and more. If
        weights blow up in finite time, ``status.success`` is False, the message names the time, and the arrays end
        before it.

    Raises
    ------
    UnsupportedError
        For more than two outputs; for zero diffusion with a kink of phi or with point masses at the start (the
        solution then has atoms, not a density: use `simulate_particles`); for what the method does not cover.
    InvalidInput
        A `ValueError` that names the argument.

    Notes
    -----
    docs/theory.md, sections 3 and 9. The error estimate does not see a feature of the initial law that every mesh
    misses.
    """
    initial = check_initial(initial, problem)
    if problem.outputs > 2:
        raise UnsupportedError(
            f"solve_pde: the PDE is solved for one or two outputs (this problem has {problem.outputs}); "
            "use simulate_particles or simulate_sgd, or solve_ode where the moments close"
        )
    t = _checks.times("t_eval", t_eval)
    if method is not None and (isinstance(method, type) or not isinstance(method, PdeMethod)):
        raise InvalidInput("method", method, "a method from mkvlasov.methods, such as FiniteVolumes(cells=400)")
    if method is not None and isinstance(method, PlaneSplitting) != (problem.outputs == 2):
        fitting = "PlaneSplitting" if problem.outputs == 2 else "SpectralElements, FiniteVolumes or Collocation"
        raise UnsupportedError(f"solve_pde: {method!r} is not for {problem.outputs} output(s); use {fitting}")
    rtol = _checks.number("rtol", rtol, minimum=1e-10, maximum=0.1)
    progress = _checks.flag("progress", progress)
    if loading_order is not None:
        loading_order = _checks.integer("loading_order", loading_order, minimum=2, maximum=MOST_NODES)
    limit = LimitCoefficients(problem, rtol=min(1e-6, 0.01 * rtol))
    Q, R = initial.overlaps(problem)
    largest = LARGEST_GROWTH * max(1.0, float(np.trace(Q)))
    task = Task(problem, initial, t, rtol, loading_order, progress, limit, largest)
    diffusion = float(np.trace(limit(Q, R, 0.0).Lambda))
    if diffusion <= 0.0:
        _check_density_exists(task)
    if method is not None:
        return method.solve(task)
    if problem.outputs == 2:
        return _solve_plane(task)
    weak = diffusion < _WEAK_DIFFUSION * problem.rate(0.0) * float(Q[0, 0])
    method, reason = _default_method(problem, initial, weak)
    solution = method.solve(task)
    said = f"{solution.status}; solved by {method!r}, {reason}"
    return replace(solution, status=Status(solution.status.success, said))


def _solve_plane(task: Task) -> PlanePdeSolution:
    """Solve accurately, or if that goes too far below zero with positive densities."""
    method, reason = PlaneSplitting(), "the most accurate for its time"
    solution = method.solve(task)
    if solution.status.success and solution.stats["negative_mass"] > _MOST_NEGATIVE:
        method, reason = PlaneSplitting(positive=True), "since the accurate fluxes left too much of the mass negative"
        solution = method.solve(task)
    return replace(
        solution, status=Status(solution.status.success, f"{solution.status}; solved by {method!r}, {reason}")
    )


def _default_method(problem: Problem, initial: InitialLaw, weak_diffusion: bool) -> tuple[PdeMethod, str]:
    """Return a method and why it is taken."""
    if any(_is_rough(initial.conditional(a, problem)) for a in initial.loading_nodes(problem, 2).points):
        return FiniteVolumes(), "since the start is rough"
    if problem.regularizer.linear_strength is None and weak_diffusion:
        return FiniteVolumes(), "since diffusion is weak and the drift not affine"
    return SpectralElements(), "the most accurate for its time"


def _is_rough(law: ConditionalLaw) -> bool:
    """Return whether a start is too rough for polynomials: more than a few point masses, or a density with jumps."""
    few_points = isinstance(law, GaussianMixture) and len(law.weights) <= _FEW_POINTS
    return not law.is_smooth and not few_points


def _check_density_exists(task: Task) -> None:
    """Raise `UnsupportedError` where the solution of a problem without diffusion would have atoms."""
    problem, initial = task.problem, task.initial
    remedy = "use simulate_particles, or a finite batch_size, which makes diffusion"
    if problem.regularizer.kinks:
        raise UnsupportedError(
            "solve_pde: without diffusion (Lambda = 0) weights stick to the kink of the regularizer, so that the "
            f"solution has atoms and no density; {remedy}"
        )
    loadings = initial.loading_nodes(problem, 2).points
    if not all(initial.conditional(a, problem).is_smooth for a in loadings):
        raise UnsupportedError(
            "solve_pde: without diffusion (Lambda = 0) the point masses of the initial law stay point masses, so that "
            f"the solution has no density; {remedy}, or start from a law with a density"
        )
