"""The general PDE without any regularizer: weights grow, and the grid follows them.

Solves the McKean-Vlasov equation of the built-in problem `unregularized`, compares its moments with the closed ODEs
(which hold here as well), and draws both with the densities.

    python examples/unregularized_pde.py [FOLDER FOR FIGURES]
"""

import sys
from pathlib import Path

import numpy as np

import mkvlasov as mv


def main(folder: Path) -> mv.Comparison:
    problem, initial = mv.read_problem("unregularized")
    t = np.linspace(0.0, 20.0, 41)
    pde = mv.solve_pde(problem, initial, t_eval=t)
    ode = mv.solve_ode(problem, initial, t_eval=t)
    comparison = mv.compare(pde, ode)
    print(pde)
    print(f"Q grows from {pde.Q[0, 0, 0]:.3f} to {pde.Q[-1, 0, 0]:.3f}; cosine {pde.cosine_similarity[-1, 0]}")
    print(comparison)

    folder.mkdir(parents=True, exist_ok=True)
    mv.plot_solutions([pde, ode]).savefig(folder / "unregularized_order_parameters.png")
    pde.plot_density(times=[0.0, 2.0, 8.0, 20.0]).savefig(folder / "unregularized_densities.png")
    return comparison


if __name__ == "__main__":
    assert main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures")).passed
