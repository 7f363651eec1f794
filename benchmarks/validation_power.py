"""Power of a validation: how often theories with a known error are rejected, and the correlation error that is seen.

    python benchmarks/validation_power.py [SEEDS] [SHARE]

One set of SEEDS simulations (40) of the right problem by the chain of the order parameters, with SHARE (1) of the
samples of level "standard": batches of four, different noise in the two views, correlation -0.6. The error is put into
the theory. Bounds on the bias are those of `compare` without a fluctuation theory, which is the cautious choice.
Rejected means: `compare` of the wrong theory with the simulation disagrees at alpha = 0.05; the p-value printed is the
largest of all seeds, of the joint test alone.

The second table is arithmetic, not simulation: the noncentrality of the joint test is n N times a constant (the bias
apart), so that its power follows for every budget. It is computed from the first simulation.
"""

import sys
from dataclasses import replace

import numpy as np
from scipy import optimize
from scipy.integrate import solve_ivp

import mkvlasov as mv
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.validation.compare import Pair
from mkvlasov.validation.joint import power
from mkvlasov.validation.levels import LEVELS, sizes_of
from mkvlasov.validation.rows import JOINT
from mkvlasov.validation.tracks import tracks

T_FINAL, TIMES, ALPHA = 6.0, 31, 0.05
LEVEL = LEVELS["standard"]
ROWS = 17
"""Tests in the table of a standard validation of this problem, by which the level of each is divided at worst."""

START = mv.initial.Gaussian(1.0, [0.3, 0.2])


def problem(rate=0.4, variance=(4.0, 3.0), std=(0.5, 0.8), correlation=-0.6, batch=4):
    return mv.Problem(
        hidden=mv.hidden.Rademacher(list(variance)),
        activation="tanh",
        learning_rate=rate,
        regularizer=mv.regularizers.L2(0.3),
        augmentation=mv.augmentations.GaussianNoise(list(std), correlation),
        batch_size=batch,
    )


WRONG = {
    "learning rate +5%": problem(rate=0.42),
    "<c_1^2> +5%": problem(variance=(4.2, 3.0)),
    "both <c_k^2> +5%": problem(variance=(4.2, 3.15)),
    "batch factor dropped": problem(batch=1),
    "noise of view 1 +20%": problem(std=(0.6, 0.8)),
    "noise of view 2 +20%": problem(std=(0.5, 0.96)),
    "correlation -0.8": problem(correlation=-0.8),
    "correlation -0.4": problem(correlation=-0.4),
}


def with_more_diffusion(right, factor):
    """Return the solution of the closed ODEs with Lambda multiplied and the drift left alone."""
    closed = ClosedRates(right.problem)
    tau = right.problem.rate(0.0)

    def rates(_, x):
        unit = closed.unit(x)
        return tau * unit.drift + factor * tau**2 * unit.diffusion

    x = closed.entries.pack(right.Q, right.R)
    found = solve_ivp(rates, (0.0, T_FINAL), x[0], t_eval=right.t, method="DOP853", rtol=1e-9, atol=1e-11)
    Q, R = closed.entries.unpack(found.y.T)
    return replace(right, Q=Q, R=R)


def trajectory(solution):
    return tracks([solution], None)[0].value


def main():
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    share = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    level = replace(LEVEL, chain_samples=share * LEVEL.chain_samples)
    sizes = sizes_of(level, problem(), T_FINAL, TIMES)
    dimension, runs = sizes.deciding[0], level.deciding_runs
    t = np.round(np.linspace(0.0, T_FINAL, TIMES) * sizes.literal) / sizes.literal
    right = mv.solve_ode(problem(), START, t_eval=t)
    theories = {"none": right, **{name: mv.solve_ode(p, START, t_eval=t) for name, p in WRONG.items()}}
    theories["Lambda +10% alone"] = with_more_diffusion(right, 1.1)
    rejected, largest = dict.fromkeys(theories, 0), dict.fromkeys(theories, 0.0)
    first = None
    for seed in range(seeds):
        chain = mv.simulate_sgd(
            problem(), START, t_eval=t, dimension=dimension, runs=runs, rng=20261200 + seed, exact_overlaps=True,
            loss_batches=1, workers=1,
        )  # fmt: skip
        first = first or chain
        for name, theory in theories.items():
            comparison = mv.compare(theory, chain, alpha=ALPHA, deviation=level.deviation)
            rejected[name] += not comparison.passed
            joint = next(row for row in comparison.rows if row.statistic == JOINT)
            largest[name] = max(largest[name], joint.p_value)
    print(f"chain at N = {dimension:,}, {runs} runs to t = {T_FINAL:g}, {seeds} seeds, alpha = {ALPHA}")
    print(f"{'error of the theory':24s} {'rejected':>10s} {'largest p':>10s}")
    for name, count in rejected.items():
        print(f"{name:24s} {count:5d} / {seeds:d} {largest[name]:10.1e}")
    pair = Pair(right, tracks([right], None)[0], tracks([first], None)[0], level.deviation)
    directions = pair.directions(np.arange(pair.gap.shape[1]))
    _, spread, half_width = pair.projected(directions)

    def seen(theory):
        change = np.einsum("pti,ti->p", directions, trajectory(theory) - trajectory(right))
        return power(change, spread, half_width, ALPHA / ROWS)

    print(f"\npredicted power at level alpha / {ROWS}:")
    for name, theory in list(theories.items())[1:]:
        print(f"{name:24s} {seen(theory):8.4f}")

    def missing(error):
        return seen(mv.solve_ode(problem(correlation=-0.6 + error), START, t_eval=t, progress=False)) - 0.95

    for sign in (1.0, -1.0):
        least = optimize.brentq(lambda size, sign=sign: missing(sign * size), 1e-4, 0.2, xtol=1e-5)
        print(f"error of the correlation detected with 95%: {sign * least:+.4f}")


if __name__ == "__main__":
    main()
