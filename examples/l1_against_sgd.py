"""An L1 penalty makes a spike at zero: SGD in 4000 dimensions, the particle system and the PDE agree about it.

Three out of four coordinates carry no feature; their weights collapse onto zero. Densities, order parameters and the
masses near zero of the three routes are compared while the spike forms. Then the PDE and the particles go on to
t = 200, where the spike is the Laplace law of width Lambda / (2 tau kappa).

    python examples/l1_against_sgd.py [FOLDER FOR FIGURES]
"""

import sys
from pathlib import Path

import numpy as np

import mkvlasov as mv

TIMES = [0.0, 0.5, 1.0]
LATE = 200.0
NEAR = np.array([0.01, 0.03, 0.1, 0.3])


def masses(solution, t):
    """Return the masses within `NEAR` of zero of coordinates without the feature, and their standard errors."""
    if solution.route == "pde":
        density = solution.density(t=t, loading=0.0)
        return np.array([density.mass(-r, r) for r in NEAR]), np.zeros(len(NEAR))
    histograms = [solution.histogram(t, 0.0, bins=[-r, r]) for r in NEAR]
    return np.array([(h.density[0] * 2.0 * r, h.stderr[0] * 2.0 * r) for h, r in zip(histograms, NEAR, strict=True)]).T


def main(folder: Path) -> bool:
    problem = mv.Problem(
        hidden=mv.hidden.Rademacher(4.0),
        activation="tanh",
        learning_rate=0.5,
        regularizer=mv.regularizers.L1(1.0),
        augmentation=mv.augmentations.GaussianNoise(0.4),
        loadings=mv.loadings.Sparse(0.25),
    )
    initial = mv.initial.Gaussian(Q=1.0, R=0.7)
    pde = mv.solve_pde(problem, initial, t_eval=TIMES)
    particles = mv.simulate_particles(problem, initial, t_eval=TIMES, particles=20_000, runs=8, rng=1, snapshots=TIMES)
    sgd = mv.simulate_sgd(
        problem, initial, t_eval=TIMES, dimension=4000, runs=4, rng=2, exact_overlaps=True, snapshots=TIMES
    )
    late_pde = mv.solve_pde(problem, initial, t_eval=[0.0, LATE])
    # Steps of 0.25, although noise crosses the spike in a tenth of that.
    late_particles = mv.simulate_particles(
        problem, initial, t_eval=[0.0, LATE], particles=5_000, runs=6, rng=3, time_step=0.25, snapshots=[LATE]
    )
    comparison, late_comparison = mv.compare(pde, particles, sgd), mv.compare(late_pde, late_particles)
    print(comparison)
    print(late_comparison)

    agree = comparison.passed and late_comparison.passed
    for t, reference, others in ((TIMES[-1], pde, (particles, sgd)), (LATE, late_pde, (late_particles,))):
        print(f"\nmass near zero without the feature, t = {t:g}:   " + "   ".join(f"|w| < {r:g}" for r in NEAR))
        expected, _ = masses(reference, t)
        print("PDE".rjust(12), *(f"{mass:18.4f}" for mass in expected))
        for solution in others:
            mass, error = masses(solution, t)
            print(solution.route.rjust(12), *(f"{m:8.4f} +- {e:.4f}" for m, e in zip(mass, error, strict=True)))
            # Errors of errors from four runs, hence 5; one per cent for the steps, the mesh and finite N.
            agree &= bool((np.abs(mass - expected) < 5.0 * error + 1e-2).all())

    folder.mkdir(parents=True, exist_ok=True)
    mv.plot_densities([pde, particles, sgd], TIMES).savefig(folder / "l1_against_sgd.png")
    mv.plot_densities([late_pde, late_particles], [LATE]).savefig(folder / "l1_late.png")
    return agree


if __name__ == "__main__":
    assert main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/figures"))
