"""`solve_pde` against exact solutions, and what it says where there is none."""

import numpy as np
import pytest

from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.problem import activations, augmentations, hidden, initial, loadings, regularizers, schedules
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solvers.ode import solve_ode
from mkvlasov.solvers.pde.methods import FiniteVolumes, SpectralElements, UniformCentral
from mkvlasov.solvers.pde.solve import solve_pde


def problem(**changes):
    fields = {
        "hidden": hidden.Rademacher([4.0]),
        "activation": "tanh",
        "learning_rate": 0.5,
        "regularizer": regularizers.L2(0.3),
        "augmentation": augmentations.GaussianNoise(0.4),
        "loadings": loadings.Sparse(0.25),
    }
    return Problem(**(fields | changes))


MIXTURE = initial.Mixture([0.3, 0.7], [initial.Gaussian(2.0, [1.2]), initial.Gaussian(0.2, [-0.1])])

CASES = {
    "two features, Gaussian loadings": (
        problem(hidden=hidden.Rademacher([4.0, 3.0]), loadings=loadings.Gaussian()),
        initial.Gaussian(1.0, [0.3, 0.2]),
        6.0,
    ),
    "mixture": (problem(activation="erf"), MIXTURE, 6.0),
    "point mass": (problem(), initial.Point(0.5), 6.0),
    "no regularizer": (problem(regularizer=None), initial.Gaussian(1.0, [0.5]), 30.0),
    "sphere": (problem(constraint="sphere"), initial.Gaussian(1.0, [0.5]), 6.0),
    "schedule": (problem(learning_rate=schedules.PowerDecay(0.8, 2.0, 0.7)), initial.Gaussian(1.0, [0.5]), 20.0),
    "gradient flow": (problem(batch_size=np.inf), initial.Gaussian(1.0, [0.5]), 6.0),
}


def l1_gap(pde, ode, index):
    """Return the L1 distance of the densities at one time, mean over the loadings."""
    gap = 0.0
    for a, weight, w, p in zip(
        pde.loading_points, pde.loading_weights, pde.nodes[index], pde.densities[index], strict=True
    ):
        gap += weight * np.trapezoid(np.abs(p - ode.density(pde.t[index], a, w).p), w)
    return gap


@pytest.mark.parametrize("name", CASES)
def test_the_gap_to_the_exact_solution_is_within_the_reported_error(name):
    setting, start, end = CASES[name]
    t = np.linspace(0.0, end, 7)
    pde = solve_pde(setting, start, t_eval=t, method=FiniteVolumes())
    ode = solve_ode(setting, start, t_eval=t)
    assert pde.status.success
    assert np.array_equal(pde.t, t)
    assert (np.abs(pde.Q - ode.Q) <= pde.Q_error).all()
    assert (np.abs(pde.R - ode.R) <= pde.R_error).all()
    # The estimate must not be honest by being useless.
    assert pde.Q_error.max() < 0.01 * pde.Q.max()
    assert np.allclose(pde.loss, ode.loss, atol=0.01)
    for index in (1, 3, 6):
        # Both meshes spread a point mass over some cells until diffusion has resolved it: index 0 is left out.
        assert l1_gap(pde, ode, index) <= pde.density_error[index]
    assert pde.density_error[1:].max() < 0.02
    assert pde.stats["mass_error"] < 1e-12
    assert pde.stats["mass_restored"] < 1e-12
    assert pde.stats["smallest_density"] >= 0.0


# Meshes that move with a Gaussian err so little that only coarse ones err more than the time steps do, and those need a
# tight tolerance; for the mixture the coarsest has three cells per standard deviation of the narrow component.
@pytest.mark.parametrize(
    ("start", "meshes", "rtol"),
    [(initial.Gaussian(1.0, [0.5]), (40, 80), 3e-8), (MIXTURE, (120, 240), 3e-7)],
    ids=["gaussian", "mixture"],
)
def test_density_under_l2_converges_to_the_exact_one_with_the_square_of_the_cell_width(start, meshes, rtol):
    t = [1.0, 4.0]
    ode = solve_ode(problem(), start, t_eval=t)
    errors = []
    for cells in meshes:
        pde = solve_pde(problem(), start, t_eval=t, method=FiniteVolumes(cells), rtol=rtol)
        errors.append(max(l1_gap(pde, ode, 0), l1_gap(pde, ode, 1)))
    assert np.log2(np.array(errors[:-1]) / np.array(errors[1:])).min() > 1.9


