"""Which feature does a random start select, and how long does it take to find out? Prediction beside direct simulation.

Two features of equal variance grow alike from nothing, but differ in kurtosis: one start in two or so ends at the
feature of kurtosis 1, the others at a mixture of both. The escape takes log N / (2 growth rate).

    python examples/feature_selection.py [FOLDER FOR FIGURES]
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

import mkvlasov as mv

mpl.use("Agg")

DIMENSIONS = (50, 200)
SAMPLES, RUNS = 250, 250

problem = mv.Problem(
    hidden=mv.hidden.Sparse(variance=[4.0, 4.0], kurtosis=[1.0, 2.0]),
    activation="tanh",
    learning_rate=0.4,
    regularizer=mv.regularizers.L2(0.2),
    augmentation=mv.augmentations.GaussianNoise(std=0.5, correlation=-0.6),
)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    system = mv.reduce(problem)
    points = system.fixed_points()
    comparisons = []
    for dimension in DIMENSIONS:
        found = system.selection_probability(dimension=dimension, samples=SAMPLES, points=points, rng=1)
        runs = mv.simulate_sgd(
            problem, found.initial, t_eval=np.linspace(0.0, 25.0, 51), dimension=dimension, runs=RUNS, rng=2,
            loss_batches=1,
        )  # fmt: skip
        comparisons.append(found.compare(runs))
        print(comparisons[-1], "\n")
        comparisons[-1].plot().savefig(folder / f"selection_{dimension}.png", dpi=120)
    growth = system.escape_growth(dimensions=(200, 2000, 20_000, 200_000), samples=SAMPLES)
    print(growth)
    growth.plot(comparisons).savefig(folder / "escape_times.png", dpi=120)
    return comparisons, growth


if __name__ == "__main__":
    comparisons, growth = main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures"))
    assert comparisons[-1].passed  # N = 200; below, terms of order 1 / N show
    # Q comes to rest at a rate r, so that the slope differs by a power of N, N^(-r / 2g) with the growth rate g.
    assert abs(growth.slope / growth.predicted_slope - 1.0) < 0.1
