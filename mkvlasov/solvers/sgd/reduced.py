"""Direct SGD by its law-preserving reduction: one Gaussian vector per output and step, whatever the batch.

Given the components of the views along U and W, which decide alpha, the rest of an update is Gaussian. Write
P = Q - R R^T = L L^T and V for the orthonormal frame of the weights off the features, W / sqrt(N) = R U + L V. The
views of sample b have along U and V the components

    f_b^(v) = c_b + n_b^(v)  (K),  Cov = S between the views,        y_b^(v)  (m),  Cov = T = eta + S,

so h_b^(v) = R f_b^(v) + L y_b^(v). In the other N - K - m directions they are independent Gaussian vectors with
covariance T between the views. So with A A^T = sum_b sum_vv' T_vv' alpha_b^(v) alpha_b^(v')T and g one standard
Gaussian vector per output, less its components along U and V, one step is in law exactly

    W <- W - (tau / sqrt(N)) [ (sum alpha f^T) U + (sum alpha y^T) V + A g ]   and the regularizer.

Exact at every N, for Gaussian noise and background. Nothing here knows the limit.
"""

from __future__ import annotations

import math

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.losses import Covariance
from mkvlasov.problem.regularizers import Regularizer
from mkvlasov.solvers.sgd import penalty_kernels, reduced_kernels
from mkvlasov.solvers.sgd.compiled import activation_code
from mkvlasov.solvers.sgd.penalties import RowPenalty, builtin_penalty
from mkvlasov.solvers.sgd.plan import Plan, draw_starts, factor, mean_loss, penalty_gradient, shrink
from mkvlasov.solvers.sgd.start import Streams

# Hidden variables drawn at a time per run, for steps that take a fraction of a second at most.
_CHUNK_NUMBERS, _CHUNK_STEPS, _CHUNK_COORDINATES = 2**13, 1024, 2**24

_BLOCK_RUNS = 64

# Where phi' jumps at 0 its clipped line is as steep as single precision holds with room to spare.
_STEEP = 1e30


