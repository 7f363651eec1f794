"""Gibbs densities and the relaxation of single loadings against closed forms and adaptive quadrature."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, special
from scipy.linalg import eigh_tridiagonal

from mkvlasov import regularizers
from mkvlasov.analysis.stationary.gibbs import confined, gibbs_densities, gibbs_density
from mkvlasov.analysis.stationary.relaxation import relaxation_modes


def _first(regularizer, beta, G, s):
    moments = gibbs_densities(regularizer, np.array([beta]), np.array([G]), np.array([s])).moments()
    return moments[:2, 0]


def _laplace_and_gauss(beta, G, s, kappa):
    """Moments of exp(-beta [G w^2 / 2 + s w + kappa |w|]): two halves of Gaussians."""
    parts = []
    for sign in (1.0, -1.0):
        # On this side the exponent is -beta [G u^2 / 2 + b u], u = |w| > 0; with z = b sqrt(beta / (2 G)):
        b = kappa + sign * s
        z, scale = b * np.sqrt(beta / (2.0 * G)), np.sqrt(2.0 / (beta * G))
        m0 = 0.5 * np.sqrt(np.pi) * special.erfcx(z)
        m1 = 0.5 - z * m0
        m2 = 0.5 * m0 - z * m1
        parts.append(np.array([scale * m0, sign * scale**2 * m1, scale**3 * m2]))
    total = parts[0] + parts[1]
    return total[1:] / total[0]


@pytest.mark.parametrize(("beta", "G", "s"), [(5.0, 0.1, 0.2), (300.0, 0.1, 0.25), (2e3, 0.5, 0.1), (0.5, 3.0, -0.3)])
def test_moments_with_a_kink_are_those_of_two_half_gaussians(beta, G, s):
    """Spikes of width 1 / (beta kappa) beside tails of width 1 / sqrt(beta G); both to rounding."""
    expected = _laplace_and_gauss(beta, G, s, 0.3)
    np.testing.assert_allclose(_first(regularizers.L1(0.3), beta, G, s), expected, rtol=1e-11)


@pytest.mark.parametrize("beta", [0.5, 20.0, 400.0])
@pytest.mark.parametrize(
    "regularizer", [regularizers.DoubleWell(1.0), regularizers.Huber(0.5, 0.2), regularizers.ElasticNet(0.3, 0.4)]
)
def test_moments_are_those_of_adaptive_quadrature(regularizer, beta):
    G, s = 0.05, 0.03

    def energy(w):
        return beta * (0.5 * G * w * w + s * w + float(regularizer.value(np.array([w]))))

    least = min(energy(w) for w in np.linspace(-2.0, 2.0, 2001))
    ends = [-90.0, -30.0, -6.0, -2.0, -1.0, -0.2, 0.0, 0.2, 1.0, 2.0, 6.0, 30.0, 90.0]
    masses = [
        sum(
            integrate.quad(lambda w, k=k: w**k * np.exp(least - energy(w)), a, b, epsabs=1e-14, epsrel=1e-13)[0]
            for a, b in pairwise(ends)
        )
        for k in range(3)
    ]
    expected = np.array(masses[1:]) / masses[0]
    # quad stops at 1e-13 of the mass; means are sums of contributions of both signs of about its root.
    np.testing.assert_allclose(_first(regularizer, beta, G, s), expected, rtol=1e-10, atol=1e-12)


def test_a_barrier_beyond_numbers_leaves_the_wells_their_shares():
    """exp(-1e4) between two wells: at s = 0 the mean vanishes, at s > 0 all mass is in one well."""
    well = regularizers.DoubleWell(4.0)
    mean, second = _first(well, 1e4, 0.0, 0.0)
    assert abs(mean) < 1e-12
    # Laplace's expansion: Var = 1 / (beta phi'') with phi'' = 2 strength; corrections of relative order 1 / beta.
    assert second == pytest.approx(1.0, abs=1e-3)
    assert _first(well, 1e4, 0.0, 0.01)[0] == pytest.approx(-1.0, abs=2e-3)


def test_what_confines():
    one = np.ones(1)
    assert not confined(regularizers.L1(0.3), -0.01 * one, 0.0 * one)
    assert confined(regularizers.L1(0.3), 0.0 * one, 0.29 * one)
    assert not confined(regularizers.L1(0.3), 0.0 * one, 0.31 * one)
    assert confined(regularizers.DoubleWell(0.1), -5.0 * one, one)
    assert not confined(regularizers.Zero(), 0.0 * one, 0.0 * one)
    assert not confined(regularizers.L2(0.2), -0.3 * one, 0.0 * one)


def test_the_density_is_exact_between_its_points():
    density = gibbs_density(regularizers.L1(0.5), beta=60.0, G=0.0, s=0.1)
    w = np.array([-0.2, -0.011, 0.0, 0.037, 0.3])
    # Two exponentials: rates beta (kappa + s) to the right, beta (kappa - s) to the left.
    right, left = 60.0 * 0.6, 60.0 * 0.4
    expected = np.exp(-np.where(w > 0.0, right, -left) * w) / (1.0 / right + 1.0 / left)
    np.testing.assert_allclose(density.pdf(w), expected, rtol=1e-12)
    assert density.mass(-5.0, 0.0) == pytest.approx(0.6, abs=1e-4)  # cdf by cubics between the points


def test_relaxation_of_a_linear_drift_is_the_ladder_of_hermite():
    """Rates n tau (G + kappa); w couples to the first, w^2 to the first two."""
    tau, G, kappa, s, Lambda = 0.5, 0.1, 0.3, 0.2, 0.05
    beta = 2.0 * tau / Lambda
    densities = gibbs_densities(regularizers.L2(kappa), np.array([beta]), np.array([G]), np.array([s]))
    modes, _ = relaxation_modes(densities, 0, G=G, s=s, Lambda=Lambda, beta=beta)
    np.testing.assert_allclose(modes.rates[:2], tau * (G + kappa) * np.array([1.0, 2.0]), rtol=1e-9)
    variance, mean = 1.0 / (beta * (G + kappa)), -s / (G + kappa)
    np.testing.assert_allclose(np.abs(modes.w[:2]), [np.sqrt(variance), 0.0], atol=1e-10)
    expected = [2.0 * abs(mean) * np.sqrt(variance), np.sqrt(2.0) * variance]
    np.testing.assert_allclose(np.abs(modes.q[:2]), expected, atol=1e-10)


def test_crossing_a_barrier_takes_as_long_as_the_exact_passage_time():
    """Slowest rate of a symmetric double well: the inverse of half the mean passage time, up to fast relaxation."""
    strength, Lambda, tau = 2.0, 0.2, 0.5
    beta = 2.0 * tau / Lambda
    well = regularizers.DoubleWell(strength)
    densities = gibbs_densities(well, np.array([beta]), np.zeros(1), np.zeros(1))
    modes, _ = relaxation_modes(densities, 0, G=0.0, s=0.0, Lambda=Lambda, beta=beta)
    w = np.linspace(-2.5, 1.0, 35001)
    energy = beta * 0.25 * strength * (w * w - 1.0) ** 2
    below = integrate.cumulative_simpson(np.exp(-energy), x=w, initial=0.0)
    # From -1 to +1: (2 / Lambda) int_-1^1 e^E int_-inf^y e^-E, which passes the barrier once.
    inside = w >= -1.0
    time = 2.0 / Lambda * integrate.simpson((np.exp(energy) * below)[inside], x=w[inside])
    # Relaxation is faster by the two ways across; both agree up to e^-barrier and the time within a well.
    assert modes.rates[0] * time == pytest.approx(2.0, rel=0.2)
    # A finite-difference generator on a fine grid has the rate itself.
    grid = np.linspace(-2.3, 2.3, 2001)
    h = grid[1] - grid[0]
    middle = np.exp(-beta * 0.25 * strength * ((0.5 * (grid[1:] + grid[:-1])) ** 2 - 1.0) ** 2)
    weight = np.exp(-beta * 0.25 * strength * (grid**2 - 1.0) ** 2)
    flux = 0.5 * Lambda * middle / h**2
    diagonal = (np.append(flux, 0.0) + np.append(0.0, flux)) / weight
    rates = eigh_tridiagonal(
        diagonal, -flux / np.sqrt(weight[1:] * weight[:-1]), select="i", select_range=(0, 2), eigvals_only=True
    )
    np.testing.assert_allclose(modes.rates[0], rates[1], rtol=1e-4)  # the grid errs by h^2
