"""Where training ends under an L1 regularizer, without training: stationary densities and their bifurcations.

The moments do not close, so that the closed ODEs cannot tell. Two views with fully anticorrelated noise: from a
critical strength of the regularizer on, the feature is lost at once, in a fold, and all weights are driven to zero.

    python examples/stationary_states.py [FOLDER FOR FIGURES]
"""

import sys
from dataclasses import replace
from pathlib import Path

import mkvlasov as mv

PAPER, _ = mv.read_problem("contrastive")
PROBLEM = replace(
    PAPER,
    hidden=mv.hidden.Rademacher(3.0),
    loadings=mv.loadings.Rademacher(),
    augmentation=mv.augmentations.GaussianNoise(std=1.0, correlation=-1.0),
    regularizer=mv.regularizers.L1(0.3),
)


def main(folder):
    states = mv.stationary_states(PROBLEM, starts=16)
    print(states)
    diagram = mv.continue_stationary_states(
        PROBLEM, "regularizer.strength", bounds=(0.1, 1.2), searches=3, starts=16, progress=False
    )
    print(diagram)
    folder.mkdir(parents=True, exist_ok=True)
    states.plot().savefig(folder / "stationary_densities.png", dpi=120)
    diagram.plot("R").savefig(folder / "stationary_bifurcations.png", dpi=120)
    return states, diagram


if __name__ == "__main__":
    states, diagram = main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures"))
    assert len(states.stable) == 1
    assert states.stable[0].name.startswith("feature 0")
    last = max(diagram.of_kind("fold"), key=lambda fold: fold.value)
    assert last.R[0, 0] > 0.1  # the branches that meet there have learnt the feature: it is lost in a jump
    assert all(branch.parameter.max() <= last.value + 1e-9 for branch in diagram.branches)
