"""Throughput of direct SGD, in coordinate updates (runs x steps x N) per second of wall time, method beside method.

    python benchmarks/sgd.py [--threads 1] [--cpu] [--smallest 100] [--largest 1000000]

The others are written here as one would write them: a plain NumPy loop, NumPy batched over runs, a Numba loop, and the
batched step in JAX and PyTorch where these are installed. All draw every sample in every coordinate, as the algorithm
is written, but for "reduced", which is the same in law. Every contender is run once to compile, then in turn, and its
best of several times counts. Then the time of the normals alone that "reduced" needs, as a share of its time.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable

import numba
import numpy as np

import mkvlasov as mv
from mkvlasov.solvers.sgd.normal_kernels import TILE, fill_normals, room

SIZES = ((100, 1000), (1000, 16), (10_000, 4), (1_000_000, 1))
TAU, DECORRELATION, L1 = 0.4, 0.5, 0.1
SCALE = 2.0  # of c, one Rademacher feature per output
S1, S2, RHO = 0.5, 0.8, -0.6
ROUNDS = 4


def problem_of(outputs: int, batch: int) -> tuple[mv.Problem, object]:
    problem = mv.Problem(
        hidden=mv.hidden.Rademacher([SCALE**2] * outputs),
        activation="tanh",
        learning_rate=TAU,
        regularizer=mv.regularizers.L1(L1),
        augmentation=mv.augmentations.GaussianNoise([S1, S2], RHO),
        loss=mv.losses.Covariance(DECORRELATION if outputs > 1 else 0.0),
        outputs=outputs,
        batch_size=batch,
    )
    return problem, mv.initial.Gaussian(1.0, 0.3 * np.eye(outputs))


def package(method: str, dtype: str, m: int, batch: int, n: int, runs: int, threads: int) -> Callable[[int], None]:
    problem, initial = problem_of(m, batch)

    def go(steps: int) -> None:
        mv.simulate_sgd(
            problem, initial, t_eval=[steps / n], dimension=n, runs=runs, rng=0, method=method, dtype=dtype,
            loss_batches=1, workers=threads, progress=False,
        )  # fmt: skip

    return go


def start(m: int, n: int, runs: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((runs, m, n)) / math.sqrt(n)
    return rng.standard_normal((runs, m, n)), features


def step(xp, w, u, c, z, n1, n2, n):
    """One batched step for any array module; w (R, m, N), u (R, m, N), c (R, B, m), normals (R, B, N)."""
    batch, m = c.shape[1:]
    x = (c - z @ u.swapaxes(1, 2)) @ u + z
    x1, x2 = x + S1 * n1, x + S2 * (RHO * n1 + math.sqrt(1 - RHO**2) * n2)
    t = w.swapaxes(1, 2) / math.sqrt(n)
    y1, y2 = xp.tanh(x1 @ t), xp.tanh(x2 @ t)
    if m == 1:
        g1, g2 = -y2 / batch, -y1 / batch
    else:
        matrix = DECORRELATION * (y1.swapaxes(1, 2) @ y2) / batch
        eye = xp.eye(m)
        matrix = matrix * (1 - eye) - eye
        g1, g2 = y2 @ matrix.swapaxes(1, 2) / batch, y1 @ matrix / batch
    a1, a2 = (1 - y1 * y1) * g1, (1 - y2 * y2) * g2
    moved = a1.swapaxes(1, 2) @ x1 + a2.swapaxes(1, 2) @ x2
    return w - TAU / math.sqrt(n) * moved - TAU * L1 / n * xp.sign(w)


def numpy_batched(m: int, batch: int, n: int, runs: int) -> Callable[[int], None]:
    w, u = start(m, n, runs)
    rng = np.random.Generator(np.random.SFC64(1))

    def go(steps: int) -> None:
        state = w
        for _ in range(steps):
            c = SCALE * rng.choice([-1.0, 1.0], (runs, batch, m))
            z, n1, n2 = rng.standard_normal((3, runs, batch, n))
            state = step(np, state, u, c, z, n1, n2, n)

    return go


def numpy_loop(m: int, batch: int, n: int, runs: int) -> Callable[[int], None]:
    one = [numpy_batched(m, batch, n, 1) for _ in range(runs)]

    def go(steps: int) -> None:
        for run in one:
            run(steps)

    return go


@numba.njit
def numba_steps(w, u, batch, steps, rng):
    runs, m, n = w.shape
    for run in range(runs):
        x1, x2 = np.empty((batch, n)), np.empty((batch, n))
        y1, y2 = np.empty((batch, m)), np.empty((batch, m))
        a1, a2 = np.empty((batch, m)), np.empty((batch, m))
        for _ in range(steps):
            for b in range(batch):
                for i in range(n):
                    x1[b, i] = rng.standard_normal()
                for k in range(m):
                    shift = SCALE * (2.0 * rng.integers(0, 2) - 1.0)
                    for i in range(n):
                        shift -= x1[b, i] * u[run, k, i]
                    for i in range(n):
                        x1[b, i] += shift * u[run, k, i]
                for i in range(n):
                    first = rng.standard_normal()
                    x2[b, i] = x1[b, i] + S2 * (RHO * first + math.sqrt(1 - RHO**2) * rng.standard_normal())
                    x1[b, i] += S1 * first
                for j in range(m):
                    h1, h2 = 0.0, 0.0
                    for i in range(n):
                        h1 += x1[b, i] * w[run, j, i]
                        h2 += x2[b, i] * w[run, j, i]
                    y1[b, j], y2[b, j] = math.tanh(h1 / math.sqrt(n)), math.tanh(h2 / math.sqrt(n))
            matrix = DECORRELATION * (y1.T @ y2) / batch
            for j in range(m):
                matrix[j, j] = -1.0
            a1[:] = (1 - y1 * y1) * (y2 @ matrix.T) / batch
            a2[:] = (1 - y2 * y2) * (y1 @ matrix) / batch
            for j in range(m):
                for i in range(n):
                    moved = 0.0
                    for b in range(batch):
                        moved += a1[b, j] * x1[b, i] + a2[b, j] * x2[b, i]
                    w[run, j, i] -= TAU / math.sqrt(n) * moved + TAU * L1 / n * np.sign(w[run, j, i])


def numba_loop(m: int, batch: int, n: int, runs: int) -> Callable[[int], None]:
    w, u = start(m, n, runs)
    rng = np.random.Generator(np.random.SFC64(1))
    return lambda steps: numba_steps(w.copy(), u, batch, steps, rng)


def jax_scan(m: int, batch: int, n: int, runs: int, single: bool) -> Callable[[int], None]:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", not single)
    w, u = (jnp.asarray(part) for part in start(m, n, runs))

    def body(state, key):
        first, second = jax.random.split(key)
        z, n1, n2 = jax.random.normal(first, (3, runs, batch, n), dtype=w.dtype)
        c = SCALE * jax.random.rademacher(second, (runs, batch, m), dtype=w.dtype)
        return step(jnp, state, u, c, z, n1, n2, n), None

    scan = jax.jit(lambda state, keys: jax.lax.scan(body, state, keys)[0])
    return lambda steps: scan(w, jax.random.split(jax.random.key(0), steps)).block_until_ready()


def torch_loop(m: int, batch: int, n: int, runs: int) -> Callable[[int], None]:
    import torch

    torch.set_default_dtype(torch.float64)
    w, u = (torch.from_numpy(part) for part in start(m, n, runs))

    def go(steps: int) -> None:
        state = w
        for _ in range(steps):
            c = SCALE * (2.0 * torch.randint(2, (runs, batch, m)) - 1.0)
            z, n1, n2 = torch.randn((3, runs, batch, n))
            state = step(torch, state, u, c, z, n1, n2, n)

    return go


def normals_alone(m: int, n: int, runs: int, dtype: str) -> Callable[[int], None]:
    out, words, key = np.zeros(room(n), dtype), np.empty((4, TILE), np.uint32), np.zeros(2, np.uint32)

    def go(steps: int) -> None:
        for s in range(steps * m * runs):
            fill_normals(key, 0, s, words, out)

    return go


def contenders(m: int, batch: int, n: int, runs: int, threads: int) -> dict[str, Callable[[int], None]]:
    found = {
        "reduced": package("reduced", "float64", m, batch, n, runs, threads),
        "reduced f4": package("reduced", "float32", m, batch, n, runs, threads),
        "literal": package("literal", "float64", m, batch, n, runs, threads),
        "NumPy batched": numpy_batched(m, batch, n, runs),
        "NumPy loop": numpy_loop(m, batch, n, runs),
        "Numba loop": numba_loop(m, batch, n, runs),
    }
    makers: dict[str, Callable[[], Callable[[int], None]]] = {
        "JAX": lambda: jax_scan(m, batch, n, runs, single=False),
        "PyTorch": lambda: torch_loop(m, batch, n, runs),
    }
    for name, make in makers.items():
        try:
            found[name] = make()
        except ImportError:
            print(f"{name} is not installed: skipped")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--smallest", type=int, default=100)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds of all threads, for a machine that is shared")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu else time.perf_counter
    if arguments.threads == 1 and os.environ.get("OMP_NUM_THREADS") != "1":
        print("one thread for all: set OMP_NUM_THREADS=1 and XLA_FLAGS=--xla_cpu_multi_thread_eigen=false")
    for m, batch in ((1, 1), (2, 8)):
        for n, runs in SIZES:
            if not arguments.smallest <= n <= arguments.largest:
                continue
            steps = max(1, 400_000 // (n * runs))
            tried = contenders(m, batch, n, runs, arguments.threads)
            tried |= {f"normals {d}": normals_alone(m, n, runs, d) for d in ("float64", "float32")}
            shortest = {name: [math.inf, math.inf] for name in tried}
            for go in tried.values():
                go(steps)
                go(3 * steps)
            for _ in range(ROUNDS):
                for name, go in tried.items():
                    for i, count in enumerate((steps, 3 * steps)):
                        begin = clock()
                        go(count)
                        shortest[name][i] = min(shortest[name][i], clock() - begin)
            # Fixed costs of a call, such as drawing a start, are taken off by the difference of two lengths.
            gaps = {name: long - short for name, (short, long) in shortest.items()}
            best = {name: gap if gap > 0.0 else math.nan for name, gap in gaps.items()}  # below what the clock resolves
            print(f"\nm = {m}, B = {batch}, N = {n}, {runs} runs, {2 * steps} steps, {arguments.threads} thread(s)")
            for name, seconds in best.items():
                rate = runs * 2 * steps * n / seconds
                print(
                    f"  {name:16s} {1e9 / rate:9.2f} ns per update {rate:10.3g} /s {seconds / best['reduced']:7.2f} x"
                )
            for name, dtype in (("reduced", "float64"), ("reduced f4", "float32")):
                share = best[f"normals {dtype}"] / best[name]
                print(f"  share of the generator's limit, {name}: {share:.0%}")


if __name__ == "__main__":
    main()
