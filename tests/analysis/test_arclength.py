"""Continuation on equations whose curves, folds and branch points are known in closed form."""

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.analysis.arclength import Steps, follow
from mkvlasov.analysis.crossings import branch_directions, crossing
from mkvlasov.analysis.equations import Equation

FOLD = 1.0 / np.sqrt(3.0)
"""Of p = x^3 - x: x at the folds."""


def _equation(residual, bounds=(-2.0, 2.0), scale=1.0, **options):
    return Equation(residual=residual, bounds=bounds, scale=np.atleast_1d(np.asarray(scale, dtype=float)), **options)


def _cubic(dimension, *, derivative=False):
    """p = y0^3 - y0 in oblique coordinates x = M^-1 y, the others slaves of y0: one curve with two folds."""
    rng = np.random.default_rng(3)
    M = rng.normal(size=(dimension, dimension)) + 2.0 * np.eye(dimension)
    powers = np.arange(1, dimension)

    def residual(x, p):
        y = M @ x
        return np.append(p - y[0] ** 3 + y[0], np.sin(y[0]) * powers - y[1:])

    def jacobian(x, p):
        y = M @ x
        inner = -np.eye(dimension)
        inner[0, 0] = 1.0 - 3.0 * y[0] ** 2
        inner[1:, 0] = np.cos(y[0]) * powers
        return inner @ M, np.eye(dimension)[0]

    start = np.linalg.solve(M, np.append(-1.5, np.sin(-1.5) * powers))
    sizes = np.abs(np.linalg.inv(M)) @ np.append(1.0, powers)
    return _equation(residual, scale=sizes, jacobian=jacobian if derivative else None), start, M[0]


@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("dimension", [1, 6])
def test_folds_are_passed_and_found(dimension, derivative):
    equation, start, first = _cubic(dimension, derivative=derivative)
    branch = follow(equation, start, -1.9)
    assert branch.ends == ("bound", "bound")
    np.testing.assert_allclose(branch.p[[0, -1]], [-2.0, 2.0], atol=1e-12)
    y = branch.x @ first
    assert (np.diff(y) > 0.0).all()
    np.testing.assert_allclose(branch.p, y**3 - y, atol=1e-9)
    assert branch.residuals.max() < 1e-9
    found = [crossing(equation, branch, i, lambda point: point.tangent[-1]) for i in branch.folds]
    assert len(found) == 2
    for (point, error), where in zip(found, (-FOLD, FOLD), strict=True):
        x, p = equation.unpack(point.u)
        # The tangent is as exact as the derivative: differences leave 1e-10 over a curvature of order one.
        assert error < 1e-8
        assert x @ first == pytest.approx(where, abs=1e-8)
        assert p == pytest.approx(where**3 - where, abs=1e-12)


def test_a_loop_is_closed():
    branch = follow(_equation(lambda x, p: 4.0 * x**2 + p**2 - 1.0), np.array([0.4]), 0.6)
    assert branch.ends == ("closed loop", "closed loop")
    np.testing.assert_array_equal(branch.p[0], branch.p[-1])
    np.testing.assert_allclose(4.0 * branch.x[:, 0] ** 2 + branch.p**2, 1.0, atol=1e-9)
    angle = np.unwrap(np.arctan2(2.0 * branch.x[:, 0], branch.p))
    assert abs(angle[-1] - angle[0]) == pytest.approx(2.0 * np.pi, abs=1e-9)  # once around
    assert len(branch.folds) == 2


def test_switching_at_a_pitchfork():
    equation = _equation(lambda x, p: (p - 0.3) * x - x**3, bounds=(-1.0, 1.0))
    trunk = follow(equation, np.zeros(1), -0.5)
    assert not trunk.x.any()
    (turned,) = np.flatnonzero(np.diff(np.sign(trunk.matrices[:, 0, 0])))
    point, error = crossing(equation, trunk, turned, lambda point: point.matrix[0, 0])
    x, p = equation.unpack(point.u)
    assert abs(p - 0.3) < 2.0 * error < 1e-8  # scaled by 2, the distance of the bounds
    across = max(branch_directions(equation, x, p), key=lambda direction: abs(direction[0]))
    for sign in (1.0, -1.0):
        arm = follow(equation, x, p, direction=sign * across)
        assert arm.ends == ("start", "bound")
        np.testing.assert_allclose(arm.p - 0.3, arm.x[:, 0] ** 2, atol=1e-8)
        assert np.sign(arm.x[-1, 0]) == sign * np.sign(across[0])
        assert arm.p[-1] == 1.0


