"""False alarms of a validation at level "quick", and coverage of the fluctuation theory's bands.

    python benchmarks/validation_alarms.py [SEEDS]

The theory is right (the built-in problem "unregularized"), so at a false-alarm rate of 5% at most 5% of SEEDS (200)
tables may disagree: with 200 of them, 18 or fewer with probability 0.99. What does not depend on the seed, the PDE and
the closed ODEs, is solved once; particles, literal SGD and the chain are drawn as `validate(level="quick")` draws them.

Coverage: how often single runs of the chain lie within the predicted band of 95%, for all output times and entries,
pooled over seeds, with the standard error over seeds. Times are pooled, so runs are counted as wholes.
"""

import sys

import numpy as np

import mkvlasov as mv
from mkvlasov.limit.entries import Entries
from mkvlasov.validation.levels import LEVELS, sizes_of

ALPHA, LEVEL = 0.05, LEVELS["quick"]
T_FINAL, TIMES = 4.0, 21
BAND = 1.959964


def main():
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    problem, initial = mv.read_problem("unregularized")
    sizes = sizes_of(LEVEL, problem, T_FINAL, TIMES)
    t = np.round(np.linspace(0.0, T_FINAL, TIMES) * sizes.literal) / sizes.literal
    pde, ode = mv.solve_pde(problem, initial, t_eval=t), mv.solve_ode(problem, initial, t_eval=t)
    dimension = sizes.deciding[0]
    theory = mv.reduce(problem).fluctuations(initial, t_eval=t, exact_overlaps=True)
    mean, width = theory.mean(dimension)[1:, None], BAND * theory.std(dimension)[1:, None]
    entries = Entries(problem.outputs, problem.n_features)
    verdicts, covered = {"agree": 0, "disagree": 0, "undecided": 0}, []
    for seed in range(seeds):
        first, second, third = np.random.SeedSequence(20261300 + seed).spawn(3)
        common = {"t_eval": t, "exact_overlaps": True, "workers": 1}
        particles = mv.simulate_particles(
            problem, initial, t_eval=t, particles=LEVEL.particles, runs=LEVEL.systems, rng=first
        )
        literal = mv.simulate_sgd(
            problem, initial, dimension=sizes.literal, runs=LEVEL.literal_runs, rng=second, method="literal", **common
        )
        chain = mv.simulate_sgd(
            problem, initial, dimension=dimension, runs=LEVEL.deciding_runs, rng=third, loss_batches=1, **common
        )
        verdicts[mv.compare(pde, ode, particles, literal, chain, alpha=ALPHA).verdict] += 1
        runs = entries.pack(chain.runs.Q, chain.runs.R)[1:]
        covered.append((np.abs(runs - mean) <= width).mean())
        if (seed + 1) % 20 == 0:
            error = np.std(covered, ddof=1) / np.sqrt(len(covered))
            print(f"{seed + 1} seeds: {verdicts}; coverage {np.mean(covered):.4f} +- {error:.4f} (0.95)", flush=True)
    print(f"literal N = {sizes.literal}, chain N = {dimension:,}, alpha = {ALPHA}")


if __name__ == "__main__":
    main()
