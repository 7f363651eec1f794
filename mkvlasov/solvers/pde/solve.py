"""`solve_pde`: the McKean-Vlasov PDE with one output, by finite volumes on meshes that move with the densities."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import UnsupportedError
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import GaussianMixture, InitialLaw, check_initial
from mkvlasov.solution_pde import PdeSolution
from mkvlasov.solvers.pde.accuracy import doubled_steps
from mkvlasov.solvers.pde.fluxes import FLUXES
from mkvlasov.solvers.pde.march import Equations
from mkvlasov.solvers.pde.rates import RateFunction
from mkvlasov.solvers.pde.result import build_solution
from mkvlasov.solvers.pde.run import Run, run
from mkvlasov.solvers.pde.scout import Outline, scout
from mkvlasov.solvers.pde.setup import CoupledRates, equations_of

LARGEST_GROWTH = 1e4
"""Factor on Q (and 1) beyond which weights count as blown up."""

# Gauss-Hermite nodes per feature. With a kink 16 nodes leave errors of 3e-3 in R; for more features the number of
# loadings is what limits.
_ORDERS = {1: 32, 2: 8, 3: 6}
_ORDER_BEYOND = 4


def solve_pde(
    problem: Problem,
    initial: InitialLaw,
    *,
    t_eval: ArrayLike,
    cells: int = 400,
    flux: str = "exponential",
    rtol: float = 1e-4,
    loading_order: int | None = None,
    progress: bool = True,
) -> PdeSolution:
    """Solve the McKean-Vlasov PDE with one output, for every regularizer or none.

    For each loading a the density p(w | a) follows

        dp/dt = d/dw [ (tau G w + tau H . a + tau phi'(w)) p ] + (Lambda / 2) d^2 p / dw^2,

    with G, H, Lambda functions of Q = E[w^2] and R = E[w a^T], which couple the loadings.

    Finite volumes on one mesh per loading; a cheap first pass finds where the densities go, and the meshes move with
    them (they grow where weights grow). Kinks of phi stay on nodes, in cells graded to the width of the spike that
    forms there. Time steps are those of TR-BDF2 with error control; mass is conserved to rounding. Runs with half the
    cells, twice the steps and half the loading nodes per feature give the error estimates.

    Parameters
    ----------
    problem : Problem
        With ``outputs=1``.
    initial : initial law
    t_eval : array, shape (T,)
        Increasing output times, not negative; integration starts at 0.
    cells : int
        Per loading.
    flux : "exponential" or "central"
        "exponential" is positive whatever the mesh. "central" is an oracle for tests: without kinks its meshes are
        uniform and its moments obey the closed equations of an affine drift exactly; it may go negative.
    rtol : float
        Bound on the error of one time step, of the densities in L1 and of Q and R relatively.
    loading_order : int, optional
        Gauss-Hermite nodes per feature for loadings without atoms; 32, 8 and 6 for one, two and three features,
        4 beyond.
    progress : bool
        Show a bar on a terminal.

    Returns
    -------
    PdeSolution
        ``Q_error`` and ``R_error`` are conservative: differences to runs that are coarser in mesh, time step and
        loading nodes, added up (about three times the error), and the tolerance. ``stats`` has the counts of steps,
        ``mass_error``, ``mass_restored`` (rounding errors of all steps together, which are taken back),
        ``smallest_density``, ``density_error`` and more. If weights blow up in finite time, ``status.success`` is
        False, the message names the time, and the arrays end before it.

    Raises
    ------
    UnsupportedError
        For more than one output; for zero diffusion with a kink of phi or with point masses at the start (the
        solution then has atoms, not a density: use `simulate_particles`).
    InvalidInput
        A `ValueError` that names the argument.

    Notes
    -----
    docs/theory.md, sections 3 and 9. Densities narrower than about two cells (a point mass in its first instants)
    are spread over two cells. The error estimate does not see a feature of the initial law that both meshes miss.
    """
    started = time.perf_counter()
    initial = check_initial(initial, problem)
    if problem.outputs != 1:
        raise UnsupportedError(
            f"solve_pde: the PDE is solved for outputs=1 only (this problem has {problem.outputs}); "
            "use simulate_particles or simulate_sgd, or solve_ode where the moments close"
        )
    t = _checks.times("t_eval", t_eval)
    cells = _checks.integer("cells", cells, minimum=20)
    flux = _checks.choice("flux", flux, FLUXES)
    rtol = _checks.number("rtol", rtol, minimum=1e-10, maximum=0.1)
    progress = _checks.flag("progress", progress)
    order = _ORDERS.get(problem.n_features, _ORDER_BEYOND) if loading_order is None else loading_order
    order = _checks.integer("loading_order", order, minimum=2)

    bound = LARGEST_GROWTH * max(1.0, float(initial.overlaps(problem)[0][0, 0]))
    rates = CoupledRates(problem, LimitCoefficients(problem, rtol=min(1e-6, 0.01 * rtol)), bound)
    family = _family(problem, initial, order, rates, flux, bound)
    _check_density_exists(problem, family)
    outline = _scout(family, float(t[-1]))
    outputs = t[t <= outline.times[-1]]
    fine = _march(family, outline, outputs, cells=cells, rtol=rtol, progress=progress)
    outputs = np.array(fine.path.snapshot_times)
    steps = np.array(fine.path.times)[1:]
    coarse_mesh, coarse_steps = (
        _march(family, outline, outputs, cells=cells // 2, rtol=rtol, steps=taken, margin=fine.margin)
        for taken in (steps, doubled_steps(fine.path.times))
    )
    fewer = _family(problem, initial, max((order + 1) // 2, 2), rates, flux, bound)
    exact = len(fewer.laws) == len(family.laws)
    fewer_loadings = (
        None
        if exact
        else _march(
            fewer, _scout(fewer, float(t[-1])), outputs, cells=cells // 2, rtol=rtol, steps=steps, margin=fine.margin
        )
    )
    # Numbers of evaluations and times are about all runs, since the user waits for all of them.
    effort = {"coefficient_evaluations": rates.evaluations, "seconds": time.perf_counter() - started}
    return build_solution(
        problem,
        initial,
        family.equations,
        requested=t,
        outline=outline,
        fine=fine,
        coarse_mesh=coarse_mesh.path,
        coarse_steps=coarse_steps.path,
        fewer_loadings=None if fewer_loadings is None else fewer_loadings.path,
        options=(cells, flux, rtol),
        effort=effort,
    )


@dataclass(frozen=True)
class _Family:
    """The equations of all loadings, where they start, and from where on Q counts as blown up."""

    equations: Equations
    laws: list[GaussianMixture]
    kinks: tuple[float, ...]
    bound: float


def _family(problem: Problem, initial: InitialLaw, order: int, rates: RateFunction, flux: str, bound: float) -> _Family:
    loadings = initial.loading_nodes(problem, order)
    equations = equations_of(problem, loadings.points, loadings.weights, rates=rates, flux=flux)
    laws = [initial.conditional(a, problem) for a in loadings.points]
    return _Family(equations, laws, tuple(problem.regularizer.kinks), bound)


def _check_density_exists(problem: Problem, family: _Family) -> None:
    """Raise `UnsupportedError` where the solution would have atoms."""
    rates = family.equations.rates(0.0, family.equations.start(family.laws))
    if rates.diffusion > 0.0:
        return
    remedy = "use simulate_particles, or a finite batch_size, which makes diffusion"
    if problem.regularizer.kinks:
        raise UnsupportedError(
            "solve_pde: without diffusion (Lambda = 0) weights stick to the kink of the regularizer, so that the "
            f"solution has atoms and no density; {remedy}"
        )
    if any((law.covariances[:, 0, 0] <= 0.0).any() for law in family.laws):
        raise UnsupportedError(
            "solve_pde: without diffusion (Lambda = 0) the point masses of the initial law stay point masses, so that "
            f"the solution has no density; {remedy}, or start from a law with a density"
        )


def _march(
    family: _Family,
    outline: Outline,
    outputs: Array,
    *,
    cells: int,
    rtol: float,
    progress: bool = False,
    steps: Array | None = None,
    margin: float = 1.0,
) -> Run:
    """Run on meshes along the outline, with the steps given or with error control."""
    end = float(outputs[-1]) if len(outputs) else 0.0
    with tqdm(total=end, disable=None if progress else True, desc="PDE", unit="t") as bar:

        def observe(t: float, nodes: Array, mass: Array) -> None:
            bar.update(t - bar.n)

        return run(
            family.equations,
            family.laws,
            outline,
            kinks=family.kinks,
            cells=cells,
            outputs=outputs,
            tolerance=rtol,
            largest_second_moment=family.bound,
            observer=observe,
            steps=steps,
            margin=margin,
        )


def _scout(family: _Family, end: float) -> Outline:
    return scout(family.equations, family.laws, end=end, kinked=bool(family.kinks), largest_second_moment=family.bound)
