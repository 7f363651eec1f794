"""Joint tests of mean vectors and covariances: arrays in, p-values and power out.

A gap g between two means in R^p is judged by its Mahalanobis distance. Part of it may be a bias within known bounds
(discretization, terms of order 1/N): then the distance is that to the nearest admissible bias,

    T^2 = min over |b_k| <= h_k of (g - b)^T C^(-1) (g - b),

never larger than the distance to the true bias, whose law is Hotelling's: p-values from it are valid whatever the bias.
The covariance C of the gap comes from the spread of independent runs, which sets the degrees of freedom.

References
----------
T. W. Anderson, An Introduction to Multivariate Statistical Analysis, 2003, sections 5.2 (T^2) and 10.8 (a covariance).
K. Krishnamoorthy and J. Yu, Statistics & Probability Letters 66, 161 (2004): degrees of freedom of several samples.
S. Holm, Scandinavian Journal of Statistics 6, 65 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from mkvlasov._typing import Array

_DEPENDENT = 1e-9
"""Eigenvalues of the correlation matrix below this are rounding: the entries depend on each other."""

_NODES = 100
"""Quantiles that stand for the law of a denominator: power to three digits."""

_MOST_TIMES = 1e6
"""More than this many times the runs is no advice."""


@dataclass(frozen=True)
class Spread:
    """Covariance of a gap between means, estimated from independent runs.

    Attributes
    ----------
    covariance : ndarray, shape (p, p)
    freedom : float
        Degrees of freedom nu, as if `covariance` came from nu + 1 runs; infinite if it is known.
    """

    covariance: Array
    freedom: float

    @property
    def dimension(self) -> int:
        """p."""
        return len(self.covariance)

    def along(self, directions: Array) -> Spread:
        """Return the spread of other coordinates, rows of `directions` (q, p)."""
        return Spread(directions @ self.covariance @ directions.T, self.freedom)


def spread_of(samples: Sequence[tuple[float, Array]]) -> Spread:
    """Return the spread of a weighted sum of means of independent samples.

    Parameters
    ----------
    samples : sequence of (float, ndarray of shape (n_i, p))
        Weights and runs, n_i >= 2; the estimate is sum_i weight_i mean_i.

    Returns
    -------
    Spread
        With the degrees of freedom of Krishnamoorthy and Yu; n - 1 for a single sample.
    """
    parts = [(w * w * np.atleast_2d(np.cov(runs, rowvar=False)) / len(runs), len(runs) - 1.0) for w, runs in samples]
    total = np.sum([part for part, _ in parts], axis=0)
    white = whitening(total)
    p, shares = len(white), [(white @ part @ white.T, freedom) for part, freedom in parts]
    loss = sum((np.trace(share @ share) + np.trace(share) ** 2) / freedom for share, freedom in shares)
    least = min(freedom for _, freedom in parts)
    return Spread(total, max(least, (p + p * p) / loss) if loss > 0.0 else least)


@dataclass(frozen=True)
class JointTest:
    """Outcome of a joint test.

    Attributes
    ----------
    statistic : float
        T^2, or the likelihood ratio.
    dimension : int
        Number of directions judged.
    p_value : float
    """

    statistic: float
    dimension: int
    p_value: float


def whitening(covariance: Array) -> Array:
    """Return a matrix (q, p) that turns vectors of this covariance into independent ones of variance 1.

    Directions that the data cannot tell from dependent ones are left out, so q <= p.
    """
    scale = np.sqrt(np.diagonal(covariance))
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0.0)
    values, vectors = np.linalg.eigh(inverse[:, None] * covariance * inverse)
    kept = values > _DEPENDENT * max(1.0, float(values[-1]))
    return (vectors[:, kept] / np.sqrt(values[kept])).T * inverse


def nearest_distance(gap: Array, white: Array, half_width: Array) -> float:
    """Return the squared distance of a gap (p,) to the box of admissible biases, in the metric of `white` (q, p)."""
    moving = half_width > 0.0
    whitened = white @ gap
    if not moving.any():
        return float(whitened @ whitened)
    matrix = white[:, moving] * half_width[moving]
    found = optimize.lsq_linear(matrix, whitened, bounds=(-1.0, 1.0), method="bvls")
    return float(2.0 * found.cost)


def joint_test(gap: Array, spread: Spread, half_width: Array) -> JointTest:
    """Test whether a gap between means is noise plus an admissible bias.

    Parameters
    ----------
    gap : ndarray, shape (p,)
    spread : Spread
    half_width : ndarray, shape (p,)
        Largest admissible bias of every entry.

    Returns
    -------
    JointTest
        The p-value is that of Hotelling's law; an upper bound of it where a bias is admissible.
    """
    white = whitening(spread.covariance)
    distance, p = nearest_distance(gap, white, half_width), len(white)
    return JointTest(distance, p, _tail(distance, p, spread.freedom))


def _tail(distance: float, p: int, freedom: float) -> float:
    if math.isinf(freedom):
        return float(stats.chi2.sf(distance, p))
    rest = freedom - p + 1.0
    return float(stats.f.sf(distance * rest / (freedom * p), p, rest)) if rest > 0.0 else 1.0


def power(deviation: Array, spread: Spread, half_width: Array, alpha: float) -> float:
    """Return the probability that `joint_test` rejects at level alpha if the true gap is `deviation` (p,).

    The bias is the admissible one that hides the deviation best. With a box of biases of the size of the noise the
    noncentral law is an approximation, on the cautious side.
    """
    white = whitening(spread.covariance)
    # The test forgives a bias, and another one may be there.
    return _noncentral(nearest_distance(deviation, white, 2.0 * half_width), len(white), spread.freedom, alpha)


def _noncentral(noncentrality: float, p: int, freedom: float, alpha: float) -> float:
    if not p:
        return 0.0
    if math.isinf(freedom):
        return float(stats.ncx2.sf(stats.chi2.isf(alpha, p), p, noncentrality))
    rest = freedom - p + 1.0
    if rest <= 0.0:
        return 0.0
    critical = float(stats.f.isf(alpha, p, rest))
    if noncentrality == 0.0:
        return alpha
    # The law of (chi2_p(noncentrality) / p) / (chi2_rest / rest), an average over the denominator: scipy's ncf loses
    # its digits for large noncentralities.
    nodes = (np.arange(_NODES) + 0.5) / _NODES
    scale = stats.chi2.isf(nodes, rest) / rest
    return float(stats.ncx2.sf(critical * p * scale, p, noncentrality).mean())


def runs_factor(deviation: Array, spread: Spread, half_width: Array, *, alpha: float, wanted: float) -> float:
    """Return how many times as many runs would give the power `wanted`; infinite if no number would."""
    white = whitening(spread.covariance)
    distance = nearest_distance(deviation, white, 2.0 * half_width)

    def short(log_factor: float) -> float:
        factor = math.exp(log_factor)
        freedom = factor * (spread.freedom + 1.0) - 1.0
        return _noncentral(factor * distance, len(white), freedom, alpha) - wanted

    low, high = -math.log(max(2.0, spread.freedom)), math.log(_MOST_TIMES)
    if math.isinf(spread.freedom):
        low = -high
    if short(high) < 0.0:
        return math.inf
    if short(low) >= 0.0:
        return math.exp(low)
    return math.exp(float(optimize.brentq(short, low, high, xtol=1e-3)))


def covariance_test(runs: Array, covariance: Array) -> JointTest:
    """Test whether independent runs have a given covariance (likelihood ratio, mean unknown).

    Parameters
    ----------
    runs : ndarray, shape (n, p)
        Normal vectors.
    covariance : ndarray, shape (p, p)
        The law to be tested; directions without variance are left out.

    Returns
    -------
    JointTest
        -2 log of the likelihood ratio with Bartlett's correction, chi-squared with p (p + 1) / 2 degrees of freedom.
    """
    whitened = runs @ whitening(covariance).T
    freedom, p = len(runs) - 1.0, whitened.shape[1]
    if p == 0 or freedom < p:
        return JointTest(0.0, 0, 1.0)
    sample = np.atleast_2d(np.cov(whitened, rowvar=False))
    ratio = freedom * (np.trace(sample) - np.linalg.slogdet(sample)[1] - p)
    statistic = float(ratio * (1.0 - (2.0 * p + 1.0 - 2.0 / (p + 1.0)) / (6.0 * freedom - 1.0)))
    return JointTest(statistic, p, float(stats.chi2.sf(statistic, 0.5 * p * (p + 1))))


def covariance_power(factor: float, p: int, n: int, alpha: float) -> float:
    """Return about the probability that `covariance_test` rejects if all variances are `factor` times those tested."""
    degrees = 0.5 * p * (p + 1)
    noncentrality = (n - 1.0) * p * (factor - math.log(factor) - 1.0)
    return float(stats.ncx2.sf(stats.chi2.isf(alpha, degrees), degrees, noncentrality))


def holm(p_values: Array) -> Array:
    """Return p-values (n,) adjusted for their number: those below alpha are rejected at a familywise rate alpha."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(p)
    result[order] = np.minimum(adjusted, 1.0)
    return result
