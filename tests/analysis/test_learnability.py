"""Growth rates and critical values against Jacobians, closed forms, and runs of the (Q, R) chain."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq

import mkvlasov as mv
from mkvlasov.analysis.learnability import CriticalValues, critical_values
from mkvlasov.plotting.style import PALETTE
from mkvlasov.problem.parameters import with_parameter

PAPER, _ = mv.read_problem("contrastive")
CORRELATED = mv.hidden.Discrete([[1.0, 1.0], [-1.0, -1.0], [1.0, -0.5], [-1.0, 0.5]], [0.4, 0.4, 0.1, 0.1])
VARIANTS = {
    "plain": PAPER,
    "sphere": replace(PAPER, constraint="sphere"),
    "correlated": replace(PAPER, hidden=CORRELATED),
    "two outputs": replace(PAPER, outputs=2, activation="erf"),
    "two outputs, sphere": replace(PAPER, outputs=2, activation="erf", constraint="sphere"),
    "centred sigmoid": replace(
        PAPER, activation="sigmoid", batch_size=4, loss=mv.losses.Covariance(centered=True), learning_rate=2.0,
        regularizer=mv.regularizers.L2(0.01),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_growth_rates_are_eigenvalues_of_the_jacobian(name):
    """Differences of the whole right-hand side, which know nothing of the linearized H."""
    problem = VARIANTS[name]
    system = mv.reduce(problem)
    found = [system.learnability(k) for k in range(2)]
    m = problem.outputs
    jacobian = system.jacobian(found[0].Q, np.zeros((m, 2))).value[: 2 * m, : 2 * m]
    values = np.linalg.eigvals(jacobian).real
    assert max(item.growth_rate for item in found) == pytest.approx(values.max(), abs=1e-8)
    for item in found:
        assert np.abs(values - item.growth_rate).min() < 1e-8
        assert item.error < 1e-8
        # Along the mode the Jacobian acts as on an eigenvector.
        block = jacobian.reshape(m, 2, m, 2)
        np.testing.assert_allclose(
            np.einsum("jkli,i->jkl", block, item.mode),
            np.einsum("jil,k->jkl", np.einsum("jkli,i,k->jl", block, item.mode, item.mode)[:, None], item.mode),
            atol=1e-8,
        )


def test_correlated_hidden_variables_grow_by_modes():
    system = mv.reduce(VARIANTS["correlated"])
    variances, vectors = np.linalg.eigh(CORRELATED.covariance)
    for k, item in enumerate([system.learnability(0), system.learnability(1)]):
        assert item.variance == pytest.approx(variances[::-1][k])
        assert abs(item.mode @ vectors[:, ::-1][:, k]) == pytest.approx(1.0)
    assert "mode 0" in str(system.learnability(0))


def _erf_threshold(tau, kappa, T11, T12, eta):
    """Critical variance of erf from the closed Gaussian integrals (docs/theory.md, section 10), and Q."""

    def four(C, a, b, c, d):
        at = C.item
        L4 = (1 + at(a, a)) * (1 + at(b, b)) - at(a, b) ** 2

        def L(e):
            return (
                L4 * (1 + at(e, e)) - at(b, e) ** 2 * (1 + at(a, a)) - at(a, e) ** 2 * (1 + at(b, b))
                + 2 * at(a, b) * at(a, e) * at(b, e)
            )  # fmt: skip

        L0 = (
            L4 * at(c, d) - at(b, c) * at(b, d) * (1 + at(a, a)) - at(a, c) * at(a, d) * (1 + at(b, b))
            + at(a, b) * (at(a, c) * at(b, d) + at(a, d) * at(b, c))
        )  # fmt: skip
        return 4 / np.pi**2 * np.arcsin(L0 / np.sqrt(L(c) * L(d))) / np.sqrt(L4)

    def parts(Q):
        C = Q * np.array([[T11, T12], [T12, T11]])
        root = np.sqrt((1 + C[0, 0]) ** 2 - C[0, 1] ** 2)
        cross, own = -2 / np.pi / root, 2 / np.pi * C[0, 1] / ((1 + C[0, 0]) * root)
        Lambda = 2 * tau**2 * (T11 * four(C, 0, 0, 1, 1) + T12 * four(C, 0, 1, 1, 0))
        return 2 * (T11 * own + T12 * cross), 2 * (own + cross), Lambda

    def rate(Q):
        G, _, Lambda = parts(Q)
        return -2 * tau * (G + kappa) * Q + Lambda

    Q = brentq(rate, 0.1, 10.0, xtol=1e-14, rtol=1e-14)
    G, Gbar, _ = parts(Q)
    return eta - (G + kappa) / Gbar, Q


@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.8])
def test_erf_has_a_threshold_in_closed_form(rho):
    problem = replace(PAPER, activation="erf", augmentation=mv.augmentations.GaussianNoise(0.5, rho))
    item = mv.reduce(problem).learnability(0)
    variance, Q = _erf_threshold(0.4, 0.3, 1.25, 1.0 + 0.25 * rho, 1.0)
    assert item.Q[0, 0] == pytest.approx(Q, abs=1e-10)
    assert item.critical_variance == pytest.approx(variance, abs=1e-10)


@pytest.mark.parametrize("constraint", [None, "sphere"])
def test_chains_grow_above_the_critical_variance_and_decay_below(constraint):
    base = replace(PAPER, hidden=mv.hidden.Rademacher(1.0), constraint=constraint)
    critical = mv.reduce(base).learnability().critical_variance
    t, start = 4.0, 0.05
    for shift in (0.8, -0.8):
        problem = replace(base, hidden=mv.hidden.Rademacher(critical + shift))
        item = mv.reduce(problem).learnability()
        sgd = mv.simulate_sgd(
            problem, mv.initial.Gaussian(Q=item.Q, R=[[start]]), t_eval=[0.0, t], dimension=20_000, runs=16, rng=1,
            exact_overlaps=True, method="chain", progress=False,
        )  # fmt: skip
        end, bar = sgd.R[-1, 0, 0], sgd.R_stderr[-1, 0, 0]
        # Nonlinear terms: R grows to 0.1 at most, relative changes of the rate are of order R^2.
        assert abs(end - start * np.exp(item.growth_rate * t)) < 4.0 * bar + 0.01 * end
        assert (end - start) * np.sign(shift) > 4.0 * bar
        assert item.is_learnt is (shift > 0)


def test_only_second_moments_of_the_hidden_variables_enter():
    laws = (
        mv.hidden.Rademacher([3.0, 2.0]),
        mv.hidden.Gaussian([3.0, 2.0]),
        mv.hidden.Sparse([3.0, 2.0], kurtosis=6.0),
        mv.hidden.Discrete([[np.sqrt(6), 0], [-np.sqrt(6), 0], [0, 2], [0, -2]], [0.25] * 4),  # dependent, uncorrelated
    )
    systems = [mv.reduce(replace(PAPER, hidden=law)) for law in laws]
    for k in range(2):
        first, *others = (system.learnability(k) for system in systems)
        for other in others:
            assert other.growth_rate == pytest.approx(first.growth_rate, abs=1e-10)
            assert other.critical_variance == pytest.approx(first.critical_variance, abs=1e-9)
    ends = [next(p for p in s.fixed_points(starts=8) if p.name == "feature 0").cosine_similarity for s in systems[:3:2]]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3  # where they end is another matter


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("learning_rate", None),
        ("augmentation.std", (0.5, 5.0)),
        ("background_variance", (0.5, 10.0)),
        ("hidden.variance[1]", (0.5, 10.0)),
    ],
)
def test_growth_changes_sign_at_critical_values(name, bounds):
    found = mv.reduce(PAPER).learnability(1).critical_values(name, bounds)
    assert len(found.values) == 1
    value, error = found.values[0], found.errors[0]
    assert error < 1e-8 * value
    rates = [
        mv.reduce(with_parameter(PAPER, name, value * factor)).learnability(1).growth_rate for factor in (0.99, 1, 1.01)
    ]
    assert rates[0] * rates[2] < 0
    assert abs(rates[1]) < 1e-9


def test_strong_weight_decay_leaves_no_weights_and_a_threshold_in_closed_form():
    """At Q = 0 tanh is linear: growth tau (2 (T12 + v - eta) - kappa)."""
    item = mv.reduce(replace(PAPER, regularizer=mv.regularizers.L2(4.0))).learnability(1)
    assert not item.Q.any()
    assert item.growth_rate == pytest.approx(0.4 * (2.0 * (0.85 + 2.0) - 4.0), abs=1e-12)
    found = item.critical_values("regularizer.strength")
    np.testing.assert_allclose(found.values, [5.7], atol=1e-10)


def test_correlation_of_the_noise_has_a_critical_value():
    critical = mv.reduce(PAPER).learnability().critical_variance
    problem = replace(PAPER, hidden=mv.hidden.Rademacher([critical, 3.0]))
    found = mv.reduce(problem).learnability(0).critical_values("augmentation.correlation")
    np.testing.assert_allclose(found.values, [-0.6], atol=1e-8)


def test_batch_size_enters_as_learning_rate_over_batch_size():
    rate = mv.reduce(PAPER).learnability(1).critical_values("learning_rate").values[0]
    fast = replace(PAPER, learning_rate=40.0)
    found = mv.reduce(fast).learnability(1).critical_values("batch_size")
    np.testing.assert_allclose(found.values, [40.0 / rate], rtol=1e-9)
    growth = [
        mv.reduce(replace(fast, batch_size=b)).learnability(1).growth_rate
        for b in (int(found.values[0]), int(found.values[0]) + 1)
    ]
    assert growth[0] < 0 < growth[1]
    largest = mv.reduce(replace(fast, batch_size=10_000)).learnability(1).growth_rate
    assert found.growth_rates[-1] == pytest.approx(largest, rel=1e-9)
    with pytest.raises(mv.UnsupportedError, match=r"^batch_size"):
        mv.reduce(VARIANTS["centred sigmoid"]).learnability(1).critical_values("batch_size")


def test_none_within_the_bounds_is_said():
    found = mv.reduce(PAPER).learnability(0).critical_values("learning_rate", (0.1, 0.5))
    assert len(found.values) == 0
    assert "none" in str(found)


def test_weights_that_grow_for_ever_have_no_uninformative_state():
    problem, _ = mv.read_problem("unregularized")
    with pytest.raises(mv.UnsupportedError, match="no uninformative state"):
        mv.reduce(problem).learnability()


@pytest.mark.parametrize(("name", "bounds"), [("hidden", None), ("nothing", None), ("learning_rate", (2.0, 1.0))])
def test_bad_parameters_are_named(name, bounds):
    with pytest.raises(mv.InvalidInput, match=r"^(name|bounds): got"):
        mv.reduce(PAPER).learnability().critical_values(name, bounds)


def test_features_that_do_not_exist_are_named():
    with pytest.raises(mv.InvalidInput, match=r"^feature: got 2"):
        mv.reduce(PAPER).learnability(2)


def test_the_figure_marks_zeros_and_draws_no_line_across_jumps_and_gaps():
    grid, lost = np.linspace(0.0, 4.0, 9), np.array([3.0, 3.5])
    known = grid[~np.isin(grid, lost)]
    rates = np.where(known < 1.75, known - 1.0, 0.5 - known)
    found = CriticalValues(
        "some.parameter", np.array([1.0]), np.array([1e-9]), known, rates, lost, jumps=np.array([1.75])
    )
    (axes,) = found.plot().axes
    curves = [line.get_xdata() for line in axes.lines if line.get_color() == PALETTE[0]]
    shown = np.concatenate(curves)
    np.testing.assert_array_equal(np.sort(shown), known)
    for curve in curves:
        assert len(curve) < 2 or np.diff(curve).max() == 0.5
        assert not (curve[0] < 1.75 < curve[-1])
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    assert [tuple(mark.get_xydata()[0]) for mark in marks] == [(1.0, 0.0)]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["no uninformative state", "jump: the uninformative state changes", "critical value 1"]
    assert axes.get_xlabel() == "some.parameter"


def test_a_growth_rate_that_jumps_over_zero_has_no_critical_value_there(monkeypatch):
    """As where the uninformative state changes at once: Brent's method ends at the jump, where nothing vanishes."""
    module = sys.modules["mkvlasov.analysis.learnability"]
    monkeypatch.setattr(module, "_growth_at", lambda problem, name, value, *rest: (np.sign(value - 1.7) + 0.1, 1e-12))
    found = critical_values(PAPER, "learning_rate", bounds=(1.0, 3.0))
    assert len(found.values) == 0
    np.testing.assert_allclose(found.jumps, [1.7], atol=1e-9)


def test_the_error_counts_the_rounding_of_a_strong_weight_decay():
    kappa = 1e6
    item = mv.reduce(replace(PAPER, regularizer=mv.regularizers.L2(kappa))).learnability(1)
    assert item.error >= np.finfo(float).eps * 0.4 * kappa
    assert abs(item.growth_rate - 0.4 * (2.0 * (0.85 + 2.0) - kappa)) <= item.error
