"""Densities of weights, loading by loading: the fractions of the coordinates in the cells of the predicted law.

Coordinates of one run share its fluctuations, which move densities by as much as counting does, O(1 / sqrt(N)). Runs
are independent, coordinates are not, so Kolmogorov's law does not apply to pooled coordinates. The cells are equally
probable under the reference, so each has a mean fraction of 1 / cells; fractions are judged together by Hotelling's
test with the spread of the runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.density import Density
from mkvlasov.solution_runs import RunsSolution
from mkvlasov.validation.directions import affordable

_SAME = 1e-9
"""Loadings nearer to an atom than this were drawn with it."""

_CELLS = 8
_LEVELS = 200
"""Quantiles from which the Wasserstein distance is taken."""


@dataclass(frozen=True)
class CellGap:
    """Fractions in all cells but the last, against a density.

    Attributes
    ----------
    fractions : ndarray, shape (n, p)
        Of every run.
    gap : ndarray, shape (p,)
        Mean fractions less the predicted ones.
    change : ndarray, shape (p,)
        What the gap would be if all weights were larger by the stated share.
    kolmogorov : float
        Largest gap of the distribution functions at the edges of the cells.
    wasserstein : float
        Mean distance of the quantiles of all runs together from those of the density.
    """

    fractions: Array
    gap: Array
    change: Array
    kolmogorov: float
    wasserstein: float


def cell_gap(samples: list[Array], density: Density, deviation: float) -> CellGap:
    """Return the fractions of samples (one array per run, none empty) in cells that are equally probable.

    Parameters
    ----------
    samples : list of ndarray
        Weights of the coordinates with one loading, run by run.
    density : Density
    deviation : float
        Share by which all weights are larger under the alternative.
    """
    cells = min(_CELLS, 1 + affordable(len(samples) - 1.0))
    cells = max(2, cells)
    edges = density.quantile(np.arange(1, cells) / cells)
    counts = [np.histogram(w, bins=np.concatenate([[-np.inf], edges, [np.inf]]))[0] / len(w) for w in samples]
    fractions = np.array(counts)[:, :-1]
    gap = fractions.mean(axis=0) - 1.0 / cells
    change = np.diff(density.cdf(edges / (1.0 + deviation)), prepend=0.0) - 1.0 / cells
    levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
    pooled = np.quantile(np.concatenate(samples), levels)
    return CellGap(
        fractions, gap, change, kolmogorov=float(np.abs(np.cumsum(gap)).max()),
        wasserstein=float(np.abs(pooled - density.quantile(levels)).mean()),
    )  # fmt: skip


def with_atom(solution: RunsSolution, index: int, atom: Array) -> list[Array]:
    """Return the weights (one output) of the coordinates with a loading (K,), run by run; empty if a run has none."""
    distance: Array = np.abs(solution.snapshots.loadings - atom).max(axis=-1)
    found = [w[d <= _SAME] for w, d in zip(solution.snapshots.weights[index, :, :, 0], distance, strict=True)]
    return found if all(len(w) for w in found) else []
