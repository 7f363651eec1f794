"""The literal algorithm in NumPy: every sample is drawn, in every coordinate, from the model or from real data.

Arrays of one run are stored with the coordinates last, weights (m, N) and features (K, N), because every inner loop
runs over coordinates.
"""

from __future__ import annotations

import math

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solvers.sgd.plan import Plan, draw_starts, factor, mean_loss, penalty_gradient, shrink
from mkvlasov.solvers.sgd.start import Streams, rescale_to_sphere

# Views drawn at a time hold at most this many coordinates per run, or one batch: runs keep theirs while
# others advance.
_CHUNK_COORDINATES = 2**13
_CHUNK_STEPS = 64
_STRIDE_COORDINATES = 2**18
_BLOCK_COORDINATES = 2**19


def draw_views(problem: Problem, features: Array, rng: np.random.Generator, count: int) -> Array:
    """Draw `count` batches of samples in both views, shape (count, 2, B, N), for features (K, N)."""
    batch, n = int(problem.batch_size), features.shape[1]
    scale = math.sqrt(problem.background_variance)
    hidden = problem.hidden.sample(rng, (count, batch))
    # Gaussian noise is drawn in place as a mixture of standard normals; anything else augments the samples themselves.
    noise = factor(problem.noise_covariance) if problem.augmentation.is_gaussian else np.empty((2, 0))
    mixing = np.column_stack([np.full(2, scale), noise])
    normals = rng.standard_normal((count, mixing.shape[1], batch * n))
    background = normals[:, 0].reshape(count, batch, n)
    # U c + sqrt(eta) (I - U U^T) z = sqrt(eta) z + U (c - sqrt(eta) U^T z)
    along_features = (hidden - scale * (background @ features.T)) @ features
    if problem.augmentation.is_gaussian:
        views = (mixing @ normals).reshape(count, 2, batch, n)
        views += along_features[:, None]
        return views
    return np.stack(problem.augmentation.views(rng, scale * background + along_features), axis=1)


def draw_real_views(problem: Problem, samples: Array, rng: np.random.Generator, count: int) -> Array:
    """Draw `count` batches among real samples (n, N), with replacement, in both views, shape (count, 2, B, N)."""
    drawn = samples[rng.integers(0, len(samples), size=(count, int(problem.batch_size)))]
    return np.stack(problem.augmentation.views(rng, drawn), axis=1)


def data_increment(problem: Problem, weights: Array, views: Array, rate: float) -> Array:
    """Return the change of the weights (..., m, N) that the loss makes in one step, for views (..., 2, B, N)."""
    *lead, _, batch, n = views.shape
    rows = views.reshape(*lead, 2 * batch, n)
    h = rows @ np.swapaxes(weights, -1, -2) / math.sqrt(n)
    alpha = np.concatenate(problem.alpha(h[..., :batch, :], h[..., batch:, :]), axis=-2)
    alpha *= -rate / math.sqrt(n)
    return np.swapaxes(alpha, -1, -2) @ rows


def sgd_increment(problem: Problem, weights: Array, views: Array, rate: float) -> Array:
    """Return the change of the weights in one step, the regularizer taken by its gradient."""
    increment = data_increment(problem, weights, views, rate)
    increment -= rate / views.shape[-1] * penalty_gradient(problem, weights)
    return increment


def batch_losses(problem: Problem, weights: Array, views: Array) -> Array:
    """Return the literal loss of each batch, shape (count,), for weights (m, N) and views (count, 2, B, N)."""
    outputs = problem.activation.value(views @ weights.T / math.sqrt(weights.shape[-1]))
    return problem.batch_loss(outputs[:, 0], outputs[:, 1])


class LiteralBlock:
    """Runs advanced by the literal algorithm: a `Block`.

    Parameters
    ----------
    plan : Plan
    streams : list of Streams
    loadings : ndarray, shape (runs, N, K) or (runs, 0, K)
        Where the loadings as drawn are kept.
    """

    def __init__(self, plan: Plan, streams: list[Streams], loadings: Array) -> None:
        self._plan, self.streams = plan, streams
        self.weights, self.features = draw_starts(plan, streams, loadings)
        # Fixed by the problem, so that it cannot change the numbers.
        coordinates = plan.dimension * int(plan.problem.batch_size)
        self.chunk = max(1, min(_CHUNK_STEPS, _CHUNK_COORDINATES // coordinates))
        self.stride = self.chunk * max(1, _STRIDE_COORDINATES // (self.chunk * coordinates))
        self._views: Array | None = None

    @staticmethod
    def most_runs(plan: Plan) -> int:
        """Return how many runs fit into a block whose views stay in the cache."""
        return max(1, _BLOCK_COORDINATES // max(plan.dimension * int(plan.problem.batch_size), _CHUNK_COORDINATES))

    def advance(self, first: int, last: int) -> None:
        # A diverging run overflows before it is noticed; it is then reported, not warned about.
        with np.errstate(over="ignore", invalid="ignore"):
            for step in range(first, last):
                if self._views is None or step % self.chunk == 0:
                    self._views = self._draw()
                self._step(self._views[:, step % self.chunk], self._plan.problem.rate(step / self._plan.dimension))
        if last % self.chunk == 0:
            self._views = None

    def training_loss(self, run: int) -> float:
        plan, rng = self._plan, self.streams[run].losses

        def draw(count: int) -> Array:
            return batch_losses(plan.problem, self.weights[run], self._fresh_views(run, rng, count))

        return mean_loss(plan.loss_batches, self.chunk, draw)

    def _draw(self) -> Array:
        shape = (len(self.streams), self.chunk, 2, int(self._plan.problem.batch_size), self._plan.dimension)
        views = np.empty(shape)
        for run, stream in enumerate(self.streams):
            views[run] = self._fresh_views(run, stream.samples, self.chunk)
        return views

    def _fresh_views(self, run: int, rng: np.random.Generator, count: int) -> Array:
        plan = self._plan
        if plan.data is not None:
            return draw_real_views(plan.problem, plan.data.samples, rng, count)
        return draw_views(plan.problem, self.features[run], rng, count)

    def _step(self, views: Array, rate: float) -> None:
        plan = self._plan
        gain = rate / plan.dimension
        if plan.proximal:
            self.weights += data_increment(plan.problem, self.weights, views, rate)
            shrink(plan.problem, self.weights, gain)
        else:
            self.weights += sgd_increment(plan.problem, self.weights, views, rate)
        if plan.problem.constraint == "sphere":
            rescale_to_sphere(self.weights)
