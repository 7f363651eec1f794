"""Neighbourhoods of fixed points that trajectories do not leave, and such of saddles where nothing can be decided."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

from mkvlasov._typing import Array
from mkvlasov.analysis.fixed_points import FixedPoints
from mkvlasov.analysis.newton import scales, smallest_eigenvalue
from mkvlasov.analysis.symmetry_group import SymmetryGroup
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.entries import Entries

IGNORED, ATTRACTING, PASSING = range(3)

_SHELLS = (1.0, 0.5, 0.25)
_DIRECTIONS = 100
_HALVINGS = 12
_NEAR = 0.2
"""Distance from a saddle, relative to its scale, within which it governs; at most half of that to another end."""
_MARGIN = 10.0
"""Distance from the stable manifold of a saddle, over the tolerance of the integration, that decides nothing."""


@dataclass(frozen=True, eq=False)
class Ends:
    """The fixed points and their symmetric copies, one by one.

    Attributes
    ----------
    entries : Entries
    point, copy : ndarray of int, shape (n,)
        Places in the list of fixed points, and among the copies of that point.
    x : ndarray, shape (n, d)
    names : tuple of str, length n
    """

    entries: Entries
    point: npt.NDArray[np.int64]
    copy: npt.NDArray[np.int64]
    x: Array
    names: tuple[str, ...]

    @classmethod
    def of(cls, entries: Entries, points: FixedPoints) -> Ends:
        """List the copies of fixed points, in their order."""
        listed = [(p, c, *pair) for p, point in enumerate(points) for c, pair in enumerate(point.copies)]
        x = np.array([entries.pack(Q, R) for _, _, Q, R in listed]).reshape(-1, entries.size)
        names = tuple(_copy_name(points, p, c) for p, c, _, _ in listed)
        return cls(entries, np.array([p for p, *_ in listed]), np.array([c for _, c, *_ in listed]), x, names)


def _copy_name(points: FixedPoints, p: int, c: int) -> str:
    point = points[p]
    several = sum(other.copy_names[0] == point.copy_names[0] for other in points) > 1
    return f"{point.copy_names[c]} [{p}]" if several else point.copy_names[c]


def unsigned(name: str) -> str:
    """Return the name of an end without the signs of its features."""
    return name.removeprefix("-").replace(" - ", " + ").replace(": -", ": ")


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    r"""For each class of starts and each end: what a trajectory of that class that comes close means.

    Attributes
    ----------
    kinds : ndarray of int, shape (c, n)
        ATTRACTING: a trajectory with \|matrix (x - centre)\| <= 1 has converged. PASSING: one that keeps all
        \|(x - centre) weights\| <= 1 for longer than the patience came closer to the stable manifold of a saddle
        than the integration can tell. IGNORED.
    centres : ndarray, shape (n, d)
    matrices : ndarray, shape (c, n, d, d)
    weights : ndarray, shape (n, d)
    patience : ndarray, shape (c, n)
    radii : ndarray, shape (c, n)
        Of the attracting neighbourhoods, relative to the scale of the end; 0 for others.
    """

    kinds: npt.NDArray[np.int64]
    centres: Array
    matrices: Array
    weights: Array
    patience: Array
    radii: Array


def find_neighbourhoods(
    closed: ClosedRates,
    tau: float,
    points: FixedPoints,
    ends: Ends,
    group: SymmetryGroup,
    projectors: Array,
    *,
    tolerance: float,
    rtol: float,
) -> Neighbourhoods:
    """Return the neighbourhoods of all ends for starts that stay in the ranges of the projectors.

    For an end that is stable in the range, P solves J^T P + P J = -1 for the linearization J in units of the scale of
    the end, and V = y^T P y falls along trajectories near it: the neighbourhood {V <= r^2}, P scaled to have 1 as its
    smallest eigenvalue, lies within a distance r. The largest r <= tolerance is taken, out of halvings, for which
    dV/dt <= (1/2) (what the linearization gives) at random admissible states on three shells. That the states between
    the samples do the same is not proved; the factor 1/2 is the reserve for them.

    A distance e from the stable manifold of a saddle grows like exp(lambda t), lambda the largest unstable rate: who
    stays
    near the saddle for longer than log(near / e) / lambda came within e. The patience is that time for e = 10 rtol.
    """
    n, d, c = len(ends.x), closed.entries.size, len(projectors)
    near = _near(closed.entries, ends.x)
    found = Neighbourhoods(
        np.zeros((c, n), dtype=np.int64),
        ends.x,
        np.zeros((c, n, d, d)),
        1.0 / (near[:, None] * scales(closed.entries, ends.x)),
        np.zeros((c, n)),
        np.zeros((c, n)),
    )
    rng = np.random.default_rng(0)
    known: dict[tuple[int, int], float] = {}
    movable = np.zeros(d)
    movable[closed.free] = 1.0
    for j in range(n):
        point, size = points[int(ends.point[j])], scales(closed.entries, ends.x[j])
        J, bound = _jacobian_at(closed, tau, points, ends, group, j), point.stability.error
        scaled = J * size / size[:, None]
        for i, projector in enumerate(projectors):
            if np.abs(projector @ ends.x[j] - ends.x[j]).max() > 1e-6 * size.max():
                continue  # this end is not in the subspace
            values, vectors = np.linalg.eigh(projector * movable * movable[:, None])
            basis = vectors[:, values > 0.5]
            within = basis.T @ scaled @ basis
            rates = np.linalg.eigvals(within).real if len(within) else np.zeros(0)
            if (rates < -bound).all():
                form, decay = _contracting_form(within)
                # Copies of a point have congruent neighbourhoods among starts without symmetry.
                key = (int(ends.point[j]), 0 if i == 0 else 1 + i * n + j)
                if key not in known:
                    lifted = basis * size[:, None]
                    known[key] = _certified_radius(closed, tau, ends.x[j], lifted, form, decay, tolerance, rng)
                radius = known[key]
                if radius > 0.0:
                    factor = np.linalg.cholesky(form).T @ basis.T / size / radius
                    found.matrices[i, j, : len(factor)] = factor
                    found.kinds[i, j], found.radii[i, j] = ATTRACTING, radius
            elif (rates > bound).any() and (rates < -bound).any():
                found.kinds[i, j] = PASSING
                found.patience[i, j] = np.log(max(near[j] / (_MARGIN * rtol), 1.0)) / rates.max()
    return found


def _near(entries: Entries, x: Array) -> Array:
    """Return the distance (n,) from each end, relative to its scale, within which it alone governs."""
    relative = (np.abs(x[:, None] - x) / scales(entries, x)[:, None]).max(axis=-1)
    np.fill_diagonal(relative, np.inf)
    return np.minimum(_NEAR, 0.5 * relative.min(axis=1, initial=np.inf))


def _jacobian_at(
    closed: ClosedRates, tau: float, points: FixedPoints, ends: Ends, group: SymmetryGroup, j: int
) -> Array:
    """Return the Jacobian (d, d) at an end: that of the point, carried over by the symmetry that makes the copy."""
    point = points[int(ends.point[j])]
    first = int(np.flatnonzero(ends.point == ends.point[j])[0])
    images = group.matrices @ ends.x[first]
    gaps = np.abs(images - ends.x[j]).max(axis=-1)
    best = int(gaps.argmin())
    if gaps[best] > 1e-6 * scales(closed.entries, ends.x[j]).max():  # a copy that a rotation makes
        return closed.jacobian(ends.x[j], tau).value
    J = np.zeros((len(images[0]),) * 2)
    J[np.ix_(closed.free, closed.free)] = point.stability.jacobian
    return group.matrices[best] @ J @ group.matrices[best].T


def _contracting_form(J: Array) -> tuple[Array, float]:
    """Return P with smallest eigenvalue 1 and the number a > 0 for which J^T P + P J = -a."""
    if not len(J):
        return J, 0.0
    P = linalg.solve_continuous_lyapunov(J.T, -np.eye(len(J)))
    least = float(np.linalg.eigvalsh(0.5 * (P + P.T))[0])
    form: Array = np.asarray(0.5 * (P + P.T) / least, dtype=np.float64)
    return form, 1.0 / least


def _certified_radius(
    closed: ClosedRates,
    tau: float,
    centre: Array,
    basis: Array,
    form: Array,
    decay: float,
    tolerance: float,
    rng: np.random.Generator,
) -> float:
    """Return the largest radius at which V falls at half its linear rate or faster in all samples, 0 if there is none.

    `basis` (d, k) takes the coordinates of the form, in units of the scale of the end, to entries of the state.
    """
    k = len(form)
    if not k:
        return tolerance  # nothing can move
    directions = rng.normal(size=(_DIRECTIONS, k))
    directions /= np.sqrt(np.einsum("si,ij,sj->s", directions, form, directions))[:, None]
    samples = np.concatenate([shell * directions for shell in _SHELLS])
    coordinates = np.linalg.pinv(basis)
    radius = tolerance
    for _ in range(_HALVINGS):
        y = radius * samples
        y = y[smallest_eigenvalue(closed.entries, centre + y @ basis.T) >= 0.0]
        velocity = closed.rates(centre + y @ basis.T, tau) @ coordinates.T
        change = 2.0 * np.einsum("si,ij,sj->s", y, form, velocity)
        if len(y) and (change <= -0.5 * decay * (y * y).sum(axis=1)).all():
            return radius
        radius *= 0.5
    return 0.0
