"""The parts of the spectral elements: orders of convergence, and what adaptation conserves."""

import numpy as np
import pytest

from mkvlasov.problem import regularizers
from mkvlasov.problem.conditional import GaussianMixture
from mkvlasov.solvers.pde.elements.basis import basis
from mkvlasov.solvers.pde.elements.kernels import Mesh, advance, apply, moments, nodal_weights, node_positions
from mkvlasov.solvers.pde.elements.mesh import slopes
from mkvlasov.solvers.pde.elements.rates import PythonRates
from mkvlasov.solvers.pde.elements.regrid import regrid
from mkvlasov.solvers.pde.elements.run import Equations
from mkvlasov.solvers.pde.elements.start import start
from mkvlasov.solvers.pde.elements.tableau import ESDIRK3, ESDIRK4

FRAME = np.array([[0.0, 1.0]])
L1 = regularizers.L1(1.0)


def uniform(elements, degree, low=-6.0, high=6.0):
    """Return equal elements for one loading, with an end at zero, and the slopes of |w|."""
    edges = np.linspace(low, high, elements + 1)
    index = np.arange(elements) - elements // 2
    zeros = np.zeros(elements, np.int64)
    mesh = Mesh(
        np.array([0, elements]), edges[:-1], np.diff(edges), zeros, index, zeros, np.zeros((elements, degree + 1))
    )
    return mesh._replace(slope=slopes(L1, basis(degree), mesh))


def evolve(tableau, mesh, degree, p, drift, end, steps):
    """Return the density after equal steps with constant drift (c0, c1, c2, D)."""
    b, dt = basis(degree), end / steps
    size, drifts = nodal_weights(b, mesh), np.tile(drift, (len(tableau.c) - 1, 1, 1))
    for _ in range(steps):
        start = apply(b, mesh, drifts[0], p)
        p, _ = advance(b, mesh, size, tableau.a, tableau.error, dt, drifts, start, p)
    return p


def l1(mesh, degree, gap):
    return nodal_weights(basis(degree), mesh) @ np.abs(gap)


SMOOTH, KINKED = np.array([0.3, 1.0, 0.0, 0.5]), np.array([0.1, 0.4, 0.8, 0.5])


def start_of(mesh, degree, drift):
    """Return a density whose flux is smooth: a stationary one times a smooth factor."""
    w = node_positions(basis(degree), mesh)
    p = np.exp(-(drift[0] * w + 0.5 * drift[1] * w * w + drift[2] * np.abs(w)) / drift[3]) * (1.0 + 0.5 * np.tanh(w))
    return p / (nodal_weights(basis(degree), mesh) @ p)


@pytest.mark.parametrize("drift", [SMOOTH, KINKED], ids=["smooth", "kinked"])
@pytest.mark.parametrize("tableau", [ESDIRK3, ESDIRK4], ids=["third", "fourth"])
def test_order_in_time_with_and_without_a_kink(tableau, drift):
    degree, mesh = 8, uniform(12, 8)
    p = start_of(mesh, degree, drift)
    exact = evolve(ESDIRK4, mesh, degree, p, drift, 1.0, 128)
    errors = [l1(mesh, degree, evolve(tableau, mesh, degree, p, drift, 1.0, n) - exact) for n in (4, 8, 16)]
    assert np.log2(np.divide(errors[:-1], errors[1:])).min() > tableau.order - 0.4


@pytest.mark.parametrize("drift", [SMOOTH, KINKED], ids=["smooth", "kinked"])
@pytest.mark.parametrize("degree", [4, 6])
def test_order_in_space_with_and_without_a_kink(degree, drift):
    fine = uniform(64, 8)
    w = node_positions(basis(8), fine)
    errors = []
    for elements in (8, 16, 32):
        mesh = uniform(elements, degree)
        found = evolve(ESDIRK4, mesh, degree, start_of(mesh, degree, drift), drift, 0.5, 64)
        exact = evolve(ESDIRK4, fine, 8, start_of(fine, 8, drift), drift, 0.5, 64)
        at = node_positions(basis(degree), mesh)
        # The nodes of coarse elements are not nodes of fine ones: evaluate the fine polynomials there.
        errors.append(l1(mesh, degree, found - on_elements(fine, 8, exact, at)))
    assert np.log2(errors[1] / errors[2]) > degree + 0.5
    assert len(w) == len(exact)


def on_elements(mesh, degree, p, at):
    nodes = basis(degree).nodes
    result = np.zeros_like(at)
    for e in range(len(mesh.left)):
        local = 2.0 * (at - mesh.left[e]) / mesh.width[e] - 1.0
        inside = np.abs(local) <= 1.0 + 1e-12
        fit = np.polynomial.legendre.legfit(nodes, p[degree * e : degree * (e + 1) + 1], degree)
        result[inside] = np.polynomial.legendre.legval(local[inside], fit)
    return result


