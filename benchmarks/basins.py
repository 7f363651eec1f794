"""A 100 x 100 basin map to t = 50, beside diffrax (vmap, jit, double precision) over the same starts on the same cores.

    python benchmarks/basins.py [--rounds 3]

diffrax integrates the closed ODEs of the same problem with coefficients of the same formulas (Mehler's, on the nodes
and
terms that reach the same accuracy), Dormand and Prince's method of order 8 and the same tolerances; with and without an
event that stops a start in the same neighbourhood of its end, in one batch and in smaller ones. Compilation is timed
apart: the first call minus the best one. `pip install jax diffrax` for the comparison; without them only the package
itself is timed.
"""

import argparse
import time
from functools import partial

import numpy as np

import mkvlasov as mv
from mkvlasov.analysis import default_grid
from mkvlasov.analysis.basin_labels import INFEASIBLE
from mkvlasov.analysis.neighbourhoods import ATTRACTING, find_neighbourhoods
from mkvlasov.analysis.symmetries import find_symmetries
from mkvlasov.analysis.symmetry_group import SymmetryGroup
from mkvlasov.limit.derivatives import ClosedRates

try:
    import jax

    jax.config.update("jax_enable_x64", True)
    import diffrax
    import jax.numpy as jnp
    import optimistix
except ImportError:
    jax = None

T_MAX, RTOL, SIZE = 50.0, 1e-6, 100
BATCHES = (64, 256)
"""Starts that diffrax integrates together: small batches waste less on the slowest start, and stay in the cache.
(All at
once took three times as long as batches of 256.)"""


class Timed:
    """A piece of work, the wall and processor time of its calls, and its last result."""

    def __init__(self, name, work):
        self.name, self.work, self.taken = name, work, []

    def __call__(self):
        begin = time.perf_counter(), time.process_time()
        self.result = self.work()
        self.taken.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))

    @property
    def best(self):
        """Best wall and processor time, the first call left out."""
        return tuple(min(part) for part in zip(*self.taken[1:], strict=True))

    def __str__(self):
        wall, processor = self.best
        extra = self.taken[0][0] - wall
        return f"{self.name:50s} {wall:6.2f} s wall, {processor:6.2f} s processor; first call {extra:+.1f} s"


class JaxRates:
    """The closed right-hand side of one tanh output with equal views and Rademacher features, x = (R, Q)."""

    def __init__(self, problem, half, spacing, terms):
        noise, self.eta = problem.noise_covariance, problem.background_variance
        self.tau, self.kappa = problem.rate(0.0), problem.regularizer.linear_strength
        self.s11, self.s12 = noise[0, 0], noise[0, 1]
        nodes = problem.hidden.nodes(1)
        points = nodes.points[nodes.points[:, 0] > 0.0]  # tanh is odd: a point and its mirror image count alike
        self.points = jnp.asarray(points)
        x = spacing * np.arange(half + 1)
        hermite = np.ones((terms, half + 1))  # He_n / sqrt(n!)
        hermite[1] = x
        for n in range(2, terms):
            hermite[n] = (x * hermite[n - 1] - np.sqrt(n - 1) * hermite[n - 2]) / np.sqrt(n)
        weights = spacing * np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)
        weights[0] *= 0.5  # the node at zero is in both halves
        table = (hermite * weights).T
        self.x, self.even, self.odd = jnp.asarray(x), jnp.asarray(table[:, 0::2]), jnp.asarray(table[:, 1::2])
        self.terms = terms

    def transforms(self, mean, sigma):
        """Return F_n[f] = E[f(mean + sigma x) He_n(x)] / sqrt(n!) of tanh, tanh^2, tanh^4, each (points, terms)."""
        right = jnp.tanh(mean[:, None] + sigma * self.x)
        left = jnp.tanh(mean[:, None] - sigma * self.x)
        sums, gaps = [right + left], [right - left]
        for _ in range(2):
            right, left = right * right, left * left
            sums.append(right + left)
            gaps.append(right - left)
        even, odd = jnp.stack(sums) @ self.even, jnp.stack(gaps) @ self.odd
        return jnp.stack([even, odd], axis=-1).reshape(3, len(mean), self.terms)

    def __call__(self, t, x, args):
        R, Q = x[:-1], x[-1]
        shared = self.eta * (Q - R @ R)
        sigma = jnp.sqrt(shared + self.s11 * Q)
        r = (shared + self.s12 * Q) / sigma**2
        y, yy, y4 = self.transforms(self.points @ R, sigma)
        n = jnp.arange(1.0, self.terms)
        d = jnp.sqrt(n) * y[:, 1:] / sigma
        s = jnp.sqrt(n[:-1]) * d[:, 1:] / sigma
        dy = 0.5 * jnp.sqrt(n) * yy[:, 1:] / sigma
        dd = (y4 - 2.0 * yy).at[:, 0].add(1.0)
        powers = r ** jnp.arange(self.terms)

        def pair(f, g):
            return (f[:, : g.shape[1]] * g[:, : f.shape[1]]) @ powers[: min(f.shape[1], g.shape[1])]

        t11, t12 = self.eta + self.s11, self.eta + self.s12
        sy, both, drive = pair(s, y), pair(d, d), pair(d, y)
        G = -2.0 * jnp.mean(t11 * sy + t12 * both)
        Gbar = -2.0 * jnp.mean(sy + both)
        Lambda = 2.0 * jnp.mean(t11 * pair(dd, yy) + t12 * pair(dy, dy))
        H = -2.0 * jnp.mean(drive[:, None] * self.points, axis=0) - self.eta * Gbar * R
        M = self.tau * (G + self.kappa)
        dQ = self.tau**2 * Lambda - 2.0 * M * Q - 2.0 * self.tau * (H @ R)
        return jnp.append(-M * R - self.tau * H, dQ)


