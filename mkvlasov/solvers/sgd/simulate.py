"""Direct simulation of online SGD at finite dimension: many runs at once.

Nothing here knows the limit. What is shared with the other routes is the problem (its laws, its loss with the gradient
alpha) and the definition of the order parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike, Seed
from mkvlasov.data import DataModel
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw, check_initial
from mkvlasov.solution import Status
from mkvlasov.solution_runs import SgdSolution, summarize
from mkvlasov.solvers.options import snapshot_times, worker_count
from mkvlasov.solvers.sgd.checkpoint import Checkpoint, digest
from mkvlasov.solvers.sgd.choice import check_device, method_here, method_on_device
from mkvlasov.solvers.sgd.literal import LiteralBlock
from mkvlasov.solvers.sgd.lockstep import Progress, simulate_blocks
from mkvlasov.solvers.sgd.plan import Block, Callback, Observable, Plan

# Beyond this many steps, which no run reaches anyway, step / N is not exact in double precision.
_MOST_STEPS = 2**53


def simulate_sgd(
    problem: Problem,
    initial: InitialLaw,
    *,
    t_eval: ArrayLike,
    dimension: int | None = None,
    runs: int = 16,
    rng: Seed = None,
    data: DataModel | None = None,
    exact_overlaps: bool = False,
    snapshots: ArrayLike | None = None,
    loss_batches: int = 32,
    method: str = "auto",
    regularizer_step: str = "gradient",
    dtype: str = "float64",
    device: str | None = None,
    observables: Mapping[str, Observable] | None = None,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 300.0,
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
    the number of workers; and the trajectory of a run does not depend on `t_eval`, on `snapshots` or on the
    other runs.

    Parameters
    ----------
    problem : Problem
        With a finite batch size.
    initial : InitialLaw
        Law of a row w of W, given its loading.
    t_eval : array_like, shape (T,)
        Output times, increasing, not negative. Time t is read off after step n = round(t N), so it is exact to
        1 / (2 N).
    dimension : int, optional
        N, larger than K + m; 1000 by default, with `data` that of the data.
    runs : int
        Independent runs; with one run the standard errors are infinite.
    rng : int, Generator, SeedSequence or None
        Seed.
    data : DataModel, optional
        Real samples, from `from_data`: every x_b is one of them, drawn at random with replacement, and augmented. The
        problem must be one that the data make (`DataModel.problem`). Loadings and features are those of the data, the
        same in every run, and the method is "literal".
    exact_overlaps : bool
        Rescale the start of every run so that its (Q, R) are exactly those of the initial law, instead of
        O(1 / sqrt(N)) away.
    snapshots : array_like, optional
        Times, at most ``t_eval[-1]``, at which all weights are kept for `SgdSolution.histogram`; memory
        8 runs N m bytes each.
    loss_batches : int
        The training loss of a run at an output time is the mean of the literal batch loss over this many fresh batches,
        drawn from a stream of their own so that recording does not disturb the run.
    method : {"auto", "chain", "reduced", "literal"}
        "literal" draws every sample in every coordinate, as written above. "reduced" draws the components of the views
        along U and W, and for the rest of a step one Gaussian vector per output, whatever the batch: the same law at
        every N, in compiled code (functions of the user's own are called where there are some). It needs augmentations
        by Gaussian noise. "chain" advances (Q, R) alone, which without a regularizer or with L2 is a Markov chain, at a
        cost that does not grow with N: again the same law, but there are no weights to look at. "auto" is the cheapest
        that applies and gives what is asked for, in the order chain, reduced, literal; numbers for the same seed differ
        between methods.
    regularizer_step : {"gradient", "proximal"}
        "proximal" replaces the step along -phi' by W <- argmin_u phi(u) + N / (2 tau) |u - W|^2, after the step along
        the loss: with a kink in phi, weights become exactly zero.
    dtype : {"float64", "float32"}
        Precision of the weights and features; single precision is for "reduced" and for a `device`.
    device : str, optional
        Where PyTorch (``pip install "mkvlasov[gpu]"``) shall keep and draw all coordinates, such as "cuda"; the method
        is then "literal", for Gaussian noise and the regularizers of the package, taken by their gradients. Numbers for
        the same seed differ between devices.
    observables : mapping from name to function, optional
        Functions of the weights W (N, m) and features U (N, K) of one run, giving a number or an array; recorded at the
        output times as ``sgd.observables[name]``, shape (T, runs, ...).
    callback : function, optional
        Called at every output time with t and the overlaps of all runs, Q (runs, m, m) and R (runs, m, K); when it
        returns something true, the simulation ends there, and the status says so.
    checkpoint : str or Path, optional
        A file in which the simulation is kept, and from which it goes on if the file exists: after a kill at any
        moment, calling again gives the numbers that an undisturbed simulation would have given. The file stays when
        the simulation is done. Observables and laws that are functions are recognized by their names only.
    checkpoint_every : float
        Seconds between writes to that file; each takes 8 runs N (m + K) bytes and what has been recorded so far.
    workers : int, optional
        Threads; by default one per available processor.
    progress : bool
        Show a progress bar when standard error is a terminal.

    Returns
    -------
    SgdSolution
        Mean over runs, standard errors and every run; `stats` has ``seconds`` (since the call), ``steps`` (per run),
        ``coordinate_updates_per_second`` (runs x steps x N / time), ``diverged`` (number of runs), ``dimension``,
        ``workers``; with `data` also ``visits`` (how often a run has drawn every sample, on average). When a run
        diverges (a weight beyond 1e8, or not finite) the arrays end at the last output time before the first
        divergence, and the status says so.

    Raises
    ------
    InvalidInput
        An argument out of its range; a checkpoint of another simulation.
    UnsupportedError
        For ``batch_size=inf``, which has no stochastic algorithm; for a `method` that does not apply.

    Notes
    -----
    Memory: 8 runs N (m + K) bytes for weights and features (half of it in single precision), as much again while a
    checkpoint is written. In addition "reduced" takes 8 N m bytes per worker and at most 64 KiB per run or one batch of
    hidden variables; "literal" at most 128 KiB per run, or where a batch is larger than that five batches per worker
    and run of a block; a device up to 2 GB or twenty batches, whichever is larger. docs/theory.md, sections 1 and 9.
    """
    initial = check_initial(initial, problem)
    if math.isinf(problem.batch_size):
        raise UnsupportedError(
            "simulate_sgd needs a finite batch_size (got inf, the gradient flow): take a large finite batch, or use "
            "solve_pde, solve_ode or simulate_particles, where batch_size = inf means no diffusion"
        )
    t = _checks.times("t_eval", t_eval)
    dimension = _dimension(problem, dimension, data)
    if t[-1] * dimension > _MOST_STEPS:
        raise InvalidInput("t_eval", t_eval, f"times up to {_MOST_STEPS:g} steps, t = {_MOST_STEPS / dimension:g}")
    runs = _checks.integer("runs", runs, minimum=1)
    progress = _checks.flag("progress", progress)
    kept = snapshot_times(snapshots, float(t[-1]))
    workers = worker_count(workers)
    dtype = _checks.choice("dtype", dtype, ["float64", "float32"])
    recorded = _observables(observables)
    weights_used = {
        "dtype='float32'": dtype == "float32",
        "snapshots": len(kept) > 0,
        "observables": len(recorded) > 0,
        "callback": callback is not None,
        "checkpoint": checkpoint is not None,
    }
    used = [name for name, used in weights_used.items() if used]
    if device is None:
        method = method_here(problem, method, used, data is not None)
    else:
        method = method_on_device(problem, method, regularizer_step, data is not None)
        workers = 1
    plan = Plan(
        problem=problem,
        initial=initial,
        dimension=dimension,
        exact_overlaps=_checks.flag("exact_overlaps", exact_overlaps),
        loss_batches=_checks.integer("loss_batches", loss_batches, minimum=1),
        output_steps=np.rint(t * dimension).astype(np.int64),
        snapshot_steps=np.rint(kept * dimension).astype(np.int64),
        observables=recorded,
        proximal=_is_proximal(problem, regularizer_step, dimension),
        dtype=np.dtype(dtype),
        data=data,
        device=device,
    )
    if device is not None:
        check_device(device)
    if callback is not None:
        _checks.function_of("callback", callback, 3, "a function of t, Q and R")
    every = _checks.number("checkpoint_every", checkpoint_every, minimum=0.0)
    seed = _checks.seed_sequence("rng", rng)
    saved = None
    if checkpoint is not None:
        file = _checks.output_file("checkpoint", checkpoint)
        saved = Checkpoint(file, every, _identity(plan, t, seed, runs, method))
    started = time.perf_counter()
    found = _run(plan, seed.spawn(runs), method, workers=workers, bar=progress, callback=callback, checkpoint=saved)
    spent = time.perf_counter() - started
    stats = {
        "seconds": spent,
        "error_estimate": 0.0,
        "steps": float(found.step),
        "coordinate_updates_per_second": runs * found.step * dimension / spent,
        "diverged": float(np.isfinite(found.record.diverged).sum()),
        "dimension": float(dimension),
        "workers": float(workers),
    }
    if data is not None:
        stats["visits"] = found.step * problem.batch_size / len(data.samples)
    return _solution(plan, found, t, kept, stats)