def test_kinked_stationary_density_is_kept():
    degree, mesh = 8, uniform(24, 8)
    w = node_positions(basis(degree), mesh)
    stationary = np.exp(-(KINKED[0] * w + 0.5 * KINKED[1] * w * w + KINKED[2] * np.abs(w)) / KINKED[3])
    stationary /= nodal_weights(basis(degree), mesh) @ stationary
    late = evolve(ESDIRK4, mesh, degree, start_of(mesh, degree, KINKED), KINKED, 60.0, 60)
    assert l1(mesh, degree, late - stationary) < 1e-8


@pytest.mark.parametrize("drift", [SMOOTH, KINKED], ids=["smooth", "kinked"])
def test_moment_equations_hold_exactly_on_the_coarsest_elements(drift):
    degree, mesh = 4, uniform(4, 4)
    b = basis(degree)
    p = start_of(mesh, degree, drift)
    change = moments(b, mesh, FRAME, apply(b, mesh, drift[None], p) / nodal_weights(b, mesh))[0]
    _, mean, second, slope, virial = moments(b, mesh, FRAME, p)[0]
    c0, c1, c2, diffusion = drift
    # The walls at +-6 let nothing through, but they push: D p and D w p at the ends.
    ends = p[[0, -1]]
    assert abs(change[0]) < 1e-14
    assert change[1] == pytest.approx(-(c0 + c1 * mean + c2 * slope) - diffusion * (ends[1] - ends[0]), rel=1e-12)
    push = 2.0 * diffusion * (1.0 - 6.0 * ends.sum())
    assert change[2] == pytest.approx(push - 2.0 * (c0 * mean + c1 * second + c2 * virial), rel=1e-12)


def test_adapted_elements_keep_mass_and_moments_and_end_at_the_kink():
    degree, rng = 8, np.random.default_rng(3)
    b, mesh = basis(degree), uniform(16, 8, -2.0, 2.0)
    w = node_positions(b, mesh)
    p = np.exp(-40.0 * (w - 0.4) ** 2) + 0.2 * np.exp(-np.abs(w))
    p *= 1.0 + 1e-7 * rng.standard_normal(len(p))
    before = moments(b, mesh, FRAME, p)[0]
    counts, edge = [len(mesh.left)], (-2.0, 2.0)
    for limit in (1e-9, 1e-9, 1e-2, 1e-2, 1e-2, 1e-2):
        mesh, p = regrid(b, mesh, p, np.array([limit]))
        mesh = mesh._replace(slope=slopes(L1, b, mesh))
        counts.append(len(mesh.left))
        assert np.allclose(moments(b, mesh, FRAME, p)[0], before, rtol=1e-12, atol=1e-13)
        assert np.allclose(mesh.left[1:], mesh.left[:-1] + mesh.width[:-1], rtol=0.0, atol=1e-14)
        assert np.allclose(mesh.left, mesh.number * mesh.width, rtol=0.0, atol=1e-14)
        assert 0.0 in mesh.left
    # Finer, then coarser; wider, because the density is not small at the ends.
    assert counts[2] > counts[0]
    assert counts[2] > counts[-1]
    assert mesh.left[0] < edge[0]
    assert mesh.left[-1] + mesh.width[-1] > edge[1]


@pytest.mark.parametrize("regularizer", [regularizers.Zero(), L1], ids=repr)
def test_point_masses_start_as_the_narrow_normal_laws_that_they_become(regularizer):
    """Against the Ornstein-Uhlenbeck process; away from the kink of |w| its slope is one more constant drift."""
    linear, tau, diffusion, tilt, a = 0.7, 0.5, 0.4, -0.9, 2.0
    row = np.array([[linear, tau, diffusion, 0.0, 0.0, tilt]])
    rates = PythonRates(lambda times, y: np.repeat(row, len(times), axis=0))
    equations = Equations(np.array([[a]]), np.ones(1), regularizer, rates, np.inf)
    law = GaussianMixture(np.array([0.4, 0.6]), np.array([[1.5], [-0.8]]), np.array([[[0.0]], [[0.2]]]))
    begin = start(equations, [law], 3.0, 1e-2)
    drift = tilt * a + tau * regularizer.gradient(law.means)
    decay = np.exp(-linear * begin.time)
    assert begin.time > 0.0
    means = law.means * decay - drift * (1.0 - decay) / linear
    variances = law.covariances * decay**2 + diffusion / linear * (1.0 - decay**2)
    # The start is of first order in the time that has passed, and this long at most against a scale of order one.
    slack = 10.0 * begin.time**2
    np.testing.assert_allclose(begin.laws[0].means, means, rtol=0.0, atol=slack)
    np.testing.assert_allclose(begin.laws[0].covariances, variances, rtol=0.0, atol=slack)
    assert slack < 0.1 * begin.time
