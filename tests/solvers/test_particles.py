"""The particle system against moment equations, Gibbs laws and itself with another step."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid, solve_ivp

from mkvlasov.errors import InvalidInput
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.problem import activations, augmentations, hidden, initial, loadings, losses, regularizers, schedules
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solution_runs import ParticleSolution
from mkvlasov.solvers.particles.simulate import simulate_particles
from mkvlasov.solvers.particles.system import PART, time_grid


def make_problem(**fields: object) -> Problem:
    given = {
        "hidden": hidden.Rademacher([4.0, 3.0]),
        "activation": "tanh",
        "learning_rate": 0.4,
        "regularizer": regularizers.L2(0.3),
        "augmentation": augmentations.GaussianNoise(0.5, -0.6),
    }
    return Problem(**{**given, **fields})


START = initial.Gaussian(Q=1.0, R=[0.3, 0.2])
TWO_OUTPUTS = initial.Gaussian(Q=[[1.0, 0.2], [0.2, 0.8]], R=[[0.5, 0.2], [-0.2, 0.4]])


def moments(problem: Problem, start: initial.Gaussian, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solve the closed moment equations (docs/theory.md, section 4; sphere: section 9), written out here."""
    limit, kappa = LimitCoefficients(problem, rtol=1e-8), problem.regularizer.linear_strength
    Q0, R0 = start.overlaps(problem)
    m, k = R0.shape

    def rates(time: float, y: np.ndarray) -> np.ndarray:
        Q, R = y[: m * m].reshape(m, m), y[m * m :].reshape(m, k)
        c, tau = limit(Q, R, time), problem.rate(time)
        decay = c.G + kappa * np.eye(m)
        dR = -tau * (decay @ R + c.H)
        half = -tau * (decay @ Q + c.H @ R.T)
        dQ = half + half.T + c.Lambda
        if problem.constraint == "sphere":
            shrink = np.diag(-0.5 * np.diag(dQ) / np.diag(Q))
            dQ, dR = dQ + shrink @ Q + Q @ shrink, dR + shrink @ R
        return np.concatenate([dQ.ravel(), dR.ravel()])

    solved = solve_ivp(rates, (0.0, t[-1]), np.concatenate([Q0.ravel(), R0.ravel()]), t_eval=t, rtol=1e-8, atol=1e-10)
    return solved.y[: m * m].T.reshape(-1, m, m), solved.y[m * m :].T.reshape(-1, m, k)


def assert_agrees(s: ParticleSolution, Q: np.ndarray, R: np.ndarray) -> None:
    # Standard errors from 16 runs: Student's t with 15 degrees of freedom exceeds 5 with a probability of 2e-4.
    assert (np.abs(s.Q - Q) <= 5.0 * s.Q_stderr + s.Q_error + 1e-9).all()
    assert (np.abs(s.R - R) <= 5.0 * s.R_stderr + s.R_error + 1e-9).all()


CASES = {
    "paper": ({}, START),
    "schedule": (
        {"learning_rate": schedules.ExponentialDecay(1.0, 0.7, 0.1), "hidden": hidden.Gaussian([4, 3])},
        START,
    ),
    "two outputs": ({"outputs": 2, "batch_size": 4, "loss": losses.Covariance(0.5)}, TWO_OUTPUTS),
    "sphere": ({"outputs": 2, "constraint": "sphere"}, initial.Gaussian(1.0, [[0.5, 0.2], [-0.2, 0.4]])),
}


@pytest.mark.parametrize("name", CASES)
def test_moments_under_l2_are_those_of_the_closed_equations(name: str) -> None:
    fields, start = CASES[name]
    problem, t = make_problem(**fields), np.array([0.0, 0.5, 2.0])
    s = simulate_particles(problem, start, t_eval=t, particles=4000, runs=16, rng=1, progress=False)
    assert_agrees(s, *moments(problem, start, t))
    # The comparison means something: errors are small against the distance travelled.
    error = 5.0 * s.R_stderr[-1] + s.R_error[-1]
    assert (np.abs(s.R[-1] - s.R[0]) / error).max() > 5.0


