"""Orders of the PDE methods in mesh and time step: prints the table of docs/numerics.md.

    python benchmarks/pde_convergence.py

Errors are those of densities in L1 and of averages E[f(w)], the worst over output times: against the exact density
under L2, against a finer run of the method itself under L1, whose kink lies on a node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import mkvlasov as mv

TIMES = [0.5, 2.0]
INITIAL = mv.initial.Mixture([0.4, 0.6], [mv.initial.Gaussian(1.2, 0.9), mv.initial.Gaussian(0.5, 0.2)])


@dataclass(frozen=True)
class Enrolled:
    """A method, the sizes (number of cells, ...) at which it is run, and the orders to expect.

    `kinked` is None where the method refuses kinks. `rtol` keeps the steps from mattering; `tolerances` are those that
    show the order in time.
    """

    name: str
    method: Callable[[int], object]
    sizes: tuple[int, ...]
    smooth: float
    kinked: float | None
    time: float
    rtol: float
    tolerances: tuple[float, ...]


METHODS = (
    Enrolled("FiniteVolumes", mv.methods.FiniteVolumes, (50, 100, 200), 2, 2, 2, 1e-6, (1e-5, 1e-6, 1e-7)),
    Enrolled("UniformCentral", mv.methods.UniformCentral, (50, 100, 200), 2, 2, 2, 1e-6, (1e-5, 1e-6, 1e-7)),
    *(
        Enrolled(
            f"Collocation, order {order}",
            lambda points, order=order: mv.methods.Collocation(order, points),
            (61, 121, 241),
            order,
            None,
            # Radau is of order five; values between its steps are of order four.
            4,
            1e-7,
            (1e-4, 1e-5, 1e-6),
        )
        for order in (2, 4, 6)
    ),
)


def problem(regularizer):
    return mv.Problem(
        hidden=mv.hidden.Rademacher([4.0]),
        activation="tanh",
        learning_rate=0.5,
        regularizer=regularizer,
        augmentation=mv.augmentations.GaussianNoise(0.8),
        loadings=mv.loadings.Sparse(0.25),
    )


def solve(regularizer, method, rtol):
    return mv.solve_pde(problem(regularizer), INITIAL, t_eval=TIMES, method=method, rtol=rtol, progress=False)


def averages(pde):
    """Return Q, R and averages of a few functions, mean over the loadings: shape (T, 5)."""
    functions = (np.abs, lambda w: np.exp(-w * w), np.cos)
    mass = pde.quadrature * pde.densities * pde.loading_weights[:, None]
    return np.column_stack(
        [pde.Q[:, 0, 0], pde.R[:, 0, 0], *((mass * f(pde.nodes)).sum(axis=(1, 2)) for f in functions)]
    )


def smooth_errors(entry, sizes):
    """Return the L1 errors of the densities under L2, one per size, against the exact ones."""
    ode = mv.solve_ode(problem(mv.regularizers.L2(0.3)), INITIAL, t_eval=TIMES, progress=False)
    errors = []
    for size in sizes:
        pde = solve(mv.regularizers.L2(0.3), entry.method(size), entry.rtol)
        gaps = np.zeros(len(TIMES))
        for i, t in enumerate(TIMES):
            for j, a in enumerate(pde.loading_points):
                gap = np.abs(pde.densities[i, j] - ode.density(t, a, pde.nodes[i, j]).p)
                gaps[i] += pde.loading_weights[j] * (pde.quadrature[i, j] @ gap)
        errors.append(gaps.max())
    return np.array(errors)


def kinked_errors(entry, sizes):
    """Return the errors of averages under L1, one per size, against four times the largest."""
    values = [
        averages(solve(mv.regularizers.L1(0.4), entry.method(size), entry.rtol)) for size in (*sizes, 4 * sizes[-1])
    ]
    return np.array([np.abs(value - values[-1]).max() for value in values[:-1]])


def time_errors(entry, tolerances):
    """Return errors of averages and numbers of steps, one per tolerance, against steps ten times more exact."""
    runs = [solve(mv.regularizers.L2(0.3), entry.method(100), rtol) for rtol in (*tolerances, 0.03 * tolerances[-1])]
    steps = np.array([run.stats["steps"] for run in runs[:-1]])
    return np.array([np.abs(averages(run) - averages(runs[-1])).max() for run in runs[:-1]]), steps


def order(errors, sizes):
    """Return the order seen between the first and the last size."""
    return float(np.log(errors[0] / errors[-1]) / np.log(sizes[-1] / sizes[0]))


def main():
    print("| method | in $h$, smooth | | in $h$, kinked | | in $dt$ | |")
    print("|---|---|---|---|---|---|---|")
    print("| | expected | observed | expected | observed | expected | observed |")
    for entry in METHODS:
        smooth = order(smooth_errors(entry, entry.sizes), entry.sizes)
        time = order(*time_errors(entry, entry.tolerances))
        kinked = "refused | "
        if entry.kinked is not None:
            kinked = f"{entry.kinked} | {order(kinked_errors(entry, entry.sizes), entry.sizes):.2f}"
        print(f"| {entry.name} | {entry.smooth} | {smooth:.2f} | {kinked} | {entry.time} | {time:.2f} |", flush=True)


if __name__ == "__main__":
    main()
