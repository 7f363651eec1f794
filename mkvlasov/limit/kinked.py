"""Expectations of pairs for activations with kinks, by piecewise Gauss-Legendre rules.

With h1 = m1 + s1 u, h2 = m2 + s2 (r u + q z), q^2 = 1 - r^2: the inner integral over z is split at the kinks of h2, the
outer one at the kinks of h1 and, graded on the scale q / |r|, around the image of the kinks of h2. So nothing degrades
as r -> +-1. Jumps of sigma' make point masses in sigma'': jump * density at the kink * E[other factor | kink].
"""

from __future__ import annotations

import numpy as np

from mkvlasov._quadrature import panel_rule
from mkvlasov._typing import Array
from mkvlasov.errors import UnsupportedError
from mkvlasov.limit.bounded import bounded
from mkvlasov.limit.mehler import ROUNDING
from mkvlasov.limit.pairs import CHUNK, Pair, PairList, PairTable, functions
from mkvlasov.limit.views import ViewLaw
from mkvlasov.problem.activations import Activation

GAIN = 0.05
"""Two nodes more per panel divide the error by 100 and more (measured on rectifiers), here taken as 20."""

_REACH = 8.5
_OUTER = np.array([-_REACH, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, _REACH])
_INNER = np.array([-_REACH, -4.5, -1.5, 1.5, 4.5, _REACH])
_LAYER = np.array([-8.0, -5.0, -3.0, -1.5, 0.0, 1.5, 3.0, 5.0, 8.0])


def density(x: Array) -> Array:
    """Return the standard normal density."""
    return np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)


def line_rule(mean: Array, sigma: Array, kinks: Array, order: int) -> tuple[Array, Array]:
    """Return nodes z and Gaussian weights, split where mean + sigma z crosses a kink; shapes (..., n)."""
    crossing = _clipped(kinks - mean[..., None], sigma[..., None])
    base = np.broadcast_to(_INNER, (*mean.shape, len(_INNER)))
    z, weights = panel_rule(np.sort(np.concatenate([base, crossing], axis=-1), axis=-1), order)
    return z, weights * density(z)


def outer_rule(m1: Array, s1: Array, m2: Array, s2: Array, r: Array, kinks: Array, order: int) -> tuple[Array, Array]:
    """Return nodes u and Gaussian weights of the outer integral, shapes (..., n)."""
    own = _clipped(kinks - m1[..., None], s1[..., None])
    image = _clipped(kinks - m2[..., None], (s2 * r)[..., None])
    q = np.sqrt(np.maximum(1.0 - r * r, 0.0))
    width = np.minimum(q / np.maximum(np.abs(r), 1e-10), 10.0 * _REACH)
    layers = (image[..., None] + width[..., None, None] * _LAYER).reshape(*r.shape, -1)
    base = np.broadcast_to(_OUTER, (*r.shape, len(_OUTER)))
    breaks = np.concatenate([base, own, np.clip(layers, -_REACH, _REACH)], axis=-1)
    u, weights = panel_rule(np.sort(breaks, axis=-1), order)
    return u, weights * density(u)


def kinked_pairs(
    activation: Activation, law: ViewLaw, wanted: PairList, *, centered: bool, rtol: float, effort: int
) -> PairTable:
    """Return the averages of pairs for an activation with kinks.

    Parameters and result as for `mkvlasov.limit.pairs.smooth_pairs`; the order of the rules grows with the effort and
    the error is the difference from the rules of lower order.

    Raises
    ------
    UnsupportedError
        If a pre-activation has no variance and sits on a kink: sigma' is ambiguous there, and the limit of Lambda and
        G depends on how the state is approached.
    """
    check_not_on_kink(activation, law)
    fine, coarse = (_table(activation, law, wanted.names, wanted.own, centered, n) for n in orders(rtol, effort))
    pairs = bounded(fine[0], GAIN * np.abs(fine[0] - coarse[0]) + ROUNDING * fine[1], fine[1])
    ones = bounded(fine[2], GAIN * np.abs(fine[2] - coarse[2]) + ROUNDING * fine[3], fine[3])
    return wanted.table(np.moveaxis(pairs, 3, -1), np.moveaxis(ones, 4, -1), fine[4], law)


def orders(rtol: float, effort: int) -> tuple[int, int]:
    """Return the order of the rules on each panel, and the lower one that the error is measured by."""
    order = (6 if rtol > 1e-5 else 9) + 4 * effort
    return order, order - 2


def check_not_on_kink(activation: Activation, law: ViewLaw) -> None:
    """Raise `UnsupportedError` if a pre-activation is constant and sits on a kink."""
    for sigma in law.deviations():
        for position, _ in activation.kinks:
            if ((sigma[:, None, :] == 0.0) & (law.mean == position)).any():
                raise UnsupportedError(
                    f"the limit coefficients do not exist where a pre-activation is constantly {position:g}, a kink of "
                    f"{activation!r} (for example at zero weights): start from a state with Q > 0, or add noise"
                )


