"""How features appear and vanish with the noise of the augmentation: fixed points, folds and pitchforks.

A feature can be kept at a variance at which it does not grow from nothing: its pitchfork is subcritical.

    python examples/bifurcations.py [FOLDER FOR FIGURES]
"""

import sys
from pathlib import Path

import matplotlib as mpl

import mkvlasov as mv

mpl.use("Agg")

PAPER, _ = mv.read_problem("contrastive")


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    system = mv.reduce(PAPER)
    diagrams = {}
    for name, bounds in (("hidden.variance[0]", (0.6, 2.0)), ("augmentation.std", (2.0, 3.0))):
        diagram = system.continuation(name, bounds=bounds, searches=1, starts=4, progress=False)
        print(diagram)
        diagram.plot().savefig(folder / f"bifurcations_{name.split('.')[0]}.png", dpi=120)
        diagrams[name] = diagram
    return diagrams


if __name__ == "__main__":
    found = main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures"))["hidden.variance[0]"]
    (fold,) = found.of_kind("fold")
    critical = mv.reduce(PAPER).learnability(0).critical_variance
    assert any(abs(point.value - critical) <= 10.0 * point.error for point in found.of_kind("pitchfork"))
    assert fold.value < critical  # kept below the value at which it is found
