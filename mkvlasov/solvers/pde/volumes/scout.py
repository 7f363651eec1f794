"""A cheap first pass: where the densities go, so that the meshes of the real run can follow them from the start."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.solvers.pde.volumes.fluxes import EXPONENTIAL
from mkvlasov.solvers.pde.volumes.grid import REACH, TAIL, density_ends, deposit, equidistant
from mkvlasov.solvers.pde.volumes.march import Equations, Path, march
from mkvlasov.solvers.pde.volumes.rates import Rates
from mkvlasov.solvers.pde.volumes.setup import Family

CELLS = 96
TOLERANCE = 3e-3
_PADDING = 0.12

# Of its width, what a mesh keeps in one step whatever a rough state asks for.
_LEAST_SHARE = 0.1
_RELAXATION = 3.0
_KINKED_RELAXATION = 12.0
_KINKED_WIDTH = 0.02


@dataclass(frozen=True)
class Outline:
    """What the scout saw at S times.

    Attributes
    ----------
    times : ndarray, shape (S,)
    low, high : ndarray, shape (S, L)
        Ends of the intervals that hold the densities but for tails of mass 1e-13.
    nodes, mass : ndarray, shape (S, L, n)
    path : Path
        Steps, moments and rates of the scout; `path.failure` says why it ended early, if it did.
    """

    times: Array
    low: Array
    high: Array
    nodes: Array
    mass: Array
    path: Path


class _Tracker:
    """Meshes that follow the mean and width of the densities as they are found."""

    def __init__(self, equations: Equations, floor: Array, end: float, kinked: bool) -> None:
        self.equations, self.floor, self.end, self.kinked = equations, floor, end, kinked
        self.times: list[float] = []
        self.low: list[Array] = []
        self.high: list[Array] = []
        self.nodes: list[Array] = []
        self.mass: list[Array] = []

    def observe(self, t: float, nodes: Array, mass: Array) -> None:
        low, high = self._ends(nodes, mass)
        self.times.append(t)
        self.low.append(low)
        self.high.append(high)
        self.nodes.append(nodes)
        self.mass.append(mass)

    def _ends(self, nodes: Array, mass: Array) -> tuple[Array, Array]:
        return widened(*density_ends(nodes, mass), self.floor)

    def destination(self, t: float, dt: float, nodes: Array, mass: Array, rates: Rates) -> Array:
        """Return where the nodes should be after a step.

        The ends move with the drift, or with mean and width of the density, and relax to a padding around it. All of
        it takes time: a jump of the mesh would be an error that no shorter step makes smaller.
        """
        low, high = nodes[:, 0], nodes[:, -1]
        tilt = (self.equations.loadings @ rates.tilt)[:, None]
        drift = -(rates.linear * nodes + tilt + rates.tau * self.equations.slope(nodes))
        mean = np.einsum("ln,ln->l", mass, nodes)
        offset = nodes - mean[:, None]
        variance = np.maximum(np.einsum("ln,ln->l", mass, offset * offset), (0.5 * self.floor / REACH) ** 2)
        velocity = np.einsum("ln,ln->l", mass, drift)
        growth = (np.einsum("ln,ln->l", mass, offset * drift) + rates.diffusion) / variance
        padding = _PADDING * (self.high[-1] - self.low[-1])
        pace = (_KINKED_RELAXATION if self.kinked else _RELAXATION) * (
            np.abs(growth) + np.abs(velocity) / (high - low) + 1.0 / self.end
        )
        relaxed = -np.expm1(-pace * dt)
        new_low = low + relaxed * (self.low[-1] - padding - low)
        new_high = high + relaxed * (self.high[-1] + padding - high)
        # The outer one of two guesses; a density that piles up at a kink changes its width unlike its tails.
        outward_low, outward_high = drift[:, 0] - velocity, drift[:, -1] - velocity
        if not self.kinked:
            outward_low = np.minimum(outward_low, (low - mean) * growth)
            outward_high = np.maximum(outward_high, (high - mean) * growth)
        most = 0.5 * (high - low)
        # The limits keep the ends apart where a rough state asks for too much.
        new_low = new_low + velocity * dt + np.clip(outward_low * dt, -most, 0.3 * most)
        new_high = new_high + velocity * dt + np.clip(outward_high * dt, -0.3 * most, most)
        if self.kinked:
            new_low = np.where(_fits(self.low[-1] - low, high - low), low, new_low)
            new_high = np.where(_fits(high - self.high[-1], high - low), high, new_high)
        new_low, new_high = widened(new_low, new_high, _LEAST_SHARE * (high - low))
        return equidistant(new_low, new_high, nodes.shape[1] - 1)


def _fits(room: Array, width: Array) -> npt.NDArray[np.bool_]:
    """Return where an end may rest: nodes that sweep over a spike at a kink would be errors at every step."""
    return (room > 0.06 * width) & (room < 0.35 * width)


def _displacement(nodes: Array, error: Array) -> Array:
    """Return how far errors (L, n) move mass, relative to the width of the mesh: places matter here, shapes do not."""
    spacing = np.diff(nodes, axis=1)
    moved = np.abs(np.cumsum(error, axis=1)[:, :-1])
    return np.einsum("ln,ln->l", moved, spacing) / (nodes[:, -1] - nodes[:, 0])


def widened(low: Array, high: Array, floor: Array) -> tuple[Array, Array]:
    """Return the ends moved apart where they are closer than the floor."""
    missing = np.maximum(floor - (high - low), 0.0)
    return low - 0.5 * missing, high + 0.5 * missing


def narrowest(family: Family, ends: Array, end: float) -> Array:
    """Return the width (L,) that no mesh goes below: what diffusion makes of a point mass in the first instants.

    Without it a mesh around a point mass would have no width to start from. At a kink a density may shrink to almost
    nothing in finite time; a mesh need not follow it there, since graded cells resolve it.
    """
    moments = family.equations.start(family.laws)
    rates = family.equations.rates(0.0, moments)
    speed = abs(rates.linear) + rates.tau
    instant = 0.01 * min(end, 1.0 / speed if speed > 0.0 else np.inf)
    width = 2.0 * REACH * np.sqrt(2.0 * max(rates.diffusion, 0.0) * instant)
    if family.kinks:
        width = max(width, _KINKED_WIDTH * float(np.sqrt(moments[0])))
    return np.maximum(width, 1e-7 * np.maximum(1.0, np.abs(ends).max(axis=1)))


def scout(family: Family, end: float) -> Outline:
    """March a coarse, uniform, moving mesh through [0, end] and note where the densities are."""
    # Overshoots of another flux would look like densities that went astray.
    equations = replace(family.equations, scheme=EXPONENTIAL)
    ends = np.array([law.ends(TAIL) for law in family.laws])
    floor = narrowest(family, ends, end)
    low, high = widened(ends[:, 0], ends[:, 1], floor)
    padding = _PADDING * (high - low)
    nodes = equidistant(low - padding, high + padding, CELLS)
    mass = np.array([deposit(law, row) for law, row in zip(family.laws, nodes, strict=True)])
    tracker = _Tracker(equations, floor, end, bool(family.kinks))
    path = march(
        equations,
        nodes,
        mass,
        outputs=np.array([end]),
        tolerance=TOLERANCE,
        destination=tracker.destination,
        observer=tracker.observe,
        largest_second_moment=family.largest,
        measure=_displacement,
    )
    # The start is known exactly.
    tracker.low[0], tracker.high[0] = low, high
    return Outline(
        np.array(tracker.times),
        np.array(tracker.low),
        np.array(tracker.high),
        np.array(tracker.nodes),
        np.array(tracker.mass),
        path,
    )
