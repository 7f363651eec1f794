"""Observed orders of convergence of the spectral elements, as the table in docs/numerics.md.

    python benchmarks/pde_orders.py

Constant coefficients, one loading: an affine drift, and one with the jump of |w| at zero, from a density whose flux is
smooth. In time: 4, 8, 16 equal steps on 12 elements of degree 8. In space: 8, 16, 32 equal elements on [-6, 6], 64
steps.
"""

import numpy as np

from mkvlasov.problem import regularizers
from mkvlasov.solvers.pde.elements.basis import basis
from mkvlasov.solvers.pde.elements.kernels import Mesh, advance, apply, nodal_weights, node_positions, values_at
from mkvlasov.solvers.pde.elements.mesh import slopes
from mkvlasov.solvers.pde.elements.tableau import ESDIRK4

DRIFTS = {"affine": np.array([0.3, 1.0, 0.0, 0.5]), "kinked": np.array([0.1, 0.4, 0.8, 0.5])}


def uniform(elements, degree):
    """Return equal elements on [-6, 6]."""
    edges = np.linspace(-6.0, 6.0, elements + 1)
    zeros = np.zeros(elements, np.int64)
    slope = np.zeros((elements, degree + 1))
    mesh = Mesh(np.array([0, elements]), edges[:-1], np.diff(edges), zeros, zeros, zeros, slope)
    return mesh._replace(slope=slopes(regularizers.L1(1.0), basis(degree), mesh))


def evolve(elements, degree, drift, end, steps):
    """Return the mesh and the density at the end."""
    b, mesh, dt = basis(degree), uniform(elements, degree), end / steps
    w, size = node_positions(b, mesh), nodal_weights(b, mesh)
    p = np.exp(-(drift[0] * w + 0.5 * drift[1] * w * w + drift[2] * np.abs(w)) / drift[3]) * (1.0 + 0.5 * np.tanh(w))
    p /= size @ p
    drifts = np.tile(drift, (len(ESDIRK4.c) - 1, 1, 1))
    for _ in range(steps):
        start = apply(b, mesh, drifts[0], p)
        p, _ = advance(b, mesh, size, ESDIRK4.a, ESDIRK4.error, dt, drifts, start, p)
    return mesh, p


def main():
    print(f"{'':10s}{'refined':24s}" + "".join(f"{'error':>10s}" for _ in range(3)) + f"{'order':>8s}{'expected':>10s}")
    for name, drift in DRIFTS.items():
        mesh, exact = evolve(12, 8, drift, 1.0, 128)
        size = nodal_weights(basis(8), mesh)
        errors = [size @ np.abs(evolve(12, 8, drift, 1.0, n)[1] - exact) for n in (4, 8, 16)]
        rows = [("time step", errors, 4)]
        fine, exact = evolve(64, 8, drift, 0.5, 64)
        for degree in (4, 6, 8):
            errors = []
            for elements in (8, 16, 32):
                mesh, p = evolve(elements, degree, drift, 0.5, 64)
                at = node_positions(basis(degree), mesh)
                errors.append(nodal_weights(basis(degree), mesh) @ np.abs(p - values_at(basis(8), fine, exact, 0, at)))
            rows.append((f"elements of degree {degree}", errors, degree + 1))
        for what, errors, expected in rows:
            order = np.log2(errors[1] / errors[2])
            print(f"{name:10s}{what:24s}" + "".join(f"{e:10.1e}" for e in errors) + f"{order:8.1f}{expected:10d}")


if __name__ == "__main__":
    main()
