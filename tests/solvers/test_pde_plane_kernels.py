"""Parts of the splitting in the plane: directions, line solves, laws in tables."""

import numpy as np
import pytest

from mkvlasov.problem.conditional import GaussianMixture
from mkvlasov.problem.plane_table import PlaneTable, cell_centres
from mkvlasov.solvers.pde.plane.graded import spread_nodes
from mkvlasov.solvers.pde.plane.graded_kernels import mixed
from mkvlasov.solvers.pde.plane.sweep_kernels import selling, sweep


def test_a_diffusion_matrix_is_a_sum_of_squares_of_integer_directions():
    rng = np.random.default_rng(0)
    angle, ratio = rng.uniform(0.0, np.pi, 400), 10.0 ** rng.uniform(0.0, 1.3, 400)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    matrices = turn @ (np.stack([ratio, np.ones(400)], axis=1)[:, :, None] * np.swapaxes(turn, 1, 2))
    directions, weights = selling(matrices)
    assert (weights >= 0.0).all()
    v = directions.astype(float)
    np.testing.assert_allclose(np.einsum("lk,lki,lkj->lij", weights, v, v), matrices, rtol=1e-10, atol=1e-10)
    # The first two are a basis of the grid.
    assert (np.abs(np.linalg.det(v[:, :2])).round() == 1.0).all()


@pytest.mark.parametrize("direction", [(1, 0), (0, 1), (1, -1), (2, 1)])
def test_a_fitted_sweep_keeps_the_normal_law_and_any_sweep_the_mass(direction):
    n, variance, diffusion = 48, 0.03, 0.7
    x = cell_centres(n)
    bell = np.exp(-0.5 * (x[:, None] ** 2 + x**2) / variance)[None]
    bell /= bell.sum()
    v = np.array([direction])
    affine = np.concatenate([[[0.0]], -diffusion / variance * v], axis=1)
    none = np.zeros((1, 0, 0))
    kept = bell.copy()
    sweep(kept, v, np.array([diffusion]), affine, none, 0.3, True)
    np.testing.assert_allclose(kept, bell, atol=1e-13)
    for positive in (True, False):
        mass = np.random.default_rng(1).random((1, n, n))
        total = mass.sum()
        sweep(mass, v, np.array([diffusion]), affine, none, 0.3, positive)
        assert abs(mass.sum() / total - 1.0) < 1e-12
        assert not positive or mass.min() >= 0.0


def test_faces_add_to_the_speed_along_a_line():
    n, speed = 64, 0.4
    x = cell_centres(n)
    mass = np.exp(-0.5 * ((x[:, None] + 0.2) ** 2 + x**2) / 0.02)[None]
    mass /= mass.sum()
    given, plain = mass.copy(), mass.copy()
    v, diffusion = np.array([[1, 0]]), np.array([1e-3])
    sweep(given, v, diffusion, np.zeros((1, 3)), np.full((1, n, n), speed), 0.1, False)
    sweep(plain, v, diffusion, np.array([[speed, 0.0, 0.0]]), np.zeros((1, 0, 0)), 0.1, False)
    np.testing.assert_allclose(given, plain, atol=1e-14)
    assert abs((given[0].sum(axis=1) @ x) - (-0.2 + 0.1 * speed)) < 1e-6


def test_the_mixed_derivative_is_that_of_a_product():
    errors = []
    for n in (40, 80):
        x = 4.0 * np.sinh(1.5 * cell_centres(n)) / np.sinh(1.5)
        edges = np.concatenate([[1.5 * x[0] - 0.5 * x[1]], 0.5 * (x[1:] + x[:-1]), [1.5 * x[-1] - 0.5 * x[-2]]])
        widths = np.diff(edges)[None]
        bell = np.exp(-0.5 * (x[:, None] ** 2 + x**2))
        areas = widths[0][:, None] * widths[0]
        found = mixed((bell * areas)[None], widths, widths, 0.3)[0] / areas
        errors.append(np.abs(found - 0.3 * np.outer(x, x) * bell).max())
        assert abs((found * areas).sum()) < 1e-14
    assert errors[1] < errors[0] / 3.0


def test_nodes_gather_where_a_density_bends():
    w = np.linspace(-4.0, 4.0, 400)[None]
    p = 0.5 * np.exp(-0.5 * w**2) / np.sqrt(2.0 * np.pi) + 0.5 * np.exp(-np.abs(w) / 0.05) / 0.1
    nodes = spread_nodes(w, p, p * (w[0, 1] - w[0, 0]), 1e-6)
    gaps = np.diff(nodes[0])
    assert (gaps > 0.0).all()
    assert gaps[np.abs(nodes[0, 1:]) < 0.05].max() < 0.2 * gaps.max()


@pytest.fixture(scope="module")
def slanted():
    law = GaussianMixture(
        np.array([0.3, 0.7]),
        np.array([[0.5, 0.0], [-0.4, 0.3]]),
        np.array([[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.05], [-0.05, 0.4]]]),
    )
    box = PlaneTable(
        np.array([0.0, 0.1]), np.array([[3.2, 0.9], [-0.8, 3.4]]), np.tile(cell_centres(96), (2, 1)), np.zeros((96, 96))
    )
    p = law.joint_pdf(box.w.reshape(-1, 2)).reshape(96, 96)
    return law, PlaneTable(box.origin, box.axes, box.coordinates, p)


def test_a_table_has_the_moments_values_and_marginals_of_its_law(slanted):
    law, table = slanted
    assert abs(table.masses.sum() - 1.0) < 1e-6
    np.testing.assert_allclose(table.mean, law.mean, atol=1e-6)
    np.testing.assert_allclose(table.second_moment, law.second_moment, atol=1e-5)
    at = np.random.default_rng(2).normal(size=(50, 2)) * 0.7
    # Cubic splines: fourth order in cells of a sixth of the width.
    np.testing.assert_allclose(table.pdf(at), law.joint_pdf(at), atol=2e-4)
    for output in range(2):
        marginal, exact = table.marginal(output), law.marginal(output)
        np.testing.assert_allclose(marginal.pdf(at[:, 0]), exact.pdf(at[:, 0]), atol=1e-3)
        assert abs(marginal.mass - 1.0) < 1e-6
        np.testing.assert_allclose(marginal.second_moment[0, 0], law.second_moment[output, output], atol=1e-5)


def test_a_table_moves_and_blurs_like_its_law(slanted):
    law, table = slanted
    A, shift, P = np.array([[0.5, 0.2], [-0.3, 1.1]]), np.array([0.3, -0.1]), np.array([[0.1, 0.04], [0.04, 0.06]])
    moved, exact = table.affine(A, shift, P), law.affine(A, shift, P)
    np.testing.assert_allclose(moved.mean, exact.mean, atol=1e-4)
    np.testing.assert_allclose(moved.second_moment, exact.second_moment, atol=1e-4)
    at = exact.sample(np.random.default_rng(3), 40)
    np.testing.assert_allclose(moved.pdf(at), exact.joint_pdf(at), atol=1e-3)
    rows = table.sample(np.random.default_rng(4), 100_000)
    # Five standard errors of means of 100,000 squares.
    np.testing.assert_allclose(rows.T @ rows / len(rows), law.second_moment, atol=5.0 * 0.8 / np.sqrt(100_000))
