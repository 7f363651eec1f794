"""The reduced system as one object: its parts agree with the routes and with each other."""

import dataclasses

import numpy as np
import pytest

import mkvlasov as mv


def test_rates_are_the_slopes_of_the_solved_equations():
    """Differences of a solution of solve_ode, whose right-hand side is written separately."""
    problem, initial = mv.read_problem("two_outputs")
    step = 1e-3
    ode = mv.solve_ode(problem, initial, t_eval=[1.0 - step, 1.0, 1.0 + step], rtol=1e-11)
    dQ, dR = mv.reduce(problem).rates(ode.Q[1], ode.R[1])
    # Central differences: error step^2 / 6 times a third derivative of order one.
    np.testing.assert_allclose((ode.Q[2] - ode.Q[0]) / (2 * step), dQ, atol=1e-6)
    np.testing.assert_allclose((ode.R[2] - ode.R[0]) / (2 * step), dR, atol=1e-6)


def test_symbols_and_numbers_agree_on_a_built_in_problem():
    problem, initial = mv.read_problem("contrastive")
    erf = mv.Problem(
        hidden=problem.hidden,
        activation="erf",
        learning_rate=0.4,
        regularizer=problem.regularizer,
        augmentation=problem.augmentation,
    )
    system = mv.reduce(erf)
    Q, R = initial.overlaps(erf)
    for symbolic, numeric in zip(system.symbolic.evaluate(Q, R), system.rates(Q, R), strict=True):
        np.testing.assert_allclose(symbolic, numeric, atol=1e-10)


def test_jacobian_is_the_slope_of_the_rates():
    problem, initial = mv.read_problem("contrastive")
    system = mv.reduce(problem)
    Q, R = initial.overlaps(problem)
    jacobian = system.jacobian(Q, R)
    assert system.names == ("R[0,0]", "R[0,1]", "Q[0,0]")
    step = 1e-4
    up, down = (system.rates(Q, R + sign * step * np.array([[1.0, 0.0]])) for sign in (1, -1))
    slope = [*((up[1] - down[1]) / (2 * step))[0], ((up[0] - down[0]) / (2 * step))[0, 0]]
    np.testing.assert_allclose(jacobian.value[:, 0], slope, atol=1e-6)
    assert jacobian.error.max() < 1e-7


def test_parameter_derivative_of_the_learning_rate_is_that_of_a_quadratic():
    """The rates are a tau + b tau^2, so three learning rates give the derivative exactly."""
    problem, initial = mv.read_problem("contrastive")
    Q, R = initial.overlaps(problem)
    system = mv.reduce(problem)
    slope = system.parameter_derivative("learning_rate", Q, R).value
    rates = {}
    for tau in (0.3, 0.4, 0.5):
        fields = {name: getattr(problem, name) for name in ("hidden", "activation", "regularizer", "augmentation")}
        dQ, dR = mv.reduce(mv.Problem(learning_rate=tau, **fields)).rates(Q, R)
        rates[tau] = np.array([*dR[0], dQ[0, 0]])
    np.testing.assert_allclose(slope, (rates[0.5] - rates[0.3]) / 0.2, atol=1e-8)


def test_a_regularizer_that_does_not_close_is_refused_with_the_way_out():
    problem, _ = mv.read_problem("sparse")
    with pytest.raises(mv.ClosureError, match="solve_pde"):
        mv.reduce(problem)


def test_a_loss_without_a_known_limit_is_refused():
    problem, _ = mv.read_problem("contrastive")
    with pytest.raises(mv.UnsupportedError, match="stop_gradient"):
        mv.reduce(dataclasses.replace(problem, loss=mv.losses.Covariance(stop_gradient=True)))


BAD_STATES = [
    ([[1.0, 0.0]], [[0.1, 0.2]], "Q"),
    ("one", [[0.1, 0.2]], "Q"),
    ([[np.nan]], [[0.1, 0.2]], "Q"),
    ([[1.0]], [[0.1]], "R"),
    ([[1.0]], [[0.9, 0.9]], "R"),  # Q - |R|^2 < 0
]


def test_what_is_no_problem_is_named():
    with pytest.raises(mv.InvalidInput, match=r"^problem: got 3"):
        mv.reduce(3)


@pytest.mark.parametrize(("Q", "R", "field"), BAD_STATES)
def test_states_that_cannot_be_are_named(Q, R, field):
    system = mv.reduce(mv.read_problem("contrastive")[0])
    with pytest.raises(mv.InvalidInput, match=f"^{field}: got"):
        system.rates(Q, R)


@pytest.mark.parametrize("activation", ["tanh", "erf"])
def test_growth_rates_at_the_uninformative_state_depend_on_second_moments_only(activation):
    """Laws of equal variance and kurtosis 1, 3 and 6; away from R = 0 they differ, so the test can fail."""
    laws = [law([3.0, 2.0]) for law in (mv.hidden.Rademacher, mv.hidden.Gaussian)]
    laws.append(mv.hidden.Sparse([3.0, 2.0], kurtosis=6.0))
    jacobians = {}
    for R in ([[0.0, 0.0]], [[0.5, 0.3]]):
        jacobians[R[0][0]] = [
            mv.reduce(
                mv.Problem(
                    hidden=law,
                    activation=activation,
                    learning_rate=0.4,
                    regularizer=mv.regularizers.L2(0.2),
                    augmentation=mv.augmentations.GaussianNoise(std=0.5, correlation=-0.3),
                )
            )
            .jacobian([[1.0]], R)
            .value[:2, :2]
            for law in laws
        ]
    for other in jacobians[0.0][1:]:
        np.testing.assert_allclose(other, jacobians[0.0][0], atol=1e-8)
    for other in jacobians[0.5][1:]:
        assert np.abs(other - jacobians[0.5][0]).max() > 1e-3
