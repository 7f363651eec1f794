"""Phase portraits: lines against the public rates, separatrices against where starts beside them end."""

from dataclasses import replace

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.analysis.level_lines import level_lines

PAPER, _ = mv.read_problem("contrastive")
SPHERE = replace(PAPER, constraint="sphere")
ONE = replace(PAPER, hidden=mv.hidden.Rademacher(3.0))


@pytest.fixture(scope="module")
def sphere():
    points = mv.reduce(SPHERE).fixed_points()
    axis = np.linspace(-1.0, 1.0, 40)
    plane = mv.StartGrid(("R[0,0]", "R[0,1]"), (axis, axis), Q=1.0, R=[0.0, 0.0])
    return points, mv.reduce(SPHERE).phase_portrait(plane, points=points, trajectories=3)


def _rates(portrait, u):
    _, dR = mv.reduce(SPHERE).rates(np.ones((len(u), 1, 1)), u[:, None])
    return dR[:, 0]


def test_lines_between_regions_of_a_known_function():
    """A circle: vertices on it, and a closed loop around."""
    axis = np.linspace(-2.0, 2.0, 30)
    X, Y = np.meshgrid(axis, axis)

    def refine(a, b):
        for _ in range(60):
            middle = 0.5 * (a + b)
            same = ((middle**2).sum(1) > 1.0) == ((a**2).sum(1) > 1.0)
            a, b = np.where(same[:, None], middle, a), np.where(same[:, None], b, middle)
        return a

    (circle,) = level_lines(axis, axis, (X**2 + Y**2 > 1.0).astype(int), np.ones_like(X, dtype=bool), refine)
    np.testing.assert_allclose((circle**2).sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_array_equal(circle[0], circle[-1])
    length = np.linalg.norm(np.diff(circle, axis=0), axis=1).sum()
    assert length == pytest.approx(2.0 * np.pi, rel=0.01)


def test_nullclines_have_no_rate_across(sphere):
    """Vertices are refined to rounding; in between a segment errs by its length squared times the curvature."""
    _, portrait = sphere
    width = portrait.x[1] - portrait.x[0]
    size = np.abs(portrait.field).max()
    for which, lines in enumerate(portrait.nullclines):
        assert lines
        for line in lines:
            assert np.abs(_rates(portrait, line)[:, which]).max() < 1e-10
            middles = 0.5 * (line[1:] + line[:-1])
            assert np.abs(_rates(portrait, middles)[:, which]).max() < 4.0 * width**2 * size
    assert max(portrait.residuals) < 1e-10


def test_both_nullclines_meet_at_the_fixed_points(sphere):
    _, portrait = sphere
    width = portrait.x[1] - portrait.x[0]
    assert portrait.kind == "whole"
    assert len(portrait.points) == 9
    inner = [point for point in portrait.points if np.linalg.norm(point.position) < 0.9]
    assert len(inner) == 5
    for point in inner:  # the others lie in cells that reach beyond the admissible states, which have no lines
        for lines in portrait.nullclines:
            assert min(np.linalg.norm(line - point.position, axis=1).min() for line in lines) < 2.0 * width


def test_starts_on_both_sides_of_a_separatrix_end_apart(sphere):
    points, portrait = sphere
    assert len(portrait.separatrices) == 8  # two branches of four saddles
    system = mv.reduce(SPHERE)
    for line in portrait.separatrices:
        middle = len(line) // 2
        tangent = line[middle + 1] - line[middle - 1]
        normal = np.array([-tangent[1], tangent[0]]) / np.linalg.norm(tangent)
        beside = line[middle] + 1e-3 * np.array([[1.0], [-1.0]]) * normal
        found = system.basins((np.ones((2, 1, 1)), beside[:, None]), points=points, t_max=300.0, progress=False)
        assert found.labels[0] != found.labels[1]
        assert (found.labels >= 0).all()


def test_one_feature_fills_the_plane_and_its_separatrix_is_the_axis():
    points = mv.reduce(ONE).fixed_points()
    plane = mv.StartGrid(("R[0,0]", "Q[0,0]"), (np.linspace(-1.3, 1.3, 20), np.linspace(0.1, 1.8, 20)), Q=1.0, R=[0.0])
    portrait = mv.reduce(ONE).phase_portrait(plane, points=points, trajectories=2)
    assert portrait.kind == "whole"
    for line in portrait.separatrices:
        np.testing.assert_allclose(line[:, 0], 0.0, atol=1e-9)
    np.testing.assert_array_equal(portrait.exists, portrait.x**2 <= portrait.y[:, None])
    figure = portrait.plot()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"separatrix", "stable", "saddle", "no such state"} <= set(texts)
    assert "whole phase space" in figure.get_suptitle()


def test_a_slaved_plane_says_so_and_keeps_the_rate_of_q_at_zero():
    points = mv.reduce(PAPER).fixed_points()
    axis = np.linspace(-1.1, 1.1, 12)
    plane = mv.StartGrid(("R[0,0]", "R[0,1]"), (axis, axis), Q=1.0, R=[0.0, 0.0])
    portrait = mv.reduce(PAPER).phase_portrait(plane, points=points, trajectories=1)
    assert portrait.kind == "slaved"
    assert "dQ/dt = 0" in portrait.caption
    # Four boundaries run into the origin, and none around it: on a circle about it, labels change four times.
    width = portrait.x[1] - portrait.x[0]
    assert len(portrait.separatrices) >= 2
    vertices = np.concatenate(portrait.separatrices)
    for radius in (0.05 * width, width, 2.0 * width):
        ring = vertices[np.abs(np.linalg.norm(vertices, axis=1) / radius - 1.0) < 0.5]
        assert {(x > 0.0, y > 0.0) for x, y in ring} == {(a, b) for a in (True, False) for b in (True, False)}
    # They are those of the starts: an angle just beside one ends elsewhere.
    system = mv.reduce(PAPER)
    start = vertices[np.abs(np.linalg.norm(vertices, axis=1) - 3.0 * width).argmin()]
    Q = np.full((2, 1, 1), 0.9)
    turned = np.stack([start + 0.1 * width * np.array([side, -side]) * np.sign(start) for side in (1.0, -1.0)])
    ends = system.basins((Q, turned[:, None]), points=points, t_max=300.0, progress=False)
    assert ends.labels[0] != ends.labels[1]
    assert {point.name for point in portrait.points} >= {"feature 0", "-feature 1", "uninformative"}


def test_bad_planes_are_refused():
    with pytest.raises(mv.InvalidInput, match=r"^plane"):
        mv.reduce(PAPER).phase_portrait("R")
    with pytest.raises(mv.UnsupportedError, match="no plane"):
        mv.reduce(replace(ONE, constraint="sphere")).phase_portrait()
