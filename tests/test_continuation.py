"""Going on from where a solution ended is as good as not having stopped."""

from dataclasses import replace

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.problem.continued import Affine

T = np.array([0.0, 1.5, 3.0])
TWICE = np.array([0.0, 3.0, 6.0])


def _problem(regularizer, **changes):
    given = {
        "hidden": mv.hidden.Rademacher(4.0),
        "activation": "tanh",
        "learning_rate": 0.3,
        "regularizer": regularizer,
    }
    given["augmentation"] = mv.augmentations.GaussianNoise(std=0.5, correlation=-0.6)
    given["loadings"] = mv.loadings.Sparse(0.2)
    return mv.Problem(**{**given, **changes})


INITIAL = mv.initial.Gaussian(Q=1.0, R=0.5)
LOADINGS = (0.0, float(1 / np.sqrt(0.2)))


def _l1(one, other):
    w = np.union1d(one.w, other.w)
    return np.trapezoid(np.abs(np.interp(w, one.w, one.p) - np.interp(w, other.w, other.p)), w)


@pytest.fixture(scope="module")
def decaying():
    """L2: the first half by the PDE, and the exact law all the way."""
    problem = _problem(mv.regularizers.L2(0.3))
    return mv.solve_pde(problem, INITIAL, t_eval=T, progress=False), mv.solve_ode(
        problem, INITIAL, t_eval=TWICE, progress=False
    )


def test_pde_after_pde_is_the_exact_law_under_l2(decaying):
    first, exact = decaying
    second = mv.solve_pde(first.problem, first.final, t_eval=T, progress=False)
    # Fitting the table again on other elements leaves 3e-6.
    np.testing.assert_allclose(second.Q[0], first.Q[-1], rtol=1e-5)
    np.testing.assert_allclose(second.R[0], first.R[-1], rtol=1e-5)
    assert abs(second.Q[-1] - exact.Q[-1]).item() < (first.Q_error[-1] + second.Q_error[-1]).item()
    assert abs(second.R[-1] - exact.R[-1]).item() < (first.R_error[-1] + second.R_error[-1]).item()
    for a in LOADINGS:
        gap = _l1(second.density(3.0, a), exact.density(6.0, a, w=second.density(3.0, a).w))
        assert gap < first.density_error[-1] + second.density_error[-1]
    np.testing.assert_allclose(second.loss[0], first.loss[-1], rtol=1e-5)


def test_pde_after_pde_is_one_run_under_l1():
    """Remapping to another mesh costs far less than what the meshes leave out anyway."""
    problem, method = _problem(mv.regularizers.L1(0.3)), mv.methods.FiniteVolumes()
    first = mv.solve_pde(problem, INITIAL, t_eval=T, method=method, progress=False)
    second = mv.solve_pde(problem, first.final, t_eval=T, method=method, progress=False)
    whole = mv.solve_pde(problem, INITIAL, t_eval=TWICE, method=method, progress=False)
    np.testing.assert_allclose(second.Q[-1], whole.Q[-1], atol=0.1 * whole.Q_error[-1].item())
    np.testing.assert_allclose(second.R[-1], whole.R[-1], atol=0.1 * whole.R_error[-1].item())
    for a in LOADINGS:
        one, other = second.density(3.0, a), whole.density(6.0, a)
        assert _l1(one, other) < 0.2 * whole.density_error[-1]
        assert one.mass(-0.1, 0.1) == pytest.approx(other.mass(-0.1, 0.1), abs=1e-4)


def test_closed_equations_go_on_exactly_and_from_a_table(decaying):
    first, exact = decaying
    half = mv.solve_ode(first.problem, INITIAL, t_eval=T, progress=False)
    after_ode = mv.solve_ode(first.problem, half.final, t_eval=T, progress=False)
    after_pde = mv.solve_ode(first.problem, first.final, t_eval=T, progress=False)
    np.testing.assert_allclose(after_ode.Q[-1], exact.Q[-1], rtol=1e-8)
    assert abs(after_pde.Q[-1] - exact.Q[-1]).item() < first.Q_error[-1].item()
    for a in LOADINGS:
        density = exact.density(6.0, a)
        np.testing.assert_allclose(after_ode.density(3.0, a, w=density.w).p, density.p, atol=1e-8)
        blurred = after_pde.density(3.0, a)
        assert _l1(blurred, exact.density(6.0, a, w=blurred.w)) < first.density_error[-1]
        assert after_pde.density(3.0, a).quantile(0.3) == pytest.approx(density.quantile(0.3), abs=1e-5)


