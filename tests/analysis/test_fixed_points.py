"""Fixed points against late times of the ODE, closed forms, and their own symmetries."""

from dataclasses import replace

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.analysis.newton import Deflation

PAPER, _ = mv.read_problem("contrastive")


@pytest.fixture(scope="module")
def paper():
    return mv.reduce(PAPER).fixed_points()


def _end(problem, Q, R, t=60.0):
    ode = mv.solve_ode(problem, mv.initial.Gaussian(Q=Q, R=R), t_eval=[t], rtol=1e-12, progress=False)
    return ode.Q[-1], ode.R[-1]


@pytest.mark.parametrize("constraint", [None, "sphere"])
@pytest.mark.parametrize("start", [[0.3, 0.2], [0.1, -0.5], [0.0, 0.0]])
def test_late_times_of_the_ode_end_at_fixed_points(constraint, start):
    """Decay rates are 0.27 or more: what is left at t = 100 is below 1e-11."""
    problem = replace(PAPER, constraint=constraint)
    Q, R = _end(problem, 1.0, start, t=100.0)
    copies = [copy for point in mv.reduce(problem).fixed_points() for copy in point.copies]
    gaps = [max(np.abs(Q - q).max(), np.abs(R - r).max()) for q, r in copies]
    assert min(gaps) < 1e-10


def test_where_the_ode_ends_is_stable_and_the_rest_is_not(paper):
    assert [point.name for point in paper.stable] == ["feature 0", "feature 1"]
    assert {point.name: point.stability.unstable_dimension for point in paper} == {
        "feature 0": 0,
        "feature 1": 0,
        "feature 0 + feature 1": 1,
        "uninformative": 2,
        "zero weights": 3,
    }
    # A small push along the unstable manifold of the saddle ends at either feature.
    saddle = next(point for point in paper if point.name == "feature 0 + feature 1")
    direction = saddle.stability.eigenvectors[:2, 0].real
    ends = {_end(PAPER, saddle.Q, saddle.R + sign * 1e-3 * direction)[1].round(3)[0].argmax() for sign in (1, -1)}
    assert ends == {0, 1}


def test_every_copy_is_a_fixed_point_and_has_a_name(paper):
    system = mv.reduce(PAPER)
    names = {point.name: point.copy_names for point in paper}
    assert names["feature 0"] == ("feature 0", "-feature 0")
    assert set(names["feature 0 + feature 1"]) == {f"{a}feature 0 {b} feature 1" for a in ("", "-") for b in ("+", "-")}
    assert paper.symmetries == ("sign of feature 0", "sign of feature 1")
    for point in paper:
        assert point.residual < 1e-10
        assert point.error < 1e-9
        if point.Q.any():
            there = system.jacobian(point.Q, point.R).value
            np.testing.assert_allclose(point.stability.jacobian, there, atol=1e-9)
        for Q, R in point.copies:
            assert max(np.abs(rate).max() for rate in system.rates(Q, R)) < 1e-10
    assert paper.starts == sum(point.found for point in paper) + sum(paper.failures.values())
    assert "5 fixed point(s) up to symmetry" in str(paper)


def test_exchangeable_features_are_merged():
    found = mv.reduce(replace(PAPER, hidden=mv.hidden.Rademacher([3.0, 3.0]))).fixed_points()
    assert "exchange of features 0 and 1" in found.symmetries
    (learnt,) = (point for point in found if point.name == "feature 0")
    assert set(learnt.copy_names) == {"feature 0", "-feature 0", "feature 1", "-feature 1"}


def test_a_skewed_law_has_no_symmetry_of_sign():
    """With a quadratic part the activation tells c from -c, which a skewed law does not take back."""
    skewed = mv.hidden.Discrete([[2.0], [-1.0]], [1 / 3, 2 / 3])
    activation = mv.activations.Custom(lambda h: np.tanh(h) + 0.3 * np.exp(-h * h))
    problem = replace(PAPER, hidden=skewed, activation=activation)
    found = mv.reduce(problem).fixed_points(starts=8)
    assert found.symmetries == ()
    (symmetric,) = [mv.reduce(replace(problem, hidden=mv.hidden.Rademacher(2.0))).fixed_points(starts=1).symmetries]
    assert symmetric == ("sign of feature 0",)


def test_rotations_make_a_continuum_that_is_said_to_be_degenerate():
    found = mv.reduce(replace(PAPER, hidden=mv.hidden.Gaussian([3.0, 3.0]))).fixed_points()
    assert "rotations of features 0, 1" in found.symmetries
    learnt = [point for point in found if point.is_continuum]
    assert [point.name for point in learnt] == ["feature 0"]
    assert (learnt[0].stability.type, learnt[0].stability.centre_dimension) == ("degenerate", 1)


