"""The closed ODEs against exact solutions that share none of their code."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import expm

import mkvlasov as mv
from mkvlasov.solvers.ode import DIVERGED


def linear_problem(**changes):
    """Identity activation: the equations of (R, Q) are linear and can be solved by hand."""
    fields = {
        "hidden": mv.hidden.Rademacher([0.6, 0.3]),
        "activation": "identity",
        "learning_rate": 0.4,
        "regularizer": mv.regularizers.L2(2.5),
        "augmentation": mv.augmentations.GaussianNoise(std=[0.5, 0.7], correlation=-0.4),
        "background_variance": 0.8,
    }
    return mv.Problem(**{**fields, **changes})


def linear_solution(problem, q0, r0, t):
    """Solve dR_k/dt = tau (2 <c_k^2> + 2 S_12 - kappa) R_k and the linear equation of Q by matrix exponentials.

    With alpha_1 = -h_2, alpha_2 = -h_1: d(w)/dt = tau ((2 T_12 - kappa) w + 2 (C - eta) R a) and
    Lambda = tau^2 (T_11 E h_2^2 + T_22 E h_1^2 + 2 T_12 E h_1 h_2).
    """
    tau, kappa, eta = problem.learning_rate, problem.regularizer.strength, problem.background_variance
    s1, s2 = 0.5, 0.7
    S = np.array([[s1**2, -0.4 * s1 * s2], [-0.4 * s1 * s2, s2**2]])
    T = eta + S
    variance = np.diag(problem.hidden.covariance)
    rate = tau * (2.0 * variance + 2.0 * S[0, 1] - kappa)
    R = r0 * np.exp(rate * t)
    # State (Q, R_1^2, R_2^2): linear, the squares grow at twice their rate.
    weights = tau**2 * np.array([T[0, 0], T[1, 1], 2.0 * T[0, 1]])
    noise_q = weights @ np.array([eta + S[1, 1], eta + S[0, 0], eta + S[0, 1]])
    noise_r = weights.sum() * (variance - eta)
    A = np.zeros((3, 3))
    A[0, 0] = 2.0 * tau * (2.0 * T[0, 1] - kappa) + noise_q
    A[0, 1:] = 4.0 * tau * (variance - eta) + noise_r
    A[1, 1], A[2, 2] = 2.0 * rate
    return (expm(A * t) @ np.array([q0, *(r0**2)]))[0], R


def test_identity_activation_is_solved_exactly():
    problem, t = linear_problem(), np.linspace(0.0, 2.0, 5)
    ode = mv.solve_ode(problem, mv.initial.Gaussian(1.0, [0.3, -0.2]), t_eval=t, rtol=1e-10)
    exact = [linear_solution(problem, 1.0, np.array([0.3, -0.2]), s) for s in t]
    q, r = np.array([e[0] for e in exact]), np.array([e[1] for e in exact])
    # rtol = 1e-10 per step; a factor 100 for the accumulation over the run.
    np.testing.assert_allclose(ode.Q[:, 0, 0], q, rtol=1e-8)
    np.testing.assert_allclose(ode.R[:, 0], r, rtol=1e-8)
    assert (np.abs(ode.Q[:, 0, 0] - q) <= ode.Q_error[:, 0, 0] + 1e-12).all()
    assert (np.abs(ode.R[:, 0] - r) <= ode.R_error[:, 0] + 1e-12).all()


def test_exact_law_has_the_moments_of_the_order_parameters():
    """Q and R are integrated beside A, C and P; averaging the law over Gaussian loadings gives them back."""
    problem = linear_problem(activation="tanh", hidden=mv.hidden.Laplace([2.0, 1.0]), learning_rate=0.5)
    start = mv.initial.Mixture([0.3, 0.7], [mv.initial.Gaussian(0.5, [0.4, 0.1]), mv.initial.Point(-0.8)])
    t = np.array([0.0, 0.7, 2.0])
    ode = mv.solve_ode(problem, start, t_eval=t)
    points, weights = problem.loadings.nodes(2, 3)  # exact for polynomials of degree 5
    for i, s in enumerate(t):
        laws = [ode.law(s, a) for a in points]
        means = np.array([law.weights @ law.means[:, 0] for law in laws])
        seconds = np.array([law.weights @ (law.means[:, 0] ** 2 + law.covariances[:, 0, 0]) for law in laws])
        np.testing.assert_allclose(weights @ seconds, ode.Q[i, 0, 0], rtol=1e-7)
        np.testing.assert_allclose((weights * means) @ points, ode.R[i, 0], rtol=1e-7, atol=1e-9)


def test_density_integrates_to_one_and_needs_a_stored_time():
    problem = linear_problem()
    ode = mv.solve_ode(problem, mv.initial.Gaussian(1.0, [0.3, 0.2]), t_eval=[0.0, 1.0])
    density = ode.density(1.0, [1.0, 0.0])
    assert np.trapezoid(density.p, density.w) == pytest.approx(1.0, abs=1e-8)
    mean = quad(lambda w: w * ode.law(1.0, [1.0, 0.0]).pdf(np.array([w]))[0], -9, 9)[0]
    assert mean == pytest.approx(ode.R[1, 0, 0], abs=1e-7)  # E[w | a] is R a for a Gaussian start
    with pytest.raises(mv.InvalidInput, match=r"t: got 0\.5"):
        ode.density(0.5, [1.0, 0.0])
    with pytest.raises(mv.InvalidInput, match="loading"):
        ode.density(1.0, 1.0)


def test_blow_up_ends_with_a_status_that_names_the_time():
    """Identity without enough regularization: Q grows exponentially, past any bound at a known time."""
    problem = linear_problem(regularizer=mv.regularizers.L2(0.0))
    start = np.array([0.3, -0.2])
    ode = mv.solve_ode(problem, mv.initial.Gaussian(1.0, start), t_eval=np.linspace(0, 200, 21))
    assert not ode.status.success
    assert "diverged" in ode.status.message
    assert len(ode.t) < 21
    assert np.isfinite(ode.Q).all()
    time = float(ode.status.message.rsplit(" ", 1)[1])
    assert linear_solution(problem, 1.0, start, time)[0] == pytest.approx(DIVERGED, rel=1e-4)


def test_sphere_keeps_the_norm_and_follows_the_reference_rate():
    """Theory section 9: at R = 0 on the sphere the growth rate is - tau (<c_k^2> - eta) Gbar - Lambda / 2."""
    problem = linear_problem(constraint="sphere", regularizer=mv.regularizers.Zero())
    ode = mv.solve_ode(problem, mv.initial.Gaussian(1.0, [1e-6, 0.0]), t_eval=[0.0, 0.01, 0.5], rtol=1e-11)
    np.testing.assert_allclose(ode.Q[:, 0, 0], 1.0, atol=1e-9)
    S = np.array([[0.25, -0.14], [-0.14, 0.49]])
    T = 0.8 + S
    Lambda = 0.16 * (T[0, 0] * (0.8 + S[1, 1]) + T[1, 1] * (0.8 + S[0, 0]) + 2 * T[0, 1] * (0.8 + S[0, 1]))
    rate = -0.4 * (0.6 - 0.8) * (-2.0) - Lambda / 2.0
    assert np.log(ode.R[2, 0, 0] / ode.R[0, 0, 0]) / 0.5 == pytest.approx(rate, rel=1e-6)


def test_schedule_is_a_change_of_time_without_diffusion():
    """In the gradient flow (infinite batch) tau only sets the clock: tau(t) dt is what counts."""
    fields = {"activation": "tanh", "batch_size": np.inf}
    schedule = mv.schedules.ExponentialDecay(0.8, 1.5)
    start = mv.initial.Gaussian(1.0, [0.3, 0.2])
    slow = mv.solve_ode(linear_problem(learning_rate=schedule, **fields), start, t_eval=[2.0], rtol=1e-10)
    clock = 0.8 * 1.5 * (1.0 - np.exp(-2.0 / 1.5)) / 0.4
    plain = mv.solve_ode(linear_problem(**fields), start, t_eval=[clock], rtol=1e-10)
    np.testing.assert_allclose(slow.Q, plain.Q, rtol=1e-7)
    np.testing.assert_allclose(slow.R, plain.R, rtol=1e-7)


@pytest.mark.parametrize("regularizer", [mv.regularizers.L1(0.2), mv.regularizers.DoubleWell(0.3)])
def test_moments_that_do_not_close_are_refused_with_the_reason(regularizer):
    with pytest.raises(mv.ClosureError, match="solve_pde"):
        mv.solve_ode(linear_problem(regularizer=regularizer), mv.initial.Gaussian(1.0, [0.3, 0.2]), t_eval=[1.0])


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "tanh"},
        {"activation": "sigmoid", "constraint": "sphere"},
        {"regularizer": mv.regularizers.L2(0.0)},
    ],
    ids=["tanh", "sphere", "diverges"],
)
def test_compiled_and_interpreted_integration_agree(changes):
    """A learning rate given as a function of time is integrated by scipy's driver, a number in the compiled loop."""
    start, t = mv.initial.Gaussian(1.0, [0.3, -0.2]), np.linspace(0.0, 40.0, 9)
    compiled = mv.solve_ode(linear_problem(**changes), start, t_eval=t, rtol=1e-9)
    interpreted = mv.solve_ode(linear_problem(learning_rate=lambda t: 0.4, **changes), start, t_eval=t, rtol=1e-9)
    assert compiled.status == interpreted.status
    np.testing.assert_array_equal(compiled.t, interpreted.t)
    for name in ("Q", "R", "A", "C", "P", "loss"):
        # the same steps up to rounding, which they amplify like the equations themselves do
        np.testing.assert_allclose(getattr(compiled, name), getattr(interpreted, name), rtol=1e-9, atol=1e-11)
    for name in ("Q_error", "R_error"):  # differences of two runs
        np.testing.assert_allclose(getattr(compiled, name), getattr(interpreted, name), rtol=1e-4, atol=1e-11)
    assert compiled.stats["evaluations"] == pytest.approx(interpreted.stats["evaluations"], rel=0.1)
