"""Figures of two outputs show the joint densities and marginals that the solution has."""

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.plotting.distributions import interval_masses
from mkvlasov.plotting.loadings import shown_groups

TIMES = [0.0, 0.5]


@pytest.fixture(scope="module")
def solution():
    problem = mv.Problem(
        hidden=mv.hidden.Rademacher([4.0]), activation="tanh", learning_rate=0.5, regularizer=mv.regularizers.L2(0.3),
        loadings=mv.loadings.Sparse(0.25), outputs=2,
    )  # fmt: skip
    start = mv.initial.Gaussian([[1.0, 0.4], [0.4, 0.8]], [[0.5], [0.3]])
    method = mv.methods.PlaneSplitting(32)
    return mv.solve_pde(problem, start, t_eval=TIMES, method=method, rtol=1e-2, progress=False)


def test_joint_densities_are_drawn_with_contours_that_hold_their_mass(solution):
    figure = solution.plot_joint_density(TIMES)
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    assert len(panels) == 4
    assert [ax.get_title() for ax in panels[:2]] == ["$t = 0$", "$t = 0.5$"]
    density = solution.density(0.0, 0.0)
    mesh, contours = panels[0].collections[:2]
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(density.p.shape).max(), 1.0)
    held = [density.masses[density.p >= level * density.p.max()].sum() for level in contours.levels]
    # A cell in the middle has one per cent of the mass.
    np.testing.assert_allclose(held, [0.99, 0.9, 0.5], atol=0.02)
    assert len(solution.plot_joint_density(TIMES, loadings=[2.0]).axes) == 3


def test_marginals_of_a_slanted_box_are_those_of_the_exact_law(solution):
    exact = mv.solve_ode(solution.problem, solution.initial, t_eval=TIMES, progress=False)
    edges = np.linspace(-3.0, 3.0, 13)
    for group in shown_groups(solution, None):
        for output in range(2):
            found = interval_masses(solution, 0.5, group, output, edges)
            np.testing.assert_allclose(found, interval_masses(exact, 0.5, group, output, edges), atol=5e-3)
    assert len(solution.plot_density(TIMES).axes) == 8
    assert solution.plot_density_map() is not None