def _run(
    plan: Plan,
    seeds: list[np.random.SeedSequence],
    method: str,
    *,
    workers: int,
    bar: bool,
    callback: Callback | None,
    checkpoint: Checkpoint | None,
) -> Progress:
    """Simulate by a method; compiled code is loaded when it runs."""
    kind: type[Block] = LiteralBlock
    if method == "chain":
        from mkvlasov.solvers.sgd.chain import simulate_chain

        record = simulate_chain(
            plan.problem,
            plan.initial,
            dimension=plan.dimension,
            steps=plan.output_steps,
            seeds=seeds,
            exact_overlaps=plan.exact_overlaps,
            loss_batches=plan.loss_batches,
            workers=workers,
            progress=bar,
            proximal=plan.proximal,
        )
        return Progress(plan.last_step, record, {})
    if method == "reduced":
        from mkvlasov.solvers.sgd.reduced import ReducedBlock

        kind = ReducedBlock
    if plan.device is not None:
        from mkvlasov.solvers.sgd.device import DeviceBlock

        kind = DeviceBlock
    block = kind.most_runs(plan)
    return simulate_blocks(
        plan, kind, seeds, block=block, workers=workers, bar=bar, callback=callback, checkpoint=checkpoint
    )


def _dimension(problem: Problem, dimension: int | None, data: DataModel | None) -> int:
    """Return N; with data the problem must be theirs."""
    least = problem.n_features + problem.outputs + 1
    if data is None:
        return _checks.integer("dimension", 1000 if dimension is None else dimension, minimum=least)
    if not isinstance(data, DataModel):
        raise InvalidInput("data", data, "what mkvlasov.from_data returns")
    data.check(problem)
    n = data.dimension
    if dimension is not None and _checks.integer("dimension", dimension, minimum=1) != n:
        raise InvalidInput("dimension", dimension, f"{n}, the dimension of the data (or leave it out)")
    return _checks.integer("dimension (of the data)", n, minimum=least)


