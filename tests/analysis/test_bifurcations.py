"""Folds, branch points and Hopf points of equations whose bifurcations are known in closed form."""

import numpy as np
import pytest

from mkvlasov.analysis.arclength import follow
from mkvlasov.analysis.bifurcations import BRANCH_POINT, FOLD, HOPF, VERTEX, Passage, criticality, find_events
from mkvlasov.analysis.equations import Equation


def _events(residual, start, p, bounds, scale=None):
    start = np.asarray(start, dtype=float)
    equation = Equation(residual=residual, bounds=bounds, scale=np.ones(len(start)) if scale is None else scale)
    branch = follow(equation, start, p)
    found, unresolved = find_events(equation, branch, np.full((len(branch), len(start), len(start)), 1e-12))
    assert not unresolved
    return equation, branch, found


def _check(event, kind, value):
    assert event.kind == kind
    assert abs(event.p - value) <= event.error < 1e-6


def test_folds_of_a_cubic():
    _, _, found = _events(lambda x, p: p - x**3 + x, [-1.5], -1.9, (-2.0, 2.0))
    value = 2.0 / np.sqrt(27.0)
    assert len(found) == 2
    for event, expected in zip(found, (value, -value), strict=True):
        _check(event, FOLD, expected)
        assert abs(event.null[0, 0]) == pytest.approx(1.0)


def test_a_pitchfork_from_the_trunk_and_from_an_arm():
    def residual(x, p):
        return np.array([(p - 0.3) * x[0] - x[0] ** 3, -x[1] + x[0] ** 2])

    _, _, (event,) = _events(residual, [0.0, 0.0], -0.5, (-1.0, 1.0))
    _check(event, BRANCH_POINT, 0.3)
    np.testing.assert_allclose(np.abs(event.null[:, 0]), [1.0, 0.0], atol=1e-6)
    _, branch, (event,) = _events(residual, [0.5, 0.25], 0.55, (-1.0, 1.0))
    _check(event, VERTEX, 0.3)
    assert branch.x[0, 0] * branch.x[-1, 0] < 0.0  # through the vertex to the mirror image


def test_a_transcritical_point():
    _, _, (event,) = _events(lambda x, p: (p - 0.1) * x - x**2, [0.0], -0.5, (-1.0, 1.0))
    _check(event, BRANCH_POINT, 0.1)
    _, _, (event,) = _events(lambda x, p: (p - 0.1) * x - x**2, [0.4], 0.5, (-1.0, 1.0))
    _check(event, BRANCH_POINT, 0.1)


def test_the_brusselator_has_a_hopf_point():
    """dx/dt = a + x^2 y - (b + 1) x, dy/dt = b x - x^2 y: at (a, b / a), b = 1 + a^2, with frequency a."""
    a = 1.3

    def residual(x, b):
        return np.array([a + x[0] ** 2 * x[1] - (b + 1.0) * x[0], b * x[0] - x[0] ** 2 * x[1]])

    _, branch, (event,) = _events(residual, [a, 1.0 / a], 1.0, (0.5, 5.0))
    assert branch.ends == ("bound", "bound")
    _check(event, HOPF, 1.0 + a**2)
    assert event.frequency == pytest.approx(a, abs=1e-6)


def test_two_eigenvalues_that_vanish_together_are_one_point():
    _, _, (event,) = _events(lambda x, p: p * x - x * (x @ x), [0.0, 0.0], -0.5, (-1.0, 1.0))
    _check(event, BRANCH_POINT, 0.0)
    assert event.null.shape == (2, 2)


def test_neutral_saddles_and_directions_without_change_are_no_bifurcations():
    """Eigenvalues p - 1/2 ... the sum of two real ones vanishing is no Hopf point; a zero one stays zero."""
    matrix = np.array([[1.0, 0.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.0, 0.0]])
    _, _, found = _events(lambda x, p: (matrix + np.diag([p, p, 0.0])) @ x, [0.0, 0.0, 0.0], 0.0, (-0.5, 1.5))
    assert found == []


@pytest.mark.parametrize("reverse", [1.0, -1.0])
@pytest.mark.parametrize(("cubic", "kind"), [(-1.0, "supercritical"), (1.0, "subcritical")])
def test_pitchforks_are_super_or_subcritical(cubic, kind, reverse):
    """dx/dt = (p - 0.3) x -+ x^3, and the same with the parameter reversed."""

    def residual(x, p):
        return (reverse * p - 0.3) * x + cubic * x**3

    def unstable(branch):
        return (branch.matrices[:, 0, 0] > 0.0).astype(int)

    at = 0.3 * reverse
    equation, trunk, (event,) = _events(residual, [0.0], -0.5, (-1.0, 1.0))
    _check(event, BRANCH_POINT, at)
    direction = np.array([1.0, 0.0])
    arm = follow(equation, np.zeros(1), at, direction=direction)
    passages = [
        Passage(trunk.p, unstable(trunk), int(np.abs(trunk.p - at).argmin())),
        Passage(arm.p, unstable(arm), 0),
    ]
    assert criticality(event.p, event.error, passages) == kind
    backwards = Passage(arm.p[::-1], unstable(arm)[::-1], len(arm) - 1)
    assert criticality(event.p, event.error, [backwards, passages[0]]) == kind
    assert criticality(event.p, event.error, passages[:1]) is None
    assert criticality(event.p, event.error, passages[1:]) is None
