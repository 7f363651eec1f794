"""Does negatively correlated augmentation noise help? Where it does, by which factor, and where it does not.

The paper's third finding: independent noise hurts the steady performance, negatively correlated noise helps. Checked
here against runs of SGD's (Q, R) chain, and followed to where it ends: tanh under strong decay and strong noise, where
correlations near -1 leave nothing to be learnt, and a linear activation on the sphere, where all is in closed form.

    python examples/noise_correlation.py [FOLDER FOR FIGURES]
"""

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np

import mkvlasov as mv

mpl.use("Agg")

PAPER, _ = mv.read_problem("contrastive")
DIMENSION, RUNS = 20_000, 16


def against_sgd(study, i, j):
    """Return the steady cosine of 16 runs that start there, its standard error, and the prediction."""
    noise = mv.augmentations.GaussianNoise(study.stds[i], study.correlations[j])
    problem, start = replace(study.problem, augmentation=noise), mv.initial.Gaussian(Q=study.Q[i, j], R=study.R[i, j])
    sgd = mv.simulate_sgd(
        problem, start, t_eval=[2.0], dimension=DIMENSION, runs=RUNS, rng=1, method="chain", progress=False
    )
    return sgd.cosine_similarity[-1, 0, 0], sgd.cosine_similarity_stderr[-1, 0, 0], study.cosine[i, j]


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)

    # The finding: tanh with moderate decay.
    study = mv.reduce(PAPER).noise_study(stds=[0.5, 1.0, 1.5, 2.0, 2.5], correlations=np.linspace(-1.0, 1.0, 7))
    print(study)
    independent = study.by_std.total[:4, 3, 0]
    assert (independent > study.by_std.error[:4, 3, 0]).all()  # independent noise hurts
    assert (study.labels[:4, :6] == "helps").all()  # a lower correlation helps
    assert study.balance_gap[study.labels != "no informative state"].max() < 1e-10
    for i, j in ((0, 0), (1, 3), (2, 6)):
        mean, bar, predicted = against_sgd(study, i, j)
        print(f"std {study.stds[i]}, correlation {study.correlations[j]}: {predicted:.5f}, SGD {mean:.5f} +- {bar:.5f}")
        # Fluctuations of 1 / sqrt(N) within a run bias the mean cosine by O(1 / N).
        assert abs(mean - predicted) < 4.0 * bar + 10.0 / DIMENSION
    study.plot().savefig(folder / "helps.png", dpi=120)
    study.plot_decomposition(1.5).savefig(folder / "helps_by.png", dpi=120)

    # Its limit: tanh that forgets fast and learns slowly, under strong noise.
    slow = replace(PAPER, hidden=mv.hidden.Rademacher(4.0), regularizer=mv.regularizers.L2(1.0), learning_rate=0.05)
    limit = mv.reduce(slow).noise_study(stds=[2.0, 2.5, 3.0], correlations=np.linspace(-1.0, 1.0, 9))
    print(limit)
    assert limit.labels[2, 0] == "no informative state"  # std 3, correlation -1
    assert -0.5 < limit.best_correlations[2] < 0.0
    assert limit.critical_variance[2, 0] > 3.0 * limit.critical_variance[2, 4]  # learnability suffers as well
    limit.plot().savefig(folder / "limit.png", dpi=120)

    # The same in closed form: on the sphere, a linear activation has its optimum at - (u + eta) / (2 s^2).
    v, eta = 3.0, 1.0
    linear = replace(
        PAPER, activation="identity", constraint="sphere", hidden=mv.hidden.Rademacher(v), learning_rate=0.2,
        background_variance=eta,
    )  # fmt: skip
    s = 1.5
    found = mv.reduce(linear).noise_study(stds=[s], correlations=np.linspace(-1.0, 0.0, 11))
    at_best = np.interp(found.best_correlations[0], found.correlations, found.cosine[0])
    u = eta + (v - eta) * at_best**2
    exact = -(u + eta) / (2.0 * s**2)
    print(f"linear, std {s}: best correlation {found.best_correlations[0]:.4f}, in closed form {exact:.4f}")
    assert abs(found.best_correlations[0] - exact) < 5e-3  # interpolated on a grid of 0.1
    return study, limit


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures"))
