"""The noise study against closed forms, separately found fixed points, and its own refusals."""

from dataclasses import replace

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.analysis.misalignment import misalignment
from mkvlasov.limit import LimitCoefficients

PAPER, _ = mv.read_problem("contrastive")
ONE = replace(PAPER, hidden=mv.hidden.Rademacher(4.0))
ROUNDING = 1e-9
"""Fixed points are polished to 1e-12 of their scale; derivatives by differences have nine digits."""


def _noisy(problem, std, correlation):
    return replace(problem, augmentation=mv.augmentations.GaussianNoise(std, correlation))


def _study(problem, stds, correlations, **options):
    return mv.reduce(problem).noise_study(stds=stds, correlations=correlations, progress=False, **options)


# A linear activation on the sphere, K = 1: dR/dt is a polynomial in R, by hand from docs/theory.md, sections 3 and 9.
# With D = v - eta and u = eta + D R^2 the fixed point solves 2 (v - u) / tau = u (T11 + T12) + s^2 (T11 + rho T12).
V, ETA, TAU = 3.0, 1.0, 0.2
LINEAR = replace(
    PAPER, activation="identity", constraint="sphere", hidden=mv.hidden.Rademacher(V), learning_rate=TAU,
    background_variance=ETA,
)  # fmt: skip


def _linear_state(s, rho):
    """Return cos^2 (negative: no informative state), and T11, T12, u."""
    T11, T12 = ETA + s * s, ETA + rho * s * s
    u = (2.0 * V / TAU - s * s * (T11 + rho * T12)) / (2.0 / TAU + T11 + T12)
    return (u - ETA) / (V - ETA), T11, T12, u


@pytest.fixture(scope="module")
def linear():
    return _study(LINEAR, [0.0, 1.0, 1.5, 3.0], np.linspace(-1.0, 1.0, 9))


def test_linear_states_on_the_sphere_are_those_of_the_closed_form(linear):
    s, rho = np.meshgrid(linear.stds, linear.correlations, indexing="ij")
    squared = np.vectorize(lambda a, b: _linear_state(a, b)[0])(s, rho)
    exists = squared > 0.0
    assert ((linear.labels == "no informative state") == ~exists).all()
    np.testing.assert_allclose(linear.cosine[exists], np.sqrt(squared[exists]), atol=ROUNDING)
    assert np.isnan(linear.cosine[~exists]).all()
    # Without an informative state the feature does not grow, and with one it does.
    np.testing.assert_array_equal(linear.is_reachable, exists)


def test_linear_labels_turn_at_the_correlation_of_least_diffusion(linear):
    """The bracket of Lambda is least at rho = -(u + eta) / (2 s^2): beyond it a lower correlation hurts."""
    for i, s in enumerate(linear.stds):
        for j, rho in enumerate(linear.correlations):
            squared, _, _, u = _linear_state(s, rho)
            if squared > 0.0:
                slope = s * s * (u + ETA + 2.0 * rho * s * s)
                expected = "undecided" if s == 0.0 else "helps" if slope > 0.0 else "hurts"
                assert linear.labels[i, j] == expected
    assert {"helps", "hurts", "undecided", "no informative state"} == set(linear.labels.ravel())
    assert np.isnan(linear.best_correlations[[0, 3]]).all()
    best = linear.best_correlations[2]
    assert -1.0 < best < -0.5
    # The closed form at the interpolated optimum; linear interpolation on a grid of 0.25.
    assert best == pytest.approx(-(_linear_state(1.5, best)[3] + ETA) / (2.0 * 1.5**2), abs=0.01)


