"""What the second weak order and the exact kink of the particle system buy, and what a step costs.

    python benchmarks/particles.py [FIGURE.png]

1. CPU time per particle and step with 10^6 particles in one thread, beside Euler-Maruyama in plain NumPy.
2. Error against CPU time for Euler-Maruyama (first order; with the same compiled loops) and `simulate_particles`, for
   tanh, K = 1, c = +-2, noise 0.4, tau = 0.5, sparse loadings, under L2 and L1. The error is the worst of R and Q over
   t = 1..8, and the mass within 0.02 of zero at t = 8 for coordinates without the feature. It is measured with the
   same random numbers for every step, against the shortest one, so that 16 x 16384 particles are enough to see it.
"""

import sys
import time

import matplotlib.pyplot as plt
import numpy as np

import mkvlasov as mv
from mkvlasov.solvers.particles.kernels import add_overlaps, fill_normals, linear_step
from mkvlasov.solvers.particles.system import BLOCK, Model, ParticleSystem, Streams, evolve

REGULARIZERS = {"L2": mv.regularizers.L2(0.5), "L1": mv.regularizers.L1(0.5)}
T_FINAL, FINEST, RUNS = 8, 64, 16
STEPS_PER_UNIT = (2, 4, 8, 16, 32)
NEAR_ZERO = 0.02


def problem_with(regularizer, outputs=1):
    return mv.Problem(
        hidden=mv.hidden.Rademacher(4.0),
        activation="tanh",
        learning_rate=0.5,
        regularizer=regularizer,
        augmentation=mv.augmentations.GaussianNoise(0.4),
        loadings=mv.loadings.Sparse(0.25),
        outputs=outputs,
    )


def start(model, particles, runs, seed=0):
    m = model.problem.outputs
    rngs = [np.random.Generator(np.random.SFC64(child)) for child in np.random.SeedSequence(seed).spawn(runs)]
    return ParticleSystem.start(model, mv.initial.Gaussian(1.0, 0.5 * np.eye(m)[:, :1]), particles, rngs)


class Path:
    """Recorded random numbers of fine steps, put together to those of steps `ratio` times as long."""

    def __init__(self, normals, exponentials, ratio):
        self.normals, self.exponentials, self.ratio = normals, exponentials, ratio
        self.done = [0] * normals.shape[1]

    def _next(self, run):
        first = self.done[run]
        self.done[run] += self.ratio
        return range(first, first + self.ratio)

    def linear(self, run, part, shape):
        return sum(self.normals[i, run] for i in self._next(run))[None] / np.sqrt(self.ratio)

    def kinked(self, run, part, shape):
        return [(self.normals[i, run][None], self.exponentials[i, run][None]) for i in self._next(run)]


def observe(system):
    """Return R and Q, in the mean over the runs, and the mass near zero without the feature."""
    idle = system.loadings[:, 0] == 0.0
    return system.R.mean(), system.Q.mean(), (np.abs(system.weights[:, 0][idle]) < NEAR_ZERO).mean()


def second_order(model, path, per_unit):
    system = start(model, BLOCK, RUNS)
    times = np.linspace(0.0, T_FINAL, T_FINAL * per_unit + 1)
    whole = np.arange(len(times)) % per_unit == 0
    return np.array([observe(system) for index, _ in evolve(system, times, whole, path, None) if whole[index]])


def euler_maruyama(model, path, per_unit):
    system, h, rate = start(model, BLOCK, RUNS), 1.0 / per_unit, 0.5
    seen = [observe(system)]
    for step in range(1, T_FINAL * per_unit + 1):
        forces = system.forces()
        for run in range(RUNS):
            euler_step(system, forces, run, path.linear(run, 0, None), rate, h)
        if step % per_unit == 0:
            seen.append(observe(system))
    return np.array(seen)


def euler_step(system, forces, run, noise, rate, h, first=0):
    """Move a block of one output or more, in compiled loops where `simulate_particles` has them."""
    w, a = system.weights[run], system.loadings[run]
    m, n = noise.shape
    values, vectors = np.linalg.eigh(h * rate**2 * forces.diffusion[run])
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    block = w[:, first : first + n]
    gradient = system.model.problem.regularizer.gradient(block.T).T
    moved = linear_step(w, a, first, noise, np.eye(m) - h * rate * forces.G[run], -h * rate * forces.H[run], root)
    moved -= h * rate * gradient
    block[:] = moved
    Q, R = np.zeros((m, m)), np.zeros((m, len(a)))
    add_overlaps(moved, a, first, Q, R)
    system.Q[run], system.R[run] = Q / n, R / n


def plain_step(system, forces, rng, rate, h):
    """Move one run by Euler-Maruyama in plain NumPy."""
    w, a = system.weights[0], system.loadings[0]
    root = np.linalg.cholesky(h * rate**2 * forces.diffusion[0] + 1e-14 * np.eye(len(w)))
    drift = forces.G[0] @ w + forces.H[0] @ a + system.model.problem.regularizer.gradient(w.T).T
    w += root @ rng.standard_normal(w.shape) - h * rate * drift
    system.Q[0], system.R[0] = w @ w.T / w.shape[1], w @ a.T / w.shape[1]


