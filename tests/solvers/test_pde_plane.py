"""The PDE with two outputs against exact densities, the closed ODEs and simulations."""

import numpy as np
import pytest

import mkvlasov as mv

START = mv.initial.Gaussian([[1.0, 0.1], [0.1, 0.8]], [[0.5], [0.3]])
MIXTURE = mv.initial.Mixture(
    [0.4, 0.6],
    [mv.initial.Gaussian(0.3 * np.eye(2), [[0.2], [0.1]]), mv.initial.Gaussian(0.8 * np.eye(2), [[0.5], [-0.3]])],
)
TIMES = [0.0, 0.5, 1.5]
SPLITTING = mv.methods.PlaneSplitting


def problem(regularizer=None, decorrelation=1.0, **options):
    given = {
        "hidden": mv.hidden.Rademacher([4.0]),
        "activation": "tanh",
        "learning_rate": 0.5,
        "regularizer": regularizer or mv.regularizers.L2(0.3),
        "augmentation": mv.augmentations.GaussianNoise(0.4, -0.3),
        "loss": mv.losses.Covariance(decorrelation=decorrelation),
        "loadings": mv.loadings.Sparse(0.25),
        "outputs": 2,
    }
    return mv.Problem(**{**given, **options})


def solve(what, start=START, t=TIMES, **options):
    solution = mv.solve_pde(what, start, t_eval=t, progress=False, **options)
    # A run that stops early would pass every comparison over the times that it reached.
    assert solution.status.success, solution.status
    return solution


def l1_errors(solution, exact):
    """Return the errors of the joint densities, shape (T, L): sums over the cells."""
    result = np.empty((len(solution.t), len(solution.loading_weights)))
    for i, t in enumerate(solution.t):
        for j, a in enumerate(solution.loading_points):
            table = solution.law(i, j)
            areas = np.outer(*np.diff(table.edges, axis=1)) * abs(np.linalg.det(table.axes))
            p = exact.law(t, a).joint_pdf(table.w.reshape(-1, 2)).reshape(table.p.shape)
            result[i, j] = (areas * np.abs(table.p - p)).sum()
    return result


def test_boxes_follow_lopsided_densities_however_short_the_steps_are():
    """As a feature is learnt the mean leaves the middle of the box; a box that stays behind cuts the density off."""
    what = problem(mv.regularizers.DoubleWell(0.5), augmentation=mv.augmentations.GaussianNoise(0.4, 0.0))
    coarse, fine = (solve(what, t=[4.0], method=SPLITTING(48), rtol=rtol) for rtol in (1e-3, 1e-5))
    assert fine.stats["steps"] > 3 * coarse.stats["steps"]
    assert fine.stats["wall_mass"] < 1e-4
    assert (np.abs(fine.Q - coarse.Q) <= fine.Q_error + coarse.Q_error).all()
    assert (np.abs(fine.R - coarse.R) <= fine.R_error + coarse.R_error).all()


@pytest.mark.parametrize("positive", [False, True])
def test_densities_under_l2_converge_to_the_exact_ones_with_second_order_at_least(positive):
    what = problem()
    exact = mv.solve_ode(what, MIXTURE, t_eval=TIMES, progress=False)
    errors = []
    for cells in (32, 64):
        solution = solve(what, MIXTURE, method=SPLITTING(cells, positive=positive), rtol=1e-5)
        found = l1_errors(solution, exact)
        assert (found @ solution.loading_weights <= solution.density_error).all()
        errors.append(found.max())
        mean = found @ solution.loading_weights
    # Second order: a quarter; some less for the error of the time steps, which stays.
    assert errors[1] < errors[0] / 3.0
    assert errors[1] < 5e-3
    # The difference of two runs of second order is three times the error of the finer: extrapolated, it is less.
    assert positive or mean[-1] < solution.density_error[-1] / 3.0


