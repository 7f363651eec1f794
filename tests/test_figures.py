"""Figures of densities show the masses that the solutions have."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import mkvlasov as mv
from mkvlasov.cli import main
from mkvlasov.plotting.distributions import interval_masses
from mkvlasov.plotting.loadings import shown_groups
from mkvlasov.plotting.saved import save_figures

TIMES = np.array([0.0, 0.5, 1.0, 2.0])


@pytest.fixture(scope="module")
def solutions():
    problem, initial = mv.read_problem("sparse")
    pde = mv.solve_pde(problem, initial, t_eval=TIMES, progress=False)
    options = {"t_eval": TIMES, "snapshots": TIMES, "runs": 3, "rng": 0, "progress": False}
    sgd = mv.simulate_sgd(problem, initial, dimension=300, **options)
    mfs = mv.simulate_particles(problem, initial, particles=1000, **options)
    return pde, mfs, sgd


@pytest.fixture(scope="module")
def exact():
    """Gaussian loadings, two features, a start from a point: no density at t = 0."""
    problem, _ = mv.read_problem("contrastive")
    return mv.solve_ode(problem, mv.initial.Point(0.3), t_eval=TIMES, progress=False)


def _meshes(figure):
    return [ax.collections[0] for ax in figure.axes if ax.get_title(loc="left")]


def test_a_map_shows_all_the_mass_at_every_time(solutions, exact):
    for solution in (*solutions, exact):
        for mesh in _meshes(solution.plot_density_map()):
            w = np.asarray(mesh.get_coordinates())[:, 0, 1]
            mass = np.diff(w) @ np.asarray(mesh.get_array())
            assert mass.shape == TIMES.shape
            np.testing.assert_allclose(mass, 1.0, atol=0.02)
    assert len(_meshes(exact.plot_density_map())) == 3
    assert len(_meshes(solutions[0].plot_density_map(loadings=[0.0]))) == 1


def test_masses_of_the_routes_agree(solutions):
    edges = np.array([-10.0, -0.5, -0.1, 0.1, 0.5, 10.0])
    for group in shown_groups(solutions[0], None):
        pde, mfs, sgd = (interval_masses(solution, 2.0, group, 0, edges) for solution in solutions)
        np.testing.assert_allclose(mfs, pde, atol=0.08)
        np.testing.assert_allclose(sgd, pde, atol=0.15)


def test_an_animation_has_a_frame_for_every_time(solutions, tmp_path):
    path = mv.animate_density(solutions, tmp_path / "film.gif", loadings=[0.0], seconds=2.0)
    with Image.open(path) as film:
        assert film.n_frames == len(TIMES)
        frames = []
        for i in range(film.n_frames):
            film.seek(i)
            frames.append(np.asarray(film.convert("L"), dtype=float))
    assert all(np.abs(a - b).max() > 50 for a, b in zip(frames[1:], frames[:-1], strict=True))


def test_animations_say_what_they_need(solutions, tmp_path, monkeypatch):
    pde = solutions[0]
    with pytest.raises(mv.InvalidInput, match=r"\.gif or \.mp4"):
        pde.animate_density(tmp_path / "film.avi")
    with pytest.raises(mv.InvalidInput, match="existing folder"):
        pde.animate_density(tmp_path / "missing" / "film.gif")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(mv.UnsupportedError, match="ffmpeg"):
        pde.animate_density(tmp_path / "film.mp4")
    with pytest.raises(mv.InvalidInput, match="loadings: got"):
        pde.plot_density_map(loadings=np.zeros((2, 2)))
    problem, initial = mv.read_problem("sparse")
    sgd = mv.simulate_sgd(problem, initial, t_eval=[0.0], dimension=50, runs=1, progress=False)
    with pytest.raises(mv.InvalidInput, match=r"snapshots=\[\.\.\.\]"):
        sgd.plot_density_map()


def test_loss_is_drawn_for_every_route(solutions):
    figure = mv.plot_solutions(solutions)
    panel = figure.axes[3]
    assert "training loss" in panel.get_ylabel()
    drawn = [np.asarray(line.get_ydata()) for line in panel.get_lines()]
    for solution in solutions:
        assert any(len(y) == len(TIMES) and np.allclose(y, solution.loss) for y in drawn)


def test_the_command_draws_a_saved_result(solutions, tmp_path, capsys):
    expected = {"order_parameters", "densities", "density_map"}
    for solution in (solutions[0], solutions[2]):
        solution.save(tmp_path / "run.nc")
        with pytest.raises(SystemExit) as end:
            main(["plot", str(tmp_path / "run.nc"), "-o", str(tmp_path / "figures")])
        assert end.value.code == 0
        assert {path.stem.removeprefix("run_") for path in (tmp_path / "figures").iterdir()} == expected
        assert capsys.readouterr().out.count(".png") == 3
    with pytest.raises(SystemExit) as end:
        main(["plot", str(tmp_path / "nothing.nc")])
    assert end.value.code == 2
    assert "no such file" in capsys.readouterr().err


def test_curves_of_the_odes_alone_have_the_colours_of_their_names(exact):
    panel = exact.plot().axes[0]
    drawn = {line.get_color(): float(np.asarray(line.get_ydata())[-1]) for line in panel.get_lines()}
    named = {text.get_color(): text.get_text() for text in panel.texts}
    assert set(drawn) == set(named)
    assert len(drawn) == 2
    for i, color in enumerate(drawn):
        assert named[color] == f"$R_{{1,{i + 1}}}$"
        assert drawn[color] == exact.R[-1, 0, i]


def test_many_entries_differ_in_colour_and_their_names_do_not_overlap():
    problem = mv.Problem(hidden=mv.hidden.Rademacher(np.arange(2.0, 12.0)), activation="tanh", learning_rate=0.3)
    sgd = mv.simulate_sgd(
        problem, mv.initial.Gaussian(1.0, np.zeros((1, 10))), t_eval=[0.0, 0.2], dimension=60, runs=2, progress=False
    )
    figure = mv.plot_solutions([sgd])
    figure.draw_without_rendering()
    names = figure.axes[0].texts
    assert len({text.get_color() for text in names}) == 10
    boxes = sorted((text.get_window_extent() for text in names), key=lambda box: box.y0)
    assert all(above.y0 > below.y0 + 0.5 * below.height for below, above in pairwise(boxes))
    whole = figure.bbox
    assert all(box.x1 <= whole.x1 and box.y1 <= whole.y1 for box in boxes)


@pytest.mark.parametrize("route", [mv.solve_ode, mv.solve_pde])
def test_a_single_time_is_seen(route):
    problem, initial = mv.read_problem("unregularized")
    solution = route(problem, initial, t_eval=[0.1], progress=False)
    for panel in solution.plot().axes:
        assert all(line.get_marker() not in ("None", "") for line in panel.get_lines())


def test_densities_of_many_features_are_drawn_though_few_loadings_are_alike():
    """In a narrow range of many loadings hardly any coordinate is found."""
    for k in (4, 40):
        problem = mv.Problem(hidden=mv.hidden.Gaussian(np.ones(k)), activation="identity", learning_rate=0.1)
        initial = mv.initial.Gaussian(1.0, np.zeros((1, k)))
        sgd = mv.simulate_sgd(
            problem, initial, t_eval=[0.0, 0.1], dimension=100, runs=2, rng=0, snapshots=[0.0, 0.1], progress=False
        )
        ode = mv.solve_ode(problem, initial, t_eval=[0.0, 0.1], progress=False)
        figure = mv.plot_densities([ode, sgd], [0.1])
        assert len(figure.axes) == 3
        assert all(ax.get_lines() for ax in figure.axes)
        if k == 4:
            assert sgd.plot_density_map().axes
        else:
            with pytest.raises(mv.InvalidInput, match="loadings: got None; expected some that were drawn"):
                sgd.plot_density_map()


def test_all_figures_of_many_features_can_be_saved(tmp_path):
    """Neither 40 loadings alike nor a list of 2^20 atoms is needed."""
    for loadings in (mv.loadings.Gaussian(), mv.loadings.Rademacher()):
        problem = mv.Problem(
            hidden=mv.hidden.Gaussian(np.ones(20)), activation="identity", learning_rate=0.1, loadings=loadings
        )
        initial = mv.initial.Gaussian(1.0, np.zeros((1, 20)))
        sgd = mv.simulate_sgd(
            problem, initial, t_eval=[0.0, 0.1], dimension=50, runs=2, rng=0, snapshots=[0.0, 0.1], progress=False
        )
        ode = mv.solve_ode(problem, initial, t_eval=[0.0, 0.1], progress=False)
        assert len(mv.plot_densities([ode, sgd], [0.1]).axes) == 3
        assert all(path.stat().st_size > 5000 for path in save_figures(sgd, tmp_path, name="run"))


def test_loadings_of_data_are_shown_one_by_one():
    rng = np.random.default_rng(0)
    data = mv.from_data(rng.standard_normal((400, 30)) * np.append([4.0, 3.0, 2.5], np.ones(27)), n_features=3)
    problem = data.problem(activation="tanh", learning_rate=0.1)
    sgd = mv.simulate_sgd(
        problem, mv.initial.Gaussian(1.0, [0.3, 0.0, 0.0]), t_eval=[0.0, 0.2], data=data, runs=4, rng=0,
        snapshots=[0.0, 0.2], progress=False,
    )  # fmt: skip
    groups = shown_groups(sgd, None)
    assert len(groups) == 3
    figure = sgd.plot_density([0.2])
    figure.draw_without_rendering()
    labels = sorted((ax.yaxis.label.get_window_extent() for ax in figure.axes), key=lambda box: box.y0)
    assert all(above.y0 > below.y1 for below, above in pairwise(labels))
    assert all((data.loadings.values == group.points).all(axis=1).any() for group in groups)


def test_a_panel_without_density_says_so(exact):
    figure = exact.plot_density([0.0, 0.5])
    first, second = figure.axes[:2]
    assert [text.get_text() for text in first.texts] == ["no density"]
    assert not first.get_xticks().size
    assert not second.texts


def test_the_colour_scale_of_a_map_is_labelled_evenly(solutions):
    figure = solutions[0].plot_density_map()
    bars = [ax for ax in figure.axes if ax.get_ylabel().startswith("density")]
    assert len(bars) == 2
    for bar in bars:
        places = bar.transData.transform([(0.0, y) for y in bar.get_yticks()])[:, 1]
        gaps = np.diff(places) / bar.get_window_extent().height
        assert len(gaps) == 4
        assert gaps.min() > 0.1
        assert [float(text.get_text()) for text in bar.get_yticklabels()] == pytest.approx(list(bar.get_yticks()))