@pytest.mark.parametrize(
    "fields",
    [
        {"learning_rate": schedules.ExponentialDecay(1.0, 0.7)},
        {"outputs": 2, "constraint": "sphere"},
        {"regularizer": regularizers.DoubleWell(0.5)},
        {"regularizer": regularizers.DoubleWell(0.5), "constraint": "sphere"},
        {"regularizer": regularizers.Huber(0.5, 5.0)},
    ],
    ids=["schedule", "sphere", "double well", "double well on the sphere", "Huber"],
)
def test_order_two_in_the_time_step_without_diffusion(fields: dict[str, object]) -> None:
    # An infinite batch has no noise: with the same start, differences are those of the time steps alone.
    problem = make_problem(batch_size=np.inf, **fields)
    R = [[0.5, 0.2]] if problem.outputs == 1 else [[0.5, 0.2], [-0.2, 0.4]]
    solutions = [
        simulate_particles(
            problem,
            initial.Gaussian(1.0, R),
            t_eval=[1.6],
            particles=500,
            runs=1,
            rng=2,
            time_step=step,
            rtol=1e-9,
            progress=False,
        )
        for step in (0.025, 0.0125, 0.00625)
    ]
    final = [np.concatenate([s.Q.ravel(), s.R.ravel()]) for s in solutions]
    order = np.log2(np.abs(final[0] - final[1]).max() / np.abs(final[1] - final[2]).max())
    assert order > 1.8, order
    # And the reported error, from a pilot with other particles, covers what the step does here.
    truth = final[2] + (final[2] - final[1]) / 3.0
    for s, value in zip(solutions[:2], final[:2], strict=True):
        reported = np.concatenate([s.Q_error.ravel(), s.R_error.ravel()])
        assert np.abs(value - truth).max() < reported.max()


def test_the_first_steps_are_of_third_order() -> None:
    # There the slope of the coefficients cannot come from the past.
    problem = make_problem(batch_size=np.inf, learning_rate=1.0)
    errors = []
    for t in (0.1, 0.05):
        coarse, exact = (
            simulate_particles(
                problem, START, t_eval=[t], particles=500, runs=1, rng=2, time_step=step, rtol=1e-9, progress=False
            ).R
            for step in (t / 2, t / 40)
        )
        errors.append(np.abs(coarse - exact).max())
    # 8 for a local error of third order, 4 for one of second.
    assert errors[0] / errors[1] > 6.0


def test_order_two_in_the_time_step_with_diffusion() -> None:
    # Coupled noise: the reported errors are differences between a step and twice of it.
    problem = make_problem(regularizer=regularizers.DoubleWell(0.8), learning_rate=0.8)
    errors = [
        simulate_particles(
            problem, START, t_eval=[1.6, 3.2], particles=8192, runs=1, rng=3, time_step=step, progress=False
        ).Q_error.max()
        for step in (0.2, 0.1)
    ]
    # 4 for order 2, 2 for order 1; the estimates carry noise of about a tenth.
    assert 3.0 < errors[0] / errors[1] < 5.5


def test_stationary_state_under_l1_is_the_gibbs_law() -> None:
    problem = make_problem(
        hidden=hidden.Rademacher(4.0),
        regularizer=regularizers.L1(0.3),
        learning_rate=0.8,
        loadings=loadings.Sparse(0.25),
    )
    s = simulate_particles(
        problem,
        initial.Gaussian(1.0, 0.5),
        t_eval=[0.0, 12.0, 16.0],
        particles=10_000,
        runs=16,
        rng=4,
        snapshots=[16.0],
        progress=False,
    )
    assert (np.abs(s.R[2] - s.R[1]) < 5.0 * s.R_stderr[1]).all()
    c, tau = LimitCoefficients(problem, rtol=1e-8)(s.Q[-1], s.R[-1]), problem.rate(0.0)
    for loading in (0.0, 2.0):

        def energy(w: np.ndarray, loading: float = loading) -> np.ndarray:
            return c.G.item() * w * w / 2 + c.H.item() * loading * w + 0.3 * np.abs(w)

        # Fine enough for the trapezoidal rule to be exact to 1e-5, with the kink on a node.
        w = np.linspace(-8.0, 8.0, 32_001)
        gibbs = np.exp(-2.0 * tau / c.Lambda.item() * (energy(w) - energy(w).min()))
        distribution = cumulative_trapezoid(gibbs, w, initial=0.0)
        edges = w[np.argmax(gibbs)] + np.linspace(-0.8, 0.8, 17)
        expected = np.diff(np.interp(edges, w, distribution / distribution[-1])) / np.diff(edges)
        histogram = s.histogram(16.0, loading, bins=edges)
        # Errors from 16 runs, as above; they contain what fluctuations of (Q, R) do to the density. One per cent of the
        # peak for the time step.
        assert (np.abs(histogram.density - expected) < 5.0 * histogram.stderr + 0.01 * expected.max()).all()
        assert histogram.stderr.max() < 0.03 * expected.max()


def run_small(**options: object) -> ParticleSolution:
    given = {"t_eval": [0.0, 0.4], "particles": 3000, "runs": 3, "rng": 5, "progress": False}
    return simulate_particles(make_problem(), START, **{**given, **options})