def test_a_normal_density_is_kept_exactly_by_every_step():
    # The boxes take mean and covariance along: what is left is the error of the coefficients between steps.
    what = problem()
    exact = mv.solve_ode(what, START, t_eval=TIMES, progress=False)
    solution = solve(what, method=SPLITTING(48, positive=True), rtol=1e-5)
    assert l1_errors(solution, exact).max() < 3e-4


@pytest.mark.parametrize(
    "what",
    [
        problem(decorrelation=0.0),
        problem(decorrelation=2.0, batch_size=4),
        problem(mv.regularizers.Zero(), learning_rate=lambda t: 0.5 / (1.0 + t)),
        problem(batch_size=np.inf),
    ],
    ids=["no decorrelation", "batch", "schedule", "no diffusion"],
)
def test_moments_under_l2_are_those_of_the_closed_equations(what):
    ode = mv.solve_ode(what, START, t_eval=TIMES, progress=False)
    pde = solve(what, method=SPLITTING(32))
    assert pde.status.success
    # The estimates are larger than the errors, and the errors of the order of a few tolerances.
    assert (np.abs(pde.Q - ode.Q) <= pde.Q_error).all()
    assert (np.abs(pde.R - ode.R) <= pde.R_error).all()
    np.testing.assert_allclose(pde.Q, ode.Q, atol=1e-3)
    np.testing.assert_allclose(pde.loss, ode.loss, atol=1e-3)


def test_outputs_that_synchronize_are_followed_onto_the_diagonal():
    # Without decorrelation both outputs see the same samples: their difference dies out, in ever narrower boxes.
    what = problem(mv.regularizers.L2(1.0), decorrelation=0.0)
    start = mv.initial.Gaussian([[1.0, 0.9], [0.9, 1.0]], [[0.5], [0.5]])
    t = [0.0, 4.0, 8.0]
    ode = mv.solve_ode(what, start, t_eval=t, progress=False)
    pde = solve(what, start, t, method=SPLITTING(32))
    width = np.linalg.eigvalsh(ode.law(8.0, 2.0).covariances[0])
    assert width[0] < 1e-2 * width[1]
    # A width that falls by so many e-folds has the error of its rate times their number.
    np.testing.assert_allclose(np.linalg.eigvalsh(pde.density(8.0, 2.0).covariance), width, rtol=2e-2)
    assert l1_errors(pde, ode)[-1].max() < 2e-2


def random_problem(rng):
    regularizers = [
        mv.regularizers.Zero(), mv.regularizers.L2(0.4), mv.regularizers.L1(0.3), mv.regularizers.ElasticNet(0.2, 0.2),
        mv.regularizers.Huber(0.4, 0.5), mv.regularizers.DoubleWell(0.4), mv.regularizers.GroupLasso(0.3),
    ]  # fmt: skip
    what = problem(
        regularizers[rng.integers(len(regularizers))],
        decorrelation=rng.choice([0.0, 1.0, 2.0]),
        activation=str(rng.choice(["tanh", "erf"])),
        batch_size=int(rng.choice([1, 4])),
        learning_rate=rng.uniform(0.2, 0.8),
        augmentation=mv.augmentations.GaussianNoise(rng.uniform(0.0, 0.6), rng.uniform(-1.0, 1.0)),
    )
    R = rng.uniform(-0.5, 0.5, size=(2, 1))
    root = rng.normal(size=(2, 2))
    return what, mv.initial.Gaussian(root @ root.T + 0.2 * np.eye(2) + R @ R.T, R)


def test_mass_is_conserved_and_positive_densities_stay_so_over_random_problems():
    rng = np.random.default_rng(7)
    for _ in range(50):
        what, start = random_problem(rng)
        solution = solve(what, start, [0.4], method=SPLITTING(24, positive=True), rtol=1e-2)
        assert solution.status.success, solution.status
        assert solution.stats["mass_error"] < 1e-12
        assert solution.stats["mass_restored"] < 1e-12
        assert solution.densities.min() >= 0.0