def cost_of_a_step(particles=10**6, repeats=12):
    """Return the least CPU time per particle and step, in ns, by regularizer, outputs and scheme (taken in turns)."""
    costs = {}
    for name, regularizer in REGULARIZERS.items():
        for m in (1, 2, 4):
            model = Model.of(problem_with(regularizer, m), 1e-6)
            rng = np.random.Generator(np.random.SFC64(1))
            streams = Streams([[rng] * 8])
            ours, plain, euler = (start(model, particles, 1) for _ in range(3))

            def compiled_euler(forces, system=euler, rng=rng, m=m):
                for first in range(0, particles, BLOCK):
                    noise = np.empty((m, min(BLOCK, particles - first)))
                    fill_normals(rng, noise)
                    euler_step(system, forces, 0, noise, 0.5, 0.01, first)

            schemes = {
                "simulate_particles": (ours, lambda f, s=ours, n=streams: s.advance(f, 0.5, 0.01, n, None)),
                "Euler, compiled": (euler, compiled_euler),
                "Euler, NumPy": (plain, lambda f, s=plain, rng=rng: plain_step(s, f, rng, 0.5, 0.01)),
            }
            best = dict.fromkeys(schemes, np.inf)
            for _ in range(repeats):
                for scheme, (system, step) in schemes.items():
                    forces = system.forces()
                    started = time.thread_time()
                    step(forces)
                    best[scheme] = min(best[scheme], time.thread_time() - started)
            for scheme, seconds in best.items():
                costs[name, m, scheme] = 1e9 * seconds / particles
            row = "   ".join(f"{scheme} {costs[name, m, scheme]:6.1f}" for scheme in schemes)
            print(f"{name}  m = {m}   ns per particle and step:   {row}")
    return costs


def errors():
    """Return errors (steps, 3) of R, Q and the mass near zero by regularizer and scheme."""
    found = {}
    rng = np.random.Generator(np.random.SFC64(2))
    normals = rng.standard_normal((T_FINAL * FINEST, RUNS, BLOCK))
    exponentials = rng.standard_exponential(normals.shape)
    for name, regularizer in REGULARIZERS.items():
        model = Model.of(problem_with(regularizer), 1e-7)
        exact = second_order(model, Path(normals, exponentials, 1), FINEST)
        for scheme, solve in (("Euler, compiled", euler_maruyama), ("simulate_particles", second_order)):
            rows = []
            for per_unit in STEPS_PER_UNIT:
                gap = np.abs(solve(model, Path(normals, exponentials, FINEST // per_unit), per_unit) - exact)
                rows.append([gap[:, 0].max(), gap[:, 1].max(), gap[-1, 2]])
                print(
                    f"{name}  {scheme:20s} step 1/{per_unit:<3d} R {gap[:, 0].max():.1e}  Q {gap[:, 1].max():.1e}"
                    f"  mass near zero {gap[-1, 2]:.1e}"
                )
            found[name, scheme] = np.array(rows)
    return found


def draw(costs, found, file):
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    steps = T_FINAL * np.array(STEPS_PER_UNIT)
    looks = {"Euler, compiled": ("C1", "s", "Euler-Maruyama"), "simulate_particles": ("C0", "o", "simulate_particles")}
    panels = (
        ("L2", slice(0, 2), "L2: worst error of R, Q"),
        ("L1", slice(0, 2), "L1: worst error of R, Q"),
        ("L1", slice(2, 3), f"L1: error of the mass in |w| < {NEAR_ZERO}, t = 8"),
    )
    for axis, (name, columns, title) in zip(axes, panels, strict=True):
        for scheme, (colour, marker, label) in looks.items():
            seconds = 1e-3 * costs[name, 1, scheme] * steps
            error = found[name, scheme][:, columns].max(axis=1)
            axis.loglog(seconds, error, f"{marker}-", color=colour, label=label)
        # The slopes of the orders, through the first points.
        for (scheme, (colour, _, _)), order in zip(looks.items(), (1, 2), strict=True):
            seconds = 1e-3 * costs[name, 1, scheme] * steps
            first = found[name, scheme][0, columns].max()
            axis.loglog(
                seconds,
                first * (steps[0] / steps) ** order,
                (":", "--")[order - 1],
                color=colour,
                label=f"order {order}",
            )
        axis.set(title=title, xlabel="CPU seconds per $10^6$ particles, $t \\leq 8$")
        ticks = (0.2, 0.5, 1.0, 2.0, 5.0)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("error")
    axes[0].legend(frameon=False)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    draw(cost_of_a_step(), errors(), sys.argv[1] if len(sys.argv) > 1 else "particles.png")