def test_tangents_at_an_oblique_crossing():
    """At the origin x = p meets x = -2 p + O(p^2); bounds two apart halve the scaled parameter."""
    equation = _equation(lambda x, p: (x - p) * (x + 2.0 * p - x**2), bounds=(-1.0, 1.0))
    slopes = sorted(v[0] / v[1] for v in branch_directions(equation, np.zeros(1), 0.0))
    np.testing.assert_allclose(slopes, [-4.0, 2.0], atol=1e-5)


def test_an_isolated_zero_has_no_branches():
    equation = _equation(lambda x, p: x**2 + p**2)
    assert len(branch_directions(equation, np.zeros(1), 0.0)) == 0
    assert follow(_equation(lambda x, p: x**2 + 1.0 + p**2), np.zeros(1), 0.0) is None


def test_neighbouring_branches_are_not_taken_for_each_other():
    """A pitchfork broken by 1e-4: the curve turns sharply where the other one passes."""
    equation = _equation(lambda x, p: p * x - x**3 + 1e-4, bounds=(-1.0, 1.0))
    branch = follow(equation, np.array([1e-4]), -0.9)
    assert branch.ends == ("bound", "bound")
    assert (branch.x > 0.0).all()
    assert branch.x[-1, 0] == pytest.approx(1.0, abs=1e-3)
    other = follow(equation, np.array([-1.0]), 0.9)
    assert (other.x < 0.0).all()
    assert len(other.folds) == 1


def test_the_edge_of_the_admissible_set_is_approached():
    steps = Steps(smallest=1e-5)
    equation = _equation(lambda x, p: x - p**3, admissible=lambda x, p: x[0] < 0.3)
    branch = follow(equation, np.zeros(1), 0.0, steps=steps)
    assert branch.ends == ("bound", "left the admissible set")
    assert 0.0 < 0.3 - branch.x[-1, 0] < 2.0 * steps.smallest
    assert follow(equation, np.ones(1), 1.0) is None


def test_where_the_equation_ends_the_step_becomes_too_small():
    equation = _equation(lambda x, p: np.where(x > 0.3, np.nan, x - p))
    branch = follow(equation, np.zeros(1), 0.0)
    assert branch.ends == ("bound", "step too small")
    assert 0.0 <= 0.3 - branch.x[-1, 0] < 2.1e-3  # the differences look two steps of 1e-3 ahead


def test_the_number_of_points_is_limited():
    branch = follow(_equation(lambda x, p: x - p), np.zeros(1), 0.0, steps=Steps(most=5))
    assert branch.ends == ("too many points", "too many points")
    assert len(branch) == 9  # five either way, the start counted once


def test_a_logarithmic_axis_takes_decades_alike():
    equation = _equation(lambda x, p: x - np.log10(p), bounds=(1e-3, 1e3), scale=3.0, logarithmic=True)
    branch = follow(equation, np.zeros(1), 1.0)
    assert branch.ends == ("bound", "bound")
    np.testing.assert_allclose(branch.p, 10.0 ** branch.x[:, 0], rtol=1e-8)
    np.testing.assert_allclose(branch.tangents[:, 0] / branch.tangents[:, 1], 2.0, rtol=1e-8)


@pytest.mark.parametrize(("bounds", "logarithmic"), [((1.0, 1.0), False), ((0.0, 1.0), True), ((0.0, np.inf), False)])
def test_bad_bounds_are_named(bounds, logarithmic):
    with pytest.raises(mv.InvalidInput, match=r"^bounds: got"):
        _equation(lambda x, p: x - p, bounds=bounds, logarithmic=logarithmic)
