"""Branches of stationary states against known thresholds and single searches."""

from dataclasses import replace

import numpy as np
import pytest

import mkvlasov as mv

PAPER, _ = mv.read_problem("contrastive")
DECAY = replace(PAPER, hidden=mv.hidden.Rademacher(2.0), loadings=mv.loadings.Rademacher())
LOST = replace(
    DECAY,
    hidden=mv.hidden.Rademacher(3.0),
    augmentation=mv.augmentations.GaussianNoise(std=1.0, correlation=-1.0),
    regularizer=mv.regularizers.L1(0.3),
)


@pytest.fixture(scope="module")
def lost():
    return mv.continue_stationary_states(
        LOST, "regularizer.strength", bounds=(0.1, 1.2), searches=3, starts=16, progress=False
    )


def test_a_pitchfork_under_weight_decay_is_the_critical_value():
    """The growth rate of the uninformative state of the ODEs vanishes there."""
    (critical,) = mv.reduce(DECAY).learnability().critical_values("background_variance", bounds=(0.5, 4.0)).values
    bounds = (0.6 * critical, 1.3 * critical)
    diagram = mv.continue_stationary_states(
        DECAY, "background_variance", bounds=bounds, searches=1, starts=16, progress=False
    )
    (pitchfork,) = diagram.of_kind("pitchfork")
    assert pitchfork.value == pytest.approx(critical, abs=1e-6)
    assert pitchfork.broken == ("sign of feature 0",)
    assert np.abs(pitchfork.R).max() < 1e-4


def test_the_feature_is_lost_at_a_fold(lost):
    """Below it two states with the feature exist, above none: searches on both sides."""
    folds = lost.of_kind("fold")
    assert len(folds) == 2
    last = folds[-1]
    assert last.R[0, 0] > 0.1
    below = mv.stationary_states(replace(LOST, regularizer=mv.regularizers.L1(last.value - 0.02)), starts=32)
    above = mv.stationary_states(replace(LOST, regularizer=mv.regularizers.L1(last.value + 0.02)), starts=32)
    assert not any(state.R[0, 0] > 1e-3 for state in above)
    learnt = sorted(state.R[0, 0] for state in below)
    assert len(learnt) == 2
    # Near a fold the states lie at +- sqrt of the distance; both sides of the fold's own value.
    assert learnt[0] < last.R[0, 0] < learnt[1]


def test_stability_changes_at_folds_alone(lost):
    for branch in lost.branches:
        changes = np.flatnonzero(np.diff(branch.unstable_dimension))
        turns = np.flatnonzero(np.diff(np.sign(np.diff(branch.parameter))))
        assert len(changes) == len(turns) <= 1
    assert not lost.unfinished


def test_points_of_a_branch_are_states(lost):
    branch = max(lost.branches, key=len)
    index = len(branch) // 3
    state = lost.state(lost.branches.index(branch), index)
    assert state.residual < 1e-7
    np.testing.assert_allclose(state.Q, branch.Q[index])
    assert state.stability.unstable_dimension == branch.unstable_dimension[index]
    assert state.density(1.0).mass(-50.0, 50.0) == pytest.approx(1.0, abs=1e-9)


def test_bad_input_is_refused():
    with pytest.raises(mv.InvalidInput, match="name"):
        mv.continue_stationary_states(LOST, "regularizer.colour", bounds=(0.1, 1.0))
    with pytest.raises(mv.InvalidInput, match="bounds"):
        mv.continue_stationary_states(LOST, "regularizer.strength", bounds=(1.0, 0.1))
    with pytest.raises(mv.UnsupportedError, match="outputs=1"):
        mv.continue_stationary_states(replace(LOST, outputs=2), "regularizer.strength", bounds=(0.1, 1.0))
