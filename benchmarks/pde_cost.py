"""Cost of one step of the spectral elements against the number of elements and of loadings.

python benchmarks/pde_cost.py [FIGURE.png]
"""

import sys
import time

import matplotlib.pyplot as plt
import numpy as np

from mkvlasov.solvers.pde.elements.basis import basis
from mkvlasov.solvers.pde.elements.kernels import Mesh, advance, apply, nodal_weights, node_positions
from mkvlasov.solvers.pde.elements.tableau import ESDIRK4


def step_time(elements, loadings, degree=8, repeats=30):
    """Return the shortest time of a step, in microseconds."""
    b, total = basis(degree), elements * loadings
    edges = np.linspace(-6.0, 6.0, elements + 1)
    zeros = np.zeros(total, np.int64)
    mesh = Mesh(
        np.arange(loadings + 1) * elements,
        np.tile(edges[:-1], loadings),
        np.tile(np.diff(edges), loadings),
        zeros,
        zeros,
        zeros,
        np.zeros((total, degree + 1)),
    )
    drifts = np.tile([0.1, 1.0, 0.0, 0.5], (len(ESDIRK4.c) - 1, loadings, 1))
    w, size = node_positions(b, mesh), nodal_weights(b, mesh)
    p = np.exp(-0.5 * w * w)
    best = np.inf
    for _ in range(repeats):
        started = time.perf_counter()
        start = apply(b, mesh, drifts[0], p)
        advance(b, mesh, size, ESDIRK4.a, ESDIRK4.error, 0.1, drifts, start, p)
        best = min(best, time.perf_counter() - started)
    return 1e6 * best


def main():
    elements, loadings = np.array([4, 8, 16, 32, 64, 128, 256, 512]), np.array([1, 2, 4, 8, 16, 32, 64])
    step_time(4, 1)
    per_elements = np.array([step_time(n, 1) for n in elements])
    per_loadings = np.array([step_time(16, n) for n in loadings])
    slopes = [
        np.polyfit(np.log(x[2:]), np.log(y[2:]), 1)[0] for x, y in ((elements, per_elements), (loadings, per_loadings))
    ]
    print("elements, one loading  ", dict(zip(elements.tolist(), per_elements.round(1).tolist(), strict=True)))
    print("loadings, 16 elements  ", dict(zip(loadings.tolist(), per_loadings.round(1).tolist(), strict=True)))
    print(f"exponents: {slopes[0]:.2f} (elements), {slopes[1]:.2f} (loadings)")
    if len(sys.argv) > 1:
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
        for axis, x, y, label in (
            (axes[0], elements, per_elements, "elements (one loading)"),
            (axes[1], loadings, per_loadings, "loadings (16 elements each)"),
        ):
            axis.loglog(x, y, "o-", label="measured")
            axis.loglog(x, y[-1] * x / x[-1], "--", color="grey", label="linear")
            axis.set_xlabel(label)
            axis.legend(frameon=False)
        axes[0].set_ylabel("time of one step [microseconds]")
        figure.savefig(sys.argv[1], dpi=130)


if __name__ == "__main__":
    main()
