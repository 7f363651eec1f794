"""The order parameters of SGD as a Markov chain: the law of direct SGD at finite dimension, at O(1) per step.

For Gaussian noise and a regularizer with a linear gradient, the law of (Q, R) after a step depends on the weights
through (Q, R) alone (docs/theory.md, section 8, "The order parameters as a Markov chain"). With P = Q - R R^T = L L^T,
the views of sample b have along the features, and along an orthonormal frame of m directions that holds the rest of
the weights, the components

    f_b^(v) = c_b + n_b^(v)  (K),  Cov = S between the views,        g_b^(v)  (m),  Cov = T = eta + S,

so that h_b^(v) = R f_b^(v) + L g_b^(v). Of the other N - K - m directions only the Gram matrix of the step counts, a
Wishart matrix. Given alpha at these h, with s = 1 - tau kappa / N, one step of SGD is

    R <- s R - (tau / N) sum_{b,v} alpha_b^(v) f_b^(v)T,
    P <- M M^T + (tau / N)^2 C Omega C^T,      M = s L - (tau / N) sum_{b,v} alpha_b^(v) g_b^(v)T,
    C C^T = sum_b sum_vv' T_vv' alpha_b^(v) alpha_b^(v')T,      Omega ~ Wishart_m(N - K - m, 1).

A proximal step of L2 shrinks the result: s and tau / N become 1 / (1 + tau kappa / N) and s tau / N.
P is a sum of squares, so rounding cannot make it indefinite. Nothing here knows the limit.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tqdm import tqdm

from mkvlasov._typing import Array
from mkvlasov.order_parameters import overlaps
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw
from mkvlasov.problem.losses import Covariance
from mkvlasov.solution_runs import RunRecord
from mkvlasov.solvers.sgd import chain_kernels as kernels
from mkvlasov.solvers.sgd.compiled import activation_code
from mkvlasov.solvers.sgd.lockstep import HUGE_WEIGHT
from mkvlasov.solvers.sgd.plan import factor
from mkvlasov.solvers.sgd.start import Streams, draw_start

# Random numbers drawn at a time per run, few enough for the cache of a core.
_CHUNK_NUMBERS = 2**13

# Runs that advance together: compiled steps want draws that stay in the cache, NumPy steps want long arrays.
_COMPILED_BLOCK = 16
_NUMPY_BLOCK = 256


def chain_applies(problem: Problem) -> str:
    """Return why (Q, R) is not a Markov chain for this problem; empty if it is one."""
    if math.isinf(problem.batch_size):
        return "batch_size = inf has no stochastic algorithm"
    if not problem.augmentation.is_gaussian:
        return f"{problem.augmentation} is not additive Gaussian noise"
    if problem.regularizer.linear_strength is None:
        return f"the gradient of {problem.regularizer} is not linear in the weights (L2 or none)"
    return ""


def simulate_chain(
    problem: Problem,
    initial: InitialLaw,
    *,
    dimension: int,
    steps: np.ndarray,
    seeds: list[np.random.SeedSequence],
    exact_overlaps: bool,
    loss_batches: int,
    workers: int,
    progress: bool,
    proximal: bool = False,
) -> RunRecord:
    """Run the chain of the order parameters, one run per seed; arguments have been checked.

    Parameters
    ----------
    problem : Problem
        One to which the chain applies.
    initial : InitialLaw
        Rows and loadings of each run are drawn at dimension N as direct SGD draws them, and only their overlaps kept.
    dimension : int
        N, larger than K + m.
    steps : ndarray of int, shape (T,)
        Step numbers at which (Q, R) and the loss are recorded, increasing.
    seeds : list of SeedSequence
        One per run. The numbers of a run depend on its seed alone: not on the workers, the other runs, or `steps`.
    exact_overlaps : bool
        Start every run at exactly the overlaps of the initial law.
    loss_batches : int
        Fresh batches per record of the training loss, from a stream of their own.
    workers : int
        Threads.
    progress : bool
    proximal : bool
        L2 shrinks the weights by 1 / (1 + tau kappa / N) after the gradient step, instead of being part of it.

    Returns
    -------
    RunRecord
        Without snapshots. A run diverges when the root mean square of an output's weights exceeds 1e8 (direct SGD
        looks at single weights), and then stays where it is.

    Raises
    ------
    UnsupportedError
        If the start cannot be drawn at this dimension.
    """
    chain = OrderParameterChain(problem, dimension, proximal)
    plan = _Plan(chain, initial, steps, exact_overlaps, loss_batches)
    record = RunRecord.empty(problem, len(steps), 0, len(seeds), dimension)
    block = min(chain.block, -(-len(seeds) // workers))
    parts = [slice(first, min(first + block, len(seeds))) for first in range(0, len(seeds), block)]
    lock, stop = threading.Lock(), threading.Event()
    total = len(seeds) * int(steps[-1])
    with tqdm(total=total, desc="SGD", unit="step", unit_scale=True, disable=None if progress else True) as bar:

        def go_on(done: int) -> bool:
            with lock:
                bar.update(done)
            return not stop.is_set()

        def simulate(part: slice) -> None:
            _simulate_block(plan, seeds[part], record.part(part), go_on)

        with ThreadPoolExecutor(max_workers=workers) as pool:
            try:
                for _ in pool.map(simulate, parts):
                    pass
            except BaseException:
                # Without this an interrupt would wait until every thread has finished its runs.
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    return record


@dataclass(frozen=True)
class Draws:
    """The random numbers of some steps of some runs.

    Attributes
    ----------
    hidden : ndarray, shape (runs, steps, B, K)
    normals : ndarray, shape (runs, steps, n)
        Standard normals: B (K p + m q) for the components along features and weights, sample by sample, with p and q
        the ranks of S and T; then the m (m - 1) / 2 entries of the Wishart matrix's Bartlett factor below its diagonal.
    squares : ndarray, shape (runs, steps, min(m, N - K - m))
        Squared diagonal of that factor.
    rates : ndarray, shape (steps,)
        Learning rates, not random.
    """

    hidden: Array
    normals: Array
    squares: Array
    rates: Array


@dataclass(frozen=True)
class OrderParameterChain:
    """The chain of one problem at one dimension; states are R (runs, m, K) and P = Q - R R^T (runs, m, m)."""

    problem: Problem
    dimension: int
    proximal: bool = False

    @cached_property
    def noise(self) -> Array:
        """Factor (2, p) of S."""
        return factor(self.problem.noise_covariance)

    @cached_property
    def views(self) -> Array:
        """Factor (2, q) of T = eta + S."""
        return factor(self.problem.noise_covariance + self.problem.background_variance)

    @cached_property
    def compiled(self) -> kernels.Compiled | None:
        """The problem as numbers, for the compiled steps; None where it contains functions of the user's own."""
        problem, loss = self.problem, self.problem.loss
        activation = activation_code(problem.activation)
        if activation is None or type(loss) is not Covariance or loss.g is not None or loss.stop_gradient:
            return None
        strength = problem.regularizer.linear_strength
        assert strength is not None
        return kernels.Compiled(
            activation=activation[0],
            parameters=activation[1],
            decorrelation=loss.decorrelation,
            centered=loss.centered,
            sphere=problem.constraint == "sphere",
            strength=strength,
            proximal=self.proximal,
            dimension=self.dimension,
            noise=self.noise,
            views=self.views,
            largest=HUGE_WEIGHT**2,
        )

    @property
    def block(self) -> int:
        """Runs that advance together."""
        return _NUMPY_BLOCK if self.compiled is None else _COMPILED_BLOCK

    @cached_property
    def chunk(self) -> int:
        """Steps whose numbers are drawn together: fixed by problem and dimension, so that it cannot change them."""
        problem = self.problem
        size = self._normals + int(problem.batch_size) * problem.n_features + problem.outputs
        return max(1, min(_CHUNK_NUMBERS // size, self.dimension))

    @cached_property
    def _normals(self) -> int:
        m = self.problem.outputs
        per_sample = self.problem.n_features * self.noise.shape[1] + m * self.views.shape[1]
        return int(self.problem.batch_size) * per_sample + m * (m - 1) // 2

    def draw(self, rngs: list[np.random.Generator], first: int, steps: int) -> Draws:
        """Draw the numbers of `steps` steps from number `first` on, one generator per run."""
        problem, runs = self.problem, len(rngs)
        batch, m, k = int(problem.batch_size), problem.outputs, problem.n_features
        freedom = self.dimension - k - m
        hidden = np.empty((runs, steps, batch, k))
        normals = np.empty((runs, steps, self._normals))
        squares = np.empty((runs, steps, min(m, freedom)))
        for run, rng in enumerate(rngs):
            hidden[run] = problem.hidden.sample(rng, (steps, batch))
            rng.standard_normal(out=normals[run])
            for i in range(squares.shape[2]):
                squares[run, :, i] = rng.chisquare(freedom - i, steps)
        rates = np.array([problem.rate((first + s) / self.dimension) for s in range(steps)])
        return Draws(hidden, normals, squares, rates)

    def advance(self, R: Array, P: Array, diverged: Array, draws: Draws, part: tuple[int, int], step: int) -> None:
        """Advance R, P in place by part of the steps drawn, the first with number `step`; note runs that diverge."""
        if self.compiled is not None:
            kernels.advance(
                self.compiled, R, P, diverged, draws.hidden, draws.normals, draws.squares, draws.rates, part, step
            )
            return
        for s in range(*part):
            self._step(R, P, draws, s)
            Q = P + R @ np.swapaxes(R, -1, -2)
            lost = ~(np.trace(Q, axis1=-2, axis2=-1) < HUGE_WEIGHT**2)
            diverged[lost & np.isinf(diverged)] = (step + s - part[0] + 1) / self.dimension

    def losses(self, R: Array, P: Array, draws: Draws) -> Array:
        """Return the literal loss of each batch, shape (runs, steps), at fixed order parameters."""
        along, across, _ = self._split(draws.hidden, draws.normals)
        outputs = self.problem.activation.value(_preactivations(R[:, None], _cholesky(P)[:, None], along, across))
        return self.problem.batch_loss(outputs[..., 0, :, :], outputs[..., 1, :, :])

    def _split(self, hidden: Array, normals: Array) -> tuple[Array, Array, Array]:
        """Return the components along the features (..., 2, B, K) and the weights (..., 2, B, m), and spare normals."""
        *lead, batch, k = hidden.shape
        m, p, q = self.problem.outputs, self.noise.shape[1], self.views.shape[1]
        per_sample = normals[..., : batch * (k * p + m * q)].reshape(*lead, batch, k * p + m * q)
        noise = per_sample[..., : k * p].reshape(*lead, batch, k, p) @ self.noise.T
        across = per_sample[..., k * p :].reshape(*lead, batch, m, q) @ self.views.T
        along = hidden[..., None] + noise
        return np.moveaxis(along, -1, -3), np.moveaxis(across, -1, -3), normals[..., batch * (k * p + m * q) :]

    def _step(self, R: Array, P: Array, draws: Draws, s: int) -> None:
        """Advance by one step; the same map as the compiled one, for any loss and activation."""
        problem, gain = self.problem, draws.rates[s] / self.dimension
        strength = problem.regularizer.linear_strength
        assert strength is not None
        kept = 1.0 - gain * strength
        if self.proximal:
            kept = 1.0 / (1.0 + gain * strength)
            gain *= kept
        along, across, below = self._split(draws.hidden[:, s], draws.normals[:, s])
        L = _cholesky(P)
        h = _preactivations(R, L, along, across)
        alpha = np.stack(problem.alpha(h[:, 0], h[:, 1]), axis=1)
        R *= kept
        R -= gain * np.einsum("rvbj,rvbk->rjk", alpha, along)
        moved = kept * L - gain * np.einsum("rvbj,rvbl->rjl", alpha, across)
        mixed = np.einsum("vi,rvbj->rjbi", self.views, alpha).reshape(len(R), problem.outputs, -1)
        rest = gain * _cholesky(mixed @ np.swapaxes(mixed, -1, -2)) @ _bartlett(draws.squares[:, s], below, P.shape)
        P[:] = moved @ np.swapaxes(moved, -1, -2) + rest @ np.swapaxes(rest, -1, -2)
        if problem.constraint == "sphere":
            scale = 1.0 / np.sqrt(np.diagonal(P, axis1=-2, axis2=-1) + (R * R).sum(axis=-1))
            R *= scale[..., None]
            P *= scale[..., None] * scale[..., None, :]


@dataclass(frozen=True)
class _Plan:
    """What every block of runs has to do."""

    chain: OrderParameterChain
    initial: InitialLaw
    steps: np.ndarray
    exact_overlaps: bool
    loss_batches: int

    def start(self, rngs: list[np.random.Generator]) -> tuple[Array, Array]:
        """Draw the order parameters that runs start from, R (runs, m, K) and P (runs, m, m)."""
        problem, dimension = self.chain.problem, self.chain.dimension
        found = []
        # Exact starts are all the same: one draw, which may find that they cannot be matched, stands for all.
        for rng in rngs[:1] if self.exact_overlaps else rngs:
            weights, features, _ = draw_start(problem, self.initial, dimension, rng, self.exact_overlaps)
            found.append(overlaps(weights.T, math.sqrt(dimension) * features.T))
        if self.exact_overlaps:
            found = [self.initial.overlaps(problem)] * len(rngs)
        Q, R = (np.array(part, dtype=np.float64) for part in zip(*found, strict=True))
        return R, Q - R @ np.swapaxes(R, -1, -2)

    def mean_losses(self, R: Array, P: Array, rngs: list[np.random.Generator]) -> Array:
        """Return the mean loss over fresh batches, shape (runs,), drawn in chunks to bound the memory."""
        total = np.zeros(len(rngs))
        for first in range(0, self.loss_batches, self.chain.chunk):
            count = min(self.chain.chunk, self.loss_batches - first)
            total += self.chain.losses(R, P, self.chain.draw(rngs, 0, count)).sum(axis=1)
        return total / self.loss_batches


def _simulate_block(
    plan: _Plan, seeds: list[np.random.SeedSequence], record: RunRecord, go_on: Callable[[int], bool]
) -> None:
    """Simulate runs side by side and fill their part of the record."""
    chain = plan.chain
    streams = [Streams.spawn(seed) for seed in seeds]
    samples, losses = [stream.samples for stream in streams], [stream.losses for stream in streams]
    R, P = plan.start([stream.start for stream in streams])
    step, last = 0, int(plan.steps[-1])
    # A diverging run overflows before it is noticed; it is then reported, not warned about.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        while True:
            for index in np.flatnonzero(plan.steps == step):
                record.Q[index], record.R[index] = P + R @ np.swapaxes(R, -1, -2), R
                record.loss[index] = plan.mean_losses(R, P, losses)
            if step == last or np.isfinite(record.diverged).all():
                return
            offset = step % chain.chunk
            if offset == 0:
                if not go_on(len(seeds) * min(chain.chunk, last - step)):
                    return
                draws = chain.draw(samples, step, chain.chunk)
            upcoming = int(plan.steps[np.searchsorted(plan.steps, step, side="right")])
            end = min(offset + upcoming - step, chain.chunk)
            chain.advance(R, P, record.diverged, draws, (offset, end), step)
            step += end - offset


def _preactivations(R: Array, L: Array, along: Array, across: Array) -> Array:
    """Return h = R f + L g, shape (..., 2, B, m)."""
    return along @ np.swapaxes(R, -1, -2)[..., None, :, :] + across @ np.swapaxes(L, -1, -2)[..., None, :, :]


def _cholesky(matrix: Array) -> Array:
    """Return lower factors of positive semidefinite matrices (..., m, m); directions lost to rounding are zero."""
    m = matrix.shape[-1]
    lower = np.zeros_like(matrix)
    for j in range(m):
        rest = matrix[..., j:, j] - (lower[..., j:, :j] @ lower[..., j, :j, None])[..., 0]
        pivot = rest[..., :1]
        present = pivot > 1e-14 * matrix[..., j, j, None]
        lower[..., j:, j] = np.where(present, rest / np.sqrt(np.where(present, pivot, 1.0)), 0.0)
    return lower


def _bartlett(squares: Array, below: Array, shape: tuple[int, ...]) -> Array:
    """Return lower triangular B (runs, m, m) such that B B^T is a Wishart matrix."""
    factor = np.zeros(shape)
    factor[:, *np.tril_indices(shape[-1], -1)] = below
    factor[..., squares.shape[-1] :] = 0.0
    columns = range(squares.shape[-1])
    factor[:, columns, columns] = np.sqrt(squares)
    return factor