def cheapest_rates(problem, x):
    """Return the cheapest rates in JAX whose error at states x (S, d) is within RTOL of the largest, and that error."""
    exact = ClosedRates(problem, 1e-12).rates(x, problem.rate(0.0))
    candidates = [
        (half * terms, half, width / half, terms)
        for half in (12, 16, 20, 24, 32) for terms in (16, 20, 24, 32) for width in (5.0, 5.5, 6.0)
    ]  # fmt: skip
    for _, half, spacing, terms in sorted(candidates):
        rates = JaxRates(problem, half, spacing, terms)
        error = np.abs(jax.jit(jax.vmap(lambda v, rates=rates: rates(0.0, v, None)))(x) - exact).max()
        if error <= RTOL * np.abs(exact).max():
            return rates, half, terms, error / np.abs(exact).max()
    raise RuntimeError("no candidate is accurate enough")


def attracting(problem, found):
    """Return forms (n, d, d) and centres (n, d) of the neighbourhoods in which the package stops, and their labels."""
    closed, tau = ClosedRates(problem, 1e-8), problem.rate(0.0)
    group, whole = SymmetryGroup.of(find_symmetries(closed, tau)), np.eye(closed.entries.size)[None]
    targets = find_neighbourhoods(
        closed, tau, found.points, found.ends, group, whole, tolerance=found.tolerance, rtol=found.rtol
    )
    labels = np.flatnonzero(targets.kinds[0] == ATTRACTING)
    return targets.matrices[0, labels], targets.centres[labels], labels


def diffrax_ends(rates, targets, *, stops, batch, refined=False):
    """Return a compiled function from starts (S, d) to states and times at the end, `refined`: exactly there."""
    forms, centres, _ = targets
    forms, centres = jnp.asarray(forms), jnp.asarray(centres)

    def distance(t, y, args, **_):
        return (((forms @ (y - centres)[..., None])[..., 0] ** 2).sum(-1)).min() - 1.0

    def arrived(t, y, args, **_):
        return distance(t, y, args) <= 0.0

    event = None
    if stops:
        finder = optimistix.Bisection(rtol=1e-9, atol=1e-9, flip=True)
        event = diffrax.Event(distance, finder) if refined else diffrax.Event(arrived)

    def one(start):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(rates), diffrax.Dopri8(), 0.0, T_MAX, None, start,
            stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=0.01 * RTOL),
            saveat=diffrax.SaveAt(t1=True), max_steps=4096, event=event, adjoint=diffrax.ForwardMode(),
        )  # fmt: skip
        return solution.ys[0], solution.ts[0], solution.stats["num_steps"]

    return jax.jit(partial(jax.lax.map, one, batch_size=batch))


def main(rounds):
    problem, _ = mv.read_problem("contrastive")
    system = mv.reduce(problem)
    points = system.fixed_points()
    grid = default_grid(problem, points, SIZE)
    ours = Timed("mkvlasov", partial(system.basins, grid, t_max=T_MAX, rtol=RTOL, points=points, progress=False))
    ours()
    found = ours.result
    started = found.labels != INFEASIBLE
    print(f"{SIZE} x {SIZE} starts, {started.sum()} of them feasible, to t = {T_MAX:g}, rtol {RTOL:g}")
    print(f"  {found.evaluations} evaluations; {found.counts}; labels that change with half the steps and tolerances: "
          f"{found.changed_labels(progress=False).sum()}")  # fmt: skip
    if jax is None:
        print("diffrax: not installed (pip install jax diffrax), nothing to compare with")
        for _ in range(rounds):
            ours()
        print(ours)
        return
    Q, R = found.Q[started], found.R[started]
    x = np.concatenate([R[:, 0], Q[:, 0]], axis=1)
    reached = np.concatenate([found.R_end[started][:, 0], found.Q_end[started][:, 0]], axis=1)
    rates, half, terms, error = cheapest_rates(problem, np.concatenate([x[::37], reached[::37]]))
    print(f"diffrax: {2 * half + 1} nodes and {terms} terms, rates to {error:.1g} of the largest")
    targets = attracting(problem, found)
    others = []
    for stops in (False, True):
        for batch in BATCHES:
            solve = diffrax_ends(rates, targets, stops=stops, batch=batch)
            how = "stopped in the neighbourhoods" if stops else f"all to t = {T_MAX:g}"
            others.append(Timed(f"diffrax, {how}, batch {batch}", lambda f=solve: jax.block_until_ready(f(x))))
    for _ in range(rounds + 1):  # in turn, so that a busy machine is busy for all
        for timed in (ours, *others):
            timed()
            print(
                f"  ({timed.name}: {timed.taken[-1][0]:.2f} s, {timed.taken[-1][1]:.2f} s of processor time)",
                flush=True,
            )
    for timed in (ours, *others):
        print(timed)
    wall, processor = (min(t.best[i] for t in others) / ours.best[i] for i in range(2))
    print(f"the best of diffrax takes {wall:.2f} times as long ({processor:.2f} times the processor time)")
    ends, times, _ = (np.asarray(part) for part in diffrax_ends(rates, targets, stops=True, batch=256, refined=True)(x))
    gaps = np.einsum("nij,snj->sni", targets[0], ends[:, None] - targets[1])
    labels = targets[2][(gaps**2).sum(-1).argmin(1)]
    converged = found.labels[started] >= 0
    print(f"labels that differ: {(labels != found.labels[started])[converged].sum()} of {converged.sum()}")
    print(f"largest difference of the states: {np.abs(ends - reached)[converged].max():.1e}, "
          f"of the times: {np.abs(times - found.times[started])[converged].max():.1e}")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
