"""How runs of SGD scatter around the limit, predicted and measured at N = 2,000 and N = 20,000.

The prediction: to leading order the order parameters of runs are Gaussian with covariance Sigma / N, and their mean is
shifted by b / N. The measurement: many runs by the (Q, R) chain, which has the law of SGD at every N and costs the same
at every N. Both for runs that start at exactly the same overlaps and for rows drawn independently. The overlaps stay
away from the separatrix between the two features, where the linear theory would fail.

    python examples/finite_size_fluctuations.py [FOLDER FOR FIGURES [RUNS]]

With 5000 runs instead of 60 it takes some minutes; docs/validation.md quotes those numbers.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

import mkvlasov as mv
from mkvlasov.limit.entries import Entries
from mkvlasov.reduction.fluctuations import fluctuations
from mkvlasov.solvers.sgd.chain import simulate_chain

mpl.use("Agg")

DIMENSIONS = (2_000, 20_000)
TIMES = np.linspace(0.0, 1.5, 7)
PROBLEM = mv.Problem(
    hidden=mv.hidden.Rademacher([4.0, 3.0]),
    activation="tanh",
    learning_rate=0.4,
    regularizer=mv.regularizers.L2(0.3),
    augmentation=mv.augmentations.GaussianNoise(std=[0.5, 0.7], correlation=-0.6),
)
INITIAL = mv.initial.Gaussian(Q=1.0, R=[0.5, 0.3])


def measure(dimension, runs, exact):
    """Return the entries of all runs, (T, runs, 3)."""
    record = simulate_chain(
        PROBLEM, INITIAL, dimension=dimension, steps=np.rint(TIMES * dimension).astype(int),
        seeds=np.random.SeedSequence([dimension, exact]).spawn(runs), exact_overlaps=exact, loss_batches=1,
        workers=2, progress=True,
    )  # fmt: skip
    return Entries(1, 2).pack(record.Q, record.R)


def judge(predicted, index, sample, dimension):
    """Return p-values of the predicted covariance, of the predicted mean, and of the limit itself as the mean."""
    whiten = np.linalg.inv(np.linalg.cholesky(predicted.covariance[index] / dimension))
    n, d = sample.shape
    excess = whiten @ np.cov(sample.T) @ whiten.T - np.eye(d)
    # For normal samples the entries of a covariance matrix have variance 2 / n on the diagonal and 1 / n off it.
    statistic = 0.5 * n * (np.diagonal(excess) ** 2).sum() + n * (np.triu(excess, 1) ** 2).sum()
    p_values = [stats.chi2.sf(statistic, d * (d + 1) // 2)]
    for mean in (predicted.mean(dimension)[index], predicted.limit[index]):
        shift = whiten @ (sample.mean(axis=0) - mean)
        p_values.append(stats.chi2.sf(n * shift @ shift, d))
    return p_values


def draw(predicted, samples, path):
    """Plot the predicted band of two standard deviations, scaled by sqrt(N), with what the runs show."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), sharex=True, layout="constrained")
    spread = np.sqrt(np.diagonal(predicted.covariance, axis1=1, axis2=2))
    for entry, name in enumerate(predicted.names):
        top, bottom = axes[:, entry]
        top.fill_between(TIMES, -2 * spread[:, entry], 2 * spread[:, entry], alpha=0.25, lw=0, label="predicted, 2 sd")
        bottom.plot(TIMES, spread[:, entry], "k-", lw=1, label="predicted")
        looks = (("C0", "o", -1), ("C1", "s", 1))
        for (dimension, sample), (color, marker, side) in zip(samples.items(), looks, strict=True):
            scaled = np.sqrt(dimension) * (sample[..., entry] - predicted.limit[:, None, entry])
            low, high = np.quantile(scaled, [stats.norm.cdf(-2.0), stats.norm.cdf(2.0)], axis=1)
            top.vlines(
                TIMES + 0.012 * side,
                low,
                high,
                color=color,
                lw=2,
                label=f"95% of the runs and their mean, N = {dimension}",
            )
            top.plot(TIMES + 0.012 * side, scaled.mean(axis=1), marker, ms=3, mec="white", mew=0.5, color=color)
            measured, runs = scaled.std(axis=1, ddof=1), scaled.shape[1]
            bars = 2.0 * measured / np.sqrt(2.0 * runs)
            label = f"N = {dimension}, 2 standard errors"
            bottom.errorbar(TIMES + 0.012 * side, measured, bars, fmt=marker, ms=3, color=color, label=label)
        top.set_title(name)
        bottom.set_ylim(bottom=0.0)
        bottom.set_xlabel("time t = step / N")
    axes[0, 0].set_ylabel(r"$\sqrt{N}$ (run - limit)")
    axes[1, 0].set_ylabel(r"$\sqrt{N}$ standard deviation")
    axes[1, 0].legend(fontsize="small", loc="lower right")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(folder, runs):
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{runs} runs each; sampling error of a standard deviation {100 / np.sqrt(2 * runs):.1f}%")
    print("start        N      t     sd measured / predicted - 1    p(covariance)  p(mean)  p(mean without bias)")
    smallest = 1.0
    for exact, label in ((True, "exact"), (False, "independent")):
        predicted = fluctuations(PROBLEM, INITIAL, TIMES, exact, rtol=1e-4)
        samples = {dimension: measure(dimension, runs, exact) for dimension in DIMENSIONS}
        for dimension, sample in samples.items():
            for index in (2, 4, 6):
                p = judge(predicted, index, sample[index], dimension)
                ratio = 100.0 * (sample[index].std(axis=0, ddof=1) / predicted.std(dimension)[index] - 1.0)
                gaps = "  ".join(f"{gap:+5.1f}%" for gap in ratio)
                print(
                    f"{label:11s} {dimension:6d}  {TIMES[index]:.2f}   {gaps}   {p[0]:18.3f} {p[1]:10.3f} {p[2]:12.1e}"
                )
                smallest = min(smallest, p[0], p[1])
        draw(predicted, samples, folder / f"finite_size_fluctuations_{label}.png")
    return smallest


if __name__ == "__main__":
    where = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures")
    # Twelve times two tests of a fixed seed.
    assert main(where, int(sys.argv[2]) if len(sys.argv) > 2 else 60) > 1e-4