def test_linear_activation_on_the_sphere():
    """Closed form: with T = eta + S, d = v - eta, 2 d (1 - r^2) = tau [T11^2 + T12^2 + d r^2 (T11 + T12)]."""
    tau, v, eta, s, rho = 0.1, np.array([4.0, 3.0]), 1.0, 0.5, -0.6
    problem = mv.Problem(
        hidden=mv.hidden.Rademacher(v),
        activation="identity",
        learning_rate=tau,
        augmentation=mv.augmentations.GaussianNoise(std=s, correlation=rho),
        constraint="sphere",
    )
    T11, T12, d = eta + s * s, eta + rho * s * s, v - eta
    squares = (2.0 * d - tau * (T11**2 + T12**2)) / (d * (2.0 + tau * (T11 + T12)))
    points = {point.name: point for point in mv.reduce(problem).fixed_points()}
    assert set(points) == {"feature 0", "feature 1", "uninformative"}
    for k, square in enumerate(squares):
        assert points[f"feature {k}"].R[0, k] ** 2 == pytest.approx(square, abs=1e-11)
    assert points["feature 0"].stability.type == "stable node"
    assert points["feature 1"].stability.type == "saddle"
    critical = mv.reduce(problem).learnability(1).critical_variance
    assert critical == pytest.approx(eta + 0.5 * tau * (T11**2 + T12**2), abs=1e-11)


def test_without_diffusion_the_features_are_learnt_entirely():
    """Gradient flow: P = Q - R R^T decays, so that stable points lie on the boundary of the admissible states."""
    flow = replace(PAPER, batch_size=np.inf)
    stable = mv.reduce(flow).fixed_points().stable
    assert {point.name for point in stable} == {"feature 0", "feature 1"}
    for point in stable:
        assert np.abs(point.cosine_similarity).max() == pytest.approx(1.0, abs=1e-9)


def test_outputs_without_coupling_rest_where_one_output_does():
    problem = replace(PAPER, hidden=mv.hidden.Rademacher(3.0), activation="erf")
    single = [(point.Q[0, 0], abs(point.R[0, 0])) for point in mv.reduce(problem).fixed_points(starts=8)]
    found = mv.reduce(replace(problem, outputs=2)).fixed_points(starts=2)
    assert "exchange of outputs 0 and 1" in found.symmetries
    assert len(found) >= 3
    for point in found:
        for j in range(2):
            assert min(max(abs(point.Q[j, j] - q), abs(abs(point.R[j, 0]) - r)) for q, r in single) < 1e-8
    both = next(point for point in found.stable)
    assert both.name == "output 0: feature 0; output 1: feature 0"
    assert both.Q[0, 1] > 0.9 * both.Q[0, 0]  # nothing keeps the outputs apart


def test_nothing_is_stationary_under_a_schedule():
    problem = replace(PAPER, learning_rate=mv.schedules.PowerDecay(0.4, 1.0))
    with pytest.raises(mv.UnsupportedError, match=r"^learning_rate"):
        mv.reduce(problem).fixed_points()
    with pytest.raises(mv.UnsupportedError, match=r"^learning_rate"):
        mv.reduce(problem).learnability()


def test_deflation_finds_what_few_starts_miss():
    problem = replace(PAPER, hidden=mv.hidden.Rademacher([4.0, 3.5, 3.0, 2.5]))
    system = mv.reduce(problem)
    few, dense = system.fixed_points(starts=1), system.fixed_points(starts=400)
    late = [point for point in few if point.round > 0]
    assert late
    assert max(point.round for point in few) <= few.rounds - 1  # the last round found nothing
    assert few.starts == sum(point.found for point in few) + sum(few.failures.values())
    assert "by deflation" in str(few)
    known = [np.abs(R).max(axis=0) for point in dense for _, R in point.copies]
    for point in late:
        assert min(np.abs(np.abs(point.R[0]) - R).max() for R in known) < 1e-8


def test_the_deflated_newton_step_is_that_of_the_deflated_residual():
    """Against differences of M(x) f(x), which know nothing of the formula."""
    known = np.array([[0.5, -0.3, 1.0], [-0.2, 0.4, 0.7]])
    deflation = Deflation(known, np.ones_like(known), lambda x: x)

    def f(x):
        return np.array([x[0] ** 2 + x[1] - 0.3, np.sin(x[1]) * x[2] - 0.1, x[2] ** 3 - x[0]])

    def deflated(x):
        return deflation.factor(x[None])[0] * f(x)

    def newton_step(function, x):
        h = 1e-5
        J = np.array([(function(x + move) - function(x - move)) / (2 * h) for move in h * np.eye(3)]).T
        return -np.linalg.solve(J, function(x))

    for x in (np.array([0.6, -0.2, 0.9]), np.array([0.1, 0.1, 0.8])):
        plain = newton_step(f, x)
        stretched = deflation.stretch(x[None], plain[None])[0] * plain
        np.testing.assert_allclose(stretched, newton_step(deflated, x), rtol=1e-5)