def test_the_pde_goes_on_from_the_closed_equations(decaying):
    first, exact = decaying
    half = mv.solve_ode(first.problem, INITIAL, t_eval=T, progress=False)
    pde = mv.solve_pde(first.problem, half.final, t_eval=T, progress=False)
    assert abs(pde.Q[-1] - exact.Q[-1]).item() < pde.Q_error[-1].item()


def test_two_outputs_go_on_exactly():
    problem = _problem(mv.regularizers.L2(0.3), outputs=2, hidden=mv.hidden.Rademacher([4.0, 3.0]), loadings=None)
    initial = mv.initial.Gaussian([[1.0, 0.2], [0.2, 1.3]], [[0.3, 0.1], [0.0, 0.4]])
    half = mv.solve_ode(problem, initial, t_eval=T[:2], rtol=1e-6, progress=False)
    rest = mv.solve_ode(problem, half.final, t_eval=T[:2], rtol=1e-6, progress=False)
    whole = mv.solve_ode(problem, initial, t_eval=T, rtol=1e-6, progress=False)
    np.testing.assert_allclose(rest.Q[-1], whole.Q[-1], rtol=1e-5)
    one, other = rest.law(1.5, [0.5, -1.0]), whole.law(3.0, [0.5, -1.0])
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-5)
    np.testing.assert_allclose(one.second_moment, other.second_moment, atol=1e-5)
    w, a = half.final.sample_rows(np.random.default_rng(0), 20_000, problem)
    np.testing.assert_allclose(w.T @ a / 20_000, half.R[-1], atol=5 * np.sqrt(2 * 2.0 / 20_000))
    np.testing.assert_allclose(w.T @ w / 20_000, half.Q[-1], atol=5 * np.sqrt(2 * 4.0 / 20_000))


@pytest.mark.parametrize("loadings", [mv.loadings.Sparse(0.2), mv.loadings.Gaussian()])
def test_simulations_go_on_from_their_last_snapshot(loadings):
    problem = _problem(mv.regularizers.L2(0.3), loadings=loadings)
    options = {"t_eval": [0.0, 1.0], "snapshots": [0.0, 1.0], "rng": 0, "progress": False}
    for solution in (
        mv.simulate_particles(problem, INITIAL, particles=2000, runs=3, **options),
        mv.simulate_sgd(problem, INITIAL, dimension=300, runs=8, **options),
    ):
        law = solution.final
        Q, R = law.overlaps(problem)
        # With atoms SGD's rows are weighted to the exact law of the loadings, which moves means within their errors.
        slack = 1e-12 if loadings == mv.loadings.Gaussian() else 5.0
        np.testing.assert_allclose(Q, solution.Q[-1], atol=slack * solution.Q_stderr[-1].item())
        np.testing.assert_allclose(R, solution.R[-1], atol=slack * solution.R_stderr[-1].item())
        if loadings != mv.loadings.Gaussian():
            nodes = law.loading_nodes(problem, 3)
            exact = INITIAL.loading_nodes(problem, 3)
            np.testing.assert_allclose(nodes.points, exact.points, atol=1e-12)
            np.testing.assert_allclose(nodes.weights, exact.weights, rtol=1e-12)
        again = mv.simulate_particles(problem, law, t_eval=[0.0], particles=4000, runs=4, rng=1, progress=False)
        np.testing.assert_allclose(again.R[0], R, atol=6 * again.R_stderr[0].item())


def test_rows_drawn_from_a_law_to_go_on_from_have_its_overlaps():
    """A map that is not symmetric, noise whose root is not itself, loadings that are not equally likely."""
    two = _problem(mv.regularizers.L2(0.3), outputs=2, hidden=mv.hidden.Rademacher([4.0, 3.0]), loadings=None)
    start = mv.initial.Gaussian([[1.0, 0.2], [0.2, 1.3]], [[0.3, 0.1], [0.0, 0.4]])
    P = np.array([[0.5, 0.1], [0.1, 0.2]])
    moved = Affine(start, np.array([[0.8, 0.5], [-0.3, 0.6]]), np.array([[0.2, 0.7], [-0.4, 0.1]]), P)
    one = _problem(mv.regularizers.L2(0.3))
    w = np.linspace(-1.0, 1.0, 201)
    table = mv.initial.Tabulated(LOADINGS, [0.8, 0.2], [w, w + 0.5], np.full((2, 201), 0.5))
    rows = mv.initial.Empirical([0.5, -0.3, 1.0], [0.0, 0.0, LOADINGS[1]], [0.5, 0.3, 0.2])
    pde = mv.solve_pde(one, INITIAL, t_eval=[0.0, 0.5], progress=False).final
    for law, problem in ((moved, two), (table, one), (rows, one), (pde, one)):
        Q, R = law.overlaps(problem)
        w, a = law.sample_rows(np.random.default_rng(0), 20_000, problem)
        for products, exact in (
            (w[:, :, None] * w[:, None], Q),
            (w[:, :, None] * a[:, None], R),
            (a[:, :, None] * a[:, None], np.eye(a.shape[1])),
        ):
            error = products.std(axis=0) / np.sqrt(20_000)
            assert (np.abs(products.mean(axis=0) - exact) < 5.0 * error).all()


