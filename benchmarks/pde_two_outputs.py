"""`solve_pde` for two outputs beside sparse LU and FiPy on a fixed grid, with the same coefficients, in one run.

    python benchmarks/pde_two_outputs.py [--others]

tanh, m = 2, K = 1, decorrelation 1, B = 1, phi = 0.5 (w^2 - 1)^2 / 4 per entry, c = +-2, noise 0.4 in both views,
tau = 0.5, loadings 0 (probability 3/4) and 2, a Gaussian start, t up to 4. The error is that of the joint densities in
L1, mean over the loadings and, in brackets, of the worst one, the largest of t = 1, 2, 4. The reference is
`PlaneSplitting` on 192 x 192 cells to a tolerance of 1e-4.

What is timed is a whole call, for `solve_pde` with its error estimate, after a first one that loads compiled code. With
--others sparse LU (Crank-Nicolson, central fluxes) and FiPy (implicit Euler, exponential convection) as well, on 128 x
128 cells of [-5, 5]^2 (a few minutes).
"""

import sys
import time

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.problem import augmentations, hidden, initial, loadings, losses, regularizers
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.plane_table import PlaneTable
from mkvlasov.solvers.pde.plane.method import PlaneSplitting
from mkvlasov.solvers.pde.solve import solve_pde

TAU, STRENGTH = 0.5, 0.5
PROBLEM = Problem(
    hidden=hidden.Rademacher([4.0]),
    activation="tanh",
    learning_rate=TAU,
    regularizer=regularizers.DoubleWell(STRENGTH),
    augmentation=augmentations.GaussianNoise(0.4, 0.0),
    loss=losses.Covariance(decorrelation=1.0),
    loadings=loadings.Sparse(0.25),
    outputs=2,
)
START = initial.Gaussian([[1.0, 0.1], [0.1, 0.8]], [[0.5], [0.3]])
TIMES = np.array([1.0, 2.0, 4.0])
LOADINGS, WEIGHTS = np.array([0.0, 2.0]), np.array([0.75, 0.25])
LIMIT = LimitCoefficients(PROBLEM, rtol=1e-5)
REACH = 5.0


def tables(solution):
    """Return the densities of a solution of ours, by time and loading."""
    return [[solution.law(i, j) for j in range(len(LOADINGS))] for i in range(len(TIMES))]


def error(found, truth):
    """Return the L1 errors, mean over the loadings and worst, the largest over time; summed over the cells found."""
    each = np.zeros((len(TIMES), len(LOADINGS)))
    for i, row in enumerate(found):
        for j, table in enumerate(row):
            exact = truth[i][j].pdf(table.w.reshape(-1, 2)).reshape(table.p.shape)
            areas = np.outer(*np.diff(table.edges, axis=1)) * abs(np.linalg.det(table.axes))
            each[i, j] = (areas * np.abs(table.p - exact)).sum()
    return float((each @ WEIGHTS).max()), float(each.max())


def ours(cells, rtol):
    """Solve with boxes that follow the densities."""
    return solve_pde(PROBLEM, START, t_eval=TIMES, method=PlaneSplitting(cells), rtol=rtol, progress=False)


def best_of(repeats, solve):
    """Return the shortest time and the last result."""
    best = np.inf
    for _ in range(repeats):
        started = time.perf_counter()
        found = solve()
        best = min(best, time.perf_counter() - started)
    return best, found


def fixed_grid(cells):
    """Return centres (n,), spacing, and the initial densities (2, n, n) on [-5, 5]^2."""
    h = 2.0 * REACH / cells
    x = -REACH + h * (np.arange(cells) + 0.5)
    w = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2)
    p = np.array([START.conditional(np.array([a]), PROBLEM).joint_pdf(w).reshape(cells, cells) for a in LOADINGS])
    return x, h, p / (p.sum(axis=(1, 2), keepdims=True) * h * h)


def coefficients(x, h, p):
    """Return G, H, Lambda at densities on a fixed grid."""
    mass = p * h * h
    first = np.stack([mass.sum(axis=2) @ x, mass.sum(axis=1) @ x], axis=1)
    cross = (x @ mass) @ x
    second = np.array([[mass.sum(axis=2) @ x**2, cross], [cross, mass.sum(axis=1) @ x**2]])
    Q = second @ WEIGHTS
    c = LIMIT(Q, (first.T @ (WEIGHTS * LOADINGS))[:, None], 0.0)
    return c.G, c.H[:, 0], c.Lambda


def as_tables(x, kept):
    """Return densities on the fixed grid as tables."""
    at = np.tile(x, (2, 1))
    return [[PlaneTable(np.zeros(2), np.eye(2), at, p) for p in row] for row in kept]


