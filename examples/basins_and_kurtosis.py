"""Two features of equal variance and different kurtosis grow alike from nothing, and are not selected alike.

At R = 0 only second moments of the hidden variables count: equal growth rates. Further away the higher moments move the
boundary between the basins, and with it the probability that a random start ends with one feature or the other.

    python examples/basins_and_kurtosis.py [FOLDER FOR FIGURES]
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import mkvlasov as mv

VARIANCE = 3.0
KURTOSIS = (1.0, 1.3, 2.0, 3.0, 5.0)
STARTS = 200
PAPER, _ = mv.read_problem("contrastive")


def problem(kurtosis):
    return replace(PAPER, hidden=mv.hidden.Sparse(variance=[VARIANCE, VARIANCE], kurtosis=[1.0, kurtosis]))


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    growth = np.array([
        [mv.reduce(problem(kurtosis)).learnability(k).growth_rate for k in range(2)] for kurtosis in KURTOSIS
    ])  # fmt: skip
    # Fractions are probabilities under the uniform law on the admissible R at Q = 1, or under that of weights drawn
    # independently of the features at N = 1000.
    uniform = mv.basin_fractions(problem(1.0), "hidden.kurtosis[1]", KURTOSIS, starts=STARTS)
    small = mv.basin_fractions(problem(1.0), "hidden.kurtosis[1]", KURTOSIS, starts=STARTS, dimension=1000)
    for fractions, name in ((uniform, "uniform"), (small, "independent")):
        print(fractions)
        fractions.plot().savefig(folder / f"basin_fractions_{name}.png")
    system = mv.reduce(problem(1.3))
    states = np.linspace(-1.0, 1.0, 30)
    grid = mv.StartGrid(("R[0,0]", "R[0,1]"), (states, states), Q=1.0, R=[0.0, 0.0])
    found = system.basins(grid, t_max=300.0)
    print(found)
    found.plot().savefig(folder / "basins.png")
    return growth, uniform, small


if __name__ == "__main__":
    growth, uniform, small = main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures"))
    np.testing.assert_allclose(growth, growth[0, 0], atol=1e-9)  # the same for both features, whatever the kurtosis
    for fractions in (uniform, small):
        first = fractions.ends.index("feature 0")
        p, error = fractions.fraction[:, first], fractions.stderr[:, first]
        assert abs(p[0] - 0.5) < 5.0 * error[0]  # features that are alike are selected alike
        assert p[-1] - 0.5 > 10.0 * error[0]  # with kurtosis 5 against 1 the Rademacher feature wins
