"""Fluxes, steps, deposits and the march of the PDE solver, with prescribed coefficients."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from mkvlasov.problem import regularizers
from mkvlasov.problem.initial import GaussianMixture
from mkvlasov.solvers.pde.volumes.fluxes import CENTRAL, EXPONENTIAL, assemble, central_flux, exponential_flux, volumes
from mkvlasov.solvers.pde.volumes.grid import deposit
from mkvlasov.solvers.pde.volumes.march import Equations
from mkvlasov.solvers.pde.volumes.rates import Rates
from mkvlasov.solvers.pde.volumes.run import run
from mkvlasov.solvers.pde.volumes.scout import scout
from mkvlasov.solvers.pde.volumes.setup import Family
from mkvlasov.solvers.pde.volumes.steppers import implicit_euler, limit_to_positive, tr_bdf2

SCHEMES = {"exponential": EXPONENTIAL, "central": CENTRAL}
LOADINGS = np.array([[0.0], [2.0]])
WEIGHTS = np.array([0.75, 0.25])


def toy_rates(t, moments):
    """Rates with the shape of the real ones: they depend on Q and R, and the drift changes sign."""
    Q, R = abs(moments[0]), moments[1:-1]
    return Rates(
        linear=0.4 - 0.25 * R[0] / np.sqrt(Q),
        tilt=-0.15 - 0.35 * R / (1 + R @ R),
        tau=0.5,
        diffusion=0.02 + 0.02 / (1 + Q),
    )


def equations(regularizer=None, scheme=EXPONENTIAL, rates=toy_rates):
    regularizer = regularizer or regularizers.Zero()
    return Equations(
        LOADINGS,
        WEIGHTS,
        rates,
        lambda w: regularizer.value(w[..., None]),
        lambda w: regularizer.gradient(w[..., None])[..., 0],
        scheme,
    )


def mixture(*components):
    weight, mean, std = np.array(components, dtype=float).T
    return GaussianMixture(weight, mean[:, None], (std**2)[:, None, None])


def gaussian_start():
    return [mixture((1.0, 0.3 * a, 0.9)) for a in LOADINGS[:, 0]]


def mixture_start():
    return [mixture((0.3, -1.0, 0.2), (0.7, 0.8 + 0.1 * a, 0.3)) for a in LOADINGS[:, 0]]


def solve(system, laws, t, *, cells, tolerance, kinks=()):
    t = np.asarray(t, dtype=float)
    family = Family(system, laws, kinks, largest=1e8)
    return run(family, scout(family, t[-1]), cells=cells, outputs=t, tolerance=tolerance).path


def exact(laws, t):
    """Return the moments (T, 3) and laws of the toy problem: affine images of the start, docs/theory.md section 5."""

    def moments(y):
        A, C, P = y
        mean = np.array(
            [law.weights @ (A * law.means[:, 0]) + C * a for a, law in zip(LOADINGS[:, 0], laws, strict=True)]
        )
        second = np.array(
            [
                law.weights @ ((A * law.means[:, 0] + C * a) ** 2 + A * A * law.covariances[:, 0, 0] + P)
                for a, law in zip(LOADINGS[:, 0], laws, strict=True)
            ]
        )
        return np.array([WEIGHTS @ second, WEIGHTS @ (mean * LOADINGS[:, 0]), 0.0])

    def slope(s, y):
        r = toy_rates(s, moments(y))
        return [-r.linear * y[0], -r.linear * y[1] - r.tilt[0], -2 * r.linear * y[2] + 2 * r.diffusion]

    y = solve_ivp(slope, (0, t[-1]), [1.0, 0.0, 0.0], t_eval=t, rtol=1e-11, atol=1e-13).y.T
    images = [
        [
            law.affine(np.array([[A]]), np.array([C * a]), np.array([[P]]))
            for a, law in zip(LOADINGS[:, 0], laws, strict=True)
        ]
        for A, C, P in y
    ]
    return np.array([moments(row)[:2] for row in y]), images


def density_error(path, images):
    """Return the L1 errors (T,) of the densities, mean over the loadings."""
    errors = []
    for nodes, mass, laws in zip(path.snapshot_nodes, path.snapshot_mass, images, strict=True):
        size = volumes(np.diff(nodes, axis=1))
        each = [np.abs(mass[i] - law.pdf(nodes[i]) * size[i]).sum() for i, law in enumerate(laws)]
        errors.append(WEIGHTS @ each)
    return np.array(errors)


def order(errors):
    """Return the smallest order seen between successive halvings."""
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:])).min()


class TestFluxes:
    def test_exponential_flux_vanishes_for_the_gibbs_density(self):
        u = np.array([-30.0, -2.0, -1e-4, -1e-9, 0.0, 1e-6, 0.3, 5.0, 200.0]) * 0.02
        f, g = exponential_flux(u, 0.02)
        # The flux f p_0 - g p_1 with p_1 / p_0 = exp(-u / D); compared with the larger of its terms.
        assert np.abs(f - g * np.exp(-u / 0.02)).max() < 1e-15
        assert (f >= 0).all()
        assert (g >= 0).all()

    @pytest.mark.parametrize("diffusion", [0.0, 1e-320, 1e-12])
    def test_exponential_flux_without_diffusion_is_upwind(self, diffusion):
        u = np.array([-2.0, -1e-3, 0.0, 1e-3, 2.0])
        f, g = exponential_flux(u, diffusion)
        assert np.allclose(f, np.maximum(-u, 0.0), atol=2 * diffusion)
        assert np.allclose(g, np.maximum(u, 0.0), atol=2 * diffusion)

    @pytest.mark.parametrize("flux", [exponential_flux, central_flux])
    def test_fluxes_are_consistent(self, flux):
        u = np.linspace(-1e-3, 1e-3, 7)
        f, g = flux(u, 0.3)
        assert np.allclose(f - g, -u, atol=1e-16)
        assert np.allclose(0.5 * (f + g), 0.3, atol=1e-6)

    @pytest.mark.parametrize("flux", [exponential_flux, central_flux])
    def test_operator_conserves_mass(self, flux):
        rng = np.random.default_rng(1)
        nodes = np.sort(rng.normal(size=(3, 40)), axis=1)
        operator = assemble(nodes, rng.normal(size=(3, 39)), 0.1, flux)
        mass = rng.random((3, 40))
        rate = operator.apply(mass)
        assert np.abs(rate.sum(axis=1)).max() < 1e-13 * np.abs(rate).sum()


def test_central_flux_obeys_the_closed_moment_equations_to_rounding():
    """Also on a mesh that moves and stretches; the reading of Q by midpoints is what makes it exact."""
    system = equations(scheme=CENTRAL)
    nodes = np.linspace(-9.0, 9.0, 181) + np.array([[0.0], [0.4]])
    velocity = 0.3 * nodes - 0.2
    mass = np.array([deposit(law, row) for law, row in zip(mixture_start(), nodes, strict=True)])
    Q, R, _ = system.moments(nodes, mass)
    rates = toy_rates(0.0, np.array([Q, R, 0.0]))
    change = system.operator(rates, nodes, velocity).apply(mass)
    eps = 1e-4
    # The moments are quadratic in the nodes and linear in the masses: central differences are exact.
    ahead = system.moments(nodes + eps * velocity, mass + eps * change)
    behind = system.moments(nodes - eps * velocity, mass - eps * change)
    slope = (ahead - behind) / (2 * eps)
    dQ = -2 * (rates.linear * Q + rates.tilt[0] * R) + 2 * rates.diffusion
    dR = -rates.linear * R - rates.tilt[0]
    # The cubic part of the product of moving nodes and changing masses: eps^2 = 1e-8 times rates of order one.
    assert abs(slope[0] - dQ) < 2e-8
    assert abs(slope[1] - dR) < 2e-8
    wrong = equations(scheme=EXPONENTIAL)
    other = (
        wrong.moments(nodes + eps * velocity, mass + eps * change)[0]
        - wrong.moments(nodes - eps * velocity, mass - eps * change)[0]
    ) / (2 * eps)
    assert abs(other - dQ) > 1e-4


class TestSteppers:
    def setup_method(self):
        self.nodes = np.linspace(-3.0, 3.0, 61)[None]
        self.mass = deposit(mixture((1.0, 0.5, 0.4)), self.nodes[0])[None]

    def operator(self, t):
        u = (1.0 + np.sin(t)) * np.diff(0.5 * self.nodes**2, axis=1)
        return assemble(self.nodes, u, 0.2 + 0.1 * t, central_flux)

    def test_tr_bdf2_is_of_second_order_and_its_error_estimate_of_third(self):
        def advance(steps):
            mass, dt, estimate = self.mass, 1.0 / steps, 0.0
            for i in range(steps):
                t = i * dt
                mass, error = tr_bdf2(
                    mass, dt, self.operator(t), self.operator(t + (2 - np.sqrt(2)) * dt), self.operator(t + dt)
                )
                estimate = max(estimate, np.abs(error).sum())
            return mass, estimate

        reference, _ = advance(960)
        results = [advance(n) for n in (20, 40, 80, 160)]
        assert order([np.abs(mass - reference).sum() for mass, _ in results]) > 1.9
        assert order([estimate for _, estimate in results]) > 2.8

    def test_steps_conserve_mass_and_implicit_euler_is_positive_for_huge_steps(self):
        u = 5.0 * np.diff(0.5 * self.nodes**2, axis=1)
        stiff = assemble(self.nodes, u, 1e-3, exponential_flux)
        spike = np.zeros((1, 61))
        spike[0, 40] = 1.0
        for dt in (1e-3, 1.0, 1e4):
            accurate = tr_bdf2(spike, dt, stiff, stiff, stiff).mass
            assert abs(accurate.sum() - 1.0) < 1e-10
            positive = implicit_euler(spike, dt, stiff)
            assert abs(positive.sum() - 1.0) < 1e-10
            assert positive.min() >= 0.0

    def test_limiter_conserves_is_positive_and_keeps_what_is_positive(self):
        rng = np.random.default_rng(2)
        positive = rng.random((4, 30))
        positive[:, :12] = 0.0
        accurate = positive + 0.1 * np.diff(rng.normal(size=(4, 31)), axis=1)
        accurate += (positive.sum(axis=1) - accurate.sum(axis=1))[:, None] / 30
        limited = limit_to_positive(accurate, positive)
        assert limited.min() > -1e-15
        assert np.allclose(limited.sum(axis=1), accurate.sum(axis=1), rtol=1e-13)
        near = positive + 1.0
        small = near + 1e-3 * np.sin(np.linspace(0, 2 * np.pi, 30, endpoint=False))
        assert np.allclose(limit_to_positive(small, near), small, atol=1e-13)


class TestDeposit:
    @pytest.mark.parametrize("std", [0.0, 1e-5, 0.01, 0.03, 0.3])
    def test_mass_and_mean_are_exact_whatever_the_width(self, std):
        nodes = np.linspace(-4.0, 4.0, 321)
        mass = deposit(mixture((0.4, 0.1234, std), (0.6, -0.5, std)), nodes)
        assert mass.min() >= 0.0
        assert abs(mass.sum() - 1.0) < 1e-15
        assert abs(mass @ nodes - (0.4 * 0.1234 - 0.6 * 0.5)) < 1e-13

    def test_a_resolved_law_is_sampled(self):
        nodes = np.linspace(-3.0, 3.0, 121)
        law = mixture((0.4, 0.1, 0.2), (0.6, -0.5, 0.3))
        assert np.allclose(deposit(law, nodes)[1:-1], 0.05 * law.pdf(nodes)[1:-1], atol=1e-14)


class TestMarch:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize(("start", "meshes"), [(gaussian_start, (32, 64, 128)), (mixture_start, (80, 160, 320))])
    def test_density_converges_with_the_square_of_the_cell_width(self, start, meshes, scheme):
        t = np.array([0.5, 2.0, 6.0])
        moments, images = exact(start(), t)
        errors, gaps = [], []
        # Coarsest: two cells per standard deviation of the narrow component. Tolerance: the error of the time steps has
        # to stay below the smallest of the mesh errors.
        for cells in meshes:
            path = solve(equations(scheme=SCHEMES[scheme]), start(), t, cells=cells, tolerance=2e-7)
            at = np.searchsorted(path.times, t * (1 - 1e-11))
            errors.append(density_error(path, images).max())
            gaps.append(np.abs(np.array(path.moments)[at, :2] - moments).max())
            assert path.wall_mass < 1e-7
        assert order(errors) > 1.9
        assert order(gaps) > 1.9

    def test_adaptive_steps_converge_with_the_tolerance(self):
        """Steps err at third order: the global error falls like the tolerance to the power 2/3 (1/2 at least)."""
        t = np.array([2.0, 6.0])
        moments, _ = exact(gaussian_start(), t)
        gaps, steps = [], []
        for tolerance in (1e-4, 1e-5, 1e-6):
            path = solve(equations(), gaussian_start(), t, cells=800, tolerance=tolerance)
            at = np.searchsorted(path.times, t * (1 - 1e-11))
            gaps.append(np.abs(np.array(path.moments)[at, :2] - moments).max())
            steps.append(len(path.times))
        assert gaps[0] / gaps[2] > 10.0
        assert gaps[0] < 1e-3
        assert steps[2] < 8 * steps[0]

    def test_a_kink_does_not_cost_the_order(self):
        t = np.array([1.0, 4.0])
        kinked = equations(regularizers.L1(0.5))
        paths = {
            cells: solve(kinked, gaussian_start(), t, cells=cells, tolerance=1e-6, kinks=(0.0,))
            for cells in (100, 200, 400, 1600)
        }
        values = {
            cells: np.array(path.moments)[np.searchsorted(path.times, t * (1 - 1e-11)), :2]
            for cells, path in paths.items()
        }
        # The reference has a sixteenth of the error of the finest run; its own error costs 0.1 of the order.
        assert order([np.abs(values[cells] - values[1600]).max() for cells in (100, 200, 400)]) > 1.8
        for path in paths.values():
            assert all((np.abs(nodes) == 0.0).any(axis=1).all() for nodes in path.snapshot_nodes)

    def test_stationary_density_under_l1_is_the_gibbs_law_spike_and_all(self):
        """The exponential flux is exact at zero flux: nodes carry the Gibbs density up to its normalization."""

        def rates(t, moments):
            return Rates(linear=0.1, tilt=np.array([-0.3]), tau=0.5, diffusion=0.004)

        path = solve(
            equations(regularizers.L1(0.5), rates=rates),
            gaussian_start(),
            [150.0],
            cells=300,
            tolerance=1e-5,
            kinks=(0.0,),
        )
        nodes, mass = path.snapshot_nodes[-1], path.snapshot_mass[-1]
        size = volumes(np.diff(nodes, axis=1))
        fine = np.linspace(-3, 6, 900_001)
        for i, a in enumerate(LOADINGS[:, 0]):
            potential = lambda w, a=a: (0.05 * w * w - 0.3 * a * w + 0.25 * np.abs(w)) / 0.004  # noqa: E731
            lowest = potential(fine).min()
            norm = np.exp(lowest - potential(fine)).sum() * (fine[1] - fine[0])
            gibbs = np.exp(lowest - potential(nodes[i])) / norm
            # Normalization by 300 cells errs by a fraction of the local cell width squared.
            assert np.abs(mass[i] - gibbs * size[i]).sum() < 3e-3
        assert np.diff(nodes[0]).min() < 0.004 / 0.25 / 4

    @pytest.mark.parametrize("diffusion", [1e-8 / 2, 1e-5, 0.3])
    @pytest.mark.parametrize("std", [0.0, 1e-3, 1.0])
    @pytest.mark.parametrize("name", ["Zero", "L1", "DoubleWell"])
    def test_masses_stay_positive_and_whole(self, diffusion, std, name):
        regularizer = regularizers.Zero() if name == "Zero" else getattr(regularizers, name)(1.0)

        def rates(t, moments):
            return Rates(linear=2.0 - 0.5 * np.tanh(moments[0]), tilt=np.array([-1.5]), tau=1.0, diffusion=diffusion)

        laws = [mixture((0.5, -1.0, std), (0.5, 0.7, 0.5 * std)) for _ in range(2)]
        path = solve(
            equations(regularizer, rates=rates), laws, [0.1, 1.0], cells=100, tolerance=1e-3, kinks=regularizer.kinks
        )
        assert path.failure == ""
        assert path.smallest >= 0.0
        for mass in path.snapshot_mass:
            assert mass.min() >= 0.0
            assert np.abs(mass.sum(axis=1) - 1.0).max() < 1e-12
        # Rounding that was taken back, all steps together; grows with the stiffness of graded cells.
        assert path.mass_restored < 1e-9

    def test_steps_land_on_the_output_times(self):
        t = np.array([0.0, 0.1, 0.10001, 3.0])
        path = solve(equations(), gaussian_start(), t, cells=60, tolerance=1e-3)
        assert path.snapshot_times == list(t)
        assert np.isin(t, path.times).all()