@pytest.mark.parametrize("regularizer", [regularizers.L2(0.3), regularizers.L1(0.5)], ids=repr)
def test_density_of_another_loading_is_that_of_a_node(regularizer):
    """Solve with the node left out of the law and ask for it: the same density to the accuracy of the solver."""
    setting = problem(regularizer=regularizer)
    pde = solve_pde(setting, initial.Gaussian(1.0, [0.5]), t_eval=[0.0, 1.0, 4.0], method=FiniteVolumes())
    on = pde.density(4.0, 2.0)
    object.__setattr__(pde, "loading_points", pde.loading_points + 1e-3)
    off = pde.density(4.0, 2.0)
    assert len(on.w) == len(off.w)
    assert not np.array_equal(on.p, off.p)
    gap = np.trapezoid(np.abs(off.p - np.interp(off.w, on.w, on.p)), off.w)
    assert gap < 3 * pde.density_error[2] + 1e-3
    other = pde.density(4.0, 1.0)
    assert abs(np.trapezoid(other.p, other.w) - 1.0) < 1e-9
    assert other.w @ (other.p * np.gradient(other.w)) < on.w @ (on.p * np.gradient(on.w))
    assert np.trapezoid(pde.density(0.0, 1.0).p, pde.density(0.0, 1.0).w) == pytest.approx(1.0, abs=1e-9)
    with pytest.raises(InvalidInput, match="stored times"):
        pde.density(2.0, 2.0)
    with pytest.raises(InvalidInput, match="loading"):
        pde.density(1.0, [1.0, 2.0])


def test_l1_spike_is_resolved_and_moments_are_within_their_error_of_a_finer_run():
    setting = problem(regularizer=regularizers.L1(0.5))
    t = [1.0, 4.0, 8.0]
    pde = solve_pde(setting, initial.Gaussian(1.0, [0.5]), t_eval=t, method=FiniteVolumes())
    fine = solve_pde(setting, initial.Gaussian(1.0, [0.5]), t_eval=t, method=FiniteVolumes(1600), rtol=2e-5)
    assert (np.abs(pde.Q - fine.Q) <= pde.Q_error).all()
    assert (np.abs(pde.R - fine.R) <= pde.R_error).all()
    assert pde.R_error.max() < 3e-3
    zero = np.flatnonzero(pde.nodes[-1, 0] == 0.0)
    assert len(zero) == 1
    # Four nodes per decay length of the spike, Lambda / (2 tau kappa).
    assert np.diff(pde.nodes[-1, 0])[zero[0]] < pde.coefficients.diffusion[-1] / (0.5 * 0.5) / 4


def test_gaussian_loadings_are_not_refined_for_the_noise_of_their_meshes():
    setting = problem(regularizer=regularizers.L1(0.3), loadings=loadings.Gaussian())
    start, t = initial.Gaussian(1.0, [0.5]), [1.0, 3.0]
    volumes = solve_pde(setting, start, t_eval=t, method=FiniteVolumes(200), progress=False)
    finer = solve_pde(setting, start, t_eval=t, method=SpectralElements(), rtol=1e-6, progress=False)
    assert len(volumes.loading_weights) <= 2 * len(finer.loading_weights)
    assert (np.abs(volumes.Q - finer.Q) <= volumes.Q_error + finer.Q_error).all()
    assert (np.abs(volumes.R - finer.R) <= volumes.R_error + finer.R_error).all()


def test_meshes_follow_growing_weights():
    setting = problem(regularizer=None, activation="relu", learning_rate=0.2, loadings=loadings.Rademacher())
    pde = solve_pde(setting, initial.Gaussian(1.0, [0.5]), t_eval=[0.0, 1.5], method=FiniteVolumes(100))
    width = pde.nodes[:, :, -1] - pde.nodes[:, :, 0]
    assert pde.Q[1, 0, 0] > 2.0
    assert width[1].max() > 1.3 * width[0].max()
    assert "followed" in pde.status.message
    assert pde.stats["wall_mass"] < 1e-7
    ode = solve_ode(setting, initial.Gaussian(1.0, [0.5]), t_eval=[0.0, 1.5])
    assert (np.abs(pde.Q - ode.Q) <= pde.Q_error).all()


