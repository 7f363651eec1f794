"""Expectations of products of two functions, one of a pre-activation of each view, for smooth activations.

Functions of one pre-activation h are named by products of letters: y = sigma(h), d = sigma'(h), s = sigma''(h),
e = d(sigma' sigma)/dh. All terms of the drift are sums of such pairs, whatever m; for m = 1 those of Lambda too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.limit import mehler
from mkvlasov.limit.bounded import bounded
from mkvlasov.limit.views import ViewLaw
from mkvlasov.problem.activations import Activation

Pair = tuple[str, str]

CHUNK = 6_000_000
"""Numbers held at a time in the largest array (48 MB)."""


@dataclass(frozen=True, slots=True)
class PairTable:
    """Averages over the hidden law of expectations of pairs.

    Attributes
    ----------
    index : dict from pair (name of the function of view 1, of view 2) to its place
    values : ndarray, shape (4, pairs, S, m, m, 1 + K)
        Bounded expectations E[f(h_j^(1)) k(h_l^(2))], and the same times the point of the hidden variables.
    own : dict from (view, name) to ndarray, shape (4, S, m)
        Bounded expectations of a function of one pre-activation.
    offsets : ndarray, shape (2, S, m)
        What was subtracted from the outputs of each view: their means if the loss is centred, else 0.
    """

    index: dict[Pair, int]
    values: Array
    own: dict[tuple[int, str], Array]
    offsets: Array

    def __getitem__(self, name: Pair) -> Array:
        """Return E[f k], bounded, shape (4, S, m, m)."""
        return self.values[:, self.index[name], ..., 0]

    def times_c(self, name: Pair) -> Array:
        """Return E[f k c_point], bounded, shape (4, S, m, m, K)."""
        return self.values[:, self.index[name], ..., 1:]


class PairList:
    """Which pairs, and which functions of one view, are wanted.

    Parameters
    ----------
    names : sequence of pairs
    own : sequence of str
    """

    def __init__(self, names: list[Pair], own: list[str]) -> None:
        self.names = tuple(names)
        self.own = tuple(own)
        # sigma'^2 is the hardest of the simple functions: always there to judge the nodes by
        self.letters = tuple(sorted({f for pair in names for f in pair} | set(own) | {"dd"}))
        self.index = {name: i for i, name in enumerate(names)}
        self.first = np.array([self.letters.index(f) for f, _ in names])
        self.second = np.array([self.letters.index(k) for _, k in names])
        self.own_index = [self.letters.index(f) for f in own]

    def table(self, pairs: Array, singles: Array, offsets: Array, law: ViewLaw) -> PairTable:
        """Average over the points of the hidden law.

        Parameters
        ----------
        pairs : ndarray, shape (4, pairs, S, m, m, P)
        singles : ndarray, shape (4, 2, own, S, m, P)
        offsets : ndarray, shape (2, S, m)
        law : ViewLaw
        """
        signed = np.empty((len(law.weights), 1 + law.points.shape[1]))
        signed[:, 0] = law.weights
        np.multiply(law.weights[:, None], law.points, out=signed[:, 1:])
        values = np.empty((*pairs.shape[:-1], signed.shape[1]))
        np.matmul(pairs[0], signed, out=values[0])
        np.matmul(pairs[1:], np.abs(signed), out=values[1:])
        if not self.own:
            return PairTable(self.index, values, {}, offsets)
        means = singles @ law.weights
        own = {(v, f): means[:, v, i] for v in (0, 1) for i, f in enumerate(self.own)}
        return PairTable(self.index, values, own, offsets)


def smooth_pairs(
    activation: Activation, law: ViewLaw, wanted: PairList, *, centered: bool, rtol: float, effort: int
) -> PairTable:
    """Return the averages of pairs for an activation without kinks.

    Parameters
    ----------
    activation : Activation
    law : ViewLaw
    wanted : PairList
    centered : bool
        Whether y stands for the output minus its mean.
    rtol : float
    effort : int
        See `mehler.level`.

    Returns
    -------
    PairTable
    """
    states, n_points, m = law.mean.shape
    sigmas, r = law.deviations(), law.correlations()
    mean = np.swapaxes(law.mean, 1, 2)[..., None]
    keys = _keys(sigmas, r, rtol, effort)
    pairs = np.empty((4, len(wanted.names), states, m, m, n_points))
    singles = np.empty((4, 2, len(wanted.own), states, m, n_points))
    offsets = np.zeros((2, states, m))
    for key, rows in mehler.groups(keys).items():
        grid = mehler.axis(key, rtol)
        per_point = m * (len(wanted.letters) * (len(grid.points) + grid.terms) + len(wanted.names) * m * grid.terms) * 2
        step = max(1, CHUNK // (per_point * n_points))
        point_step = n_points if step > 1 else max(1, CHUNK // per_point)
        for chosen in (rows[i : i + step] for i in range(0, len(rows), step)):
            part = (slice(None) if len(chosen) == states else chosen, slice(None))
            spread = (sigmas[0][part], sigmas[1][part])
            if centered:
                offsets[:, part[0]] = _mean_outputs(activation, mean[part], spread, grid, law.weights)
            for first in range(0, n_points, point_step):
                window = (*part, slice(first, first + point_step))
                alike = law.exchangeable and not grid.opposite
                spectra = [
                    transform(activation, mean[window], spread[v], grid, wanted.letters, offsets[v, part[0]], v)
                    for v in ((0,) if alike else (0, 1))
                ]
                out = (slice(None), slice(None), part[0], slice(None))
                pairs[(*out, slice(None), window[2])] = _contract(spectra, r[part[0]], grid, wanted)
                if wanted.own:
                    singles[(slice(None), *out, window[2])] = _alone(spectra, wanted)
    return wanted.table(pairs, singles, offsets, law)


def _keys(sigmas: tuple[Array, Array], r: Array, rtol: float, effort: int) -> list[mehler.Key]:
    """Return the key of the discretization of every state."""
    spread = np.maximum(*sigmas).max(axis=1).tolist()
    if r.shape[-1] == 1:
        strongest = r[:, 0, 0].tolist()
    else:  # several correlations share the nodes, so the shortcut for equal variables does not apply
        strongest = np.minimum(np.abs(r).max(axis=(1, 2)), 1.0 - 1e-12).tolist()
    return [mehler.level(s, c, rtol, effort) for s, c in zip(spread, strongest, strict=True)]


def functions(activation: Activation, h: Array, letters: tuple[str, ...], offset: Array) -> Array:
    """Evaluate named functions at h, y standing for sigma(h) - offset; result has shape (names, *h.shape)."""
    y, d = activation.value(h), activation.derivative(h)
    if offset.any():
        y = y - offset
    result = np.empty((len(letters), *h.shape))
    for out, name in zip(result, letters, strict=True):
        if name == "s":
            out[...] = activation.second_derivative(h)
        elif name == "e":
            np.multiply(activation.second_derivative(h), y, out=out)
            out += d * d
        elif len(name) == 1:
            out[...] = y if name == "y" else d
        else:
            left, right = ({"y": y, "d": d}[letter] for letter in name)
            np.multiply(left, right, out=out)
    return result


def _mean_outputs(
    activation: Activation, mean: Array, sigmas: tuple[Array, Array], grid: mehler.Axis, weights: Array
) -> list[Array]:
    """Return the mean outputs of each view, (S, m)."""
    return [(activation.value(mean + s[..., None, None] * grid.points) @ grid.weights[0]) @ weights for s in sigmas]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Transforms of functions of the pre-activations of one view.

    Attributes
    ----------
    coefficients : ndarray, shape (functions, S, m, P, terms + 3)
        See `mehler.Axis.analyse`.
    norm : ndarray, shape (functions, S, m, P)
        L2 norms.
    error : ndarray, shape (S, P)
        Estimated error of expectations, relative to the norms.
    """

    coefficients: Array
    norm: Array
    error: Array


