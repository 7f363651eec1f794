"""Basins against late times of the ODE route, scipy's integrator on the public rates, symmetry, and closed forms."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import mkvlasov as mv
from mkvlasov.analysis import default_grid
from mkvlasov.analysis.basin_labels import DIVERGED, INFEASIBLE, UNRESOLVED
from mkvlasov.analysis.basins import fraction_of
from mkvlasov.analysis.symmetries import find_symmetries
from mkvlasov.analysis.symmetry_group import SymmetryGroup
from mkvlasov.limit.derivatives import ClosedRates

PAPER, _ = mv.read_problem("contrastive")
EQUAL = replace(PAPER, hidden=mv.hidden.Rademacher([3.0, 3.0]))


@pytest.fixture(scope="module")
def points():
    return mv.reduce(PAPER).fixed_points()


@pytest.fixture(scope="module")
def sample(points):
    return mv.reduce(PAPER).basins(mv.random_starts(PAPER, 200, rng=3), points=points, progress=False)


def test_labels_are_where_the_ode_route_ends(sample):
    """Another driver, tolerance 1e-8, to t = 100, where what is left of the slowest mode (0.24) is below 1e-9."""
    for i in range(12):
        start = mv.initial.Gaussian(Q=sample.Q[i], R=sample.R[i])
        ode = mv.solve_ode(PAPER, start, t_eval=[100.0], progress=False)
        end = np.append(ode.R[-1].ravel(), ode.Q[-1].ravel())
        assert np.abs(sample.ends.x - end).max(axis=1).argmin() == sample.labels[i]


def test_times_and_states_are_those_of_scipy(sample):
    """At the time given, scipy's trajectory through the public rates is in the state given."""
    system = mv.reduce(PAPER)

    def slope(_, x):
        dQ, dR = system.rates(x[2:].reshape(1, 1), x[:2].reshape(1, 2))
        return np.append(dR.ravel(), dQ.ravel())

    for i in range(3):
        x0 = np.append(sample.R[i].ravel(), sample.Q[i].ravel())
        run = solve_ivp(slope, (0.0, sample.times[i]), x0, method="RK45", rtol=1e-9, atol=1e-11)
        end = np.append(sample.R_end[i].ravel(), sample.Q_end[i].ravel())
        np.testing.assert_allclose(run.y[:, -1], end, atol=100 * sample.rtol)
        gap = np.abs(end - sample.ends.x[sample.labels[i]])
        assert 0.0 < gap.max() <= 1.1 * sample.tolerance  # entered, and just so: sqrt(Q) and Q are 1.05


def test_labels_do_not_depend_on_step_and_tolerance(sample, points):
    assert sample.changed_labels(progress=False).sum() == 0
    coarse = mv.reduce(PAPER).basins((sample.Q, sample.R), points=points, tolerance=0.05, progress=False)
    assert (coarse.labels == sample.labels).all()
    assert (coarse.times < sample.times).all()


def test_too_little_time_is_unresolved_and_changes_with_the_tolerance(points):
    """A neighbourhood half as large is reached later: labels of starts that just arrive change, and are counted."""
    starts = mv.random_starts(PAPER, 200, rng=3)
    found = mv.reduce(PAPER).basins(starts, points=points, t_max=9.0, progress=False)
    late = found.labels == UNRESOLVED
    assert 0 < late.sum() < 200
    assert np.isinf(found.times[late]).all()
    assert (found.times[~late] <= 9.0).all()
    changed = found.changed_labels(progress=False)
    assert changed.any()
    assert not changed[late].any()


def test_a_python_activation_gives_the_labels_of_the_compiled_one(sample, points):
    own = replace(PAPER, activation=mv.activations.Custom(np.tanh))
    some = slice(0, 24)
    found = mv.reduce(own).basins((sample.Q[some], sample.R[some]), points=points, progress=False)
    np.testing.assert_array_equal(found.labels, sample.labels[some])
    # Both control their errors, not their steps: times differ by the tolerance over the rate of approach, 0.2 or more.
    np.testing.assert_allclose(found.times, sample.times[some], atol=1e-3)


def test_a_map_has_the_symmetry_of_the_problem():
    """One feature: R -> -R exchanges the ends, and what starts at R = 0 stays there and ends at the saddle."""
    problem = replace(PAPER, hidden=mv.hidden.Rademacher(3.0))
    R, Q = np.linspace(-1.2, 1.2, 13), np.array([0.3, 0.8, 1.5])
    grid = mv.StartGrid(("R[0,0]", "Q[0,0]"), (R, Q), Q=1.0, R=[0.0])
    found = mv.reduce(problem).basins(grid, progress=False)
    names = np.array([*found.ends.names, "infeasible", "diverged", "unresolved"])[found.labels]
    inside = Q[:, None] >= R**2
    np.testing.assert_array_equal(found.labels == INFEASIBLE, ~inside)
    expected = np.where(R > 0, "feature 0", np.where(R < 0, "-feature 0", "uninformative"))
    assert (names == expected)[inside].all()
    assert found.counts["infeasible"] == (~inside).sum()
    assert np.isinf(found.times[~inside]).all()


