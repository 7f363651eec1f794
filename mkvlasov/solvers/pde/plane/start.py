"""Where and when a run in the plane starts: the boxes and masses of the initial laws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.errors import UnsupportedError
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.conditional import ConditionalLaw, GaussianMixture
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.problem.plane_table import PlaneTable
from mkvlasov.problem.regularizers import Regularizer
from mkvlasov.solvers.pde.plane.boxes import Boxes, Shape, shape_of, sizes
from mkvlasov.solvers.pde.plane.grid import Grid
from mkvlasov.solvers.pde.plane.rates import Averages, RateFunction

NARROWEST = 0.5
"""Parts of a start narrower than so many cells are not seen by them."""
_INSTANT = 1e-2
"""Of the tolerance, and of the time in which the drift acts: how long point masses diffuse before the run begins."""
_SINGULAR = 1e-12
"""Of the variance: below it a covariance counts as singular."""


@dataclass(frozen=True, slots=True)
class Start:
    """Laws with densities at a time."""

    time: float
    laws: Sequence[ConditionalLaw]


def start(
    nodes: LoadingNodes, laws: Sequence[ConditionalLaw], rates: RateFunction, regularizer: Regularizer, *, rtol: float
) -> Start:
    """Return laws with densities: those given, or what they become after an instant if they have none.

    In a time so short that drift and diffusion hardly change over it, a normal law with a singular covariance (a point
    mass, say) moves with the drift and gets the covariance of the noise: exact up to a small part of `rtol`.

    Raises
    ------
    UnsupportedError
        For several point masses, or where the noise is singular as well.
    """
    singular = [law for law in laws if isinstance(law, GaussianMixture) and not _is_regular(law.covariances)]
    if not singular:
        return Start(0.0, laws)
    if any(len(law.weights) > 1 for law in singular):
        raise UnsupportedError(
            "solve_pde: for two outputs the initial law of a loading may be one point mass, but not several (nor a "
            "mixture with one): no grid resolves them; use simulate_particles, or start from a law with a density"
        )
    found = rates(0.0, _averages(nodes, laws, regularizer))
    speed = float(np.linalg.norm(found.linear)) + found.tau * _stiffness(regularizer, laws) + 1e-300
    time = _INSTANT * rtol / speed
    moved = []
    for a, law in zip(nodes.points, laws, strict=True):
        if not isinstance(law, GaussianMixture):
            raise UnsupportedError("solve_pde: some loadings start from points and others from tables")
        drift = found.linear @ law.means[0] + found.tilt @ a
        if regularizer.linear_strength is None:
            drift = drift + found.tau * regularizer.gradient(law.means)[0]
        moved.append(
            law.affine(
                np.eye(2) - time * found.linear, time * (found.linear @ law.means[0] - drift), time * found.noise
            )
        )
    if not all(_is_regular(law.covariances) for law in moved):
        raise UnsupportedError(
            "solve_pde: the start is singular (a point, or weights on a line) and so is the diffusion: the solution "
            "has no density in the plane; use simulate_particles, or start from a law with a density"
        )
    return Start(time, moved)


def first_boxes(laws: Sequence[ConditionalLaw], tail: float) -> Boxes:
    """Return boxes that hold all but a tail of the mass of every law on every side."""
    parts = [_tabulated_box(law) if isinstance(law, PlaneTable) and law.is_uniform else _box(law, tail) for law in laws]
    return Boxes(*(np.array(each) for each in zip(*parts, strict=True)))


def first_masses(laws: Sequence[ConditionalLaw], grid: Grid, n: int) -> Array:
    """Return the masses (L, n, n) of the laws in the cells of a grid."""
    w, frames = grid.weights(n), grid.frames(n)
    mass = np.empty(w.shape[:-1])
    for i, law in enumerate(laws):
        points = w[i].reshape(-1, 2)
        if isinstance(law, GaussianMixture):
            p = law.joint_pdf(points).reshape(n, n)
        else:
            assert isinstance(law, PlaneTable)
            own = law.p.shape == (n, n) and all(
                np.array_equal(mine, its)
                for mine, its in ((frames.axes[i], law.axes), (frames.coordinates[i], law.coordinates))
            )
            p = law.p if own else law.pdf(points).reshape(n, n)
        mass[i] = p * frames.areas[i]
    return mass / mass.sum(axis=(1, 2), keepdims=True)


def narrowest(laws: Sequence[ConditionalLaw], grid: Grid, n: int) -> float:
    """Return how many cells, of average size, the narrowest component of mixtures is wide."""
    frames, found = grid.frames(n), np.inf
    for i, law in enumerate(laws):
        if isinstance(law, GaussianMixture):
            inverse = np.linalg.inv(frames.axes[i] * np.ptp(frames.coordinates[i], axis=1) / (n - 1))
            values = np.linalg.eigvalsh(inverse @ law.covariances @ inverse.T)
            found = min(found, float(np.sqrt(values[:, 0].min())))
    return found


def check_resolved(laws: Sequence[ConditionalLaw], grid: Grid, n: int) -> None:
    """Raise `UnsupportedError` if a component of a mixture is narrower than half a cell."""
    narrow = narrowest(laws, grid, n)
    if narrow < NARROWEST:
        raise UnsupportedError(
            f"solve_pde: a part of the initial law is {narrow:.2g} cells wide, which {n} x {n} cells do not resolve; "
            "take more cells (methods.PlaneSplitting(cells=...)), or use simulate_particles"
        )


def _is_regular(covariances: Array) -> bool:
    values = np.linalg.eigvalsh(covariances)
    return bool((values[:, 0] > _SINGULAR * values[:, -1]).all())


def _box(law: ConditionalLaw, tail: float) -> tuple[Array, Array, Array, Array]:
    """Whiten the law and see how far it reaches."""
    mean = law.mean
    root = square_root(law.second_moment - np.outer(mean, mean))
    inverse = np.asarray(np.linalg.inv(root), dtype=np.float64)
    white = law.affine(inverse, -inverse @ mean, np.zeros((2, 2)))
    ends = np.array([white.marginal(axis).ends(tail) for axis in range(2)])
    spread, middle = sizes(Shape(np.zeros((1, 2)), np.eye(2)[None], ends[None, :, 0], ends[None, :, 1]))
    axes = root * spread[0]
    return mean - axes @ middle[0], axes, spread[0], middle[0]


def _tabulated_box(law: PlaneTable) -> tuple[Array, Array, Array, Array]:
    """Keep the box of a table."""
    shape = shape_of(law.p[None] / law.p.sum(), 0.0)
    return law.origin, law.axes, 1.0 / np.sqrt(np.diagonal(shape.covariance[0])), shape.mean[0]


def _averages(nodes: LoadingNodes, laws: Sequence[ConditionalLaw], regularizer: Regularizer) -> Averages:
    """Return what couples the loadings at the start; for the virial the means stand for their laws."""
    means = np.array([law.mean for law in laws])
    Q = np.einsum("l,lij->ij", nodes.weights, np.array([law.second_moment for law in laws]))
    virial = np.zeros(2)
    if regularizer.linear_strength is None:
        virial = nodes.weights @ (means * regularizer.gradient(means))
    return Averages(Q, (nodes.weights * means.T) @ nodes.points, virial)


def _stiffness(regularizer: Regularizer, laws: Sequence[ConditionalLaw]) -> float:
    """Return how fast phi' changes about the means, on the scale of the weights."""
    if regularizer.linear_strength is not None:
        return 0.0
    means = np.array([law.mean for law in laws])
    scale = 1.0 + float(np.abs(means).max())
    return float(np.abs(regularizer.gradient(means)).max()) / scale + 1.0
