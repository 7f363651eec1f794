"""Quasi-Monte Carlo averages over the pre-activations of both views: where no quadrature rule is known.

The scramblings are fixed and the symmetric root of the covariance is continuous, so the results are continuous
functions of the state, which solvers can take small steps in.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import special
from scipy.stats import qmc

from mkvlasov._typing import Array
from mkvlasov.limit.monomials import Group, evaluate
from mkvlasov.limit.views import ViewLaw
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.activations import Activation

REPLICATES = 8


def sampled_groups(
    activation: Activation, law: ViewLaw, groups: tuple[Group, ...], *, offsets: Array, rtol: float
) -> list[Array]:
    """Return the same averages as `mkvlasov.limit.monomials.smooth_groups`, for any activation.

    The error is three standard errors over the independent scramblings.
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
                h = [law.mean[s, p][:, None] + g for g in (first, second)]
                y = [activation.value(x) - offset[s][:, None] for x, offset in zip(h, offsets, strict=True)]
                d = [activation.derivative(x) for x in h]
                for i, group in enumerate(groups):
                    a, b = (
                        np.array(list(evaluate(monomials, y[v][list(outputs)], d[v][list(outputs)])))
                        for v, (monomials, outputs) in enumerate(
                            zip((group.first, group.second), group.outputs, strict=True)
                        )
                    )
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
