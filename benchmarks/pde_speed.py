"""`solve_pde` beside other ways to solve the same problem: time to reach an error, same coefficients, in one run.

    python benchmarks/pde_speed.py [--others]

tanh, K = 1, c = +-2, noise 0.4, tau = 0.5, L1 of strength 0.5, loadings 0 and 2, a Gaussian start, t up to 8. The
error is the worst of |Q|, |R| over t = 1 ... 8 and of the L1 errors of p(w | a) at t = 2 and 8, against spectral
elements to a tolerance of 1e-8. What is timed is a whole call: for `solve_pde` with its error estimate.

LSODA: see `pde_lsoda.py`. Of all its settings tried the fastest that meets the error counts, found with the compiled
right-hand side and analytic Jacobian; they are then timed for lesser implementations too. With --others, py-pde and
FiPy as well (two minutes or so).
"""

import itertools
import sys
import time

import numpy as np
from pde_elements_errors import interpolated
from pde_lsoda import KAPPA, TAU, Setting
from pde_lsoda import solve as lsoda

from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.problem import augmentations, hidden, initial, loadings, regularizers
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solvers.pde.elements.method import SpectralElements
from mkvlasov.solvers.pde.solve import solve_pde
from mkvlasov.solvers.pde.volumes.finite_volumes import FiniteVolumes

PROBLEM = Problem(
    hidden=hidden.Rademacher([4.0]),
    activation="tanh",
    learning_rate=TAU,
    regularizer=regularizers.L1(KAPPA),
    augmentation=augmentations.GaussianNoise(0.4),
    loadings=loadings.Sparse(0.25),
)
START = initial.Gaussian(1.0, [0.5])
TIMES = np.arange(1.0, 9.0)
DATA = LimitCoefficients(PROBLEM, rtol=1e-6).line_kernel().data


class Truth:
    """Reference solution."""

    def __init__(self):
        self.solution = solve_pde(PROBLEM, START, t_eval=TIMES, method=SpectralElements(10), rtol=1e-8, progress=False)
        self.Q, self.R = self.solution.Q[:, 0, 0], self.solution.R[:, 0, 0]

    def error(self, Q, R, densities):
        """Return the worst error; densities maps (time index, loading) to (w, p, weights)."""
        worst = max(np.abs(Q - self.Q).max(), np.abs(R - self.R).max())
        for (index, loading), (w, p, size) in densities.items():
            worst = max(worst, size @ np.abs(p - interpolated(self.solution, index, loading, w)))
        return worst

    def error_on(self, Q, R, w, p, weights):
        """Return the worst error of densities p (T, 2, n) on fixed nodes w (2, n)."""
        return self.error(Q, R, {(i, a): (w[a], p[i, a], weights[a]) for i in (1, 7) for a in (0, 1)})

    def error_of(self, solution):
        """Return the worst error of a solution of ours."""
        fields = {
            (i, a): (solution.nodes[i, a], solution.densities[i, a], solution.quadrature[i, a])
            for i in (1, 7)
            for a in (0, 1)
        }
        return self.error(solution.Q[:, 0, 0], solution.R[:, 0, 0], fields)


def best_time(solve, repeats):
    """Return the shortest of several times, in seconds, and the last result."""
    best = np.inf
    for _ in range(repeats):
        started = time.perf_counter()
        result = solve()
        best = min(best, time.perf_counter() - started)
    return best, result


SCANS = {
    1e-3: ((250, 300, 350), (0.01, 0.02), (0.5, 0.65), (4e-4, 2e-4), (1.0, 10.0), (True, False)),
    1e-4: ((900, 1100, 1300), (0.01,), (0.5, 0.65), (5e-5, 2e-5), (1.0, 10.0), (True,)),
}
"""Cells, finest scale, share at the kink, rtol, absolute tolerance, central flux: what LSODA is tried with."""


def density(loading, w):
    """Return the initial density of a loading."""
    return START.conditional(np.array([loading]), PROBLEM).pdf(w)


def fastest_lsoda(truth, target):
    """Return the settings that meet the target, fastest first."""
    met = []
    for values in itertools.product(*SCANS[target]):
        setting = Setting(*values)
        spent, found = best_time(lambda setting=setting: lsoda(setting, "compiled", TIMES, density, DATA), 2)
        if truth.error_on(*found) <= target:
            met.append((spent, setting))
    return [setting for _, setting in sorted(met, key=lambda pair: pair[0])]


def elements_to(truth, target):
    """Return the loosest tolerance, among a few, with which the elements meet the target."""
    for rtol in (5e-3, 3e-3, 2e-3, 1e-3, 5e-4, 3e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5):
        if truth.error_of(elements(rtol)) <= target:
            return rtol
    raise RuntimeError("no tolerance meets the target")


def elements(rtol):
    """Return the solution by spectral elements."""
    return solve_pde(PROBLEM, START, t_eval=TIMES, method=SpectralElements(), rtol=rtol, progress=False)


def compare(truth, target):
    """Print times to the target; return that of the elements."""
    rtol = elements_to(truth, target)
    settings = fastest_lsoda(truth, target)[:3]
    kinds = ("compiled", "numpy", "differenced")
    times = {kind: [np.inf] * len(settings) for kind in kinds}
    spent = np.inf
    for repeat in range(10):  # interleaved, so that a busy machine is busy for all
        for i, setting in enumerate(settings):
            for kind in kinds if repeat == i == 0 else kinds[:2]:
                taken, _ = best_time(lambda s=setting, k=kind: lsoda(s, k, TIMES, density, DATA), 1)
                times[kind][i] = min(times[kind][i], taken)
        taken, solution = best_time(lambda: elements(rtol), 3)
        spent = min(spent, taken)
    estimated = max(solution.stats["error_estimate"], solution.stats["density_error"])
    print(f"error {target:.0e}")
    print(
        f"  SpectralElements, rtol {rtol:.0e}: {1e3 * spent:.1f} ms, error {truth.error_of(solution):.1e}, estimated"
        f" {estimated:.1e}"
    )
    for kind, each in times.items():
        best = int(np.argmin(each))
        error = truth.error_on(*lsoda(settings[best], kind, TIMES, density, DATA))
        print(f"  LSODA, {kind}: {1e3 * each[best]:.1f} ms, {each[best] / spent:.1f} times, error {error:.1e}")
        print(f"    {settings[best]}", flush=True)
    return spent


def others(truth, spent):
    """Print times and errors of py-pde and FiPy."""
    from pde_others import fipy, py_pde

    runs = [
        *((f"py-pde, {n} cells", lambda n=n: py_pde(n, TIMES, density, DATA)) for n in (550, 1100)),
        *((f"FiPy, {n} cells, steps of 1/{k}", lambda n=n, k=k: fipy(n, k, TIMES, density, DATA)) for n, k in FIPY),
    ]
    for name, solve in runs:
        taken, found = best_time(solve, 1)
        print(f"{name}: {taken:.1f} s, {taken / spent:.0f} times the 1e-3 run, error {truth.error_on(*found):.1e}")


FIPY = ((300, 20), (400, 100))
"""Cells and steps per unit of time of FiPy."""


def main():
    truth = Truth()
    check = solve_pde(PROBLEM, START, t_eval=TIMES, method=FiniteVolumes(1600), rtol=1e-6, progress=False)
    print(f"finite volumes, 1600 cells, against the reference: {truth.error_of(check):.1e}", flush=True)
    spent = [compare(truth, target) for target in SCANS]
    if "--others" in sys.argv[1:]:
        others(truth, spent[0])


if __name__ == "__main__":
    main()
