"""The deviation of runs of SGD from the closed ODEs: the bias falls as 1/N, the spread as 1/sqrt(N).

Large steps of small batches from exact overlaps: bias large, spread small, so that the bias can be measured. The runs
are those of the (Q, R) chain, which has the law of SGD at every N; the coordinates themselves are simulated at the
smallest dimensions, and agree.

    python examples/finite_size_scaling.py [FOLDER FOR FIGURES [RUNS PER UNIT OF N]]

With 50 runs per unit of N instead of 1 it takes some minutes; docs/validation.md quotes those numbers.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from scipy import optimize, stats

import mkvlasov as mv
from mkvlasov.solvers.sgd.chain import simulate_chain

mpl.use("Agg")

DIMENSIONS = np.array([50, 100, 200, 500, 1000, 2000])
TIME = 0.2
PROBLEM = mv.Problem(
    hidden=mv.hidden.Rademacher(4.0),
    activation="tanh",
    learning_rate=1.5,
    regularizer=mv.regularizers.L2(2.0),
    augmentation=mv.augmentations.GaussianNoise(std=[0.5, 0.7], correlation=-0.6),
    batch_size=4,
)
INITIAL = mv.initial.Gaussian(Q=1.0, R=0.5)


def by_chain(dimension, runs):
    """Return (R, Q) of all runs at the time of comparison, (runs, 2)."""
    record = simulate_chain(
        PROBLEM, INITIAL, dimension=dimension, steps=np.array([round(TIME * dimension)]),
        seeds=np.random.SeedSequence(dimension).spawn(runs), exact_overlaps=True, loss_batches=1, workers=2,
        progress=True,
    )  # fmt: skip
    return np.column_stack([record.R.ravel(), record.Q.ravel()])


def by_coordinates(dimension, runs):
    """Return the same from runs that keep all weights."""
    runs = mv.simulate_sgd(
        PROBLEM, INITIAL, t_eval=[TIME], dimension=dimension, runs=runs, rng=dimension, exact_overlaps=True,
        loss_batches=1, method="literal",
    ).runs  # fmt: skip
    return np.column_stack([runs.R.ravel(), runs.Q.ravel()])


def deviations(sample, limit):
    """Return bias and spread, (2, 2): of R and of Q, with their standard errors in the same shape."""
    n, spread = len(sample), sample.std(axis=0, ddof=1)
    kurtosis = stats.kurtosis(sample, fisher=False)
    found = np.array([np.abs(sample.mean(axis=0) - limit), spread])
    return found, np.array([spread / np.sqrt(n), spread * np.sqrt((kurtosis - 1.0) / (4.0 * n))])


def power(n, exponent, level):
    return np.exp(level + exponent * np.log(n / 300.0))


def fit_power(values, errors, smallest=0):
    """Fit a power of N from the smallest dimension on: parameters, half the 95% interval of the exponent, p-value."""
    chosen = smallest <= DIMENSIONS
    n, values, errors = DIMENSIONS[chosen], values[chosen], errors[chosen]
    guess = [np.log(values[-1] / values[0]) / np.log(n[-1] / n[0]), np.log(values[0])]
    best, covariance = optimize.curve_fit(power, n, values, guess, errors, absolute_sigma=True)
    squares = ((values - power(n, *best)) / errors) ** 2
    return best, 1.96 * np.sqrt(covariance[0, 0]), stats.chi2.sf(squares.sum(), len(n) - 2)


def draw(kind, found, errors, coordinates, path):
    figure, axis = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    line = np.geomspace(40, 2500, 50)
    for entry, (name, color, marker) in enumerate((("R", "C0", "o"), ("Q", "C1", "^"))):
        best, half, _ = fit_power(found[:, entry], errors[:, entry])
        bars = 2.0 * errors[:, entry]
        axis.errorbar(
            DIMENSIONS, found[:, entry], bars, fmt=marker, ms=4, color=color, label=f"{name}, chain (2 standard errors)"
        )
        slope = rf"{name}, slope {best[0]:.3f} $\pm$ {half:.3f}"
        axis.loglog(line, power(line, *best), color=color, lw=1, ls=("-", "--")[entry], label=slope)
        for dimension, (values, bars) in coordinates.items():
            axis.errorbar(1.06 * dimension, values[entry], 2.0 * bars[entry], fmt=marker, ms=6, mfc="none", color=color)
    axis.plot([], [], "ko", mfc="none", label="all coordinates (hollow, set off to the right)")
    axis.set(xlabel="dimension N", ylabel=f"{kind} at t = {TIME}")
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(folder, per_dimension):
    folder.mkdir(parents=True, exist_ok=True)
    ode = mv.solve_ode(PROBLEM, INITIAL, t_eval=[TIME])
    limit = np.array([ode.R[0, 0, 0], ode.Q[0, 0, 0]])
    counts = np.maximum(1000, per_dimension * DIMENSIONS)
    measured = [deviations(by_chain(n, runs), limit) for n, runs in zip(DIMENSIONS, counts, strict=True)]
    coordinates = {n: deviations(by_coordinates(n, 250 * per_dimension), limit) for n in DIMENSIONS[:2].tolist()}
    worst = 0.0
    for index, (kind, expected) in enumerate((("bias", -1.0), ("spread", -0.5))):
        found, errors = (np.array([m[part][index] for m in measured]) for part in range(2))
        for entry, name in enumerate("RQ"):
            for smallest in (50, 200):
                best, half, p = fit_power(found[:, entry], errors[:, entry], smallest)
                fitted = f"exponent {best[0]:.3f} +- {half:.3f} (expected {expected}), p-value of the fit {p:.3f}"
                print(f"{kind:6s} of {name}, N >= {smallest:3d}: {fitted}")
        for place, (n, (values, bars)) in enumerate(coordinates.items()):
            z = (values[index] - found[place]) / np.hypot(bars[index], errors[place])
            print(f"  all coordinates, N = {n}: {kind} differs by {z[0]:+.1f} (R) and {z[1]:+.1f} (Q) standard errors")
            worst = max(worst, *np.abs(z))
        here = {n: (values[index], bars[index]) for n, (values, bars) in coordinates.items()}
        draw(kind, found, errors, here, folder / f"finite_size_scaling_{kind}.png")
    return worst


if __name__ == "__main__":
    where = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures")
    # Eight comparisons of a fixed seed.
    assert main(where, int(sys.argv[2]) if len(sys.argv) > 2 else 1) < 4.0