@pytest.mark.parametrize(
    "regularizer",
    [mv.regularizers.L1(0.4), mv.regularizers.GroupLasso(0.4), mv.regularizers.DoubleWell(0.4)],
    ids=["L1", "GroupLasso", "DoubleWell"],
)
def test_other_regularizers_agree_with_particles_and_with_finer_grids(regularizer):
    what = problem(regularizer)
    pde = solve(what, method=SPLITTING(48), rtol=1e-3)
    particles = mv.simulate_particles(what, START, t_eval=TIMES, particles=20_000, runs=4, rng=3, progress=False)
    assert mv.compare(pde, particles).passed
    finer = solve(what, method=SPLITTING(80), rtol=3e-4)
    assert finer.density_error[-1] < pde.density_error[-1]
    for loading in (0.0, 2.0):
        coarse, fine = pde.density(1.5, loading), finer.density(1.5, loading)
        assert abs(fine.masses.sum() - 1.0) < 1e-12
        for output in range(2):
            edges = np.linspace(-2.0, 4.0, 25)
            np.testing.assert_allclose(
                coarse.marginal(output).cdf(edges), fine.marginal(output).cdf(edges), atol=2.0 * pde.density_error[-1]
            )


def test_on_the_sphere_every_output_keeps_its_norm():
    start = mv.initial.Gaussian([[1.0, 0.1], [0.1, 1.0]], [[0.5], [0.3]])
    what = problem(constraint="sphere")
    ode = mv.solve_ode(what, start, t_eval=TIMES, progress=False)
    pde = solve(what, start, method=SPLITTING(32))
    np.testing.assert_allclose(np.diagonal(pde.Q, axis1=1, axis2=2), 1.0, atol=1e-12)
    np.testing.assert_allclose(pde.Q, ode.Q, atol=1e-3)
    assert (np.abs(pde.R - ode.R) <= pde.R_error).all()


@pytest.mark.parametrize("loadings", [mv.loadings.Rademacher(), mv.loadings.Gaussian()], ids=["atoms", "quadrature"])
def test_two_features_under_l2_agree_with_the_closed_equations(loadings):
    what = problem(decorrelation=2.0, hidden=mv.hidden.Rademacher([4.0, 3.0]), loadings=loadings)
    start = mv.initial.Gaussian([[1.0, 0.1], [0.1, 0.8]], [[0.5, 0.1], [0.1, 0.4]])
    ode = mv.solve_ode(what, start, t_eval=[1.0], progress=False)
    order = None if loadings.is_exact else 4
    pde = solve(what, start, [1.0], method=SPLITTING(24), rtol=1e-3, loading_order=order)
    np.testing.assert_allclose(pde.Q, ode.Q, atol=2e-3)
    assert (np.abs(pde.R - ode.R) <= pde.R_error).all()


def test_a_point_diffuses_from_its_first_instant():
    what = problem()
    start = mv.initial.Point([0.5, 0.3])
    ode = mv.solve_ode(what, start, t_eval=[0.5], progress=False)
    pde = solve(what, start, [0.5], method=SPLITTING(32), rtol=1e-3)
    np.testing.assert_allclose(pde.Q, ode.Q, atol=1e-3)
    assert l1_errors(pde, ode).max() < 3e-2


def test_a_run_goes_on_from_where_another_ended():
    for regularizer in (mv.regularizers.L2(0.3), mv.regularizers.L1(0.4)):
        what = problem(regularizer)
        whole = solve(what, t=[1.5], method=SPLITTING(48))
        first = solve(what, t=[0.5], method=SPLITTING(48))
        then = solve(what, first.final, [1.0], method=SPLITTING(48))
        np.testing.assert_allclose(then.Q[-1], whole.Q[-1], atol=1e-3)
        gap = np.abs(then.density(1.0, 2.0).mean - whole.density(1.5, 2.0).mean)
        assert (gap <= whole.density_error[-1]).all()
        Q, R = first.final.overlaps(what)
        np.testing.assert_allclose(Q, first.Q[-1], atol=5e-4)
        np.testing.assert_allclose(R, first.R[-1], atol=5e-4)
        rows, a = first.final.sample_rows(np.random.default_rng(0), 20_000, what)
        # Five standard errors of means of 20,000 squares.
        np.testing.assert_allclose((rows.T @ rows) / len(rows), first.Q[-1], atol=5.0 * 1.5 / np.sqrt(20_000))
        assert set(a.ravel()) == {0.0, 2.0}


