"""Two outputs and two features: decorrelation makes each output take a feature of its own.

Both outputs start nearest to the stronger feature. Without decorrelation both learn it; with it the second one turns to
the weaker feature. (In batches: the penalty sees the correlation of outputs only where a batch averages their product.)
The joint densities of the two weights of a coordinate come from the PDE, in boxes that follow them; particles and
direct SGD agree with it.

    python examples/two_outputs_density.py [FOLDER FOR FIGURES]
"""

import sys
from pathlib import Path

import numpy as np

import mkvlasov as mv

INITIAL = mv.initial.Gaussian([[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.1], [0.35, 0.3]])


def two_outputs(decorrelation: float) -> mv.Problem:
    return mv.Problem(
        hidden=mv.hidden.Rademacher([4.0, 3.5]),
        activation="tanh",
        learning_rate=0.4,
        regularizer=mv.regularizers.L2(0.3),
        augmentation=mv.augmentations.GaussianNoise(0.3),
        loss=mv.losses.Covariance(decorrelation=decorrelation),
        loadings=mv.loadings.Rademacher(),
        outputs=2,
        batch_size=20,
    )


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    t = np.linspace(0.0, 8.0, 5)
    for decorrelation in (0.0, 1.0, 2.0):
        problem = two_outputs(decorrelation)
        pde = mv.solve_pde(problem, INITIAL, t_eval=t, method=mv.methods.PlaneSplitting(32), rtol=1e-3)
        print(f"decorrelation {decorrelation:g}: cosines {pde.cosine_similarity[-1].round(2).tolist()}")
        taken = np.abs(pde.cosine_similarity[-1]).argmax(axis=1).tolist()
        assert taken == ([0, 0] if decorrelation == 0.0 else [0, 1])
        if decorrelation == 0.0:
            continue
        particles = mv.simulate_particles(problem, INITIAL, t_eval=t, particles=2000, runs=4, rng=1)
        sgd = mv.simulate_sgd(problem, INITIAL, t_eval=t, dimension=400, runs=6, rng=2, exact_overlaps=True)
        comparison = mv.compare(pde, particles, sgd)
        print(comparison)
        assert comparison.passed
        pde.plot_joint_density([0.0, 2.0, 8.0]).savefig(folder / f"two_outputs_densities_{decorrelation:g}.png")
        mv.plot_solutions([pde, particles, sgd]).savefig(folder / f"two_outputs_overlaps_{decorrelation:g}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures"))