def test_linear_derivatives_are_those_of_the_closed_form(linear):
    i, j, h = 1, 3, 1e-4
    s, rho = linear.stds[i], linear.correlations[j]

    def log_rest(a, b):
        return np.log(1.0 - _linear_state(a, b)[0])

    by_rho = (log_rest(s, rho + h) - log_rest(s, rho - h)) / (2.0 * h)
    by_std = (log_rest(s + h, rho) - log_rest(s - h, rho)) / (2.0 * h)
    # Differences of the closed form: h^2 = 1e-8.
    assert linear.by_correlation.total[i, j, 0] == pytest.approx(by_rho, abs=1e-7)
    assert linear.by_std.total[i, j, 0] == pytest.approx(by_std, abs=1e-7)
    # At fixed R, Lambda / tau = 2 tau [T11 (u + s^2) + T12 (u + rho s^2)].
    _, T11, T12, u = _linear_state(s, rho)
    bracket, slope = T11 * (u + s * s) + T12 * (u + rho * s * s), s * s * (u + rho * s * s + T12)
    assert linear.diffusion[i, j, 0, 0] == pytest.approx(2.0 * TAU * bracket, rel=ROUNDING)
    assert linear.by_correlation.diffusion_direct[i, j, 0] == pytest.approx(slope / bracket, rel=1e-8)
    assert linear.by_correlation.norm[i, j, 0] == 0.0