def _is_proximal(problem: Problem, regularizer_step: str, dimension: int) -> bool:
    """Return whether the regularizer is applied by its proximal operator, which must exist."""
    if _checks.choice("regularizer_step", regularizer_step, ["gradient", "proximal"]) == "gradient":
        return False
    if not problem.regularizer.has_proximal:
        raise InvalidInput(
            "regularizer_step", regularizer_step, "'gradient' for a regularizer without proximal operator"
        )
    # Where the operator has a largest step, it is said before any work is done.
    problem.regularizer.proximal(np.zeros((1, problem.outputs)), problem.rate(0.0) / dimension)
    return True


def _observables(given: Mapping[str, Observable] | None) -> dict[str, Observable]:
    """Return the observables, if every name can be a name and every function be called."""
    allowed = "a mapping from names to functions of W and U"
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidInput("observables", given, allowed)
    for name, function in given.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise InvalidInput("observables", given, f"{allowed}; a name is letters, digits and underscores")
        _checks.function_of(f"observables[{name!r}]", function, 2, "a function of W and U")
    return dict(given)


def _identity(plan: Plan, t: Array, seed: np.random.SeedSequence, runs: int, method: str) -> dict[str, object]:
    """Return what the numbers of a simulation depend on, by the names of the arguments."""
    return {
        "problem": f"{plan.problem!r} ({digest(plan.problem)})",
        "initial": f"{plan.initial!r} ({digest(plan.initial)})",
        "dimension": plan.dimension,
        "runs": runs,
        "t_eval": f"{len(t)} times up to {t[-1]:g} ({digest(t)})",
        "snapshots": f"{len(plan.snapshot_steps)} ({digest(plan.snapshot_steps)})",
        "rng": f"{seed.entropy} {seed.spawn_key} {seed.n_children_spawned}",
        "exact_overlaps": plan.exact_overlaps,
        "loss_batches": plan.loss_batches,
        "method": method,
        "regularizer_step": "proximal" if plan.proximal else "gradient",
        "dtype": str(plan.dtype),
        "device": plan.device or "none",
        "observables": list(plan.observables),
        "data": "none" if plan.data is None else digest(plan.data),
    }


def _solution(plan: Plan, found: Progress, t: Array, kept: Array, stats: dict[str, float]) -> SgdSolution:
    """Average over runs; a simulation that was stopped ends at its last output time."""
    reached = int((plan.output_steps <= found.step).sum())
    seen = int((plan.snapshot_steps <= found.step).sum())
    r = found.record
    record = replace(r, Q=r.Q[:reached], R=r.R[:reached], loss=r.loss[:reached], weights=r.weights[:seen])
    exact = (np.zeros((reached, *r.Q.shape[2:])), np.zeros((reached, *r.R.shape[2:])))
    solution = summarize(
        SgdSolution,
        route="sgd",
        problem=plan.problem,
        initial=plan.initial,
        t=t[:reached],
        snapshot_times=kept[:seen],
        record=record,
        discretization=exact,
        stats=stats,
    )
    observables = {name: values[: len(solution.t)] for name, values in found.observables.items()}
    status = solution.status
    if status.success and math.isfinite(found.stopped):
        status = Status(False, f"stopped by the callback at t = {found.stopped:.4g}")
    return replace(solution, observables=observables, status=status)
