"""Starts of runs: weights, features and random streams."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.errors import UnsupportedError
from mkvlasov.order_parameters import match_overlaps, orthonormalize
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw


@dataclass(frozen=True)
class Streams:
    """Independent random streams of one run.

    Attributes
    ----------
    start, samples, losses : Generator
    key : ndarray of uint32, shape (2,)
        Of normals drawn by counter.
    """

    start: np.random.Generator
    samples: np.random.Generator
    losses: np.random.Generator
    key: np.ndarray

    @staticmethod
    def spawn(seed: np.random.SeedSequence) -> Streams:
        start, samples, losses = (np.random.Generator(np.random.SFC64(child)) for child in seed.spawn(3))
        return Streams(start, samples, losses, key=seed.spawn(1)[0].generate_state(2))


def draw_start(
    problem: Problem,
    initial: InitialLaw,
    dimension: int,
    rng: np.random.Generator,
    exact_overlaps: bool,
    given: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Draw the weights and features of one run, or the weights alone if the loadings (N, K) are given.

    Returns
    -------
    weights : ndarray, shape (m, N)
    features : ndarray, shape (K, N)
        Rows are the orthonormal u_k.
    loadings : ndarray, shape (N, K)
        As drawn from their law, before they are orthonormalized.
    """
    if given is None:
        rows, drawn = initial.sample_rows(rng, dimension, problem)
    else:
        rows, drawn = initial.sample(rng, given, problem), given
    if np.linalg.matrix_rank(drawn) < problem.n_features:
        raise UnsupportedError(
            f"dimension {dimension} is too small for these loadings: those drawn do not span {problem.n_features} "
            "feature(s); take a larger dimension"
        )
    loadings = orthonormalize(drawn)
    if exact_overlaps:
        try:
            rows = match_overlaps(rows, loadings, *initial.overlaps(problem))
        except ValueError as error:
            raise UnsupportedError(f"exact_overlaps=True: {error}; leave it out for this initial law") from error
    weights = np.ascontiguousarray(rows.T)
    if problem.constraint == "sphere":
        rescale_to_sphere(weights)
    return weights, np.ascontiguousarray(loadings.T) / math.sqrt(dimension), drawn


def rescale_to_sphere(weights: Array) -> None:
    """Rescale every output's weights (..., m, N) to norm sqrt(N), in place."""
    n = weights.shape[-1]
    weights *= math.sqrt(n) / np.linalg.norm(weights, axis=-1, keepdims=True)
