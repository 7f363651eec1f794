"""Expectations of products of monomials in (sigma'(h_j), sigma(h_j)), one monomial per view: what Lambda needs, m > 1.

A monomial contains at most two outputs. For a smooth activation: whiten the two pre-activations of each view and
rotate them by the singular vectors of their cross-covariance (canonical correlations). Then only matching variables
are correlated and Mehler's formula holds per variable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mkvlasov._quadrature import trapezoidal_rule
from mkvlasov._typing import Array
from mkvlasov.limit import mehler
from mkvlasov.limit.bounded import bounded
from mkvlasov.limit.pairs import CHUNK
from mkvlasov.limit.views import ViewLaw
from mkvlasov.problem.activations import Activation

Outputs = tuple[int, int]
"""Two outputs."""

Monomial = tuple[tuple[int, int], tuple[int, int]]
"""Powers (of sigma', of sigma) for each of two outputs."""

_Lists = tuple[tuple[Monomial, ...], tuple[Monomial, ...]]

_MOST = 8
"""Most factors of a product."""

_MANY = 12
"""Points of the hidden law from which on it pays to look for negligible ones."""


@dataclass(frozen=True, slots=True)
class Group:
    """All products of a monomial of view 1 from one list with a monomial of view 2 from another.

    Attributes
    ----------
    outputs : tuple
        The two outputs that the monomials of view 1 are about, and those of view 2.
    first, second : tuple of Monomial
    """

    outputs: tuple[Outputs, Outputs]
    first: tuple[Monomial, ...]
    second: tuple[Monomial, ...]


@dataclass(frozen=True, slots=True)
class FourLaw:
    """Law of four pre-activations, two of each view, given the point of the hidden law.

    Attributes
    ----------
    mean : tuple of two ndarrays, shape (S, P, 2)
    own : tuple of two ndarrays, shape (S, 2, 2)
    cross : ndarray, shape (S, 2, 2)
    alike : bool
        Whether both pairs have the same law.
    """

    mean: tuple[Array, Array]
    own: tuple[Array, Array]
    cross: Array
    alike: bool

    @classmethod
    def of(cls, law: ViewLaw, outputs: tuple[Outputs, Outputs]) -> FourLaw:
        """Pick two outputs of view 1 and two of view 2."""
        a, b = (list(x) for x in outputs)
        own = (law.own[0][:, a][:, :, a], law.own[1][:, b][:, :, b])
        alike = law.exchangeable and outputs[0] == outputs[1]
        return cls((law.mean[..., a], law.mean[..., b]), own, law.cross[:, a][:, :, b], alike)


def evaluate(monomials: tuple[Monomial, ...], y: Array, d: Array) -> Iterator[Array]:
    """Yield the values of monomials, each of shape (...), for outputs y and derivatives d of shape (2, ...)."""
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


def canonical(law: FourLaw) -> tuple[Array, Array, Array]:
    """Return loadings of the canonical variables: h^(v) = mean + loadings_v x^(v), with Corr(x^(1), x^(2)) = diag(r).

    Returns
    -------
    first, second : ndarray, shape (S, 2, 2)
    r : ndarray, shape (S, 2)
        Canonical correlations, with a sign where the views are exchangeable.
    """
    axes, roots, inverse = _principal(law.own[0])
    if law.alike:
        r, rotation = np.linalg.eigh(_correlations(law.cross, axes, axes, inverse, inverse))
        loadings = axes * roots[:, None, :] @ rotation
        return loadings, loadings, np.clip(r, -1.0, 1.0)
    other, other_roots, other_inverse = _principal(law.own[1])
    u, r, vt = np.linalg.svd(_correlations(law.cross, axes, other, inverse, other_inverse))
    return axes * roots[:, None, :] @ u, other * other_roots[:, None, :] @ vt.mT, np.clip(r, -1.0, 1.0)


def _correlations(cross: Array, axes: Array, other: Array, inverse: Array, other_inverse: Array) -> Array:
    """Return the correlations of principal variables, (S, 2, 2), with a norm that rounding did not lift above one.

    Where one principal variance of a view is tiny, its own correlation (first row and column) has lost most digits. It
    is moved, by no more than what rounding explains, into the interval that the others leave for a norm of one
    (Parrott's theorem); to clip the singular values instead would pass its error on to the others.
    """
    k = inverse[:, :, None] * (axes.mT @ cross @ other) * other_inverse[:, None, :]
    rest = np.maximum((1.0 - k[:, 1, 1]) * (1.0 + k[:, 1, 1]), 1e-16)
    centre = -k[:, 1, 1] * k[:, 0, 1] * k[:, 1, 0] / rest
    radius = np.sqrt(np.maximum(rest - k[:, 0, 1] ** 2, 0.0) * np.maximum(rest - k[:, 1, 0] ** 2, 0.0)) / rest
    move = np.clip(k[:, 0, 0], centre - radius, centre + radius) - k[:, 0, 0]
    rounding = 1e-14 * np.abs(cross).max(axis=(1, 2)) * inverse[:, 0] * other_inverse[:, 0]
    k[:, 0, 0] += np.clip(move, -rounding, rounding)
    return k


def _principal(covariance: Array) -> tuple[Array, Array, Array]:
    """Return principal axes, deviations along them, and their inverses; 0 for directions without variance.

    In principal axes rounding spoils correlations only along directions with next to no variance, where nothing
    depends on them; in others it would spoil all of them.
    """
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    kept = values > 1e-15 * values[:, -1:]
    inverse = np.where(kept, 1.0 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    return vectors, np.sqrt(values), inverse


def smooth_groups(
    activation: Activation,
    law: ViewLaw,
    groups: tuple[Group, ...],
    *,
    offsets: Array,
    rtol: float,
    effort: int,
) -> list[Array]:
    """Return bounded averages for every group, shape (4, S, monomials, monomials).

    Parameters
    ----------
    activation : Activation
        Without kinks.
    law : ViewLaw
    groups : tuple of Group
    offsets : ndarray, shape (2, S, m)
        What is subtracted from the outputs of each view.
    rtol : float
    effort : int
        See `mehler.level`.
    """
    states, points, _ = law.mean.shape
    kept = np.ones((states, points), dtype=bool)
    results = [np.zeros((4, states, len(g.first), len(g.second))) for g in groups]
    if points >= _MANY:
        kept = _without_negligible(activation, law, offsets, groups, results, 1e-3 * rtol * 0.1**effort)
    for outputs in dict.fromkeys(group.outputs for group in groups):
        members = [(group, x) for group, x in zip(groups, results, strict=True) if group.outputs == outputs]
        shifts = (offsets[0][:, list(outputs[0])], offsets[1][:, list(outputs[1])])
        _add_products(activation, FourLaw.of(law, outputs), law.weights, kept, shifts, members, rtol, effort)
    return results


def _without_negligible(
    activation: Activation,
    law: ViewLaw,
    offsets: Array,
    groups: tuple[Group, ...],
    results: list[Array],
    share: float,
) -> Array:
    """Return which points of the hidden law to keep (S, P); add a bound of what the others contribute to the error.

    By Hölder's inequality a product of a sigma' and b sigma is at most D^a Y^b, D and Y the largest L^n norms of one
    of them, n = a + b. Product rules for continuous laws have many points that contribute next to nothing.
    """
    rule = trapezoidal_rule(0.25, 8.0)
    slope, output = (np.zeros(law.mean.shape[:2]) for _ in range(2))
    for sigma, offset in zip(law.deviations(), offsets, strict=True):
        for j in range(law.mean.shape[-1]):
            h = law.mean[..., j, None] + sigma[:, None, j, None] * rule.points
            y = activation.value(h) - offset[:, None, None, j]
            for largest, f in ((slope, activation.derivative(h)), (output, y)):
                np.maximum(largest, (f**_MOST @ rule.weights[0]) ** (1.0 / _MOST), out=largest)
    degrees = {
        (group, a, b): _degrees([*first, *second])
        for group, g in enumerate(groups)
        for a, first in enumerate(g.first)
        for b, second in enumerate(g.second)
    }
    bounds = {x: law.weights * slope ** x[0] * output ** x[1] for x in dict.fromkeys(degrees.values())}
    shares = np.max([x / np.maximum(x.sum(axis=1, keepdims=True), 1e-300) for x in bounds.values()], axis=0)
    order = np.argsort(shares, axis=1)
    dropped = np.zeros(shares.shape, dtype=bool)
    np.put_along_axis(dropped, order, np.cumsum(np.take_along_axis(shares, order, axis=1), axis=1) < share, axis=1)
    missing = {x: (bound * dropped).sum(axis=1) for x, bound in bounds.items()}
    for (group, a, b), degree in degrees.items():
        results[group][2, :, a, b] += missing[degree]
    return ~dropped


def _degrees(powers: list[tuple[int, int]]) -> tuple[int, int]:
    return sum(a for a, _ in powers), sum(b for _, b in powers)


def _add_products(
    activation: Activation,
    law: FourLaw,
    weights: Array,
    kept: Array,
    shifts: tuple[Array, Array],
    members: list[tuple[Group, Array]],
    rtol: float,
    effort: int,
) -> None:
    """Add the averages of all groups of the same four pre-activations to their results."""
    loadings = canonical(law)
    r = loadings[2]
    spread = np.maximum(np.abs(loadings[0]).max(axis=1), np.abs(loadings[1]).max(axis=1))
    significant = np.where(spread > 1e-12 * spread.max(axis=1, keepdims=True), r, 0.0)
    keys = [
        (mehler.level(s[0], c[0], rtol, effort), mehler.level(s[1], c[1], rtol, effort))
        for s, c in zip(spread.tolist(), significant.tolist(), strict=True)
    ]
    lists = _lists([group for group, _ in members], law.alike)
    for key, chosen in mehler.groups(keys).items():
        axes = (mehler.axis(key[0], rtol), mehler.axis(key[1], rtol))
        cells = max(len(axes[0].points), axes[0].terms + 3) * max(len(axes[1].points), axes[1].terms + 3)
        step = max(1, CHUNK // (cells * 2 * (len(lists[0]) + len(lists[1]))))
        state, point = np.nonzero(kept[chosen])
        state = chosen[state]
        for rows in (slice(i, i + step) for i in range(0, len(state), step)):
            s, p = state[rows], point[rows]
            views = (0,) if law.alike and not (axes[0].opposite or axes[1].opposite) else (0, 1)
            spectra = [
                _spectrum(activation, law.mean[v][s, p], loadings[v][s], shifts[v][s], lists[v], axes, v) for v in views
            ]
            powers = axes[0].powers(significant[s, 0])[:, :, None] * axes[1].powers(significant[s, 1])[:, None, :]
            starts = np.flatnonzero(np.diff(s, prepend=-1))
            for group, result in members:
                left = spectra[0].take([lists[0].index(x) for x in group.first])
                right = spectra[-1].take([lists[1].index(x) for x in group.second])
                tables = _contract(left, right, axes, powers) * weights[p, None, None]
                result[:, s[starts]] += np.add.reduceat(tables, starts, axis=1)


def _lists(groups: list[Group], alike: bool) -> _Lists:
    """Return the distinct monomials of each view, one list for both if a single transform can serve both."""
    first = dict.fromkeys(x for group in groups for x in group.first)
    second = dict.fromkeys(x for group in groups for x in group.second)
    if alike:
        both = tuple(first | second)
        return both, both
    return tuple(first), tuple(second)


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """Coefficients (n, functions, M1, M2), L2 norms (n, functions), relative errors of the nodes (n,)."""

    coefficients: Array
    norm: Array
    error: Array

    def take(self, which: list[int]) -> _Spectrum:
        return _Spectrum(self.coefficients[:, which], self.norm[:, which], self.error)


def _spectrum(
    activation: Activation,
    mean: Array,
    loadings: Array,
    shift: Array,
    monomials: tuple[Monomial, ...],
    axes: tuple[mehler.Axis, mehler.Axis],
    view: int,
) -> _Spectrum:
    """Transform monomials of the outputs of one view for rows of means (n, 2) and loadings (n, 2, 2)."""
    steps = [loadings[..., i].T[..., None] * grid.points for i, grid in enumerate(axes)]
    h = (mean.T[..., None] + steps[0])[..., None] + steps[1][..., None, :]
    y = activation.value(h)
    if shift.any():
        y = y - shift.T[:, :, None, None]
    spectrum = np.empty((len(mean), len(monomials), axes[0].terms + 3, axes[1].terms + 3))
    outside = np.empty((len(monomials), len(mean)))
    # One monomial at a time stays in the cache.
    for i, values in enumerate(evaluate(monomials, y, activation.derivative(h))):
        spectrum[:, i] = axes[0].analyse_rows(axes[1].analyse(values, view), view)
        outside[i] = axes[0].beyond * ((values[..., [0, -1], :] ** 2).sum(axis=-2) @ axes[1].weights[0])
        outside[i] += axes[1].beyond * ((values[..., [0, -1]] ** 2).sum(axis=-1) @ axes[0].weights[0])
    m1, m2 = axes[0].terms, axes[1].terms
    coefficients = spectrum[..., :m1, :m2]
    norm = np.sqrt(np.square(coefficients).sum(axis=(-2, -1)))
    along = (spectrum[..., m1:, m2], spectrum[..., m1, m2:])
    error = sum(mehler.nodal_error(np.moveaxis(x, 1, 0), norm.T) for x in along)
    # As in one dimension: bounds what lies outside of the nodes.
    relative = outside / np.maximum(norm.T, 1e-150) ** 2
    return _Spectrum(coefficients, norm, error + relative.max(axis=0))


def _contract(left: _Spectrum, right: _Spectrum, axes: tuple[mehler.Axis, mehler.Axis], powers: Array) -> Array:
    """Return bounded expectations of all products, shape (4, n, functions, functions)."""
    weighted = left.coefficients * powers[:, None]
    value = _dot(weighted, right.coefficients)
    size = left.norm[..., :, None] * right.norm[..., None, :]
    error = size * ((left.error + right.error)[:, None, None] + mehler.ROUNDING)
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
    a = a.reshape(*a.shape[:2], -1)
    return a @ np.swapaxes(b.reshape(*b.shape[:2], -1), -1, -2)
