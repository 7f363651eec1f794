"""When is a feature learnt from nothing? Growth rates over the variance of c, for several correlations of the noise.

Near R = 0 only second moments of the hidden variables enter: the growth rate is linear in <c^2>, with one threshold.

    python examples/learnability.py [FOLDER FOR FIGURES]
"""

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import mkvlasov as mv

mpl.use("Agg")

CORRELATIONS = (-1.0, -0.5, 0.0, 0.5, 1.0)
VARIANCES = np.linspace(0.25, 4.0, 6)
PAPER, _ = mv.read_problem("contrastive")


def problem(correlation, law, std=1.0):
    noise = mv.augmentations.GaussianNoise(std=std, correlation=correlation)
    return replace(PAPER, hidden=law, augmentation=noise)


def main(folder):
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    axis.axhline(0.0, color="0.6", lw=0.8)
    colors = plt.get_cmap("viridis")(np.linspace(0.0, 0.9, len(CORRELATIONS)))
    thresholds = {}
    for correlation, color in zip(CORRELATIONS, colors, strict=True):
        curves = {
            law.__name__: [mv.reduce(problem(correlation, law(v))).learnability() for v in VARIANCES]
            for law in (mv.hidden.Rademacher, mv.hidden.Laplace)
        }
        rates, others = ([item.growth_rate for item in curve] for curve in curves.values())
        np.testing.assert_allclose(rates, others, atol=1e-9)  # kurtosis 1 and 6: no difference
        thresholds[correlation] = curves["Rademacher"][0].critical_variance
        axis.plot(VARIANCES, rates, color=color, label=f"{correlation:g}: {thresholds[correlation]:.3f}")
        axis.plot(thresholds[correlation], 0.0, "o", color=color, mec="white", ms=7, zorder=3)
    axis.set_xlabel(r"variance of the hidden variable, $\langle c^2 \rangle$")
    axis.set_ylabel("growth rate of $R$ at the uninformative state")
    axis.legend(title="correlation of the noise: critical value", fontsize="small")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "learnability.png", dpi=120)
    plt.close(figure)

    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    grid = np.linspace(-1.0, 1.0, 11)
    for std, marker in ((0.25, "o"), (0.5, "s"), (1.0, "^")):
        law = mv.hidden.Rademacher(1.0)
        critical = [mv.reduce(problem(c, law, std)).learnability().critical_variance for c in grid]
        axis.plot(grid, critical, f"{marker}-", ms=4, label=f"{std:g}")
    axis.set_xlabel("correlation of the noise")
    axis.set_ylabel(r"critical variance of the hidden variable, $\langle c^2 \rangle$")
    axis.legend(title="standard deviation of the noise", fontsize="small")
    figure.savefig(folder / "critical_variance.png", dpi=120)
    plt.close(figure)

    two = mv.reduce(problem(-0.5, mv.hidden.Rademacher([3.0, 1.0])))
    print(two.fixed_points())
    for feature in range(2):
        print(two.learnability(feature))
    print(two.learnability(0).critical_values("augmentation.std", bounds=(0.5, 5.0)))
    return thresholds


if __name__ == "__main__":
    found = main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures"))
    assert all(value > 0.0 for value in found.values())
