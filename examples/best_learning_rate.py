"""Which learning rate learns fastest? The best constant one, and a schedule that beats it.

A small rate is slow; a large one has more noise than it can average. Both searches ask for the cosine with the feature
after a given time, the second over the rates at four times, linear in between.

    python examples/best_learning_rate.py [FOLDER FOR FIGURES]
"""

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import mkvlasov as mv

mpl.use("Agg")

PAPER, START = mv.read_problem("contrastive")
T = 6.0
GOAL = mv.goals.CosineAt(T)
RATES = (0.1, 4.0)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    constant = mv.search(PAPER, START, over={"learning_rate": RATES}, goal=GOAL, evaluations=120, progress=False)
    print(constant)
    times = np.linspace(0.0, T, 4)
    flat = mv.schedules.PiecewiseLinear(times, np.full(4, constant.best["learning_rate"]))
    scheduled = mv.search(
        replace(PAPER, learning_rate=flat), START, over={f"learning_rate.rates[{i}]": RATES for i in range(4)},
        goal=GOAL, evaluations=200, progress=False,
    )  # fmt: skip
    print(scheduled)
    assert constant.at_bounds == ()
    assert 1.0 - scheduled.value < 0.8 * (1.0 - constant.value)  # a fifth of the misalignment goes at least

    # The rate that gets to a cosine first is another one than the rate that ends best.
    fastest = mv.search(
        PAPER, START, over={"learning_rate": RATES}, goal=mv.goals.TimeToReach(cosine=0.9), evaluations=120,
        progress=False,
    )  # fmt: skip
    print(fastest)
    assert fastest.best["learning_rate"] > 2.0 * constant.best["learning_rate"]

    constant.plot().savefig(folder / "constant.png", dpi=120)
    scheduled.plot().savefig(folder / "scheduled.png", dpi=120)
    figure, axes = plt.subplots(2, 1, figsize=(6.4, 5.6), sharex=True, layout="constrained")
    t = np.linspace(0.0, T, 121)
    strokes = {"best constant": ("-", constant), "best schedule": ("--", scheduled), "fastest to 0.9": (":", fastest)}
    for label, (stroke, found) in strokes.items():
        axes[0].plot(t, [found.problem.rate(s) for s in t], stroke, lw=2.0, label=label)
        solution = mv.solve_ode(found.problem, START, t_eval=t, progress=False)
        axes[1].plot(t, 1.0 - solution.cosine_similarity[:, 0, 0], stroke, lw=2.0, label=label)
        if isinstance(found.goal, mv.goals.CosineAt):  # another integrator agrees
            assert abs(solution.cosine_similarity[-1, 0, 0] - found.value) < 1e-6
    axes[0].set_ylabel(r"learning rate $\tau(t)$")
    axes[1].set_ylabel("1 - cosine with feature 0")
    axes[1].set_yscale("log")
    axes[1].set_xlabel("time $t$ = step / $N$")
    axes[0].legend()
    figure.savefig(folder / "rates.png", dpi=120)
    plt.close(figure)
    return constant, scheduled


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures"))
