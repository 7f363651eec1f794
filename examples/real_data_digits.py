"""Handwritten digits: the predicted training curve, and contrastive SGD on the real samples.

The theory takes the leading principal directions of the data for features and the rest for white Gaussian noise, and N
for infinite. What each of the three costs is told apart by changing one at a time:

    theory    -> synthetic   N is 61, everything else as in the model
    synthetic -> whitened    real samples with their background made white: still not Gaussian, nor independent of c
    whitened  -> real        the background as it is

First with 2 features, which leaves strong directions in the background; then with 20. Needs scikit-learn:
pip install "mkvlasov[data]".

    python examples/real_data_digits.py [FOLDER FOR FIGURES]
"""

import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import mkvlasov as mv

try:
    from sklearn.datasets import load_digits
except ImportError:
    sys.exit('this example needs scikit-learn: pip install "mkvlasov[data]"')

TIMES = np.linspace(0.0, 20.0, 11)
FEATURES = (2, 20)
RUNS = 64
NAMES = ("theory", "synthetic", "whitened", "real")
LOOKS = (
    {"color": "black"},
    {"color": "#0072B2", "marker": "o", "ms": 4, "linestyle": ":"},
    {"color": "#E69F00", "marker": "^", "ms": 4, "linestyle": "--"},
    {"color": "#009E73", "marker": "s", "ms": 4, "linestyle": "-."},
)


def whitened(data):
    """Return the samples with the background stretched to the same variance in all its directions."""
    along = data.samples @ data.features @ data.features.T
    left, sizes, right = np.linalg.svd(data.samples - along, full_matrices=False)
    present = sizes > 1e-9 * sizes[0]
    return along + np.sqrt(len(left)) * left[:, present] @ right[present]


def train(data, rng):
    """Return the solutions in the order of NAMES, from the same overlaps with the features."""
    choices = {
        "activation": "tanh",
        "learning_rate": 0.1,
        "regularizer": mv.regularizers.L2(0.3),
        "augmentation": mv.augmentations.GaussianNoise(0.5),
    }
    problem = data.problem(**choices)
    initial = mv.initial.Gaussian(R=[0.3] + [0.0] * (data.n_features - 1))
    options = {"t_eval": TIMES, "runs": RUNS, "exact_overlaps": True, "loss_batches": 64}
    theory = mv.solve_ode(problem, initial, t_eval=TIMES, rtol=1e-4)
    synthetic = mv.simulate_sgd(problem, initial, dimension=data.dimension, rng=rng, **options)
    white = mv.from_data(whitened(data), n_features=data.n_features)
    white_sgd = mv.simulate_sgd(white.problem(**choices), initial, data=white, rng=rng + 1, **options)
    real = mv.simulate_sgd(problem, initial, data=data, rng=rng + 2, **options)
    return theory, synthetic, white_sgd, real


def table(solutions):
    """Print the ends of the curves; for each simulation the change from the line above, in standard errors too."""
    print(f"{f'at t = {TIMES[-1]:g}':>10}{'cosine with feature 0':>24}{'training loss':>42}")
    ends = [
        ((s.cosine_similarity[-1, 0, 0], s.cosine_similarity_stderr[-1, 0, 0]), (s.loss[-1], s.loss_stderr[-1]))
        for s in solutions
    ]
    print(f"{NAMES[0]:>10}{ends[0][0][0]:8.3f}{ends[0][1][0]:42.3f}")
    for name, before, end in zip(NAMES[1:], ends, ends[1:], strict=False):
        line = f"{name:>10}"
        for (old, old_error), (new, error) in zip(before, end, strict=True):
            change = new - old
            line += (
                f"{new:8.3f} +- {error:.3f}  ({change:+.3f}, {abs(change) / np.hypot(error, old_error):4.1f} se)".ljust(
                    42
                )
            )
        print(line.rstrip())


def background_cost(solutions):
    """Return how much cosine is lost at the end by a background that is not white, and the standard error."""
    *_, white, real = solutions
    errors = [solution.cosine_similarity_stderr[-1, 0, 0] for solution in (white, real)]
    return (white.cosine_similarity - real.cosine_similarity)[-1, 0, 0], np.hypot(*errors)


def draw_curves(results):
    """Draw cosine and loss over time, a column for each number of features."""
    figure, axes = plt.subplots(2, len(results), figsize=(9.0, 6.0), sharex=True, sharey="row", layout="constrained")
    for column, (k, (data, solutions)) in zip(axes.T, results.items(), strict=True):
        column[0].set_title(f"{k} features, background spread {data.spread:.2f}")
        for name, look, solution in zip(NAMES, LOOKS, solutions, strict=True):
            curves = (solution.cosine_similarity[:, 0, 0], solution.loss)
            errors = (solution.cosine_similarity_stderr[:, 0, 0], solution.loss_stderr)
            for axis, curve, error in zip(column, curves, errors, strict=True):
                bars = None if name == "theory" else 2.0 * error
                axis.errorbar(TIMES, curve, yerr=bars, label=name, **look)
        column[1].set_xlabel("time t = step / N")
    axes[0, 0].set_ylabel("cosine with feature 0")
    axes[1, 0].set_ylabel("training loss")
    axes[0, 0].legend(title="bars: 2 standard errors", title_fontsize="small", fontsize="small")
    return figure


def draw_data(results):
    """Draw the spectra of the backgrounds beside white noise, and the law of the first hidden variable."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    for (k, (data, _)), marker in zip(results.items(), (".", "^"), strict=True):
        left.semilogy(np.arange(k, data.dimension) + 1, data.spectrum, marker, ms=5, label=f"{k} features")
    high, low = (1.0 + data.white_spread) ** 2, (1.0 - data.white_spread) ** 2
    left.axhspan(low, high, color="grey", alpha=0.3, label="white noise, as many samples")
    left.set(xlabel="principal direction", ylabel="variance of the background", ylim=(1e-5, 20.0))
    left.legend()
    c = next(iter(results.values()))[0].hidden.samples[:, 0]
    w = np.linspace(-12.0, 12.0, 200)
    right.hist(c, bins=40, density=True, color="tab:orange", alpha=0.6, label="projections of the samples")
    variance = c.var()
    right.plot(w, np.exp(-0.5 * w * w / variance) / np.sqrt(2.0 * np.pi * variance), "k", label="Gaussian")
    right.set(xlabel="hidden variable of feature 0 (units of the background)", ylabel="density", ylim=(0.0, 0.19))
    right.legend()
    return figure


def main(folder: Path) -> bool:
    digits = load_digits().data
    results = {}
    for k in FEATURES:
        with warnings.catch_warnings():
            # Far from white, with either number of features: the printed text says so too.
            warnings.simplefilter("ignore", UserWarning)
            data = mv.from_data(digits, n_features=k)
            print(f"{data}\n")
            results[k] = data, train(data, rng=k)
        table(results[k][1])
        print(f"every sample was drawn {results[k][1][-1].stats['visits']:.2f} times in a run\n")

    folder.mkdir(parents=True, exist_ok=True)
    draw_curves(results).savefig(folder / "digits_training.png")
    draw_data(results).savefig(folder / "digits_data.png")

    # What the shape of the background costs is plain with few features, and mostly gone with many.
    (few, few_error), (many, _) = (background_cost(solutions) for _, solutions in results.values())
    return few > 3.0 * few_error and many < 0.5 * few


if __name__ == "__main__":
    assert main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures"))
