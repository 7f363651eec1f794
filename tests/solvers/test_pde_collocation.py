"""High-order collocation, and the finite volumes against it: a solver of another kind.

The double well does not close and is smooth, so neither the closed ODEs nor the Gibbs law could replace this check. The
two share the limit coefficients and where the densities are, and nothing else.
"""

import numpy as np
import pytest

import mkvlasov as mv

PROBLEM = mv.Problem(
    hidden=mv.hidden.Rademacher(3.0),
    activation="tanh",
    learning_rate=0.5,
    regularizer=mv.regularizers.DoubleWell(0.4),
    augmentation=mv.augmentations.GaussianNoise(std=[0.4, 0.8], correlation=-0.3),
    loadings=mv.loadings.Discrete([-0.5, 2.0], [0.8, 0.2]),
)
INITIAL = mv.initial.Gaussian(Q=0.3, R=0.2)
TIMES = np.array([0.5, 2.0])


@pytest.fixture(scope="module")
def oracle():
    return mv.solve_pde(PROBLEM, INITIAL, t_eval=TIMES, method=mv.methods.Collocation(6, 301), rtol=1e-6)


def test_errors_of_the_oracle_are_small_and_mass_is_kept(oracle):
    assert oracle.status.success
    assert oracle.Q_error.max() < 2e-6
    assert oracle.density_error.max() < 1e-5
    assert oracle.stats["mass_error"] < 1e-11
    assert oracle.stats["smallest_density"] > -1e-7


@pytest.mark.parametrize("method", [mv.methods.FiniteVolumes(), mv.methods.UniformCentral()], ids=repr)
def test_finite_volumes_agree_with_collocation_within_their_reported_error(oracle, method):
    pde = mv.solve_pde(PROBLEM, INITIAL, t_eval=TIMES, method=method)
    assert (np.abs(oracle.Q - pde.Q) <= pde.Q_error + oracle.Q_error).all()
    assert (np.abs(oracle.R - pde.R) <= pde.R_error + oracle.R_error).all()
    for i, t in enumerate(TIMES):
        for a in (-0.5, 2.0):
            density, exact = pde.density(t, a), oracle.density(t, a)
            gap = np.abs(np.interp(exact.w, density.w, density.p, left=0.0, right=0.0) - exact.p)
            # Linear interpolation between the nodes adds an error of the order of that of the method.
            assert np.trapezoid(gap, exact.w) <= 3.0 * pde.density_error[i] + 1e-4


def test_density_of_another_loading_is_that_of_a_node(oracle):
    on = oracle.density(2.0, -0.5)
    near = oracle.method.density(oracle, t=2.0, loading=np.array([-0.5]))
    # Coefficients are interpolated between the steps, which are far apart at order five.
    assert np.trapezoid(np.abs(near.p - np.interp(near.w, on.w, on.p)), near.w) < 1e-3
    far = oracle.density(2.0, 1.0)
    assert np.trapezoid(far.p, far.w) == pytest.approx(1.0, abs=1e-6)
    assert np.trapezoid(far.w * far.p, far.w) > np.trapezoid(on.w * on.p, on.w)


def test_an_exact_density_is_found_to_the_error_reported():
    setting = mv.Problem(
        hidden=mv.hidden.Rademacher(4.0),
        activation="erf",
        learning_rate=0.5,
        regularizer=mv.regularizers.L2(0.3),
        augmentation=mv.augmentations.GaussianNoise(0.4),
    )
    start, t = mv.initial.Gaussian(1.0, 0.3), [0.0, 3.0]
    pde = mv.solve_pde(setting, start, t_eval=t, method=mv.methods.Collocation(points=200), rtol=1e-5)
    ode = mv.solve_ode(setting, start, t_eval=t)
    assert (np.abs(pde.Q - ode.Q) <= pde.Q_error).all()
    assert (np.abs(pde.R - ode.R) <= pde.R_error).all()
    assert pde.Q_error.max() < 1e-3
    for w, p, a in zip(pde.nodes[1], pde.densities[1], pde.loading_points, strict=True):
        assert np.trapezoid(np.abs(p - ode.density(3.0, a, w).p), w) < 1e-3


@pytest.mark.parametrize(
    ("regularizer", "start", "named"),
    [
        (mv.regularizers.L1(0.2), INITIAL, r"L1\(strength=0.2\) has a kink at w = 0; use FiniteVolumes"),
        (mv.regularizers.DoubleWell(0.2), mv.initial.Point(0.3), r"Point\(w=0.3\) has point masses.*FiniteVolumes"),
    ],
)
def test_what_is_not_smooth_is_refused_by_name(regularizer, start, named):
    setting = mv.Problem(
        hidden=mv.hidden.Rademacher(3.0), activation="tanh", learning_rate=0.5, regularizer=regularizer
    )
    with pytest.raises(mv.UnsupportedError, match=named):
        mv.solve_pde(setting, start, t_eval=TIMES, method=mv.methods.Collocation())


@pytest.mark.parametrize(("options", "field"), [({"order": 3}, "order"), ({"points": 10}, "points")])
def test_bad_options_are_named(options, field):
    with pytest.raises(mv.InvalidInput, match=f"^{field}: "):
        mv.methods.Collocation(**options)


def test_a_blow_up_ends_the_run_with_its_time():
    setting = mv.Problem(hidden=mv.hidden.Rademacher(3.0), activation="identity", learning_rate=0.5)
    method = mv.methods.Collocation(2, 60)
    pde = mv.solve_pde(setting, INITIAL, t_eval=[0.0, 0.01, 50.0], method=method, rtol=1e-3)
    assert not pde.status.success
    assert "t = " in pde.status.message
    assert np.isfinite(pde.Q).all()
