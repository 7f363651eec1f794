"""`solve_pde` beside scipy's LSODA: time to reach an error, all with the same coefficients, in one run.

    python benchmarks/pde.py

tanh, K = 1, c = +-2, noise 0.4, tau = 0.5, L1 of strength 0.5, loadings 0 and 2, a Gaussian start, t up to 8. The
error is the worst of |Q|, |R| over t = 1 ... 8 and of the L1 errors of p(w | a) at t = 2 and 8, against spectral
elements to a tolerance of 1e-8. What is timed is a whole call: for `solve_pde` with its error estimate.

LSODA gets a hand-graded grid of finite volumes and a banded Jacobian, with a right-hand side in NumPy and one compiled
by Numba. Of all its settings tried the fastest that meets the error counts.
"""

import time

import numpy as np
from numba import njit
from pde_elements_errors import interpolated
from scipy.integrate import odeint

from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.limit.line_kernels import rates
from mkvlasov.problem import augmentations, hidden, initial, loadings, regularizers
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solvers.pde.elements import SpectralElements
from mkvlasov.solvers.pde.finite_volumes import FiniteVolumes
from mkvlasov.solvers.pde.solve import solve_pde

TAU, KAPPA = 0.5, 0.5
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
LOADINGS, WEIGHTS = np.array([0.0, 2.0]), np.array([0.75, 0.25])
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


def graded(n, finest):
    """Return n nodes on [-4.5, 6.5], dense at the kink and where the density of loading 2 goes."""
    w = np.linspace(-4.5, 6.5, 20001)
    density = 1.0 / np.sqrt(w * w + finest**2) / np.log(10.0 / finest) + 0.6 / (1.0 + ((w - 1.6) / 0.8) ** 2) + 0.06
    level = np.append(0.0, np.cumsum(0.5 * (density[1:] + density[:-1])))
    nodes = np.interp(np.linspace(0.0, level[-1], n), level, w)
    nodes[np.abs(nodes).argmin()] = 0.0
    return nodes


def volumes(w):
    """Return the control volumes of nodes."""
    h = np.diff(w)
    return 0.5 * (np.append(h, 0.0) + np.append(0.0, h))


def lsoda(n, finest, rtol, scheme, *, compiled):
    """Solve with LSODA; return Q, R and the densities."""
    w = graded(n, finest)
    h, v = np.diff(w), volumes(w)
    phi = np.diff(KAPPA * np.abs(w))
    middle = 0.5 * (w[1:] + w[:-1])

    def numpy_rates(y, t):
        m = y.reshape(2, n)
        Q = float(WEIGHTS @ (m @ (w * w)))
        R = float((WEIGHTS * LOADINGS) @ (m @ w))
        G, _, H, Lambda, _, _ = rates(Q, np.array([R]), DATA)
        D = 0.5 * TAU * TAU * Lambda
        u = TAU * ((G * middle + H[0] * LOADINGS[:, None]) * h + phi)
        if scheme == "central":
            f, g = D - 0.5 * u, D + 0.5 * u
        else:
            z = np.where(np.abs(u) < 1e-9, 1e-9, u) / D
            f = D * z / np.expm1(z)
            g = f + u
        p = m / v
        flux = (f * p[:, :-1] - g * p[:, 1:]) / h
        out = np.zeros_like(m)
        out[:, :-1] -= flux
        out[:, 1:] += flux
        return out.ravel()

    def compiled_rates(y, t):
        return compiled_right_side(y, w, h, v, phi, middle, scheme == "central", DATA)

    p0 = np.array([START.conditional(np.array([a]), PROBLEM).pdf(w) for a in LOADINGS])
    y0 = p0 * v
    y0 /= y0.sum(axis=1, keepdims=True)
    result = odeint(
        compiled_rates if compiled else numpy_rates,
        y0.ravel(),
        np.append(0.0, TIMES),
        ml=1,
        mu=1,
        rtol=rtol,
        atol=rtol / n,
        mxstep=100_000,
    )[1:].reshape(-1, 2, n)
    Q = (result @ (w * w)) @ WEIGHTS
    R = (result @ w) @ (WEIGHTS * LOADINGS)
    return Q, R, {(i, a): (w, result[i, a] / v, v) for i in (1, 7) for a in (0, 1)}


