"""What is too large or not finite is said before hours pass, in one line that names a way out."""

import numpy as np
import pytest

import mkvlasov as mv

START = mv.initial.Gaussian(1.0, 0.3)


def problem(**changes):
    fields = {"hidden": mv.hidden.Rademacher(2.0), "activation": "tanh", "learning_rate": 0.3}
    return mv.Problem(**{**fields, **changes})


def test_too_many_joint_values_of_the_hidden_variables_are_refused_by_the_limit_and_fine_for_sgd():
    many = problem(hidden=mv.hidden.Rademacher(np.ones(30)))
    start = mv.initial.Gaussian(1.0, 0.0)
    with pytest.raises(mv.UnsupportedError, match="30 independent features"):
        mv.solve_ode(many, start, t_eval=[0.0, 0.1])
    assert mv.simulate_sgd(many, start, t_eval=[0.0, 0.1], dimension=100, runs=2, rng=0).status.success


def test_too_many_loadings_are_refused_by_the_pde_and_sampled_by_the_particles():
    many = problem(hidden=mv.hidden.Gaussian(np.ones(16)), loadings=mv.loadings.Rademacher())
    start = mv.initial.Gaussian(1.0, 0.0)
    with pytest.raises(mv.UnsupportedError, match="16 features"):
        mv.solve_pde(many, start, t_eval=[0.0, 0.1])
    assert mv.simulate_particles(many, start, t_eval=[0.0, 0.1], particles=500, runs=2, rng=0).status.success


def test_particles_that_miss_a_feature_are_refused():
    rare = problem(loadings=mv.loadings.Sparse(0.001))
    with pytest.raises(mv.UnsupportedError, match="take more particles"):
        mv.simulate_particles(rare, mv.initial.Gaussian(1.0, 0.02), t_eval=[0.0, 0.1], particles=20, runs=2, rng=0)


@pytest.mark.parametrize("route", [mv.solve_ode, mv.solve_pde])
def test_an_activation_that_is_not_finite_everywhere_is_blamed(route):
    broken = mv.activations.Custom(lambda h: np.where(np.abs(h) < 2.5, np.tanh(h), np.nan))
    with pytest.raises(mv.UnsupportedError, match="not finite"):
        route(problem(activation=broken), START, t_eval=[0.0, 0.1])


def test_three_outputs_are_solved_and_agree_with_particles():
    three = problem(outputs=3, hidden=mv.hidden.Rademacher([3.0, 2.0]), regularizer=mv.regularizers.L2(0.3))
    start = mv.initial.Gaussian(1.0, [[0.3, 0.1], [0.1, 0.3], [0.2, 0.2]])
    ode = mv.solve_ode(three, start, t_eval=[0.0, 0.5])
    assert ode.status.success
    assert 0.0 < ode.stats["coefficient_error"] < 1e-6
    particles = mv.simulate_particles(three, start, t_eval=[0.0, 0.5], particles=4000, runs=8, rng=3, progress=False)
    assert mv.compare(ode, particles).passed