def test_every_route_goes_on_from_a_pde():
    problem = _problem(mv.regularizers.L1(0.3))
    pde = mv.solve_pde(problem, INITIAL, t_eval=[0.0, 1.0, 2.0], progress=False)
    first = mv.solve_pde(problem, INITIAL, t_eval=[0.0, 1.0], progress=False)
    mfs = mv.simulate_particles(problem, first.final, t_eval=[0.0, 1.0], particles=4000, runs=6, rng=0, progress=False)
    sgd = mv.simulate_sgd(
        problem, first.final, t_eval=[0.0, 1.0], dimension=500, runs=8, rng=0, exact_overlaps=True, progress=False
    )
    for drawn in (mfs, sgd):
        for i, j in ((0, 1), (1, 2)):
            # Nothing but statistics and, for SGD, a bias of a few 1 / N (in R the 1e-2); the PDE's error is far less.
            slack = 6 * drawn.Q_stderr[i] + 6 * drawn.Q_error[i] + 5.0 / 500 * (drawn is sgd)
            np.testing.assert_allclose(drawn.Q[i], pde.Q[j], atol=(slack + 1e-3).item())
            np.testing.assert_allclose(drawn.R[i], pde.R[j], atol=(6 * drawn.R_stderr[i] + 1e-2).item())


def test_a_pde_goes_on_from_simulated_weights():
    problem = _problem(mv.regularizers.L1(0.3))
    options = {"particles": 1000, "runs": 4, "rng": 0, "snapshots": [1.0], "progress": False}
    mfs = mv.simulate_particles(problem, INITIAL, t_eval=[0.0, 1.0], **options)
    pde = mv.solve_pde(problem, mfs.final, t_eval=[0.0, 1.0], progress=False)
    assert "FiniteVolumes" in pde.status.message, "a thousand points are no start for polynomials"
    whole = mv.solve_pde(problem, INITIAL, t_eval=[0.0, 2.0], progress=False)
    np.testing.assert_allclose(pde.Q[-1], whole.Q[-1], atol=6 * mfs.Q_stderr[-1].item() + pde.Q_error[-1].item())


def test_a_loading_off_the_nodes_is_solved_for_from_the_very_start():
    problem = _problem(mv.regularizers.L2(0.3), loadings=None)
    first = mv.solve_pde(problem, INITIAL, t_eval=T, loading_order=12, progress=False)
    second = mv.solve_pde(problem, first.final, t_eval=T, progress=False)
    exact = mv.solve_ode(problem, INITIAL, t_eval=TWICE, progress=False)
    density = second.density(3.0, 0.7)
    assert _l1(density, exact.density(6.0, 0.7, w=density.w)) < first.density_error[-1] + second.density_error[-1]


def test_a_schedule_goes_on_where_it_stopped():
    schedule = mv.schedules.PowerDecay(0.4, timescale=2.0)
    problem = _problem(mv.regularizers.L2(0.3), learning_rate=schedule)
    half = mv.solve_ode(problem, INITIAL, t_eval=T, progress=False)
    later = replace(problem, learning_rate=mv.schedules.Continued(schedule, after=3.0))
    rest = mv.solve_ode(later, half.final, t_eval=T, progress=False)
    whole = mv.solve_ode(problem, INITIAL, t_eval=TWICE, progress=False)
    np.testing.assert_allclose(rest.Q[-1], whole.Q[-1], rtol=1e-7)
    assert rest.problem.rate(3.0) == schedule(6.0)


