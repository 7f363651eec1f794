"""Direct simulation of online SGD at finite dimension: many runs at once.

Nothing here knows the limit. What is shared with the other routes is the problem (its laws, its loss with the gradient
alpha) and the definition of the order parameters.
"""

from __future__ import annotations

import math
import time

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import ArrayLike, Seed
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw, check_initial
from mkvlasov.solution_runs import SgdSolution, summarize
from mkvlasov.solvers.options import snapshot_times, worker_count
from mkvlasov.solvers.sgd.literal import Plan, simulate_blocks

# Beyond this many steps, which no run reaches anyway, step / N is not exact in double precision.
_MOST_STEPS = 2**53


def simulate_sgd(
    problem: Problem,
    initial: InitialLaw,
    *,
    t_eval: ArrayLike,
    dimension: int = 1000,
    runs: int = 16,
    rng: Seed = None,
    exact_overlaps: bool = False,
    snapshots: ArrayLike | None = None,
    loss_batches: int = 32,
    workers: int | None = None,
    progress: bool = True,
) -> SgdSolution:
    """Run online SGD in dimension N, many independent runs at a time.

    Every step n = 0, 1, ... draws a fresh batch, x_b = U c_b + sqrt(eta) (I - U U^T) z_b with two augmented views
    x_b^(1), x_b^(2), and moves the weights by

        W <- W - tau(n / N) / sqrt(N) sum_{b,v} x_b^(v) alpha_b^(v)T - tau(n / N) / N phi'(W),

    with alpha = dF / dh at the pre-activations h_b^(v) = W^T x_b^(v) / sqrt(N); under the constraint "sphere" every
    column of W is then rescaled to norm sqrt(N) (at the start too). Time is t = n / N.

    Every run draws its own loadings from their law and orthonormalizes them (which moves each by O(1 / sqrt(N))), rows
    of weights independently from the initial law, and its own samples. The same seed gives the same numbers, whatever
    the number of workers; and the trajectory of a run does not depend on `t_eval` or `snapshots`.

    Parameters
    ----------
    problem : Problem
        With a finite batch size.
    initial : InitialLaw
        Law of a row w of W, given its loading.
    t_eval : array_like, shape (T,)
        Output times, increasing, not negative. Time t is read off after step n = round(t N), so it is exact to
        1 / (2 N).
    dimension : int
        N, larger than K + m.
    runs : int
        Independent runs; with one run the standard errors are infinite.
    rng : int, Generator, SeedSequence or None
        Seed.
    exact_overlaps : bool
        Rescale the start of every run so that its (Q, R) are exactly those of the initial law, instead of
        O(1 / sqrt(N)) away.
    snapshots : array_like, optional
        Times, at most ``t_eval[-1]``, at which all weights are kept for `SgdSolution.histogram`; memory
        8 runs N m bytes each.
    loss_batches : int
        The training loss of a run at an output time is the mean of the literal batch loss over this many fresh batches,
        drawn from a stream of their own so that recording does not disturb the run.
    workers : int, optional
        Threads; by default one per available processor.
    progress : bool
        Show a progress bar when standard error is a terminal.

    Returns
    -------
    SgdSolution
        Mean over runs, standard errors and every run; `stats` has ``seconds``, ``steps`` (per run),
        ``coordinate_updates_per_second`` (runs x steps x N / time), ``diverged`` (number of runs), ``dimension``,
        ``workers``. When a run diverges (a weight beyond 1e8, or not finite) the arrays end at the last
        output time before the first divergence, and the status says so.

    Raises
    ------
    InvalidInput
        An argument out of its range.
    UnsupportedError
        For ``batch_size=inf``, which has no stochastic algorithm.

    Notes
    -----
    Memory: about 8 N m bytes per run for the weights, 8 N K for the features, and per worker 8 MiB or five
    times a batch of one run, whichever is more. docs/theory.md, sections 1 and 9.
    """
    initial = check_initial(initial, problem)
    if math.isinf(problem.batch_size):
        raise UnsupportedError(
            "simulate_sgd needs a finite batch_size (got inf, the gradient flow): take a large finite batch, or use "
            "solve_pde, solve_ode or simulate_particles, where batch_size = inf means no diffusion"
        )
    t = _checks.times("t_eval", t_eval)
    size = problem.n_features + problem.outputs
    dimension = _checks.integer("dimension", dimension, minimum=size + 1)
    if t[-1] * dimension > _MOST_STEPS:
        raise InvalidInput("t_eval", t_eval, f"times up to {_MOST_STEPS:g} steps, t = {_MOST_STEPS / dimension:g}")
    runs = _checks.integer("runs", runs, minimum=1)
    progress = _checks.flag("progress", progress)
    kept = snapshot_times(snapshots, float(t[-1]))
    workers = worker_count(workers)
    plan = Plan(
        problem=problem,
        initial=initial,
        dimension=dimension,
        exact_overlaps=_checks.flag("exact_overlaps", exact_overlaps),
        loss_batches=_checks.integer("loss_batches", loss_batches, minimum=1),
        output_steps=np.rint(t * dimension).astype(np.int64),
        snapshot_steps=np.rint(kept * dimension).astype(np.int64),
    )
    seeds = _checks.seed_sequence("rng", rng).spawn(runs)
    started = time.perf_counter()
    record = simulate_blocks(plan, seeds, workers, progress)
    spent = time.perf_counter() - started
    steps = plan.last_step
    stats = {
        "seconds": spent,
        "error_estimate": 0.0,
        "steps": float(steps),
        "coordinate_updates_per_second": runs * steps * dimension / spent,
        "diverged": float(np.isfinite(record.diverged).sum()),
        "dimension": float(dimension),
        "workers": float(workers),
    }
    exact = (np.zeros((len(t), *record.Q.shape[2:])), np.zeros((len(t), *record.R.shape[2:])))
    return summarize(
        SgdSolution,
        route="sgd",
        problem=problem,
        initial=initial,
        t=t,
        snapshot_times=kept,
        record=record,
        discretization=exact,
        stats=stats,
    )
