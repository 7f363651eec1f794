"""High-order collocation on uniform grids at rest, in time by an implicit Runge-Kutta method of scipy: an oracle.

With phi smooth, p(w | a) is smooth and vanishes at the walls of a wide box, so that central differences of any order
apply everywhere. The matrices of findiff are assembled once per solution:

    dp/dt = [ linear A_1 + (tilt . a) A_0 + tau A_phi + D A_2 ] p,

A_1 p = d(w p)/dw, A_0 p = dp/dw, A_phi p = d(phi' p)/dw, A_2 p = d^2 p/dw^2.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.integrate import Radau
from scipy.sparse import block_diag, csr_array, diags_array
from tqdm import tqdm

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.density import Density
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.solution import Status
from mkvlasov.solution_pde import PdeSolution
from mkvlasov.solvers.pde.errors import Errors, tolerance_errors
from mkvlasov.solvers.pde.result import Snapshots, build_solution
from mkvlasov.solvers.pde.task import Task
from mkvlasov.solvers.pde.volumes.density import StoredRates
from mkvlasov.solvers.pde.volumes.fluxes import EXPONENTIAL
from mkvlasov.solvers.pde.volumes.grid import equidistant
from mkvlasov.solvers.pde.volumes.loadings import settle_loadings
from mkvlasov.solvers.pde.volumes.rates import Rates
from mkvlasov.solvers.pde.volumes.scout import Outline, scout
from mkvlasov.solvers.pde.volumes.setup import CoupledRates, Family, family_of
from mkvlasov.solvers.pde.volumes.solution import history

_MARGIN = 0.05

# A mass that differs more from one is no density any more.
_MOST_MISSING = 1e-2

# The integrator bounds errors of steps, which add up.
_STEP_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Collocation:
    """Central differences of high order (findiff) on a fixed uniform grid per loading: an oracle for smooth densities.

    The error falls with the spacing to the power `order` once the narrowest density is resolved; densities may be
    slightly negative before. Boxes hold the densities at all times, so what becomes narrow or wanders off wants many
    points. Errors are differences to a run with half the points and ten times the tolerance: far larger than the error
    itself where the order is reached.

    Parameters
    ----------
    order : 2, 4 or 6
    points : int
        Per loading, at least 40.
    """

    order: int = 4
    points: int = 400

    def __post_init__(self) -> None:
        if _checks.integer("order", self.order, minimum=2, maximum=6) % 2:
            raise InvalidInput("order", self.order, "2, 4 or 6")
        object.__setattr__(self, "points", _checks.integer("points", self.points, minimum=40))

    def solve(self, task: Task) -> PdeSolution:
        """Solve the task; raises `UnsupportedError` where phi has kinks or the initial law has point masses."""
        _check_smooth(task)
        started = time.perf_counter()
        rates = CoupledRates(task.problem, task.limit, task.largest)
        loadings = settle_loadings(task, rates)
        family = family_of(
            task.problem, task.initial, loadings.nodes, rates=rates, scheme=EXPONENTIAL, largest=task.largest
        )
        outline = scout(family, float(task.t[-1]) or 1.0)
        nodes = _grid(outline, self.points)
        t = task.t[task.t <= outline.times[-1]]
        fine = _integrate(_System(family, nodes, self.order), t, _STEP_TOLERANCE * task.rtol, task.progress)
        coarse = _integrate(_System(family, nodes[:, ::2], self.order), t, task.rtol, progress=False)
        snapshots, errors = _compare(task, family, nodes, fine, coarse)
        errors += loadings.errors(snapshots.t)
        reached = len(snapshots.t)
        said = f"reached t = {task.t[-1]:g} in {len(fine.times) - 1} steps on grids at rest"
        if reached < len(task.t):
            reason = fine.failure or coarse.failure or outline.path.failure
            said = f"stopped: {reason}; {reached} of {len(task.t)} output times were reached"
        return build_solution(
            task,
            self,
            snapshots,
            errors,
            coefficients=history(fine.times, fine.rates),
            status=Status(reached == len(task.t), said),
            stats={
                "steps": len(fine.times) - 1,
                "points": self.points,
                "coefficient_evaluations": rates.evaluations,
                "seconds": time.perf_counter() - started,
            },
        )

    def density(self, solution: PdeSolution, *, t: float, loading: Array) -> Density:
        """Return p(w | a), solved for along the stored coefficients."""
        rates = StoredRates(solution.coefficients)
        loadings = LoadingNodes(loading[None], np.ones(1))
        family = family_of(
            solution.problem, solution.initial, loadings, rates=rates, scheme=EXPONENTIAL, largest=np.inf
        )
        nodes = _grid(scout(family, float(solution.t[-1]) or 1.0), self.points)
        system = _System(family, nodes, self.order)
        march = _integrate(system, np.array([t]), _STEP_TOLERANCE * solution.rtol, progress=False)
        return Density(nodes[0], march.densities[0][0])


def _check_smooth(task: Task) -> None:
    """Raise `UnsupportedError` where differences of high order make no sense."""
    remedy = "use FiniteVolumes"
    kinks = task.problem.regularizer.kinks
    if kinks:
        raise UnsupportedError(
            f"methods.Collocation: densities have to be smooth, but {task.problem.regularizer!r} has a kink at "
            f"w = {kinks[0]:g}; {remedy}"
        )
    loadings = task.initial.loading_nodes(task.problem, 2).points
    if not all(task.initial.conditional(a, task.problem).is_smooth for a in loadings):
        raise UnsupportedError(
            f"methods.Collocation: densities have to be smooth, but {task.initial!r} has point masses or jumps; "
            f"{remedy}"
        )


def _grid(outline: Outline, points: int) -> Array:
    """Return uniform nodes (L, points) that cover the densities at all times, as a cheap first pass saw them."""
    low, high = outline.low.min(axis=0), outline.high.max(axis=0)
    room = _MARGIN * (high - low)
    return equidistant(low - room, high + room, points - 1)


class _System:
    """The equations of all loadings as one linear operator with a few coefficients; states are densities (L * n,)."""

    def __init__(self, family: Family, nodes: Array, order: int) -> None:
        self.family, self.nodes = family, nodes
        self.spacing = nodes[:, 1] - nodes[:, 0]
        self.slopes = family.equations.slope(nodes)
        first, second = _differences(nodes.shape[1], order)
        a = family.equations.loadings
        h = self.spacing
        self._linear = _blocks(first @ diags_array(w / size) for w, size in zip(nodes, h, strict=True))
        self._tilt = [_blocks(first * (each / size) for each, size in zip(column, h, strict=True)) for column in a.T]
        self._slope = _blocks(first @ diags_array(row / size) for row, size in zip(self.slopes, h, strict=True))
        self._diffusion = _blocks(second / size**2 for size in h)

    def start(self) -> Array:
        """Return the initial densities."""
        return np.concatenate([law.pdf(row) for law, row in zip(self.family.laws, self.nodes, strict=True)])

    def moments(self, state: Array) -> Array:
        """Return (Q, R_1, ..., R_K, E[w phi'(w)]) by the trapezoidal rule, spectrally accurate here."""
        equations = self.family.equations
        mass = state.reshape(self.nodes.shape) * self.spacing[:, None] * equations.weights[:, None]
        mean = np.einsum("ln,ln->l", mass, self.nodes)
        second = float((mass * self.nodes**2).sum())
        return np.concatenate([[second], mean @ equations.loadings, [float((mass * self.nodes * self.slopes).sum())]])

    def missing(self, state: Array) -> float:
        """Return by how much the worst mass differs from one: what left the grid or is not resolved by it."""
        return float(np.abs(state.reshape(self.nodes.shape).sum(axis=1) * self.spacing - 1.0).max())

    def rates(self, t: float, state: Array) -> Rates:
        return self.family.equations.rates(t, self.moments(state))

    def operator(self, rates: Rates) -> csr_array:
        """Return the matrix of the right-hand side at given coefficients."""
        matrix = rates.linear * self._linear + rates.tau * self._slope + rates.diffusion * self._diffusion
        for tilt, each in zip(rates.tilt, self._tilt, strict=True):
            matrix += tilt * each
        return matrix

    def slope(self, t: float, state: Array) -> Array:
        """Return d(state)/dt."""
        return self.operator(self.rates(t, state)) @ state


def _differences(n: int, order: int) -> tuple[csr_array, csr_array]:
    """Return first and second differences (n, n) for unit spacing, of functions that vanish beyond the walls."""
    from findiff import Diff

    # One-sided formulas near the ends of a longer grid are cut off with its ends.
    pad = order + 2
    inside = slice(pad, pad + n)
    whole = (n + 2 * pad,)
    first, second = Diff(0, 1.0, acc=order), Diff(0, 1.0, acc=order) ** 2
    return tuple(csr_array(each.matrix(whole))[inside, inside] for each in (first, second))  # type: ignore[return-value]


def _blocks(matrices: Iterable[Any]) -> csr_array:
    return block_diag(list(matrices), format="csr")


@dataclass
class _March:
    """Accepted steps, and densities (L, n) at the output times that were reached."""

    times: list[float] = field(default_factory=list)
    rates: list[Rates] = field(default_factory=list)
    densities: list[Array] = field(default_factory=list)
    moments: list[Array] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    failure: str = ""


def _integrate(system: _System, t: Array, tolerance: float, progress: bool) -> _March:
    """Integrate through the output times t; a blow-up ends the march."""
    march, state, largest = _March(), system.start(), system.family.largest

    def note(time: float, state: Array) -> None:
        march.times.append(time)
        march.rates.append(system.rates(time, state))

    def keep(time: float, state: Array) -> None:
        march.densities.append(state.reshape(system.nodes.shape))
        march.moments.append(system.moments(state))
        march.losses.append(system.rates(time, state).loss)

    note(0.0, state)
    pending = [float(time) for time in t]
    if pending and pending[0] == 0.0:
        keep(pending.pop(0), state)
    if not pending:
        return march
    # The operator at frozen coefficients serves Newton's method as the Jacobian.
    solver = Radau(
        system.slope, 0.0, state, pending[-1], rtol=tolerance, atol=tolerance * 0.1 * float(state.max()),
        jac=lambda time, state: system.operator(system.rates(time, state)).tocsc(),
    )  # fmt: skip
    with tqdm(total=pending[-1], disable=None if progress else True, desc="PDE", unit="t") as bar:
        while pending:
            message = solver.step()
            if abs(system.moments(solver.y)[0]) > largest:
                message = "Q grew beyond what counts as bounded"
            elif system.missing(solver.y) > _MOST_MISSING:
                message = "the grids do not hold or do not resolve the densities (take FiniteVolumes or more points)"
            if message:
                march.failure = f"{message} at t = {solver.t:.6g}"
                break
            note(solver.t, solver.y)
            between = solver.dense_output()
            while pending and pending[0] <= solver.t:
                keep(pending[0], between(pending[0]))
                pending.pop(0)
            bar.update(solver.t - bar.n)
    return march


def _compare(task: Task, family: Family, nodes: Array, fine: _March, coarse: _March) -> tuple[Snapshots, Errors]:
    """Return what both marches reached, and how far they differ, on their common nodes."""
    n = min(len(fine.densities), len(coarse.densities))
    densities = np.array(fine.densities[:n]).reshape(n, *nodes.shape)
    coarser = np.array(coarse.densities[:n]).reshape(n, *nodes[:, ::2].shape)
    moments, other = (np.array(each.moments[:n]).reshape(n, -1) for each in (fine, coarse))
    spacing = (nodes[:, 1] - nodes[:, 0])[:, None]
    gap = (2.0 * spacing * np.abs(densities[:, :, ::2] - coarser)).sum(axis=-1) @ family.equations.weights
    difference = np.abs(moments - other)
    errors = Errors(difference[:, 0], difference[:, 1:-1], gap)
    snapshots = Snapshots(
        loadings=LoadingNodes(family.equations.loadings, family.equations.weights),
        t=task.t[:n],
        Q=moments[:, 0],
        R=moments[:, 1:-1],
        loss=np.array(fine.losses[:n]),
        nodes=np.broadcast_to(nodes, densities.shape).copy(),
        densities=densities,
        quadrature=np.broadcast_to(spacing, densities.shape).copy(),
    )
    # Both grids may lose the same mass.
    missing = np.abs(snapshots.quadrature * densities).sum(axis=2) - 1.0
    lost = np.abs(missing).max(axis=1, initial=0.0)
    size = np.abs(snapshots.Q)
    errors += Errors(lost * size, (lost * np.sqrt(size))[:, None] * np.ones(snapshots.R.shape[1]), lost)
    return snapshots, errors + tolerance_errors(task.rtol, snapshots.Q, snapshots.R)