def transform(
    activation: Activation,
    mean: Array,
    sigma: Array,
    grid: mehler.Axis,
    letters: tuple[str, ...],
    offset: Array,
    view: int,
) -> Spectrum:
    """Return the spectra of named functions of the pre-activations of a view; mean (S, m, P, 1), sigma (S, m)."""
    values = functions(activation, mean + sigma[..., None, None] * grid.points, letters, offset[..., None, None])
    spectrum = grid.analyse(values, view)
    terms = grid.terms
    norm = np.sqrt(np.einsum("...n,...n->...", spectrum[..., :terms], spectrum[..., :terms]))
    error = mehler.nodal_error(spectrum[..., terms:], norm).max(axis=1)
    # By Cauchy and Schwarz the part of E[f k] outside of the nodes is bounded by those of E f^2 and E k^2.
    outside = (values[..., 0] ** 2 + values[..., -1] ** 2) / np.maximum(norm, 1e-150) ** 2
    return Spectrum(spectrum, norm, error + grid.beyond * outside.max(axis=(0, 2)))


def _contract(spectra: list[Spectrum], r: Array, grid: mehler.Axis, wanted: PairList) -> Array:
    """Return bounded expectations of pairs, (4, pairs, S, m, m, P)."""
    terms = grid.terms
    first, second = spectra[0], spectra[-1]
    weighted = second.coefficients[wanted.second][..., :terms][:, :, None]
    if not grid.is_direct:
        weighted = weighted * grid.powers(r)[:, :, :, None]
    series = first.coefficients[wanted.first][..., :terms][:, :, :, None] * weighted
    size = first.norm[wanted.first][:, :, :, None] * second.norm[wanted.second][:, :, None]
    error = size * (first.error + second.error + mehler.ROUNDING)[:, None, None]
    if not grid.is_direct:
        error += mehler.tail(series)
    return bounded(series.sum(axis=-1), error, size)


def _alone(spectra: list[Spectrum], wanted: PairList) -> Array:
    """Return bounded expectations of functions of one view, (4, 2, own, S, m, P)."""
    terms = spectra[0].coefficients.shape[-1] - 3
    views = []
    for spectrum in (spectra[0], spectra[-1]):
        norm = spectrum.norm[wanted.own_index]
        value = spectrum.coefficients[wanted.own_index][..., terms]
        views.append(bounded(value, norm * spectrum.error[:, None], norm))
    return np.stack(views, axis=1)
