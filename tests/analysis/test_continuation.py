"""Bifurcation diagrams against critical values, fixed points, late times of the ODE and the symmetries."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import root

import mkvlasov as mv
from mkvlasov.problem.parameters import with_parameter

PAPER, _ = mv.read_problem("contrastive")
NAME, BOUNDS = "hidden.variance[0]", (0.5, 3.0)


@pytest.fixture(scope="module")
def diagram():
    """With few searches, so that branches have to be found from one another."""
    return mv.reduce(PAPER).continuation(NAME, bounds=BOUNDS, searches=2, starts=4, progress=False)


def _branch(diagram, name):
    (found,) = (b for b in diagram.branches if b.name.replace("-", "+").removeprefix("+") == name)
    return found


def _is_bare(point):
    """Whether a bifurcation lies at R = 0, up to the tolerance of zeros."""
    return np.abs(point.R).max() < 1e-9


def _at(branch, value):
    """Return the states of a branch at a value: between its points, then the zero of the rates nearby."""
    system = mv.reduce(with_parameter(PAPER, NAME, value))

    def rates(x):
        dQ, dR = system.rates([[x[2]]], [x[:2]])
        return np.append(dR, dQ)

    ahead = branch.parameter - value
    found = []
    for i in np.flatnonzero(ahead[1:] * ahead[:-1] <= 0.0):
        share = ahead[i] / (ahead[i] - ahead[i + 1])
        Q, R = ((1.0 - share) * part[i] + share * part[i + 1] for part in (branch.Q, branch.R))
        zero = root(rates, np.append(R, Q), tol=1e-13).x if Q.any() else np.append(R, Q)
        found.append((zero[2:].reshape(1, 1), zero[None, :2]))
    return found


def test_pitchforks_lie_at_critical_values(diagram):
    item = mv.reduce(PAPER).learnability(0)
    (point,) = (b for b in diagram.of_kind("pitchfork") if _is_bare(b))
    assert abs(point.value - item.critical_variance) <= point.error + item.critical_variance_error
    assert point.error < 1e-8
    assert point.broken == ("sign of feature 0",)
    ((dQ, dR),) = point.directions
    assert abs(dR[0, 0]) == pytest.approx(1.0, abs=1e-6)
    assert np.abs(dQ).max() < 1e-6
    names = {diagram.branches[i].name.removeprefix("-") for i in point.branches}
    assert names == {"uninformative", "feature 0"}


def test_a_feature_is_learnt_beyond_a_fold_before_it_grows_from_nothing(diagram):
    """The pitchfork is subcritical: between fold and pitchfork the ODE decides by its start."""
    (fold,) = diagram.of_kind("fold")
    (pitchfork,) = (b for b in diagram.of_kind("pitchfork") if _is_bare(b))
    assert fold.value < pitchfork.value
    assert pitchfork.criticality == "subcritical"
    for shift, learnt in ((0.01, True), (-0.01, False)):
        problem = with_parameter(PAPER, NAME, fold.value + shift)
        start = mv.initial.Gaussian(Q=fold.Q, R=fold.R)
        ode = mv.solve_ode(problem, start, t_eval=[400.0], progress=False)
        assert bool(abs(ode.cosine_similarity[-1, 0, 0]) > 0.8) is learnt


def test_points_are_fixed_points_with_their_stability(diagram):
    assert diagram.unfinished == ()
    for branch in diagram.branches:
        assert branch.residual.max() < 1e-9
        for i in range(0, len(branch), 7):
            problem = with_parameter(PAPER, NAME, branch.parameter[i])
            system = mv.reduce(problem)
            rates = system.rates(branch.Q[i], branch.R[i])
            assert max(np.abs(rate).max() for rate in rates) < 1e-9
            found = system.stability((branch.Q[i], branch.R[i]))
            np.testing.assert_allclose(np.sort(branch.eigenvalues[i].real), np.sort(found.eigenvalues.real), atol=1e-7)
            assert branch.unstable_dimension[i] == found.unstable_dimension


def test_a_dense_search_finds_nothing_apart_from_the_branches(diagram):
    for value in (0.7, 0.788, 1.0, 2.0):
        for point in mv.reduce(with_parameter(PAPER, NAME, value)).fixed_points(starts=200, rng=5):
            gaps = [
                max(np.abs(point.Q - Q).max(), np.abs(np.abs(point.R) - np.abs(R)).max())
                for branch in diagram.branches
                for Q, R in _at(branch, value)
            ]
            assert min(gaps) < 1e-8, (value, point.name)


def test_late_times_of_the_ode_end_on_the_stable_branches(diagram):
    problem = with_parameter(PAPER, NAME, 2.0)
    ode = mv.solve_ode(problem, mv.initial.Gaussian(Q=1.0, R=[0.6, 0.1]), t_eval=[100.0], rtol=1e-12, progress=False)
    ((Q, _),) = _at(_branch(diagram, "feature 0"), 2.0)
    assert ode.Q[-1, 0, 0] == pytest.approx(Q[0, 0], abs=1e-10)


def test_stability_changes_where_the_diagram_says(diagram):
    for point in diagram.bifurcations:
        for index in point.branches:
            branch = diagram.branches[index]
            if point.kind == "fold":
                i = np.abs(branch.parameter - point.value).argmin()
                assert branch.unstable_dimension[max(i - 3, 0)] != branch.unstable_dimension[i + 3]


def test_every_branch_is_there_once(diagram):
    names = sorted(b.name.replace("-", "+").removeprefix("+") for b in diagram.branches)
    assert names == ["feature 0", "feature 0 + feature 1", "feature 1", "uninformative", "zero weights"]
    text = str(diagram)
    assert "5 branch(es) and 3 bifurcation(s)" in text
    assert "fold at" in text


@pytest.mark.parametrize(
    ("problem", "name", "bounds"),
    [
        (PAPER, "learning_rate", (4.0, 6.0)),
        (replace(PAPER, constraint="sphere"), "augmentation.std", (2.0, 3.0)),
        (replace(PAPER, learning_rate=10.0), "batch_size", (1.9, 2.2)),
    ],
)
def test_other_parameters_have_their_pitchforks_at_critical_values(problem, name, bounds):
    system = mv.reduce(problem)
    diagram = system.continuation(name, bounds=bounds, searches=1, starts=4, progress=False)
    expected = [v for k in range(2) for v in system.learnability(k).critical_values(name, bounds).values]
    found = [b for b in diagram.of_kind("pitchfork") if _is_bare(b) and b.Q.any()]
    assert len(found) == len(expected) == 1
    assert found[0].value == pytest.approx(expected[0], abs=found[0].error + 1e-9)


def test_branches_that_vanish_are_said_to():
    """At Q = 0 tanh is linear: R grows at tau (2 (T12 + v - eta) - kappa), zero at kappa = 7.7 and 5.7."""
    diagram = mv.reduce(PAPER).continuation(
        "regularizer.strength", bounds=(2.0, 9.0), searches=3, starts=4, progress=False
    )
    zero = [b for b in diagram.bifurcations if not b.Q.any()]
    assert [b.kind for b in zero] == ["transcritical", "pitchfork", "pitchfork"]
    for point, value in zip(zero[1:], (5.7, 7.7), strict=True):
        assert abs(point.value - value) <= point.error < 1e-4
    assert "Q vanishes" in _branch(diagram, "uninformative").ends


def test_branches_out_of_zero_weights_are_found_from_there():
    """Searched at 8 alone, where weights decay: the branches below 7.7 are met through zero weights."""
    diagram = mv.reduce(PAPER).continuation(
        "regularizer.strength", bounds=(7.0, 9.0), searches=1, starts=4, progress=False
    )
    assert (diagram.searched == 8.0).all()
    (point,) = diagram.bifurcations
    assert point.value == pytest.approx(7.7, abs=1e-6)
    assert {diagram.branches[i].name.removeprefix("-") for i in point.branches} == {"zero weights", "feature 0"}
    assert point.criticality == "supercritical"
    assert diagram.unfinished == ()


def test_loops_begin_and_end_at_their_vertices():
    """A skewed law: a mixed state lives between two pitchforks, and its curve goes around with its mirror image."""
    atoms = [[a, b] for a in (-0.9, 3.6) for b in (-1.7, 1.7)]
    problem = replace(PAPER, hidden=mv.hidden.Discrete(atoms, [0.4, 0.4, 0.1, 0.1]))
    diagram = mv.reduce(problem).continuation(
        "augmentation.std", bounds=(1.8, 2.6), searches=1, starts=4, progress=False
    )
    mixed = [b for b in diagram.branches if b.name.replace("-", "+").removeprefix("+") == "feature 0 + feature 1"]
    assert [b.ends for b in mixed] == [("branch point", "branch point")]
    ends = sorted(mixed[0].parameter[[0, -1]])
    forks = [b for b in diagram.of_kind("pitchfork") if diagram.branches.index(mixed[0]) in b.branches]
    np.testing.assert_allclose(ends, [b.value for b in forks], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "bounds", "options", "error"),
    [
        ("nothing", (1.0, 2.0), {}, "^name"),
        (NAME, (2.0, 1.0), {}, "^bounds"),
        (NAME, (-1.0, 1.0), {}, "^bounds: .*admits"),
        ("augmentation.std", (0.0, 1.0), {"logarithmic": True}, "^bounds"),
        (NAME, BOUNDS, {"searches": 0}, "^searches"),
    ],
)
def test_bad_input_is_named(name, bounds, options, error):
    with pytest.raises(mv.InvalidInput, match=error):
        mv.reduce(PAPER).continuation(name, bounds=bounds, progress=False, **options)


def test_figures_show_stability_and_bifurcations(diagram):
    figure = diagram.plot()
    assert [ax.get_ylabel() for ax in figure.axes] == [
        "cosine similarity, $q_{1,1}$",
        "cosine similarity, $q_{1,2}$",
    ]
    lines = figure.axes[0].get_lines()
    marked = [line for line in lines if line.get_linestyle() == "None"]
    assert sorted(float(line.get_xdata()[0]) for line in marked) == [b.value for b in diagram.bifurcations]
    strokes = [line for line in lines if line.get_linestyle() != "None"]
    solid = sum(len(line.get_xdata()) for line in strokes if line.get_linestyle() == "-")
    stable = sum(int(branch.is_stable.sum()) for branch in diagram.branches)
    assert stable <= solid <= stable + len(strokes)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[-2:] == ["fold", "pitchfork"]
    assert len(diagram.plot("Q[0,0]").axes) == 1
    with pytest.raises(mv.InvalidInput, match=r"^entry: got 'cosine\[1,0\]'"):
        diagram.plot("cosine[1,0]")
