"""Expectations of products of monomials in (sigma'(h_j), sigma(h_j)), one monomial per view: what Lambda needs, m > 1.

For two outputs and a smooth activation: whiten the pre-activations of each view and rotate them by the singular
vectors of their cross-covariance (canonical correlations). Then only matching variables are correlated and Mehler's
formula holds per variable. Otherwise: scrambled Sobol points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special
from scipy.stats import qmc

from mkvlasov._typing import Array
from mkvlasov.limit import mehler
from mkvlasov.limit.bounded import bounded
from mkvlasov.limit.pairs import CHUNK
from mkvlasov.limit.views import ViewLaw
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.activations import Activation

Monomial = tuple[tuple[int, int], ...]
"""Powers (of sigma', of sigma) for each output."""

REPLICATES = 8


@dataclass(frozen=True, slots=True)
class Group:
    """All products of a monomial of view 1 from one list with a monomial of view 2 from another."""

    first: tuple[Monomial, ...]
    second: tuple[Monomial, ...]


def evaluate(monomials: tuple[Monomial, ...], y: Array, d: Array) -> Iterator[Array]:
    """Yield the values of monomials, each of shape (...), for outputs y and derivatives d of shape (m, ...)."""
    powers: dict[tuple[int, int, int], Array] = {}
    for monomial in monomials:
        factors = []
        for j, (a, b) in enumerate(monomial):
            if a or b:
                if (j, a, b) not in powers:
                    powers[j, a, b] = _product([d[j]] * a + [y[j]] * b)
                factors.append(powers[j, a, b])
        yield _product(factors) if factors else np.ones(y.shape[1:])


def _product(factors: list[Array]) -> Array:
    total = factors[0]
    for factor in factors[1:]:
        total = total * factor
    return total


def canonical(law: ViewLaw) -> tuple[Array, Array, Array]:
    """Return loadings of the canonical variables: h^(v) = mean + loadings_v x^(v), with Corr(x^(1), x^(2)) = diag(r).

    Returns
    -------
    first, second : ndarray, shape (S, m, m)
    r : ndarray, shape (S, m)
        Canonical correlations, with a sign where the views are exchangeable.
    """
    root, inverse = _square_root(law.own[0])
    if law.exchangeable:
        r, rotation = np.linalg.eigh(inverse @ law.cross @ np.swapaxes(inverse, -1, -2))
        loadings = root @ rotation
        return loadings, loadings, np.clip(r, -1.0, 1.0)
    other, other_inverse = _square_root(law.own[1])
    u, r, vt = np.linalg.svd(inverse @ law.cross @ np.swapaxes(other_inverse, -1, -2))
    return root @ u, other @ np.swapaxes(vt, -1, -2), np.clip(r, -1.0, 1.0)


def _square_root(covariance: Array) -> tuple[Array, Array]:
    """Return symmetric roots and their pseudo-inverses; directions without variance stay out of the inverse."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    kept = values > 1e-15 * values[:, -1:]
    inverse = np.where(kept, 1.0 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    transposed = np.swapaxes(vectors, -1, -2)
    return (vectors * np.sqrt(values)[:, None, :]) @ transposed, (vectors * inverse[:, None, :]) @ transposed


def smooth_groups(
    activation: Activation,
    law: ViewLaw,
    groups: tuple[Group, ...],
    *,
    offsets: Array,
    rtol: float,
    effort: int,
) -> list[Array]:
    """Return bounded averages for every group, shape (4, S, monomials, monomials), for m = 2.

    Parameters
    ----------
    activation : Activation
    law : ViewLaw
    groups : tuple of Group
    offsets : ndarray, shape (2, S, m)
        What is subtracted from the outputs of each view.
    rtol : float
    effort : int
        See `mehler.level`.
    """
    first, second, r = canonical(law)
    spread = np.maximum(np.abs(first).max(axis=1), np.abs(second).max(axis=1))
    significant = np.where(spread > 1e-12 * spread.max(axis=1, keepdims=True), r, 0.0)
    keys = [
        (mehler.level(s[0], c[0], rtol, effort), mehler.level(s[1], c[1], rtol, effort))
        for s, c in zip(spread.tolist(), significant.tolist(), strict=True)
    ]
    results = [np.zeros((4, len(r), len(g.first), len(g.second))) for g in groups]
    lists = _lists(groups, law.exchangeable)
    for key, rows in mehler.groups(keys).items():
        axes = (mehler.axis(key[0], rtol), mehler.axis(key[1], rtol))
        cells = max(len(axes[0].points), axes[0].terms + 3) * max(len(axes[1].points), axes[1].terms + 3)
        per_point = cells * (2 * len(lists[0]) + 2 * len(lists[1]))
        step = max(1, CHUNK // (per_point * len(law.weights)))
        point_step = len(law.weights) if step > 1 else max(1, CHUNK // per_point)
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            loadings = (first[chosen], second[chosen])
            shifts = offsets[:, chosen]
            for begin in range(0, len(law.weights), point_step):
                part = law.take(chosen, slice(begin, begin + point_step))
                spectra = _spectra(activation, part, loadings, shifts, lists, axes)
                for result, group in zip(results, groups, strict=True):
                    left = spectra[0].take([lists[0].index(x) for x in group.first])
                    right = spectra[1].take([lists[1].index(x) for x in group.second])
                    tables = _contract(left, right, axes, significant[chosen])
                    result[:, chosen] += np.einsum("bspfk,p->bsfk", tables, part.weights)
    return results


def _lists(groups: tuple[Group, ...], exchangeable: bool) -> tuple[tuple[Monomial, ...], tuple[Monomial, ...]]:
    """Return the distinct monomials of each view, one list for both if a single transform can serve both."""
    first = dict.fromkeys(x for group in groups for x in group.first)
    second = dict.fromkeys(x for group in groups for x in group.second)
    if exchangeable:
        both = tuple(first | second)
        return both, both
    return tuple(first), tuple(second)


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """Coefficients (S, P, functions, M1, M2), L2 norms (S, P, functions), relative errors of the nodes (S, P)."""

    coefficients: Array
    norm: Array
    error: Array

    def take(self, which: list[int]) -> _Spectrum:
        return _Spectrum(self.coefficients[:, :, which], self.norm[:, :, which], self.error)


def _spectra(
    activation: Activation,
    law: ViewLaw,
    loadings: tuple[Array, Array],
    shifts: Array,
    lists: tuple[tuple[Monomial, ...], ...],
    axes: tuple[mehler.Axis, mehler.Axis],
) -> list[_Spectrum]:
    """Transform the monomials of both views."""
    if law.exchangeable and not (axes[0].opposite or axes[1].opposite):
        spectrum = _spectrum(activation, law, loadings[0], shifts[0], lists[0], axes, 0)
        return [spectrum, spectrum]
    return [_spectrum(activation, law, loadings[v], shifts[v], lists[v], axes, v) for v in (0, 1)]


def _spectrum(
    activation: Activation,
    law: ViewLaw,
    loadings: Array,
    shift: Array,
    monomials: tuple[Monomial, ...],
    axes: tuple[mehler.Axis, mehler.Axis],
    view: int,
) -> _Spectrum:
    grid = loadings[..., 0, None, None] * axes[0].points[:, None] + loadings[..., 1, None, None] * axes[1].points
    h = np.moveaxis(law.mean, -1, 0)[..., None, None] + np.moveaxis(grid, 1, 0)[:, :, None]
    y = activation.value(h)
    if shift.any():
        y = y - shift.T[:, :, None, None, None]
    shape = (axes[0].terms + 3, axes[1].terms + 3)
    spectrum = np.empty((*law.mean.shape[:2], len(monomials), *shape))
    outside = np.empty((len(monomials), *law.mean.shape[:2]))
    # One monomial at a time stays in the cache.
    for i, values in enumerate(evaluate(monomials, y, activation.derivative(h))):
        spectrum[:, :, i] = axes[0].analyse_rows(axes[1].analyse(values, view), view)
        outside[i] = axes[0].beyond * ((values[..., [0, -1], :] ** 2).sum(axis=-2) @ axes[1].weights[0])
        outside[i] += axes[1].beyond * ((values[..., [0, -1]] ** 2).sum(axis=-1) @ axes[0].weights[0])
    m1, m2 = axes[0].terms, axes[1].terms
    coefficients = spectrum[..., :m1, :m2]
    norm = np.sqrt(np.square(coefficients).sum(axis=(-2, -1)))
    along = (spectrum[..., m1:, m2], spectrum[..., m1, m2:])
    error = sum(mehler.nodal_error(np.moveaxis(x, 2, 0), np.moveaxis(norm, 2, 0)) for x in along)
    # As in one dimension: bounds what lies outside of the nodes.
    relative = outside / np.maximum(np.moveaxis(norm, 2, 0), 1e-150) ** 2
    return _Spectrum(coefficients, norm, error + relative.max(axis=0))


def _contract(left: _Spectrum, right: _Spectrum, axes: tuple[mehler.Axis, mehler.Axis], r: Array) -> Array:
    """Return bounded expectations of all products, shape (4, S, P, functions, functions)."""
    powers = axes[0].powers(r[:, 0])[:, :, None] * axes[1].powers(r[:, 1])[:, None, :]
    weighted = left.coefficients * powers[:, None, None]
    value = _dot(weighted, right.coefficients)
    size = left.norm[..., :, None] * right.norm[..., None, :]
    error = size * ((left.error + right.error)[:, :, None, None] + mehler.ROUNDING)
    weighted, other = np.abs(weighted), np.abs(right.coefficients)
    for direction, grid in enumerate(axes):
        if grid.is_direct:
            continue
        half, most = grid.terms // 2, 3 * grid.terms // 4
        cut = (slice(half, most), slice(most, None))
        blocks = [(..., c, slice(None)) if direction == 0 else (..., c) for c in cut]
        error += mehler.tail_of_quarters(*(_dot(weighted[b], other[b]) for b in blocks))
    return bounded(value, error, size)


def _dot(a: Array, b: Array) -> Array:
    a = a.reshape(*a.shape[:3], -1)
    return a @ np.swapaxes(b.reshape(*b.shape[:3], -1), -1, -2)


def sampled_groups(
    activation: Activation,
    law: ViewLaw,
    groups: tuple[Group, ...],
    *,
    offsets: Array,
    rtol: float,
) -> list[Array]:
    """Return the same averages as `smooth_groups` from scrambled Sobol points, for any m and any activation.

    The scramblings are fixed and the symmetric root of the covariance is continuous, so the result is a continuous
    function of the state, which solvers can take small steps in; the error is three standard errors over the
    independent scramblings.
    """
    states, n_points, m = law.mean.shape
    roots = square_root(joint_covariance(law))
    sums = [np.zeros((REPLICATES, states, len(g.first), len(g.second))) for g in groups]
    sizes = [np.zeros((states, len(g.first), len(g.second))) for g in groups]
    for replicate in range(REPLICATES):
        normal = sobol_normal(2 * m, sobol_size(rtol), replicate)
        for s in range(states):
            first, second = np.split((normal @ roots[s]).T, 2)
            for p in range(n_points):
                h1, h2 = (law.mean[s, p][:, None] + g for g in (first, second))
                y1, y2 = (activation.value(h) - offset[s][:, None] for h, offset in zip((h1, h2), offsets, strict=True))
                d1, d2 = activation.derivative(h1), activation.derivative(h2)
                for i, group in enumerate(groups):
                    a = np.array(list(evaluate(group.first, y1, d1)))
                    b = np.array(list(evaluate(group.second, y2, d2)))
                    sums[i][replicate, s] += law.weights[p] * (a @ b.T) / a.shape[1]
                    norms = [np.sqrt(np.square(f).mean(axis=1)) for f in (a, b)]
                    sizes[i][s] += law.weights[p] * np.outer(*norms) / REPLICATES
    results = []
    for total, size in zip(sums, sizes, strict=True):
        error = 3.0 * total.std(axis=0, ddof=1) / np.sqrt(REPLICATES)
        # The terms of a sampled expectation are the samples, so its scale is their natural size.
        results.append(np.stack([total.mean(axis=0), size, size + error, size]))
    return results


def joint_covariance(law: ViewLaw) -> Array:
    """Return the covariance of the pre-activations of both views given the point, (S, 2m, 2m)."""
    top = np.concatenate([law.own[0], law.cross], axis=-1)
    return np.concatenate([top, np.concatenate([law.cross.mT, law.own[1]], axis=-1)], axis=-2)


def sobol_size(rtol: float, most: int = 11) -> int:
    """Return log2 of the number of points per scrambling: what the accuracy asks for, within a budget `most`."""
    return int(np.clip(np.ceil(-np.log2(rtol)), 7, most))


@lru_cache(maxsize=32)
def sobol_normal(dimension: int, log2_points: int, replicate: int) -> Array:
    """Return 2^log2_points scrambled Sobol points with standard normal components, the same at every call."""
    sequence = qmc.Sobol(dimension, scramble=True, seed=np.random.default_rng([20240610, replicate]))
    points = sequence.random_base2(log2_points)
    normal = special.ndtri(np.clip(points, 1e-16, 1.0 - 1e-16))
    normal.flags.writeable = False
    return np.asarray(normal)
