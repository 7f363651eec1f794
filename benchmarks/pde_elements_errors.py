"""How honest the error estimates of the spectral elements are: true over estimated error on random problems.

    python benchmarks/pde_elements_errors.py [PROBLEMS]

The truth is a run to a tolerance of 1e-7. Prints the distribution of the ratios of Q, R and densities,
and of the true error in units of the tolerance.
"""

import sys

import numpy as np

from mkvlasov.problem import augmentations, hidden, initial, loadings, regularizers
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solvers.pde.elements.method import SpectralElements
from mkvlasov.solvers.pde.solve import solve_pde

TIMES = np.array([0.5, 1.0, 2.0, 4.0, 8.0])


def draw(rng):
    """Return a random problem and initial law."""
    kappa = float(rng.uniform(0.1, 0.8))
    regularizer = [
        regularizers.L1(kappa),
        regularizers.L2(kappa),
        regularizers.ElasticNet(kappa, 0.2),
        regularizers.Huber(kappa, 0.5),
        regularizers.DoubleWell(kappa),
        regularizers.Zero(),
    ][rng.integers(6)]
    problem = Problem(
        hidden=hidden.Rademacher([float(rng.uniform(1.0, 5.0))]),
        activation=str(rng.choice(["tanh", "erf"])),
        learning_rate=float(rng.uniform(0.2, 1.0)),
        regularizer=regularizer,
        augmentation=augmentations.GaussianNoise(float(rng.uniform(0.1, 1.0)), float(rng.uniform(-0.5, 0.5))),
        loadings=[loadings.Sparse(0.25), loadings.Rademacher()][rng.integers(2)],
        batch_size=int(rng.integers(1, 5)),
    )
    Q = float(rng.uniform(0.5, 2.0))
    R = float(np.sqrt(Q) * rng.uniform(0.1, 0.9))
    start = [
        initial.Gaussian(Q, [R]),
        initial.Point(float(rng.uniform(0.2, 1.0))),
        initial.Mixture([0.3, 0.7], [initial.Gaussian(Q, [R]), initial.Gaussian(0.2, [-0.1])]),
    ][rng.integers(3)]
    return problem, start


def interpolated(solution, index, loading, w):
    """Return the density of a node loading at w, by the polynomials of the elements."""
    degree = solution.method.degree
    nodes, p = solution.nodes[index, loading], solution.densities[index, loading]
    result = np.zeros_like(w)
    for left in range(0, len(nodes) - 1, degree):
        x, y = nodes[left : left + degree + 1], p[left : left + degree + 1]
        inside = (w >= x[0]) & (w <= x[-1])
        if inside.any():
            u, centre = 2.0 / (x[-1] - x[0]), 0.5 * (x[0] + x[-1])
            fit = np.polynomial.legendre.legfit(u * (x - centre), y, degree)
            result[inside] = np.polynomial.legendre.legval(u * (w[inside] - centre), fit)
    return result


def errors(solution, truth):
    """Return the true errors (T,) of Q, R and the densities."""
    gap = np.zeros(len(solution.t))
    for i in range(len(gap)):
        for loading, weight in enumerate(truth.loading_weights):
            w, p, size = (field[i, loading] for field in (truth.nodes, truth.densities, truth.quadrature))
            gap[i] += weight * (size @ np.abs(p - interpolated(solution, i, loading, w)))
    return np.abs(solution.Q - truth.Q)[:, 0, 0], np.abs(solution.R - truth.R)[:, 0, 0], gap


def main(count):
    rng = np.random.default_rng(1)
    ratios = {"Q": [], "R": [], "density": []}
    reached = []
    for number in range(count):
        problem, start = draw(rng)
        truth = solve_pde(problem, start, t_eval=TIMES, method=SpectralElements(), rtol=1e-7, progress=False)
        for rtol in (1e-3, 1e-4, 1e-5):
            solution = solve_pde(problem, start, t_eval=TIMES, method=SpectralElements(), rtol=rtol, progress=False)
            found = errors(solution, truth)
            estimated = solution.Q_error[:, 0, 0], solution.R_error[:, 0, 0], solution.density_error
            for each, true, guess in zip(ratios.values(), found, estimated, strict=True):
                each.extend(true / guess)
            scale = truth.Q[:, 0, 0]
            worst = [(found[0] / scale).max() / rtol, (found[1] / np.sqrt(scale)).max() / rtol, found[2].max() / rtol]
            reached.append(worst)
            ratio = [(true / guess).max() for true, guess in zip(found, estimated, strict=True)]
            if "-v" in sys.argv or max(ratio) > 1.0:
                print(
                    f"{number:3d} {rtol:.0e} {solution.stats['steps']:4.0f} steps {solution.stats['elements']:4.0f}",
                    np.round(worst, 3),
                    np.round(ratio, 3),
                    problem.regularizer,
                    start,
                    problem.loadings,
                    f"{solution.stats['seconds'] * 1e3:.0f} ms",
                    f"{truth.stats['steps']:.0f} {truth.stats['seconds']:.1f}",
                )
    levels = [5, 25, 50, 75, 95, 100]
    print("percentiles          " + "".join(f"{level:>10d}" for level in levels))
    for name, each in ratios.items():
        print(f"true / estimated {name:8s}" + "".join(f"{x:10.3f}" for x in np.percentile(each, levels)))
    for name, each in zip(("Q", "R", "density"), np.array(reached).T, strict=True):
        print(f"true / rtol {name:8s}     " + "".join(f"{x:10.3f}" for x in np.percentile(each, levels)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 40)