def test_starts_on_the_diagonal_of_exchangeable_features_end_at_the_saddle():
    R = np.array([[[0.3, 0.3]], [[0.3, -0.3]], [[0.3, 0.3 + 1e-3]], [[0.0, 0.0]]])
    found = mv.reduce(EQUAL).basins((np.ones((4, 1, 1)), R), progress=False)
    names = [found.ends.names[label] for label in found.labels]
    assert names == ["feature 0 + feature 1", "feature 0 - feature 1", "feature 1", "uninformative"]


def test_starts_on_a_separatrix_are_unresolved(points):
    """Without a symmetry the separatrix is found by bisection: no label within the errors of the integration."""
    system = mv.reduce(PAPER)

    def at(angles):
        R = 0.6 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)[:, None]
        return system.basins((np.ones((len(R), 1, 1)), R), points=points, t_max=400.0, progress=False)

    low, high = 0.0, np.pi / 2
    first = at(np.array([0.1])).labels[0]
    for _ in range(7):
        angles = np.linspace(low, high, 10)[1:-1]
        same = at(angles).labels == first
        low, high = angles[same].max(initial=low), angles[~same].min(initial=high)
    found = at(np.array([low, 0.5 * (low + high), high, low - 0.05, high + 0.05]))
    assert (found.labels[:3] == UNRESOLVED).any()
    assert {found.ends.names[label] for label in found.labels[3:]} == {"feature 0", "feature 1"}


def test_rotated_features_end_on_one_continuum():
    problem = replace(PAPER, hidden=mv.hidden.Gaussian([3.0, 3.0]))
    Q, R = mv.random_starts(problem, 10, rng=0)
    found = mv.reduce(problem).basins((Q, R), progress=False)
    assert [found.ends.names[label] for label in found.labels] == ["feature 0"] * 10
    before, after = (part / np.linalg.norm(part, axis=-1, keepdims=True) for part in (R, found.R_end))
    np.testing.assert_allclose(after, before, atol=1e-12)  # the direction is conserved


def test_growth_without_bound_is_a_label():
    """A cubic activation without weight decay: dQ/dt ~ Q^3, blow-up in finite time."""
    problem = replace(
        PAPER, activation=mv.activations.Polynomial([0.0, 1.0, 0.0, 0.3]), regularizer=mv.regularizers.Zero()
    )
    system = mv.reduce(problem)
    found = system.basins(mv.random_starts(problem, 5, rng=0), progress=False)
    assert (found.labels == DIVERGED).all()
    assert np.isfinite(found.times).all()
    ode = mv.solve_ode(
        problem, mv.initial.Gaussian(Q=found.Q[0], R=found.R[0]), t_eval=np.linspace(0.0, 5.0, 3), progress=False
    )
    ended = float(re.search(r"t = ([\d.]+)", ode.status.message)[1])
    assert found.times[0] == pytest.approx(ended, rel=1e-3)
    own = replace(problem, activation=mv.activations.Custom(lambda h: h + 0.3 * h**3))
    stacked = mv.reduce(own).basins((found.Q[:1], found.R[:1]), points=found.points, progress=False)
    assert (stacked.labels == DIVERGED).all()


def test_gradient_flow_converges_to_the_boundary_of_the_admissible_states():
    flow = replace(PAPER, batch_size=np.inf)
    found = mv.reduce(flow).basins(mv.random_starts(flow, 40, rng=2), progress=False)
    assert (found.labels >= 0).all()
    assert {name for name, count in found.counts.items() if count} <= {
        f"{sign}feature {k}" for sign in ("", "-") for k in range(2)
    }


def test_folding_returns_images_of_the_states(points):
    closed = ClosedRates(EQUAL, 1e-8)
    group = SymmetryGroup.of(find_symmetries(closed, 0.4))
    assert len(group) == 8  # two signs and an exchange: the symmetries of a square
    x = closed.entries.pack(*mv.random_starts(EQUAL, 20, rng=0))
    images = np.concatenate([x, x @ group.matrices[5].T])
    representatives, which, element = group.fold(images)
    assert len(representatives) == 20
    back = np.einsum("sji,sj->si", group.matrices[element], representatives[which])
    np.testing.assert_allclose(back, images, atol=1e-15)


