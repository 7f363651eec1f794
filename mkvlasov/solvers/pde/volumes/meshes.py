"""From the scout's outline to the meshes of a run: uniform ones, or graded ones with the kinks of phi on nodes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.solvers.pde.volumes.grid import GradedMesh, Mesh, UniformMesh
from mkvlasov.solvers.pde.volumes.march import Equations
from mkvlasov.solvers.pde.volumes.scout import Outline
from mkvlasov.solvers.pde.volumes.setup import Family

_MARGIN = 0.04
_KEY_CHANGE = 0.03

# With kinks the scout's ends are rough (it does not resolve the spike): fewer keys, that cover all it saw.
_KINKED_KEY_CHANGE = 0.1
_KINKED_KEY_SPACING = 0.05
_UNIFORM_SHARE, _DENSITY_SHARE, _KINK_SHARE = 0.25, 0.45, 0.3
_FEWEST = 6


def build_mesh(family: Family, outline: Outline, *, cells: int, margin: float) -> Mesh:
    """Return the mesh that follows the outline.

    Parameters
    ----------
    family : Family
        Kinks of phi stay on nodes wherever a density comes near.
    outline : Outline
    cells : int
        Per loading.
    margin : float
        Factor on the margin that the mesh leaves beyond the scout's ends.
    """
    equations, kinks = family.equations, family.kinks
    keys = _keys(outline, _KINKED_KEY_CHANGE if kinks else _KEY_CHANGE, _KINKED_KEY_SPACING if kinks else 0.0)
    low, high = outline.low, outline.high
    if kinks:
        low, high = _hull(low, high, keys)
    low, high = low[keys], high[keys]
    room = _MARGIN * margin * (high - low)
    low, high = low - room, high + room
    if not kinks:
        return UniformMesh(outline.times[keys], low, high, cells)
    if not equations.scheme.graded:
        return _through(kinks, low.min(axis=0), high.max(axis=0), cells)
    rows = [
        _graded(equations, outline, keys, loading, low[:, loading], high[:, loading], cells, kinks)
        for loading in range(low.shape[1])
    ]
    return GradedMesh(outline.times[keys], np.stack(rows, axis=1))


def _through(kinks: tuple[float, ...], low: Array, high: Array, cells: int) -> UniformMesh:
    """Return a uniform mesh at rest that covers the intervals (L,), with a node on the first kink inside each."""
    shift = np.zeros_like(low)
    spacing = (high - low) / (cells - 1)
    for i in range(len(low)):
        inside = [kink for kink in kinks if low[i] < kink < high[i]]
        if inside:
            shift[i] = (inside[0] - low[i]) % spacing[i] - spacing[i]
    low = low + shift
    return UniformMesh(np.zeros(1), low[None], (low + cells * spacing)[None], cells)


def _keys(outline: Outline, change: float, spacing: float) -> list[int]:
    """Return the indices at which some interval differs visibly from the last one kept; the first and the last too.

    Keys are at least the fraction `spacing` of the time apart.
    """
    times, low, high = outline.times, outline.low, outline.high
    kept = [0]
    for i in range(1, len(times)):
        last = kept[-1]
        moved = np.maximum(np.abs(low[i] - low[last]), np.abs(high[i] - high[last]))
        visible = moved > change * np.minimum(high[i] - low[i], high[last] - low[last])
        if visible.any() and times[i] > (1.0 + spacing) * times[last]:
            kept.append(i)
    if kept[-1] != len(times) - 1:
        kept.append(len(times) - 1)
    return kept


def _hull(low: Array, high: Array, keys: list[int]) -> tuple[Array, Array]:
    """Return ends that cover, at each key, all that the scout saw from the key before to the key after."""
    low, high = low.copy(), high.copy()
    around = [(max(k - 1, 0), min(k + 1, len(keys) - 1)) for k in range(len(keys))]
    lows = [low[keys[a] : keys[b] + 1].min(axis=0) for a, b in around]
    highs = [high[keys[a] : keys[b] + 1].max(axis=0) for a, b in around]
    low[keys], high[keys] = lows, highs
    return low, high


def _graded(
    equations: Equations,
    outline: Outline,
    keys: list[int],
    loading: int,
    low: Array,
    high: Array,
    cells: int,
    kinks: tuple[float, ...],
) -> Array:
    """Return the nodes (S, cells + 1) for one loading."""
    inside = [kink for kink in kinks if low.min() < kink < high.max()]
    # A kink inside the interval at one time is kept inside at all times, so that its node exists throughout.
    slack = 0.01 * (high - low)
    low = np.minimum(low, min(inside, default=np.inf) - slack)
    high = np.maximum(high, max(inside, default=-np.inf) + slack)
    monitors = [_monitor(equations, outline, key, loading, low[i], high[i], inside) for i, key in enumerate(keys)]
    shares = np.array([_piece_shares(w, level, inside) for w, level in monitors])
    counts = _counts(shares.max(axis=0), cells)
    return np.array([_invert(w, level, inside, counts) for w, level in monitors])


def _monitor(
    equations: Equations, outline: Outline, key: int, loading: int, low: float, high: float, kinks: list[float]
) -> tuple[Array, Array]:
    """Return points w from low to high and, at them, the share of cells below (0 to 1)."""
    nodes, mass = outline.nodes[key, loading], np.maximum(outline.mass[key, loading], 0.0)
    # With the scout's nodes among them, the points miss no density, however narrow.
    coarse = np.unique(np.clip(np.concatenate([np.linspace(low, high, 801), nodes]), low, high))
    bump = np.cbrt(np.interp(coarse, nodes, mass, left=0.0, right=0.0))
    widths = [_layer_width(equations, outline, key, loading, kink, high - low) for kink in kinks]
    near = [kink + width * np.sinh(np.linspace(-9.0, 9.0, 401)) for kink, width in zip(kinks, widths, strict=True)]
    w = np.unique(np.clip(np.concatenate([coarse, *near, np.array(kinks)]), low, high))
    uniform = (w - low) / (high - low)
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (bump[1:] + bump[:-1]) * np.diff(coarse))])
    # A spike too narrow for any of these points is left to the share of its kink.
    seen = cumulative[-1] > 0.0
    density = np.interp(w, coarse, cumulative / cumulative[-1]) if seen else uniform
    level = (_UNIFORM_SHARE + (0.0 if kinks else _KINK_SHARE)) * uniform + _DENSITY_SHARE * density
    for kink, width in zip(kinks, widths, strict=True):
        layer = np.sign(w - kink) * np.log1p(np.abs(w - kink) / width)
        level += _KINK_SHARE / len(kinks) * (layer - layer[0]) / (layer[-1] - layer[0])
    return w, level


def _layer_width(equations: Equations, outline: Outline, key: int, loading: int, kink: float, width: float) -> float:
    """Return Lambda / |drift| beside a kink: there the density changes by e^2 (docs/theory.md, section 6)."""
    rates = outline.path.rates[key]
    eps = 1e-9 * max(1.0, abs(kink))
    slopes = equations.slope(np.array([kink - eps, kink + eps]))
    base = rates.linear * kink + float(equations.loadings[loading] @ rates.tilt)
    steepest = float(np.abs(base + rates.tau * slopes).max())
    return float(np.clip(2.0 * rates.diffusion / max(steepest, 1e-300), 1e-4 * width, width))


def _piece_shares(w: Array, level: Array, kinks: list[float]) -> Array:
    return np.diff(np.interp([w[0], *kinks, w[-1]], w, level))


def _counts(shares: Array, cells: int) -> npt.NDArray[np.int_]:
    """Return how many cells each piece between kinks gets, in proportion to its largest share over time."""
    counts: npt.NDArray[np.int_] = np.maximum(np.floor(cells * shares / shares.sum()).astype(int), _FEWEST)
    counts[np.argmax(counts)] += cells - counts.sum()
    return counts


def _invert(w: Array, level: Array, kinks: list[float], counts: npt.NDArray[np.int_]) -> Array:
    """Return the nodes: the kinks, and in each piece between them equal shares of the level."""
    bounds = np.array([w[0], *kinks, w[-1]])
    levels = np.interp(bounds, w, level)
    pieces = [
        np.interp(np.linspace(levels[i], levels[i + 1], count + 1)[:-1], level, w) for i, count in enumerate(counts)
    ]
    for i, piece in enumerate(pieces):
        piece[0] = bounds[i]
    return np.concatenate([*pieces, w[-1:]])