def test_a_loading_that_is_no_node_is_solved_for_along_the_stored_coefficients():
    what = problem()
    pde = solve(what, method=SPLITTING(32))
    ode = mv.solve_ode(what, START, t_eval=TIMES, progress=False)
    density, exact = pde.density(1.5, 0.7), ode.law(1.5, 0.7)
    np.testing.assert_allclose(density.mean, exact.mean, atol=1e-3)
    np.testing.assert_allclose(density.covariance, exact.covariances[0], atol=1e-3)


def test_a_blow_up_is_told_by_the_status():
    what = problem(mv.regularizers.Zero(), decorrelation=0.0, activation="identity", learning_rate=1.0)
    method = SPLITTING(24)
    solution = mv.solve_pde(what, START, t_eval=[0.0, 5.0], method=method, rtol=1e-2, progress=False)
    assert not solution.status.success
    assert "1 of 2 output times" in solution.status.message
    assert np.isfinite(solution.Q).all()
    assert len(solution.t) == 1


def test_densities_that_go_too_far_below_zero_are_solved_again_with_positive_fluxes(monkeypatch):
    monkeypatch.setattr("mkvlasov.solvers.pde.solve._MOST_NEGATIVE", -1.0)
    solution = solve(problem(), t=[0.2], rtol=1e-2)
    assert "positive=True" in solution.status.message
    assert solution.densities.min() >= 0.0


def test_what_is_not_covered_is_refused_by_name():
    with pytest.raises(mv.UnsupportedError, match="one or two outputs"):
        mv.solve_pde(problem(outputs=3), mv.initial.Gaussian(), t_eval=[1.0])
    with pytest.raises(mv.UnsupportedError, match="use PlaneSplitting"):
        solve(problem(), method=mv.methods.FiniteVolumes())
    with pytest.raises(mv.UnsupportedError, match="not for 1 output"):
        mv.solve_pde(problem(outputs=1), mv.initial.Gaussian(), t_eval=[1.0], method=SPLITTING())
    points = mv.initial.Mixture([0.5, 0.5], [mv.initial.Point([1.0, 0.0]), mv.initial.Point([0.0, 1.0])])
    with pytest.raises(mv.UnsupportedError, match="one point mass"):
        solve(problem(), points)
    with pytest.raises(mv.UnsupportedError, match="atoms"):
        solve(problem(mv.regularizers.L1(0.3), batch_size=np.inf))
    narrow = mv.initial.Mixture([0.5, 0.5], [mv.initial.Gaussian(np.eye(2)), mv.initial.Gaussian(1e-4 * np.eye(2))])
    with pytest.raises(mv.UnsupportedError, match="cells wide"):
        solve(problem(), narrow)
    for cells in (31, 10, 2.0):
        with pytest.raises(mv.InvalidInput):
            SPLITTING(cells)


def test_graded_meshes_solve_a_problem_that_is_nearly_quadratic_like_the_closed_equations():
    # The kink is far too weak to matter, but puts the run on meshes. Without noise correlated between outputs fails.
    what = problem(mv.regularizers.ElasticNet(1e-7, 0.3), decorrelation=0.0)
    nearest = problem(mv.regularizers.L2(0.3), decorrelation=0.0)
    ode = mv.solve_ode(nearest, START, t_eval=TIMES, progress=False)
    pde = solve(what, method=SPLITTING(48))
    assert (np.abs(pde.Q - ode.Q) <= pde.Q_error).all()
    assert (l1_errors(pde, ode) @ pde.loading_weights <= pde.density_error).all()
    np.testing.assert_allclose(pde.Q, ode.Q, atol=2e-3)
