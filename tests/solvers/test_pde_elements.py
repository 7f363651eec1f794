"""`SpectralElements` against exact solutions, stationary densities and finite volumes."""

import re

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from mkvlasov.errors import InvalidInput
from mkvlasov.problem import activations, augmentations, hidden, initial, loadings, regularizers, schedules
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solvers.ode import solve_ode
from mkvlasov.solvers.pde.elements import solve as elements_solve
from mkvlasov.solvers.pde.elements.march import DIFFUSION, ERROR, LINEAR, TAU, TILT
from mkvlasov.solvers.pde.elements.rates import CoupledTable, PythonRates
from mkvlasov.solvers.pde.methods import FiniteVolumes, SpectralElements
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


def solve(setting, start, t, rtol=1e-4, degree=8):
    return solve_pde(setting, start, t_eval=t, method=SpectralElements(degree), rtol=rtol, progress=False)


GAUSSIAN = initial.Gaussian(1.0, [0.5])
MIXTURE = initial.Mixture([0.3, 0.7], [initial.Gaussian(2.0, [1.2]), initial.Gaussian(0.2, [-0.1])])
ATOMS = initial.Empirical([-1.0, 0.2, 0.4, 1.5], [-1.0, -1.0, 1.0, 1.0])
TWO = {"hidden": hidden.Rademacher([4.0, 3.0]), "loadings": loadings.Gaussian()}

CLOSED = {
    "gaussian": (problem(), GAUSSIAN, 6.0),
    "two features, Gaussian loadings": (problem(**TWO), initial.Gaussian(1.0, [0.3, 0.2]), 6.0),
    "mixture": (problem(activation="erf"), MIXTURE, 6.0),
    "point mass": (problem(), initial.Point(0.5), 6.0),
    "atoms": (problem(loadings=loadings.Rademacher()), ATOMS, 6.0),
    "no regularizer": (problem(regularizer=None), GAUSSIAN, 200.0),
    "sphere": (problem(constraint="sphere"), GAUSSIAN, 6.0),
    "schedule": (problem(learning_rate=schedules.PowerDecay(0.8, 2.0, 0.7)), GAUSSIAN, 20.0),
    "gradient flow": (problem(batch_size=np.inf), MIXTURE, 6.0),
}


@pytest.mark.parametrize("name", CLOSED)
def test_moments_and_density_are_the_exact_ones_within_the_reported_error(name):
    setting, start, end = CLOSED[name]
    t = end * np.array([0.0, 0.1, 0.4, 1.0])
    rtol = 1e-4
    pde, ode = solve(setting, start, t, rtol), solve_ode(setting, start, t_eval=t)
    assert pde.status.success
    assert (np.abs(pde.Q - ode.Q) <= pde.Q_error).all()
    assert (np.abs(pde.R - ode.R) <= pde.R_error).all()
    assert np.abs(pde.Q / ode.Q - 1.0).max() < rtol
    # The estimate must not be honest by being useless.
    assert pde.Q_error.max() < 30 * rtol * pde.Q.max()
    assert pde.density_error[1:].max() < 30 * rtol
    assert np.allclose(pde.loss, ode.loss, atol=rtol)
    assert pde.stats["mass_error"] < 1e-12
    assert pde.stats["wall_mass"] < rtol / 100
    for i in (1, 2, 3):
        gaps = [
            size @ np.abs(p - ode.density(t[i], a, w).p)
            for a, w, p, size in zip(pde.loading_points, pde.nodes[i], pde.densities[i], pde.quadrature[i], strict=True)
        ]
        assert pde.loading_weights @ gaps <= min(pde.density_error[i], 2.0 * rtol)
        # Mean and second moment of the densities are those of the solution.
        second = (pde.quadrature[i] * pde.densities[i] * pde.nodes[i] ** 2).sum(axis=1)
        assert pde.loading_weights @ second == pytest.approx(pde.Q[i, 0, 0], rel=1e-10)


def gibbs(solution, index, loading, w):
    """Return the stationary density for the coefficients at the end (docs/theory.md, section 6)."""
    c, a = solution.coefficients, solution.loading_points[loading]
    phi = solution.problem.regularizer.value(w[:, None])
    potential = 0.5 * c.linear[-1] * w * w + float(a @ c.tilt[-1]) * w + c.tau[-1] * phi
    p = np.exp(-(potential - potential.min()) / c.diffusion[-1])
    return p / (solution.quadrature[index, loading] @ p)