def test_the_sphere_is_not_left():
    problem = _problem(mv.regularizers.L1(0.1), constraint="sphere")
    options = {"t_eval": [0.0, 0.5], "progress": False}
    pde = mv.solve_pde(problem, INITIAL, **options)
    sgd = mv.simulate_sgd(problem, INITIAL, dimension=200, runs=3, rng=0, snapshots=[0.5], **options)
    # Weighting the 600 rows of SGD to the exact law of the loadings moves means within their error, 1 / sqrt(600).
    for solution, slack in ((pde, 1e-5), (sgd, 0.02)):
        Q, R = solution.final.overlaps(problem)
        assert Q.item() == pytest.approx(1.0, abs=1e-12)
        assert R.item() == pytest.approx(solution.R[-1].item(), abs=slack)
        assert mv.solve_pde(problem, solution.final, t_eval=[0.0, 0.1], progress=False).status.success


def test_what_cannot_go_on_says_why():
    problem = _problem(mv.regularizers.L2(0.3))
    sgd = mv.simulate_sgd(problem, INITIAL, t_eval=[0.0, 0.5], dimension=50, runs=2, snapshots=[0.0], progress=False)
    with pytest.raises(mv.InvalidInput, match=r"simulate with snapshots=\[\.\.\., 0\.5\]"):
        _ = sgd.final
    pde = mv.solve_pde(problem, INITIAL, t_eval=[0.0, 0.5], progress=False)
    with pytest.raises(mv.InvalidInput, match=r"problem\.loadings"):
        mv.solve_pde(_problem(mv.regularizers.L2(0.3), loadings=None), pde.final, t_eval=[1.0])
    with pytest.raises(mv.InvalidInput, match="outputs"):
        mv.simulate_particles(replace(problem, outputs=2), pde.final, t_eval=[1.0])


def test_tables_of_ones_own():
    """A uniform law of width 2 sqrt(3): mean R a would not fit a Gaussian start."""
    problem = _problem(mv.regularizers.L2(0.3))
    w = np.linspace(-np.sqrt(3.0), np.sqrt(3.0), 801)
    law = mv.initial.Tabulated(LOADINGS, [0.8, 0.2], [w, w + 0.5], np.full((2, 801), 0.5 / np.sqrt(3.0)))
    Q, R = law.overlaps(problem)
    assert Q.item() == pytest.approx(1.0 + 0.2 * 0.25, rel=1e-5)
    assert R.item() == pytest.approx(0.2 * 0.5 * LOADINGS[1], rel=1e-12)
    assert not law.conditional(np.array([0.0]), problem).is_smooth
    with pytest.raises(mv.InvalidInput, match="mass one"):
        mv.initial.Tabulated(LOADINGS, [0.8, 0.2], [w, w], np.ones((2, 801)))
    with pytest.raises(mv.InvalidInput, match="increasing"):
        mv.initial.Tabulated(LOADINGS, [0.8, 0.2], [w, w[::-1]], np.ones((2, 801)))
    with pytest.raises(mv.InvalidInput, match="for which a density is given"):
        law.conditional(np.array([1.0]), problem)


@pytest.mark.parametrize("route", ["pde", "ode", "sgd"])
def test_what_went_on_survives_being_saved(route, tmp_path):
    problem = _problem(mv.regularizers.L2(0.3))
    options = {"t_eval": [0.0, 0.5], "progress": False}
    first = {
        "pde": lambda: mv.solve_pde(problem, INITIAL, **options),
        "ode": lambda: mv.solve_ode(problem, INITIAL, **options),
        "sgd": lambda: mv.simulate_sgd(problem, INITIAL, dimension=200, runs=60, rng=0, snapshots=[0.5], **options),
    }[route]()
    later = replace(problem, learning_rate=mv.schedules.Continued(mv.schedules.PowerDecay(0.3, 2.0), after=0.5))
    second = mv.solve_ode(later, first.final, **options)
    second.save(tmp_path / "run.nc")
    loaded = mv.load(tmp_path / "run.nc")
    assert loaded.problem == later
    np.testing.assert_array_equal(loaded.initial.overlaps(later)[0], second.initial.overlaps(later)[0])
    w = np.linspace(-1.0, 1.0, 5)
    np.testing.assert_array_equal(loaded.density(0.5, 0.0, w=w).p, second.density(0.5, 0.0, w=w).p)
    third = mv.solve_ode(later, loaded.final, **options)
    third.save(tmp_path / "again.nc")
    np.testing.assert_array_equal(mv.load(tmp_path / "again.nc").Q, third.Q)
