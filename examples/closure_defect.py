"""How far L1 is from weight decay: the moments that do not close, and where the nearest closed equations would lead.

python examples/closure_defect.py [FOLDER FOR FIGURES]
"""

import sys
from pathlib import Path

import numpy as np

import mkvlasov as mv


def main(folder: Path) -> mv.ClosureDefect:
    problem, initial = mv.read_problem("sparse")
    pde = mv.solve_pde(problem, initial, t_eval=np.linspace(0.0, 8.0, 41))
    defect = mv.closure_defect(pde)
    print(defect)

    # No strength of L2 makes a spike: the exact density of the nearest L2 problem stays normal.
    for t in (0.0, 2.0, 8.0):
        shares = [solution.density(t, 0.0).mass(-0.05, 0.05) for solution in (pde, defect.ode)]
        print(f"weights off the feature within 0.05 of zero at t = {t:g}: {shares[0]:.3f} (L1), {shares[1]:.3f} (L2)")

    folder.mkdir(parents=True, exist_ok=True)
    defect.plot().savefig(folder / "closure_defect.png")
    pde.plot_density_map().savefig(folder / "sparse_density_map.png")
    return defect


if __name__ == "__main__":
    found = main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures"))
    assert found.gap > 10 * found.gap_given_both
