"""Starts of the particle system: draws whose order parameters are as exact as the law of the loadings allows.

Loadings and, given the loading, weights are stratified where the law of the loadings has few atoms; elsewhere they are
drawn independently and corrected. Every start is random, with the right law for every particle up to O(1 / sqrt(P))
corrections, so independent systems still tell the statistical error.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

from mkvlasov._typing import Array
from mkvlasov.errors import UnsupportedError
from mkvlasov.order_parameters import match_overlaps, orthonormalize, square_root
from mkvlasov.problem.conditional import ConditionalLaw, GaussianMixture
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import Empirical, Gaussian, InitialLaw

# Atoms of the loadings beyond which they are sampled like a continuous law.
_MOST_ATOMS = 256


def draw_particles(
    problem: Problem, initial: InitialLaw, particles: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Draw weights (P, m) and loadings (P, K) with mean of a a^T close to the identity (see `simulate_particles`)."""
    # With many features the atoms of a product law are too many to list, let alone to draw in proportion.
    listed = problem.n_features <= math.log2(_MOST_ATOMS)
    if listed and (problem.loadings.is_exact or isinstance(initial, Empirical)):
        atoms, probabilities = initial.loading_nodes(problem, 1)
        if len(atoms) <= _MOST_ATOMS:
            counts = _in_proportion(probabilities, particles, rng)
            _check_span(atoms[counts > 0], particles)
            groups = [
                stratified(initial.conditional(atom, problem), int(count), rng)
                for atom, count in zip(atoms, counts, strict=True)
            ]
            return np.concatenate(groups), np.repeat(atoms, counts, axis=0)
    weights, loadings = initial.sample_rows(rng, particles, problem)
    _check_span(loadings, particles)
    loadings = orthonormalize(loadings)
    if isinstance(initial, Gaussian):
        return match_overlaps(weights, loadings, *initial.overlaps(problem)), loadings
    return weights, loadings


def stratified(law: ConditionalLaw, count: int, rng: np.random.Generator) -> Array:
    """Draw `count` vectors (count, m): of a mixture, components in proportion, every entry of their normals stratified.

    The strata of different entries are matched at random (Latin hypercube). Other laws are drawn independently.
    """
    if not isinstance(law, GaussianMixture):
        return law.sample(rng, count)
    sizes = _in_proportion(law.weights, count, rng)
    roots = square_root(law.covariances)
    drawn = np.repeat(law.means, sizes, axis=0)
    ends = np.cumsum(sizes)
    for i in np.flatnonzero(law.covariances.any(axis=(1, 2)) & (sizes > 0)):
        n, m = int(sizes[i]), law.means.shape[1]
        ranks = np.stack([np.arange(n), *(rng.permutation(n) for _ in range(m - 1))], axis=1)
        # Neither 0 nor, by rounding, 1, of which the normal quantile is infinite.
        normals = ndtri((ranks + 1.0 - rng.random((n, m))) / (n + 1e-9))
        drawn[ends[i] - n : ends[i]] += normals @ roots[i]
    return drawn


def _in_proportion(probabilities: Array, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each of some items occurs among n: in proportion, to within one (systematic sampling)."""
    before = np.minimum(np.ceil(n * np.cumsum(probabilities) - rng.random()), n)
    before[-1] = n  # whatever the rounding of the sum
    return np.diff(before, prepend=0.0).astype(int)


def _check_span(loadings: Array, particles: int) -> None:
    """Refuse draws in which a feature has no particle: its overlap would be zero whatever the weights."""
    features = loadings.shape[1]
    if np.linalg.matrix_rank(loadings) < features:
        raise UnsupportedError(
            f"{particles} particles are too few for these loadings: those drawn do not span {features} feature(s); "
            "take more particles"
        )