@njit(cache=True)
def compiled_right_side(y, w, h, v, phi, middle, central, data):
    """Return what `numpy_rates` returns."""
    n = len(w)
    Q, R = 0.0, 0.0
    for i in range(n):
        Q += (0.75 * y[i] + 0.25 * y[n + i]) * w[i] * w[i]
        R += 0.5 * y[n + i] * w[i]
    G, _, H, Lambda, _, _ = rates(Q, np.array([R]), data)
    D = 0.5 * TAU * TAU * Lambda
    out = np.zeros(2 * n)
    for a in range(2):
        for i in range(n - 1):
            u = TAU * ((G * middle[i] + H[0] * 2.0 * a) * h[i] + phi[i])
            if central:
                f, g = D - 0.5 * u, D + 0.5 * u
            else:
                z = u / D
                f = D * z / np.expm1(z) if abs(z) > 1e-9 else D
                g = f + u
            flux = (f * y[a * n + i] / v[i] - g * y[a * n + i + 1] / v[i + 1]) / h[i]
            out[a * n + i] -= flux
            out[a * n + i + 1] += flux
    return out


def fastest_lsoda(truth, target):
    """Return the settings that meet the target, fastest first (with the compiled right-hand side)."""
    met = []
    for scheme in ("central", "exponential"):
        for n in (150, 250, 400, 700, 1200):
            found_some = False
            for rtol in (1e-3, 1e-4, 1e-5):
                setting = (n, 0.05, rtol, scheme)
                spent, found = best_time(lambda setting=setting: lsoda(*setting, compiled=True), 1)
                if truth.error(*found) <= target:
                    met.append((spent, setting))
                    found_some = True
            if found_some:  # more cells take longer
                break
    return [setting for _, setting in sorted(met)]


def elements_to(truth, target):
    """Return the loosest tolerance, among a few, with which the elements meet the target."""
    for rtol in (1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5):
        solution = solve_pde(PROBLEM, START, t_eval=TIMES, method=SpectralElements(), rtol=rtol, progress=False)
        if truth.error_of(solution) <= target:
            return rtol
    raise RuntimeError("no tolerance meets the target")


def main():
    truth = Truth()
    check = solve_pde(PROBLEM, START, t_eval=TIMES, method=FiniteVolumes(1600), rtol=1e-6, progress=False)
    print(f"finite volumes, 1600 cells, against the reference: {truth.error_of(check):.1e}")
    for target in (1e-3, 1e-4):
        rtol = elements_to(truth, target)

        def ours(rtol=rtol):
            return solve_pde(PROBLEM, START, t_eval=TIMES, method=SpectralElements(), rtol=rtol, progress=False)

        print(f"error {target:.0e}")
        settings = fastest_lsoda(truth, target)[:4]
        times = {True: [np.inf] * len(settings), False: [np.inf] * len(settings)}
        spent = np.inf
        for _ in range(5):  # interleaved, so that a busy machine is busy for all
            for i, setting in enumerate(settings):
                for compiled, each in times.items():
                    each[i] = min(each[i], best_time(lambda s=setting, c=compiled: lsoda(*s, compiled=c), 1)[0])
                taken, solution = best_time(ours, 5)
                spent = min(spent, taken)
        print(
            f"  SpectralElements, rtol {rtol:.0e}: {1e3 * spent:.1f} ms, error {truth.error_of(solution):.1e},"
            f" estimated {max(solution.stats['error_estimate'], solution.stats['density_error']):.1e}"
        )
        for compiled, each in times.items():
            best = int(np.argmin(each))
            n, finest, tolerance, scheme = settings[best]
            kind = "compiled" if compiled else "NumPy"
            print(
                f"  LSODA, {kind} right-hand side: {1e3 * each[best]:.1f} ms, {each[best] / spent:.1f} times as long"
                f" ({scheme}, {n} cells, finest {finest}, rtol {tolerance:.0e})",
                flush=True,
            )


if __name__ == "__main__":
    main()