class ReducedBlock:
    """Runs advanced by the reduction: a `Block`.

    Parameters
    ----------
    plan : Plan
        Of a problem to which the reduction applies.
    streams : list of Streams
    loadings : ndarray, shape (runs, N, K) or (runs, 0, K)
        Where the loadings as drawn are kept.
    """

    def __init__(self, plan: Plan, streams: list[Streams], loadings: Array) -> None:
        self._plan, self.streams = plan, streams
        self.weights, self.features = draw_starts(plan, streams, loadings)
        problem = plan.problem
        batch = int(problem.batch_size)
        numbers = _CHUNK_NUMBERS // (batch * problem.n_features)
        self.chunk = max(1, min(_CHUNK_STEPS, numbers, _CHUNK_COORDINATES // plan.dimension))
        self.stride = self.chunk
        self._hidden: Array | None = None
        keys = np.array([stream.key for stream in streams], dtype=np.uint32)
        self._block = reduced_kernels.Block(self.weights, self.features, keys)
        self._model = _model(plan)
        self._gradient = _gradient(problem)

    @staticmethod
    def most_runs(plan: Plan) -> int:
        """Return how many runs make a block; they advance one after the other."""
        return _BLOCK_RUNS

    def advance(self, first: int, last: int) -> None:
        while first < last:
            offset = first % self.chunk
            if self._hidden is None or offset == 0:
                shape = (self.chunk, int(self._plan.problem.batch_size))
                draws = [self._plan.problem.hidden.sample(stream.samples, shape) for stream in self.streams]
                self._hidden = np.array(draws, dtype=np.float64)
            count = min(self.chunk - offset, last - first)
            hidden, rates = self._hidden[:, offset : offset + count], self._plan.rates(first, count)
            if self._gradient is None or self._model.penalty == penalty_kernels.OTHER_PENALTY:
                self._advance_in_python(hidden, rates, first)
            else:
                reduced_kernels.advance(self._block, self._model, self._gradient, hidden, rates, first)
            first += count
            if first % self.chunk == 0:
                self._hidden = None

    def training_loss(self, run: int) -> float:
        problem, rng = self._plan.problem, self.streams[run].losses
        weights, features = self.weights[run].astype(np.float64), self.features[run].astype(np.float64)
        n = self._plan.dimension
        Q, R = weights @ weights.T / n, weights @ features.T / math.sqrt(n)
        values, vectors = np.linalg.eigh(Q - R @ R.T)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        batch, m, k = int(problem.batch_size), problem.outputs, problem.n_features
        noise, views = self._model.noise, self._model.views

        def draw(count: int) -> Array:
            hidden = problem.hidden.sample(rng, (count, batch))
            shared = rng.standard_normal((count, batch, k, noise.shape[1])) @ noise.T
            across = rng.standard_normal((count, batch, m, views.shape[1])) @ views.T
            h = (hidden[:, None] + np.moveaxis(shared, 3, 1)) @ R.T + np.moveaxis(across, 3, 1) @ root.T
            outputs = problem.activation.value(h)
            return problem.batch_loss(outputs[:, 0], outputs[:, 1])

        return mean_loss(self._plan.loss_batches, self.chunk, draw)

    def _advance_in_python(self, hidden: Array, rates: Array, first: int) -> None:
        """Advance with the user's own functions between the compiled parts of a step."""
        block, model, problem, n = self._block, self._model, self._plan.problem, self._plan.dimension
        runs, batch = range(len(self.weights)), int(problem.batch_size)
        steps = [reduced_kernels.new_step(block, model, batch) for _ in runs]
        with np.errstate(over="ignore", invalid="ignore"):
            for s, rate in enumerate(rates):
                for run in runs:
                    reduced_kernels.sweep(block, run, model, steps[run], 0.0, first + s, False, True)
                    reduced_kernels.see(block, run, model, steps[run], hidden[run, s], first + s)
                h = np.array([step.h for step in steps])
                alpha = problem.alpha(h[:, 0], h[:, 1])
                gain = rate / n
                gradient = penalty_gradient(problem, self.weights) if self._penalty_is_own else 0.0
                for run in runs:
                    steps[run].alpha[0], steps[run].alpha[1] = alpha[0][run], alpha[1][run]
                    reduced_kernels.decide(model, steps[run], n, rate)
                    reduced_kernels.sweep(block, run, model, steps[run], gain, first + s, True, False)
                if self._penalty_is_own and self._plan.proximal:
                    shrink(problem, self.weights, gain)
                elif self._penalty_is_own:
                    self.weights -= gain * gradient
                if model.sphere:
                    for run in runs:
                        reduced_kernels.rescale(self.weights[run])

    @property
    def _penalty_is_own(self) -> bool:
        return self._model.penalty == penalty_kernels.OTHER_PENALTY


def _gradient(problem: Problem) -> reduced_kernels.Gradient | None:
    """Return loss and activation as numbers; None where they are functions of the user's own."""
    loss, code = problem.loss, activation_code(problem.activation)
    if type(loss) is not Covariance or loss.g is not None or code is None:
        return None
    return reduced_kernels.Gradient(*code, loss.decorrelation, loss.centered, loss.stop_gradient)


def _model(plan: Plan) -> reduced_kernels.Model:
    problem = plan.problem
    strength = problem.regularizer.linear_strength
    linear = 0.0 if strength is None or plan.proximal else strength
    if strength is None or (plan.proximal and strength):
        penalty, strengths = _penalty(problem.regularizer, plan.proximal)
    else:
        penalty, strengths = penalty_kernels.NO_PENALTY, (0.0,)
    return reduced_kernels.Model(
        noise=factor(problem.noise_covariance),
        views=factor(problem.noise_covariance + problem.background_variance),
        sphere=problem.constraint == "sphere",
        linear=linear,
        penalty=penalty,
        strengths=np.array([*strengths, 0.0, 0.0, 0.0, 0.0][:4], dtype=plan.dtype),
        rounding=1e-13 if plan.dtype == np.float64 else 1e-6,
    )


def _penalty(regularizer: Regularizer, proximal: bool) -> tuple[int, tuple[float, ...]]:
    """Return the code and the strengths of a regularizer whose gradient, or proximal step, is not a linear map."""
    kernels, penalty = penalty_kernels, builtin_penalty(regularizer)
    if penalty is None:
        return kernels.OTHER_PENALTY, ()
    if isinstance(penalty, RowPenalty):
        return kernels.ROWS_PROXIMAL if proximal else kernels.ROWS, (penalty.strength,)
    if not proximal:
        slope = 1.0 / penalty.width if penalty.width > 0.0 else _STEEP
        return kernels.ENTRIES, (penalty.linear, penalty.cubic, penalty.kink, slope)
    if penalty.cubic:
        return kernels.DOUBLE_WELL_PROXIMAL, (penalty.cubic,)
    return kernels.ENTRIES_PROXIMAL, (penalty.kink, penalty.linear, penalty.width)
