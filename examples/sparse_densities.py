"""Density snapshots under an L1 regularizer: weights off the feature collapse onto zero, the others carry it.

The moments do not close here, so no ODE exists: the PDE is solved, and direct SGD and the particle system are drawn
into the same panels.

    python examples/sparse_densities.py [FOLDER FOR FIGURES]
"""

import sys
from pathlib import Path

import numpy as np

import mkvlasov as mv


def main(folder: Path) -> mv.Comparison:
    problem, initial = mv.read_problem("sparse")
    t = np.linspace(0.0, 8.0, 33)
    snapshots = [0.0, 1.0, 4.0, 8.0]
    pde = mv.solve_pde(problem, initial, t_eval=t)
    particles = mv.simulate_particles(problem, initial, t_eval=t, particles=20_000, runs=8, rng=1, snapshots=snapshots)
    sgd = mv.simulate_sgd(
        problem, initial, t_eval=t, dimension=2000, runs=8, rng=2, exact_overlaps=True, snapshots=snapshots
    )
    comparison = mv.compare(pde, particles, sgd)
    print(comparison)

    off_feature = pde.density(t=8.0, loading=0.0)
    print(f"weights off the feature: {100 * off_feature.mass(-0.1, 0.1):.0f}% within 0.1 of zero at t = 8")

    folder.mkdir(parents=True, exist_ok=True)
    mv.plot_densities([pde, particles, sgd], snapshots).savefig(folder / "sparse_densities.png")
    mv.plot_solutions([pde, particles, sgd]).savefig(folder / "sparse_order_parameters.png")
    return comparison


if __name__ == "__main__":
    assert main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures")).passed
