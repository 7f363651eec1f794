"""What `SpectralElements` does when it is asked to solve: imported then, since Numba takes time to load."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from mkvlasov._typing import Array
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.solution import Density, Status
from mkvlasov.solution_pde import CoefficientHistory, PdeSolution
from mkvlasov.solvers.pde.elements.accuracy import LOOSER, compared, estimate, moments_agree, moments_at
from mkvlasov.solvers.pde.elements.basis import basis
from mkvlasov.solvers.pde.elements.march import DIFFUSION, ERROR, LINEAR, LOSS, TAU, TILT
from mkvlasov.solvers.pde.elements.mesh import LineLaw, tabulate
from mkvlasov.solvers.pde.elements.rates import PythonRates, StoredTable, coupled_rates
from mkvlasov.solvers.pde.elements.run import Equations, Rates, Trace, run
from mkvlasov.solvers.pde.elements.start import start
from mkvlasov.solvers.pde.elements.tableau import ESDIRK4
from mkvlasov.solvers.pde.quadrature import fewest_loadings
from mkvlasov.solvers.pde.result import Snapshots, build_solution
from mkvlasov.solvers.pde.task import PdeMethod, Task

# Largest error of a step, and largest indicator of an element, in units of rtol: with these, errors on the test
# problems are below rtol.
_STEP = 0.3
_ELEMENT = 0.3


def solve(task: Task, method: PdeMethod, degree: int) -> PdeSolution:
    """Run to the tolerance, and to a looser one: for the error, and for the number of loadings if they are chosen."""
    started = time.perf_counter()
    rates = coupled_rates(task.problem, task.limit, task.largest)
    features = task.problem.n_features
    evaluations = 0

    def run_to(looser: float, nodes: LoadingNodes, times: Array, *, progress: bool = False) -> Trace:
        nonlocal evaluations
        equations = Equations(nodes.points, nodes.weights, task.problem.regularizer, rates, task.largest)
        laws = [task.initial.conditional(a, task.problem) for a in nodes.points]
        trace = _march(equations, laws, degree, task.rtol, looser, times, progress=progress)
        evaluations += len(ESDIRK4.c[1:]) * (len(trace.log) - 1 + trace.rejected) + 1
        return trace

    def loosely(nodes: LoadingNodes, times: Array) -> Trace:
        return run_to(LOOSER, nodes, times[compared(times)])

    loadings, probes = fewest_loadings(
        task,
        lambda nodes: (nodes, loosely(nodes, task.t)),
        lambda one, other: moments_agree(one[1], other[1], features, task.rtol),
    )
    fine = run_to(1.0, loadings, task.t, progress=task.progress)
    if probes is not None and len(fine.times) < len(task.t):
        # Compared where it got to.
        (one, _), (other, _) = probes
        probes = (one, loosely(one, fine.times)), (other, loosely(other, fine.times))
    coarse = loosely(loadings, fine.times) if probes is None else probes[0][1]
    others = None if probes is None else probes[1][1]
    coefficients = _history(fine, features, task.problem.regularizer.linear_strength or 0.0)
    return build_solution(
        task,
        method,
        _snapshots(fine, rates, loadings, degree, features),
        estimate(basis(degree), fine, coarse, others, loadings.weights, coefficients, task.rtol),
        coefficients=coefficients,
        status=_status(fine, task.t),
        stats={
            "steps": len(fine.log) - 1,
            "rejected_steps": fine.rejected,
            "elements": fine.elements,
            "regrids": fine.regrids,
            "wall_mass": fine.wall_mass,
            "coefficient_error": float(fine.log[:, 3 + features + ERROR].max()),
            # Numbers of evaluations and times are about all runs, since the user waits for all of them.
            "coefficient_evaluations": evaluations,
            "seconds": time.perf_counter() - started,
        },
    )


def density(solution: PdeSolution, degree: int, *, t: float, loading: Array) -> Density:
    """Solve the Fokker-Planck equation of one loading along the stored coefficients."""
    problem = solution.problem
    curvature = problem.regularizer.linear_strength or 0.0
    rates = PythonRates(StoredTable(solution.coefficients, curvature))
    nodes = LoadingNodes(loading[None], np.ones(1))
    equations = Equations(nodes.points, nodes.weights, problem.regularizer, rates, np.inf)
    laws = [solution.initial.conditional(loading, problem)]
    trace = _march(equations, laws, degree, solution.rtol, 1.0, np.array([t]))
    w, p, quadrature = tabulate(basis(degree), trace.snapshots, 1)
    return Density(w[-1, 0], p[-1, 0], quadrature[-1, 0])


def _march(
    equations: Equations,
    laws: Sequence[LineLaw],
    degree: int,
    rtol: float,
    looser: float,
    t: Array,
    *,
    progress: bool = False,
) -> Trace:
    end = float(t[-1]) if len(t) else 0.0
    begin = start(equations, laws, end if end > 0.0 else 1.0, rtol)
    with tqdm(total=end, disable=None if progress else True, desc="PDE", unit="t") as bar:
        return run(
            equations,
            begin.laws,
            start=begin.time,
            basis=basis(degree),
            tableau=ESDIRK4,
            tolerance=_STEP * looser * rtol,
            space=_ELEMENT * looser * rtol,
            outputs=t,
            first_step=looser * begin.first_step,
            observer=lambda time: bar.update(time - bar.n) and None,
        )


def _snapshots(trace: Trace, rates: Rates, loadings: LoadingNodes, degree: int, features: int) -> Snapshots:
    y = moments_at(trace, features)
    # The last moment, what the walls took in, is none of the loss.
    loss = rates.evaluate(trace.times, np.column_stack([y, np.zeros(len(y))]))[:, LOSS]
    nodes, densities, quadrature = tabulate(basis(degree), trace.snapshots, len(loadings.weights))
    return Snapshots(
        loadings=loadings,
        t=trace.times,
        Q=y[:, 0],
        R=y[:, 1:],
        loss=loss,
        nodes=nodes,
        densities=densities,
        quadrature=quadrature,
    )


def _history(trace: Trace, features: int, curvature: float) -> CoefficientHistory:
    rates = trace.log[:, 3 + features :]
    return CoefficientHistory(
        t=trace.log[:, 0],
        linear=rates[:, LINEAR] - curvature * rates[:, TAU],
        tilt=rates[:, TILT:],
        tau=rates[:, TAU],
        diffusion=rates[:, DIFFUSION],
    )


def _status(trace: Trace, requested: Array) -> Status:
    reached = len(trace.times)
    if reached < len(requested):
        return Status(False, f"stopped: {trace.failure}; {reached} of {len(requested)} output times were reached")
    return Status(
        True,
        f"reached t = {requested[-1]:g} in {len(trace.log) - 1} steps; the elements followed the densities "
        f"({trace.elements} at most, adapted {trace.regrids} times)",
    )