def _clipped(distance: Array, sigma: Array) -> Array:
    """Return distance / sigma within the reach of the rules; a vanishing sigma never gets there."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = distance / sigma
    return np.clip(np.where(np.isnan(ratio), _REACH, ratio), -_REACH, _REACH)


def _table(
    activation: Activation, law: ViewLaw, names: tuple[Pair, ...], own: tuple[str, ...], centered: bool, order: int
) -> tuple[Array, Array, Array, Array, Array]:
    """Return values and sizes of pairs (pairs, S, P, m, m), of functions of one view (2, own, S, P, m), and offsets."""
    kinks = np.array([position for position, _ in activation.kinks])
    deviations, r = law.deviations(), law.correlations()
    shape = law.mean.shape
    m = shape[-1]
    single = tuple(np.broadcast_to(s[:, None, :], shape) for s in deviations)
    lines = [_on_line(activation, law.mean, s, kinks, order) for s in single]
    means = np.zeros((2, shape[0], m))
    if centered:
        for view, (h, w) in enumerate(lines):
            means[view] = np.einsum("spjz,spjz,p->sj", activation.value(h), w, law.weights)
    offsets = [np.broadcast_to(mean[:, None, :], shape) for mean in means]
    ones = np.empty((2, len(own), *shape))
    sizes = np.empty_like(ones)
    for view, (h, w) in enumerate(lines):
        f = functions(activation, h, own, offsets[view][..., None])
        ones[view] = np.einsum("f...z,...z->f...", f, w)
        sizes[view] = np.sqrt(np.einsum("f...z,f...z,...z->f...", f, f, w))

    full = (*shape[:2], m, m)
    flat = [
        np.broadcast_to(x, full).reshape(-1)
        for x in (
            law.mean[..., :, None],
            single[0][..., :, None],
            law.mean[..., None, :],
            single[1][..., None, :],
            r[:, None],
            offsets[0][..., :, None],
            offsets[1][..., None, :],
        )
    ]
    n_outer = (len(_OUTER) + len(kinks) * (1 + len(_LAYER)) - 1) * order
    n_inner = (len(_INNER) + len(kinks) - 1) * order
    step = max(1, CHUNK // (n_outer * n_inner * 8))
    total = len(flat[0])
    values = np.empty((len(names), total))
    natural = np.empty((len(names), total))
    for start in range(0, total, step):
        window = slice(start, start + step)
        values[:, window], natural[:, window] = _rows(activation, names, kinks, order, *(x[window] for x in flat))
    return values.reshape(len(names), *full), natural.reshape(len(names), *full), ones, sizes, means


def _on_line(activation: Activation, mean: Array, sigma: Array, kinks: Array, order: int) -> tuple[Array, Array]:
    z, weights = line_rule(mean, sigma, kinks, order)
    return mean[..., None] + sigma[..., None] * z, weights


def _rows(
    activation: Activation,
    names: tuple[Pair, ...],
    kinks: Array,
    order: int,
    m1: Array,
    s1: Array,
    m2: Array,
    s2: Array,
    r: Array,
    o1: Array,
    o2: Array,
) -> tuple[Array, Array]:
    """Return expectations and natural sizes of pairs for rows of bivariate normal pre-activations, (pairs, rows)."""
    q = np.sqrt(np.maximum(1.0 - r * r, 0.0))
    u, wu = outer_rule(m1, s1, m2, s2, r, kinks, order)
    first, second = (tuple(sorted({pair[side] for pair in names})) for side in (0, 1))
    f = functions(activation, m1[:, None] + s1[:, None] * u, first, o1[:, None])
    centre, sigma = m2[:, None] + (s2 * r)[:, None] * u, np.broadcast_to((s2 * q)[:, None], u.shape)
    h, wz = _on_line(activation, centre, sigma, kinks, order)
    k = functions(activation, h, second, o2[:, None, None])
    inner = np.einsum("fnuz,nuz->fnu", k, wz)
    square = np.einsum("fnuz,fnuz,nuz,nu->fn", k, k, wz, wu)
    weighted = f * wu
    own_square = np.einsum("fnu,fnu->fn", weighted, f)
    values, sizes = np.empty((len(names), len(r))), np.empty((len(names), len(r)))
    for i, (left, right) in enumerate(names):
        a, b = first.index(left), second.index(right)
        values[i] = np.einsum("nu,nu->n", weighted[a], inner[b])
        sizes[i] = np.sqrt(own_square[a] * square[b])
        if left in "se":
            mass, size = _point_masses(activation, left, right, order, (m1, s1, o1), (m2, s2, o2), r)
            values[i] += mass
            sizes[i] += size
        elif right in "se":
            mass, size = _point_masses(activation, right, left, order, (m2, s2, o2), (m1, s1, o1), r)
            values[i] += mass
            sizes[i] += size
    return values, sizes


def _point_masses(
    activation: Activation,
    name: str,
    other: str,
    order: int,
    here: tuple[Array, Array, Array],
    there: tuple[Array, Array, Array],
    r: Array,
) -> tuple[Array, Array]:
    """Return the part of E[f k] from the point masses of f = sigma'' ("s") or (sigma' sigma)' ("e") at kinks."""
    (m1, s1, o1), (m2, s2, o2) = here, there
    kinks = np.array([position for position, _ in activation.kinks])
    sigma = s2 * np.sqrt(np.maximum(1.0 - r * r, 0.0))
    total, size = np.zeros_like(r), np.zeros_like(r)
    positive = s1 > 0.0
    for position, jump in activation.kinks:
        a = np.clip(np.where(positive, (position - m1) / np.where(positive, s1, 1.0), 0.0), -100.0, 100.0)
        mass = np.where(positive, jump * density(a) / np.where(positive, s1, 1.0), 0.0)
        if name == "e":
            mass = mass * (activation.value(np.full_like(m1, position)) - o1)
        h, w = _on_line(activation, m2 + s2 * r * np.where(positive, a, 0.0), sigma, kinks, order)
        k = functions(activation, h, (other,), o2[:, None])[0]
        total += mass * np.einsum("nz,nz->n", k, w)
        size += np.abs(mass) * np.einsum("nz,nz->n", np.abs(k), w)
    return total, size