def test_same_seed_gives_the_same_numbers_whatever_the_workers() -> None:
    one, two = run_small(workers=1), run_small(workers=3)
    np.testing.assert_array_equal(one.runs.Q, two.runs.Q)
    np.testing.assert_array_equal(one.runs.R, two.runs.R)
    np.testing.assert_array_equal(one.Q_error, two.Q_error)
    assert not np.array_equal(run_small(rng=6).runs.R, one.runs.R)


def test_workers_share_a_run_without_changing_it() -> None:
    # More particles than one thread's part.
    options = {"particles": PART + 3000, "runs": 1, "time_step": 0.1}
    one, two = run_small(workers=1, **options), run_small(workers=2, **options)
    np.testing.assert_array_equal(one.runs.Q, two.runs.Q)
    np.testing.assert_array_equal(one.runs.R, two.runs.R)


def test_loss_is_that_of_the_limit_at_the_overlaps_of_each_run() -> None:
    s = run_small(time_step=0.1)
    np.testing.assert_allclose(s.runs.loss, LimitCoefficients(make_problem(), rtol=1e-6)(s.runs.Q, s.runs.R).loss)


def test_weights_stay_on_the_sphere() -> None:
    problem = make_problem(regularizer=regularizers.L1(0.2), constraint="sphere")
    s = simulate_particles(problem, START, t_eval=[0.0, 1.0], particles=2000, runs=2, rng=7, progress=False)
    np.testing.assert_allclose(s.runs.Q, 1.0, atol=1e-13)


def test_snapshots_hold_the_particles_of_their_time() -> None:
    s = run_small(snapshots=[0.0, 0.3, 0.4])
    assert s.snapshots.weights.shape == (3, 3, 3000, 1)
    w, a = s.snapshots.weights[2, 1], s.snapshots.loadings[1]
    np.testing.assert_allclose(w.T @ w / 3000, s.runs.Q[1, 1])
    np.testing.assert_allclose(w.T @ a / 3000, s.runs.R[1, 1])
    histogram = s.histogram(0.3, [[-1.0, -1.0], [1.0, 1.0]], bins=20)
    assert (histogram.density * np.diff(histogram.edges)).sum() == pytest.approx(1.0)


def test_a_start_at_zero_is_no_obstacle() -> None:
    s = simulate_particles(
        make_problem(), initial.Point(0.0), t_eval=[0.0, 0.5], particles=500, runs=2, rng=11, progress=False
    )
    assert s.status.success
    assert np.isfinite(s.Q_error).all()


def test_blow_up_ends_the_arrays_and_is_said() -> None:
    problem = make_problem(activation=activations.Identity(), regularizer=regularizers.Zero(), learning_rate=1.0)
    s = simulate_particles(
        problem, START, t_eval=np.linspace(0, 2, 17), particles=500, runs=3, rng=12, time_step=0.05, progress=False
    )
    assert not s.status.success
    assert "diverged" in s.status.message
    assert 2 < len(s.t) < 17
    assert len(s.Q) == len(s.Q_error) == len(s.loss) == len(s.t)
    assert np.isfinite(s.runs.Q).all()


def test_default_step_keeps_the_discretization_below_the_statistical_error() -> None:
    problem, t = make_problem(learning_rate=1.0), [0.0, 1.0, 2.0]
    few, many = (
        simulate_particles(problem, START, t_eval=t, particles=particles, runs=4, rng=13, progress=False)
        for particles in (1000, 100_000)
    )
    for s, particles in ((few, 1000), (many, 100_000)):
        # Relative to the size of the weights.
        assert s.Q_error.max() <= s.Q.max() / np.sqrt(4 * particles)
    assert many.stats["time_step"] < few.stats["time_step"] <= 0.1 + 1e-12


def test_the_grid_lands_on_every_mark_in_pairs_of_steps() -> None:
    marks = np.array([0.0, 0.05, 0.3])
    times = time_grid(marks, 0.1)
    assert set(marks) <= set(times.tolist())
    assert np.diff(times).max() <= 0.1
    assert len(times) == 1 + 2 + 4
    assert time_grid(np.array([0.0]), 0.1).tolist() == [0.0]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"particles": 2}, "particles"),
        ({"runs": 0}, "runs"),
        ({"time_step": 0.0}, "time_step"),
        ({"t_eval": [-1.0]}, "t_eval"),
        ({"snapshots": [2.0]}, "snapshots"),
        ({"workers": 0}, "workers"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, object], name: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{name}"):
        run_small(**options)
