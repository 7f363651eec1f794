"""The reduction to ODEs under L2 regularization, validated against the PDE and against direct SGD.

Two features of different strength, two views with negatively correlated noise (the paper's setting). The closed ODEs
give the order parameters and the exact density; the PDE has to reproduce both, and SGD has to scatter around them.

    python examples/ode_reduction.py [FOLDER FOR FIGURES]
"""

import sys
from pathlib import Path

import numpy as np

import mkvlasov as mv


def main(folder: Path) -> mv.Comparison:
    problem, initial = mv.read_problem("contrastive")
    t = np.linspace(0.0, 6.0, 31)
    snapshots = [0.0, 1.0, 3.0, 6.0]
    ode = mv.solve_ode(problem, initial, t_eval=t)
    pde = mv.solve_pde(problem, initial, t_eval=t)
    sgd = mv.simulate_sgd(
        problem, initial, t_eval=t, dimension=1000, runs=16, rng=0, exact_overlaps=True, snapshots=snapshots
    )
    comparison = mv.compare(ode, pde, sgd)
    print(comparison)

    along_first = pde.density(t=6.0, loading=[1.0, 0.0])
    exact = ode.density(t=6.0, loading=[1.0, 0.0], w=along_first.w)
    distance = along_first.weights @ np.abs(along_first.p - exact.p)
    print(f"L1 distance between the density of the PDE and the exact one at t = 6: {distance:.1e}")

    folder.mkdir(parents=True, exist_ok=True)
    mv.plot_solutions([pde, ode, sgd]).savefig(folder / "ode_reduction_order_parameters.png")
    mv.plot_densities([pde, ode, sgd], snapshots).savefig(folder / "ode_reduction_densities.png")
    return comparison


if __name__ == "__main__":
    assert main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures")).passed