CASES = {
    "tanh, two features": PAPER,
    "sphere": replace(ONE, constraint="sphere"),
    "erf, sparse": replace(ONE, activation="erf", hidden=mv.hidden.Sparse(4.0, kurtosis=6.0)),
    "centred sigmoid": replace(
        ONE, activation="sigmoid", batch_size=4, loss=mv.losses.Covariance(centered=True), learning_rate=2.0,
        regularizer=mv.regularizers.L2(0.01),
    ),
    "correlated": replace(
        PAPER, hidden=mv.hidden.Discrete([[2.0, 1.0], [-2.0, -1.0], [1.0, -2.0], [-1.0, 2.0]], [0.35, 0.35, 0.15, 0.15])
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_differences_of_fixed_points_found_apart(name):
    """Searches of their own at neighbouring noises know nothing of Jacobians or of the balance."""
    problem, h = CASES[name], 1e-3
    study = _study(problem, [0.8], [-0.4])
    assert study.balance_gap[0, 0] < ROUNDING

    def log_rest(std, correlation):
        points = mv.reduce(_noisy(problem, std, correlation)).fixed_points(starts=4).stable
        nearest = min(points, key=lambda p: abs(misalignment(p.Q, p.R)[0] - study.misalignment[0, 0, 0]))
        return np.log(misalignment(nearest.Q, nearest.R)[0])

    by_rho = (log_rest(0.8, -0.4 + h) - log_rest(0.8, -0.4 - h)) / (2.0 * h)
    by_std = (log_rest(0.8 + h, -0.4) - log_rest(0.8 - h, -0.4)) / (2.0 * h)
    # Differences of order two over 1e-3: 1e-6 times a third derivative of order one to ten.
    assert study.by_correlation.total[0, 0, 0] == pytest.approx(by_rho, abs=1e-5)
    assert study.by_std.total[0, 0, 0] == pytest.approx(by_std, abs=3e-5)


@pytest.fixture(scope="module")
def paper():
    return _study(PAPER, [0.5, 1.5, 3.0], [-1.0, 0.0, 1.0])


def test_factors_are_the_identity_of_one_output(paper):
    """1 - |q|^2 = Lambda / (2 tau (G + kappa) Q) with the public coefficients."""
    for i, j in ((0, 0), (1, 1), (1, 2)):
        problem = _noisy(PAPER, paper.stds[i], paper.correlations[j])
        Q, R = paper.Q[i, j], paper.R[i, j]
        dQ, dR = mv.reduce(problem).rates(Q, R)
        assert max(np.abs(dQ).max(), np.abs(dR).max()) < ROUNDING
        c = LimitCoefficients(problem, rtol=1e-11)(Q, R)
        rest = c.Lambda / (2.0 * 0.4 * (c.G + 0.3) * Q)
        assert paper.misalignment[i, j, 0] == pytest.approx(rest[0, 0], rel=ROUNDING)
        assert paper.confinement[i, j, 0, 0] == pytest.approx(c.G[0, 0] + 0.3, rel=ROUNDING)
        assert 1.0 - np.sum(R**2) / Q[0, 0] == pytest.approx(rest[0, 0], rel=ROUNDING)


def test_parts_sum_up_to_the_total(paper):
    for effect in (paper.by_correlation, paper.by_std):
        known = ~np.isnan(effect.total)
        assert known.any()
        total, error = effect.total[known], effect.error[known]
        assert (np.abs(effect.diffusion + effect.confinement + effect.norm - effect.total)[known] <= error).all()
        assert (np.abs(effect.direct + effect.indirect - effect.total)[known] <= error).all()
        assert (error < 1e-3 * np.maximum(1.0, np.abs(total))).all()  # one-sided at correlations -1 and 1
        assert np.nanmax(effect.error[:, 1]) < 1e-8


def test_growth_is_that_of_learnability(paper):
    for i, j in ((0, 0), (2, 2)):
        item = mv.reduce(_noisy(PAPER, paper.stds[i], paper.correlations[j])).learnability(0)
        assert paper.growth_rate[i, j] == item.growth_rate
        assert paper.critical_variance[i, j] == item.critical_variance


def test_several_stable_states_are_counted(paper):
    """Both features of the paper's problem are stable under weak noise, neither under strong correlated noise."""
    assert paper.stable_states[0, 0] == len(mv.reduce(_noisy(PAPER, 0.5, -1.0)).fixed_points().stable) == 2
    assert paper.labels[2, 2] == "no informative state"
    assert not paper.is_reachable[2, 2]
    assert paper.searched[2, 2]
    assert not paper.searched[0, 1]  # between two corners: followed
    # The state of the weaker feature loses its stability between these strengths, where it would be followed to.
    study = _study(PAPER, [1.0, 1.5, 2.0, 2.25], [-0.5, -0.25, 0.0])
    for i, j in ((2, 1), (1, 1), (3, 1)):
        points = mv.reduce(_noisy(PAPER, study.stds[i], study.correlations[j])).fixed_points().stable
        assert study.stable_states[i, j] == len(points)
    assert "several stable states" in str(paper)


def test_the_other_feature_has_a_state_of_its_own():
    study = _study(PAPER, [0.5], [-0.5, 0.5], feature=1)
    point = next(p for p in mv.reduce(_noisy(PAPER, 0.5, -0.5)).fixed_points() if p.name == "feature 1")
    assert study.cosine[0, 0] == pytest.approx(point.cosine_similarity[0, 1], abs=ROUNDING)
    assert abs(study.R[0, 0, 0, 0]) < ROUNDING


def test_states_that_nothing_leads_to_from_nothing_are_told_apart():
    """Strong decay and a small learning rate: at std 2, correlation -1 the state is stable but does not grow."""
    slow = replace(ONE, regularizer=mv.regularizers.L2(1.0), learning_rate=0.05)
    study = _study(slow, [2.0, 3.0], [-1.0, -0.25, 0.5])
    assert study.labels[0, 0] == "helps"
    assert study.growth_rate[0, 0] < 0.0
    assert not study.is_reachable[0, 0]
    assert study.labels[1].tolist() == ["no informative state", "hurts", "helps"]
    for start, learnt in ((0.9, True), (0.01, False)):
        initial = mv.initial.Gaussian(Q=1.0, R=[[start]])
        ode = mv.solve_ode(_noisy(slow, 2.0, -1.0), initial, t_eval=[400.0], progress=False)
        if learnt:
            assert ode.cosine_similarity[-1, 0, 0] == pytest.approx(study.cosine[0, 0], abs=1e-6)
        else:
            assert ode.Q[-1, 0, 0] < 1e-6  # the weights decay


def test_states_of_the_chain_stay_where_the_study_puts_them():
    study = _study(PAPER, [1.0], [-1.0, 1.0])
    for j in range(2):
        sgd = mv.simulate_sgd(
            _noisy(PAPER, 1.0, study.correlations[j]), mv.initial.Gaussian(Q=study.Q[0, j], R=study.R[0, j]),
            t_eval=[1.0, 2.0], dimension=20_000, runs=16, rng=3, method="chain", progress=False,
        )  # fmt: skip
        gap = np.abs(sgd.cosine_similarity[-1, 0, 0] - study.cosine[0, j])
        assert gap < 4.0 * sgd.cosine_similarity_stderr[-1, 0, 0] + 10.0 / 20_000  # the bias is of order 1 / N
    assert study.cosine[0, 0] > study.cosine[0, 1] + 0.005  # and the two differ by more than that


def test_two_outputs_obey_the_matrix_balance():
    problem = replace(PAPER, activation="erf", outputs=2)
    study = _study(problem, [0.5], [-0.6, -0.4], starts=4)
    assert study.misalignment.shape == (1, 2, 2)
    assert (study.labels == "helps").all()
    assert study.balance_gap.max() < 1e-8  # coefficients of several outputs are asked for 1e-9
    # Outputs that do not meet in the loss are one output each.
    alone = _study(replace(problem, outputs=1), [0.5], [-0.6, -0.4])
    np.testing.assert_allclose(study.cosine, alone.cosine, atol=1e-8)
    own = np.take_along_axis(study.by_correlation.total, study.output[..., None], -1)
    np.testing.assert_allclose(own, alone.by_correlation.total, atol=1e-6)
    for part in ("diffusion_direct", "confinement_direct", "norm"):
        own = np.take_along_axis(getattr(study.by_correlation, part), study.output[..., None], -1)
        np.testing.assert_allclose(own, getattr(alone.by_correlation, part), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "options", "field"),
    [
        ({"augmentation": mv.augmentations.RandomMask(0.5)}, {}, "augmentation"),
        ({"batch_size": np.inf}, {}, "batch_size"),
        ({"learning_rate": mv.schedules.PowerDecay(1.0, 2.0)}, {}, "learning_rate"),
        ({}, {"stds": [1.0, 0.5]}, "stds"),
        ({}, {"stds": [-0.5, 0.5]}, "stds"),
        ({}, {"correlations": [0.0, 1.5]}, "correlations"),
        ({}, {"feature": 2}, "feature"),
    ],
)
def test_what_has_no_answer_is_refused_by_name(change, options, field):
    with pytest.raises((mv.InvalidInput, mv.UnsupportedError), match=f"^{field}:"):
        _study(replace(PAPER, **change), **{"stds": [0.5], "correlations": [0.0], **options})


def test_moments_that_do_not_close_are_refused():
    with pytest.raises(mv.ClosureError):
        mv.reduce(replace(PAPER, regularizer=mv.regularizers.L1(0.1))).noise_study(stds=[0.5], correlations=[0.0])


def test_maps_show_what_the_study_found(linear):
    figure = linear.plot()
    left, right = figure.axes[:2]
    assert left.get_xlabel().startswith("correlation")
    assert left.patch.get_hatch() == "///"  # some points have no informative state
    marks = [line for line in left.lines if line.get_marker() == "_"]
    assert len(marks[0].get_xdata()) == (linear.labels == "hurts").sum()
    assert len(left.collections) >= 2  # the map and the contour of no derivative
    dots = right.lines[0].get_xdata()
    assert len(dots) == 3  # one per strength above zero
    with pytest.raises(mv.InvalidInput, match=r"^study"):
        _study(LINEAR, [0.5], [0.0]).plot()


def test_decompositions_show_parts_that_sum_up(linear):
    left, right = linear.plot_decomposition(1.0).axes
    curves = {line.get_label(): line.get_ydata() for ax in (left, right) for line in ax.lines}
    total = curves["total"]
    parts = [y for label, y in curves.items() if label.split(",")[0] in ("diffusion", "confinement", "norm")]
    assert len(parts) == 3
    np.testing.assert_allclose(np.sum(parts, axis=0), total, atol=1e-8)
    np.testing.assert_allclose(curves["at the same $(Q, R)$"] + curves["through $(Q, R)$"], total, atol=1e-8)
    with pytest.raises(mv.InvalidInput, match=r"^std"):
        linear.plot_decomposition(0.7)