@pytest.mark.parametrize(
    "regularizer",
    [
        regularizers.L1(0.5),
        regularizers.Huber(0.5, 0.3),
        regularizers.ElasticNet(0.4, 0.2),
        regularizers.DoubleWell(0.4),
    ],
    ids=repr,
)
def test_densities_become_stationary_ones(regularizer):
    solution = solve(problem(regularizer=regularizer), GAUSSIAN, [200.0])
    gap = 0.0
    for loading, weight in enumerate(solution.loading_weights):
        w, p, size = (field[0, loading] for field in (solution.nodes, solution.densities, solution.quadrature))
        gap += weight * (size @ np.abs(p - gibbs(solution, 0, loading, w)))
    assert gap < solution.density_error[0]
    assert solution.density_error[0] < 1e-3
    assert solution.stats["mass_error"] < 1e-12


def test_spike_at_the_kink_is_resolved_at_late_times():
    solution = solve(problem(regularizer=regularizers.L1(0.5)), GAUSSIAN, [200.0])
    w, p = solution.nodes[0, 0], solution.densities[0, 0]
    width = solution.coefficients.diffusion[-1] / (0.5 * 0.5)
    assert width < 0.05
    assert 0.0 in w
    near = np.abs(w) < 3.0 * width
    exact = gibbs(solution, 0, 0, w)
    assert np.abs(p - exact)[near].max() < 1e-3 * exact.max()
    # Long after the start nothing changes any more, and steps are long.
    assert solution.stats["steps"] < 200


def test_finite_volumes_agree_within_the_errors_of_both():
    setting, t = problem(regularizer=regularizers.L1(0.5)), [1.0, 4.0]
    ours = solve(setting, GAUSSIAN, t)
    other = solve_pde(setting, GAUSSIAN, t_eval=t, method=FiniteVolumes(400), rtol=1e-4, progress=False)
    assert (np.abs(ours.Q - other.Q) <= ours.Q_error + other.Q_error).all()
    assert (np.abs(ours.R - other.R) <= ours.R_error + other.R_error).all()
    for i in range(2):
        gap = 0.0
        for loading, weight in enumerate(ours.loading_weights):
            w, size = other.nodes[i, loading], other.quadrature[i, loading]
            gap += weight * (size @ np.abs(other.densities[i, loading] - interpolated(ours, i, loading, w)))
        assert gap <= ours.density_error[i] + other.density_error[i]


def interpolated(solution, index, loading, w):
    """Return the density at w, by a spline through the nodes on either side of the kink."""
    nodes, p = solution.nodes[index, loading], solution.densities[index, loading]
    result = np.zeros_like(w)
    for side in (-1.0, 1.0):
        on, asked = side * nodes >= 0.0, (side * w >= 0.0) & (w >= nodes[0]) & (w <= nodes[-1])
        result[asked] = CubicSpline(nodes[on], p[on])(w[asked])
    return result


@pytest.mark.parametrize("regularizer", [regularizers.L1(0.5), regularizers.DoubleWell(0.4)], ids=repr)
def test_errors_fall_with_the_tolerance_and_are_not_underestimated(regularizer):
    setting, t = problem(regularizer=regularizer), [1.0, 3.0]
    fine = solve(setting, MIXTURE, t, rtol=1e-7, degree=10)
    for rtol in (1e-3, 1e-4, 1e-5):
        found = solve(setting, MIXTURE, t, rtol)
        assert (np.abs(found.Q - fine.Q) <= found.Q_error).all()
        assert (np.abs(found.R - fine.R) <= found.R_error).all()
        assert np.abs(found.Q - fine.Q).max() < rtol
        assert found.Q_error.max() < 20 * rtol
        assert found.density_error.max() < 20 * rtol


def test_elements_end_where_the_second_derivative_of_the_regularizer_jumps():
    """There the third derivative of the density jumps, which no polynomial follows: errors would stop to fall."""
    solution = solve(problem(regularizer=regularizers.Huber(0.5, 0.3)), GAUSSIAN, [2.0])
    for nodes in solution.nodes[0]:
        assert {-0.3, 0.3} <= set(nodes[:: SpectralElements().degree].tolist())


def test_coefficients_in_python_give_what_compiled_ones_give():
    def value(h):
        return np.tanh(h)

    def derivative(h):
        return 1.0 / np.cosh(h) ** 2

    setting = problem(regularizer=regularizers.L1(0.5), activation=activations.Custom(value, derivative))
    python = solve(setting, GAUSSIAN, [2.0])
    compiled = solve(problem(regularizer=regularizers.L1(0.5)), GAUSSIAN, [2.0])
    assert python.stats["steps"] == compiled.stats["steps"]
    assert np.allclose(python.R, compiled.R, rtol=0.0, atol=1e-6)
    assert np.allclose(python.densities, compiled.densities, rtol=0.0, atol=1e-4)