@pytest.mark.parametrize(
    "activation", ["identity", activations.Polynomial([0.0, 1.0, 0.0, 0.2])], ids=["identity", "cubic"]
)
def test_a_blow_up_ends_the_run_with_its_time(activation):
    setting = problem(regularizer=None, activation=activation)
    pde = solve_pde(
        setting, initial.Gaussian(1.0, [0.5]), t_eval=[0.0, 0.01, 50.0], method=FiniteVolumes(60), rtol=1e-3
    )
    assert not pde.status.success
    assert "t = " in pde.status.message
    assert len(pde.t) == len(pde.Q) == len(pde.densities) < 3
    assert np.isfinite(pde.Q).all()
    assert np.isfinite(pde.Q_error).all()


@pytest.mark.parametrize(
    ("changes", "start", "message"),
    [
        ({"outputs": 3}, initial.Gaussian(1.0, [[0.5], [0.0], [0.0]]), "simulate_particles"),
        (
            {"batch_size": np.inf, "regularizer": regularizers.L1(0.5)},
            initial.Gaussian(1.0, [0.5]),
            "kink.*simulate_particles",
        ),
        ({"batch_size": np.inf}, initial.Point(0.5), "point masses.*simulate_particles"),
    ],
)
def test_what_has_no_density_is_refused_with_a_remedy(changes, start, message):
    with pytest.raises(UnsupportedError, match=message):
        solve_pde(problem(**changes), start, t_eval=[1.0])


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"method": "FiniteVolumes"}, "method"),
        ({"method": FiniteVolumes}, "method"),
        ({"rtol": 0.0}, "rtol"),
        ({"rtol": np.nan}, "rtol"),
        ({"loading_order": 1}, "loading_order"),
        ({"progress": "yes"}, "progress"),
        ({"t_eval": [1.0, 0.5]}, "t_eval"),
        ({"t_eval": [-1.0]}, "t_eval"),
    ],
)
def test_bad_options_are_named(options, field):
    with pytest.raises(InvalidInput, match=field):
        solve_pde(problem(), initial.Gaussian(1.0, [0.5]), **({"t_eval": [1.0]} | options))


@pytest.mark.parametrize("method", [FiniteVolumes, UniformCentral])
@pytest.mark.parametrize("cells", [3, 100.5])
def test_bad_options_of_a_method_are_named(method, cells):
    with pytest.raises(InvalidInput, match="cells"):
        method(cells=cells)


def test_only_the_start_can_be_asked_for():
    pde = solve_pde(problem(), initial.Gaussian(1.0, [0.5]), t_eval=[0.0], method=FiniteVolumes())
    assert pde.status.success
    assert np.allclose(pde.Q, 1.0, atol=1e-9)
    assert np.allclose(pde.R, 0.5, atol=1e-9)


def test_an_empirical_start_becomes_smooth():
    rng = np.random.default_rng(3)
    a = np.repeat([-1.0, 1.0], 20)
    w = 0.5 * a + rng.normal(size=40)
    setting = problem(loadings=loadings.Rademacher())
    start = initial.Empirical(w, a)
    pde = solve_pde(setting, start, t_eval=[0.0, 4.0], method=FiniteVolumes())
    ode = solve_ode(setting, start, t_eval=[0.0, 4.0])
    assert (np.abs(pde.Q - ode.Q) <= pde.Q_error).all()
    assert (np.abs(pde.R - ode.R) <= pde.R_error).all()
    assert l1_gap(pde, ode, 1) <= pde.density_error[1]


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({"regularizer": regularizers.L1(0.3)}, SpectralElements()),
        ({"regularizer": regularizers.L1(0.3), "batch_size": 100_000}, FiniteVolumes()),
        ({"regularizer": None, "batch_size": 100_000}, SpectralElements()),
    ],
)
def test_the_default_method_depends_on_diffusion_and_drift_and_says_why(changes, method):
    pde = solve_pde(problem(**changes), initial.Gaussian(1.0, [0.5]), t_eval=[0.0, 0.1])
    assert pde.method == method
    assert f"solved by {method!r}, " in pde.status.message