def sparse_lu(cells, steps_per_time):
    """Solve by Crank-Nicolson with central fluxes, one sparse factorization per step and loading."""
    x, h, p = fixed_grid(cells)
    n, face = cells, 0.5 * (x[1:] + x[:-1])
    difference = sparse.diags([-np.ones(n - 1), np.ones(n - 1)], [0, 1], shape=(n - 1, n)) / h
    average = sparse.diags([0.5 * np.ones(n - 1), 0.5 * np.ones(n - 1)], [0, 1], shape=(n - 1, n))
    divergence = -difference.T
    centred = average.T @ difference
    eye, identity = sparse.identity(n), sparse.identity(n * n, format="csc")
    laplace = divergence @ difference
    mixed = sparse.kron(centred, centred)
    first, second = sparse.kron(divergence, eye), sparse.kron(eye, divergence)
    to_first, to_second = sparse.kron(average, eye), sparse.kron(eye, average)
    dt, kept, before = 1.0 / steps_per_time, [], None
    for step in range(round(TIMES[-1]) * steps_per_time):
        now = coefficients(x, h, p)
        before = now if before is None else before
        G, H, Lambda = (1.5 * new - 0.5 * old for new, old in zip(now, before, strict=True))
        before = now
        spread = 0.5 * (Lambda[0, 0] * sparse.kron(laplace, eye) + Lambda[1, 1] * sparse.kron(eye, laplace))
        for k, a in enumerate(LOADINGS):
            u = TAU * (G[0, 0] * face[:, None] + G[0, 1] * x + H[0] * a + STRENGTH * (face**3 - face)[:, None])
            v = TAU * (G[1, 0] * x[:, None] + G[1, 1] * face + H[1] * a + STRENGTH * (face**3 - face))
            drift = first @ sparse.diags(u.ravel()) @ to_first + second @ sparse.diags(v.ravel()) @ to_second
            operator = (spread + Lambda[0, 1] * mixed + drift).tocsc()
            right = p[k].ravel() + 0.5 * dt * (operator @ p[k].ravel())
            p[k] = splu(identity - 0.5 * dt * operator).solve(right).reshape(n, n)
        if np.isclose((step + 1) * dt, TIMES).any():
            kept.append(p.copy())
    return as_tables(x, kept)


def fipy(cells, steps_per_time):
    """Solve by implicit Euler with exponential convection."""
    import fipy

    x, h, p = fixed_grid(cells)
    mesh = fipy.Grid2D(nx=cells, ny=cells, dx=h, dy=h) + np.full((2, 1), -REACH)
    # Cells are numbered with the first coordinate running fastest.
    fields = [fipy.CellVariable(mesh=mesh, value=each.T.ravel(), hasOld=True) for each in p]
    w = mesh.faceCenters.value
    dt, kept = 1.0 / steps_per_time, []
    for step in range(round(TIMES[-1]) * steps_per_time):
        G, H, Lambda = coefficients(x, h, p)
        for k, (a, field) in enumerate(zip(LOADINGS, fields, strict=True)):
            speed = -TAU * (G @ w + H[:, None] * a + STRENGTH * (w**3 - w))
            flow = fipy.FaceVariable(mesh=mesh, rank=1, value=speed)
            equation = fipy.TransientTerm() == fipy.DiffusionTerm(
                [(0.5 * Lambda).tolist()]
            ) - fipy.ExponentialConvectionTerm(flow)
            field.updateOld()
            equation.solve(var=field, dt=dt)
            p[k] = field.value.reshape(cells, cells).T
        if np.isclose((step + 1) * dt, TIMES).any():
            kept.append(p.copy())
    return as_tables(x, kept)


def main():
    ours(48, 1e-2)
    truth = tables(ours(192, 1e-4))
    for cells, rtol in ((48, 1e-2), (64, 1e-2), (64, 1e-3), (96, 1e-3), (96, 1e-4)):
        spent, solution = best_of(3, lambda cells=cells, rtol=rtol: ours(cells, rtol))
        mean, worst = error(tables(solution), truth)
        estimated = solution.stats["density_error"]
        print(
            f"PlaneSplitting({cells}), rtol {rtol:.0e}: {spent:.2f} s, {solution.stats['coefficient_evaluations']:.0f} "
            f"coefficients, error {mean:.1e} ({worst:.1e}), estimated {estimated:.1e}",
            flush=True,
        )
    if "--others" in sys.argv[1:]:
        for name, solve in (("sparse LU", sparse_lu), ("FiPy", fipy)):
            spent, found = best_of(1, lambda solve=solve: solve(128, 20))
            mean, worst = error(found, truth)
            print(f"{name}, 128 x 128 cells, 80 steps: {spent:.1f} s, error {mean:.1e} ({worst:.1e})", flush=True)


if __name__ == "__main__":
    main()