def test_errors_of_the_coefficients_are_counted(monkeypatch):
    """G, H and Lambda that are all 1% off, and say so, move the solution by no more than the errors say."""
    exact = solve_ode(problem(), GAUSSIAN, t_eval=[1.0, 3.0])

    def disturbed(setting, limit, largest):
        table = CoupledTable(setting, limit, largest)

        def evaluate(times, y):
            rates = table(times, y)
            decay = setting.regularizer.linear_strength * rates[:, TAU]  # is known exactly
            rates[:, LINEAR] = decay + 0.99 * (rates[:, LINEAR] - decay)
            rates[:, DIFFUSION] *= 1.01
            rates[:, TILT:] *= 1.01
            rates[:, ERROR] = 0.01
            return rates

        return PythonRates(evaluate)

    monkeypatch.setattr(elements_solve, "coupled_rates", disturbed)
    found = solve(problem(), GAUSSIAN, [1.0, 3.0])
    for name in ("Q", "R"):
        gap, error = np.abs(getattr(found, name) - getattr(exact, name)), getattr(found, f"{name}_error")
        assert gap.max() > 10 * 1e-4
        assert (gap <= error).all()


def test_density_of_another_loading_is_that_of_a_node():
    setting = problem(regularizer=regularizers.L1(0.5))
    solution = solve(setting, GAUSSIAN, [0.0, 1.0, 4.0])
    on = solution.density(4.0, 2.0)
    object.__setattr__(solution, "loading_points", solution.loading_points + 1e-3)
    off = solution.density(4.0, 2.0)
    gap = np.trapezoid(np.abs(off.p - np.interp(off.w, on.w, on.p)), off.w)
    assert gap < solution.density_error[2] + 2e-3
    other = solution.density(4.0, 1.0)
    mean = [np.trapezoid(each.w * each.p, each.w) for each in (other, on)]
    assert 0.0 < mean[0] < mean[1]


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        ("identity", "Q grew to .* at t = .*unbounded"),
        (activations.Polynomial([0.0, 1.0, 0.0, 0.2]), "shrank to nothing at t = "),
    ],
    ids=["identity", "cubic"],
)
def test_a_blow_up_ends_the_run_with_its_time(activation, reason):
    setting = problem(regularizer=None, activation=activation)
    solution = solve(setting, GAUSSIAN, [0.0, 0.01, 50.0], rtol=1e-3)
    assert not solution.status.success
    assert re.search(reason, solution.status.message)
    assert len(solution.t) == len(solution.Q) == len(solution.densities) < 3
    assert np.isfinite(solution.Q).all()


def test_only_the_start_is_asked_for():
    solution = solve(problem(regularizer=regularizers.L1(0.5)), GAUSSIAN, [0.0])
    assert solution.Q[0, 0, 0] == pytest.approx(1.0, abs=1e-4)
    assert solution.status.success


@pytest.mark.parametrize("degree", [3, 13, 8.0, True])
def test_degrees_out_of_range_are_refused(degree):
    with pytest.raises(InvalidInput, match="degree"):
        SpectralElements(degree)


def test_gaussian_loadings_are_as_many_as_the_tolerance_asks_for():
    """With a kink the quadrature over loadings converges slowly; four times as many nodes show what it left out."""
    setting = problem(regularizer=regularizers.L1(0.3), loadings=loadings.Gaussian())
    chosen = solve(setting, GAUSSIAN, [0.0, 2.0, 5.0], rtol=1e-3)
    many = solve_pde(
        setting,
        GAUSSIAN,
        t_eval=[0.0, 2.0, 5.0],
        method=SpectralElements(),
        rtol=1e-4,
        loading_order=4 * len(chosen.loading_weights),
        progress=False,
    )
    assert (np.abs(chosen.Q - many.Q) <= chosen.Q_error + many.Q_error).all()
    assert (np.abs(chosen.R - many.R) <= chosen.R_error + many.R_error).all()
    assert np.abs(chosen.Q / many.Q - 1.0).max() < 3e-3
    affine = solve(problem(loadings=loadings.Gaussian()), GAUSSIAN, [0.0, 5.0])
    assert len(affine.loading_weights) < len(chosen.loading_weights)


@pytest.mark.parametrize("law", [loadings.Gaussian(), loadings.Sparse(0.25)], ids=repr)
def test_a_run_that_ends_early_still_reports_errors(law):
    setting = problem(activation=activations.Polynomial([0.0, 1.0]), regularizer=None, loadings=law, learning_rate=3.0)
    solution = solve(setting, GAUSSIAN, np.linspace(0.0, 40.0, 81))
    assert not solution.status.success
    assert np.isfinite(solution.Q_error).all()
    assert np.isfinite(solution.density_error).all()