def test_labels_of_folded_starts_are_those_of_the_starts_alone():
    Q, R = mv.random_starts(EQUAL, 12, rng=5)
    system = mv.reduce(EQUAL)
    points = system.fixed_points()
    together = system.basins((Q, R), points=points, progress=False)
    for i in range(12):
        ode = mv.solve_ode(EQUAL, mv.initial.Gaussian(Q=Q[i], R=R[i]), t_eval=[120.0], progress=False)
        end = np.append(ode.R[-1].ravel(), ode.Q[-1].ravel())
        assert np.abs(together.ends.x - end).max(axis=1).argmin() == together.labels[i]


def test_fractions_of_a_sample_have_honest_errors(sample):
    fractions = sample.fractions()
    assert sum(f.count for f in fractions.values()) == 200
    assert fractions["unresolved"] == fraction_of(0, 200, sampled=True)
    assert fractions["unresolved"].stderr == pytest.approx(1.0 / 203.0, rel=0.02)
    merged = sample.fractions(signs=False)
    assert merged["feature 0"].count == fractions["feature 0"].count + fractions["-feature 0"].count
    assert "feature 0" in str(sample)
    assert "200 starts" in str(sample)


@pytest.mark.parametrize("outputs", [1, 2])
def test_random_starts_have_the_law_they_say(outputs):
    problem = replace(PAPER, outputs=outputs)
    _, R = mv.random_starts(problem, 4000, Q=2.0, rng=0)
    largest = np.linalg.norm(R, ord=2, axis=(-2, -1)) / np.sqrt(2.0)
    assert (largest <= 1.0).all()
    if outputs == 1:  # uniform in a disc: the square of the radius is uniform
        assert abs((largest**2).mean() - 0.5) < 5.0 * np.sqrt(1.0 / 12.0 / 4000)
    _, R = mv.random_starts(problem, 4000, Q=2.0, dimension=100, rng=0)
    assert abs(R.var() * 50.0 - 1.0) < 5.0 * np.sqrt(2.0 / R.size)


def test_fractions_follow_a_parameter():
    """Equal variances: equal at equal kurtosis, by symmetry; a law with heavy tails is not selected."""
    problem = replace(PAPER, hidden=mv.hidden.Sparse([3.0, 3.0], [1.0, 1.0]))
    found = mv.basin_fractions(problem, "hidden.kurtosis[1]", [1.0, 5.0], starts=60, progress=False)
    first = found.ends.index("feature 0")
    assert abs(found.fraction[0, first] - 0.5) < 4.0 * found.stderr[0, first]
    assert found.fraction[1, first] == 1.0
    np.testing.assert_allclose(found.fraction.sum(axis=1), 1.0)
    assert "uniform in the admissible set" in str(found)
    rates = [mv.reduce(item.problem).learnability(k).growth_rate for item in found.basins for k in range(2)]
    np.testing.assert_allclose(rates, rates[0], atol=1e-9)


def test_bad_starts_are_refused(points):
    system = mv.reduce(PAPER)
    cases = {
        "R": (np.ones((1, 1, 1)), np.full((1, 1, 2), 0.9)),
        "Q": (np.full((1, 1, 1), np.nan), np.zeros((1, 1, 2))),
        "starts": "R[0,0]",
    }
    for field, starts in cases.items():
        with pytest.raises(mv.InvalidInput, match=rf"^{field}: got"):
            system.basins(starts, points=points)
    with pytest.raises(mv.InvalidInput, match=r"^name: got 'hidden.skewness'"):
        mv.basin_fractions(PAPER, "hidden.skewness", [1.0])
    with pytest.raises(mv.InvalidInput, match=r"^tolerance"):
        system.basins(points=points, tolerance=1e-9)
    with pytest.raises(mv.InvalidInput, match=r"^entries: got .*R\[0,1\]"):
        mv.StartGrid(("R[0,0]", "R[0,2]"), ([0.0, 1.0], [0.0, 1.0]), Q=1.0, R=[0.0, 0.0])
    with pytest.raises(mv.UnsupportedError, match=r"^learning_rate"):
        mv.reduce(replace(PAPER, learning_rate=mv.schedules.PowerDecay(0.4, 1.0))).basins()
    with pytest.raises(mv.InvalidInput, match=r"Q_jj = 1"):
        mv.reduce(replace(PAPER, constraint="sphere")).basins((np.full((1, 1, 1), 2.0), np.zeros((1, 1, 2))))


def test_figures_show_what_was_found(sample, points):
    grid = default_grid(PAPER, points, 10)
    found = mv.reduce(PAPER).basins(grid, points=points, progress=False)
    figure = found.plot()
    mesh = figure.axes[0].collections[0]
    present = np.unique(found.labels)
    np.testing.assert_array_equal(present[np.asarray(mesh.get_array()).astype(int)], found.labels)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert f"infeasible: {found.counts['infeasible']}" in texts
    drawn = sum(len(line.get_xdata()) for line in sample.plot().axes[0].get_lines())
    assert drawn == sample.labels.size
