"""The problem of `pde_speed.py` by py-pde and FiPy, with the same compiled coefficients."""

from __future__ import annotations

import numpy as np
from pde_lsoda import KAPPA, LOADINGS, TAU, WEIGHTS, Setting, graded

from mkvlasov.limit.line_kernels import rates


def _drift(w, p, size, data):
    """Return the drift less that of phi at the two loadings, (2, n), and D."""
    Q = float(WEIGHTS @ (p * size * w * w).sum(axis=1))
    R = float((WEIGHTS * LOADINGS) @ (p * size * w).sum(axis=1))
    G, _, H, Lambda, _, _ = rates(Q, np.array([R]), data)
    return G, H[0], 0.5 * TAU * TAU * Lambda


def py_pde(cells: int, times, start, data):
    """Solve on a uniform grid, with an adaptive explicit Runge-Kutta method (what the package recommends)."""
    import pde

    grid = pde.CartesianGrid([(-5.0, 6.0)], cells)
    w = grid.axes_coords[0]
    size = np.full(cells, 11.0 / cells)
    kink = KAPPA * np.sign(w)

    class FokkerPlanck(pde.PDEBase):
        def evolution_rate(self, state, t=0):
            G, H, D = _drift(w, np.array([field.data for field in state]), size, data)
            result = state.copy()
            for a, field, rate in zip(LOADINGS, state, result, strict=True):
                flux = pde.ScalarField(grid, TAU * (G * w + H * a + kink) * field.data)
                rate.data = flux.gradient({"value": 0.0})[0].data + D * field.laplace({"value": 0.0}).data
            return result

    state = pde.FieldCollection([pde.ScalarField(grid, start(a, w)) for a in LOADINGS])
    storage = pde.MemoryStorage()
    FokkerPlanck().solve(
        state,
        t_range=times[-1],
        solver="runge-kutta",
        dt=1e-4,
        adaptive=True,
        tolerance=1e-5,
        backend="numpy",
        tracker=[storage.tracker(1.0)],
    )
    p = np.array([np.array(each) for each in storage.data])[1:]
    Q = (p * size * w * w).sum(axis=-1) @ WEIGHTS
    R = (p * size * w).sum(axis=-1) @ (WEIGHTS * LOADINGS)
    both = np.array([w, w])
    return Q, R, both, p, np.array([size, size])


def fipy(cells: int, steps_per_time: int, times, start, data):
    """Solve on the graded grid of LSODA, with implicit Euler and exponential convection."""
    import fipy

    edges = graded(Setting(cells + 1, 0.02, 0.6, 0.0, 0.0, True))
    fields, flows, equations = [], [], []
    diffusion = fipy.Variable(0.0)
    for a, row in zip(LOADINGS, edges, strict=True):
        mesh = fipy.Grid1D(dx=np.diff(row)) + np.array([[row[0]]])
        centers = mesh.cellCenters.value[0]
        fields.append(fipy.CellVariable(mesh=mesh, value=start(a, centers), hasOld=True))
        flows.append(fipy.FaceVariable(mesh=mesh, rank=1))
        # The divergence of -b p; walls let nothing through unless told otherwise.
        equations.append(
            fipy.TransientTerm() == fipy.DiffusionTerm(diffusion) - fipy.ExponentialConvectionTerm(flows[-1])
        )
    w = np.array([field.mesh.cellCenters.value[0] for field in fields])
    size = np.diff(edges, axis=1)
    dt = 1.0 / steps_per_time
    kept = []
    for step in range(round(times[-1]) * steps_per_time):
        G, H, D = _drift(w, np.array([field.value for field in fields]), size, data)
        diffusion.setValue(D)
        for a, field, flow, equation, row in zip(LOADINGS, fields, flows, equations, edges, strict=True):
            flow.setValue(-TAU * (G * row + H * a + KAPPA * np.sign(row))[None])
            field.updateOld()
            equation.solve(var=field, dt=dt)
        if (step + 1) % steps_per_time == 0:
            kept.append(np.array([field.value for field in fields]))
    p = np.array(kept)
    Q = (p * size * w * w).sum(axis=-1) @ WEIGHTS
    R = (p * size * w).sum(axis=-1) @ (WEIGHTS * LOADINGS)
    return Q, R, w, p, size
