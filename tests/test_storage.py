"""Solutions as datasets and files: nothing is lost, nothing is half written."""

import dataclasses
import json
from types import MappingProxyType

import h5py
import numpy as np
import pytest
import xarray

import mkvlasov as mv
from mkvlasov import storage
from mkvlasov.order_parameters import orthonormalize
from mkvlasov.problem.value import Value
from mkvlasov.solution import Solution, Status
from mkvlasov.solution_ode import OdeSolution
from mkvlasov.solution_pde import CoefficientHistory, PdeSolution
from mkvlasov.solution_plane import PlanePdeSolution
from mkvlasov.solution_runs import ParticleSolution, Runs, RunsSolution, SgdSolution, Snapshots

TIMES, OUTPUTS, FEATURES, RUNS, COORDINATES = 4, 2, 3, 5, 7
INITIAL = mv.initial.Gaussian(2.0, np.full((OUTPUTS, FEATURES), 0.1))


def _problem(**changes):
    hidden = mv.hidden.Rademacher([4.0, 3.0, 1 / 3])
    return mv.Problem(**{"hidden": hidden, "activation": "tanh", "learning_rate": 0.4, "outputs": OUTPUTS, **changes})


def _common(problem, outputs=OUTPUTS, initial=INITIAL):
    rng = np.random.default_rng(1)
    square, wide = (TIMES, outputs, outputs), (TIMES, outputs, FEATURES)
    return {
        "problem": problem,
        "initial": initial,
        "t": np.array([0.0, 0.1, 0.2, 0.30000000000000004]),
        "Q": 0.5 + rng.random(square),
        "R": rng.normal(size=wide),
        "Q_error": rng.random(square),
        "R_error": rng.random(wide),
        "Q_stderr": rng.random(square),
        "R_stderr": np.full(wide, np.inf),
        "loss": np.array([0.1, np.nan, 0.3, 0.4]),
        "loss_stderr": rng.random(TIMES),
        "status": Status(True, "reached t = 0.3"),
        "stats": {"seconds": 0.1, "steps": 17, "worst": np.inf},
    }


def _runs(cls, problem, snapshots=2):
    rng = np.random.default_rng(2)
    runs = Runs(
        0.5 + rng.random((TIMES, RUNS, OUTPUTS, OUTPUTS)),
        rng.normal(size=(TIMES, RUNS, OUTPUTS, FEATURES)),
        rng.normal(size=(TIMES, RUNS)),
    )
    kept = Snapshots(
        np.linspace(0.0, 0.3, snapshots),
        rng.normal(size=(snapshots, RUNS, COORDINATES, OUTPUTS)),
        rng.normal(size=(RUNS, COORDINATES if snapshots else 0, FEATURES)),
    )
    return cls(route=cls.__name__, runs=runs, snapshots=kept, **_common(problem))


def _ode(problem):
    rng = np.random.default_rng(3)
    square = (TIMES, OUTPUTS, OUTPUTS)
    wide = (TIMES, OUTPUTS, FEATURES)
    parts = {"A": rng.normal(size=square), "C": rng.normal(size=wide), "P": rng.normal(size=square)}
    return OdeSolution(route="ode", **parts, **_common(problem))


def _pde(problem):
    rng = np.random.default_rng(4)
    steps, loadings, nodes = 6, 3, 11
    history = CoefficientHistory(
        t=np.linspace(0.0, 0.3, steps),
        linear=rng.normal(size=steps),
        tilt=rng.normal(size=(steps, FEATURES)),
        tau=rng.random(steps),
        diffusion=rng.random(steps),
    )
    given = {
        "loading_points": rng.normal(size=(loadings, FEATURES)),
        "loading_weights": np.full(loadings, 1 / 3),
        "nodes": rng.normal(size=(TIMES, loadings, nodes)),
        "densities": rng.random((TIMES, loadings, nodes)),
        "density_error": rng.random(TIMES),
        "coefficients": history,
        "quadrature": rng.random((TIMES, loadings, nodes)),
        "method": mv.methods.FiniteVolumes(cells=123),
        "rtol": 1e-6,
    }
    return PdeSolution(route="pde", **given, **_common(problem))


def _plane(problem):
    rng = np.random.default_rng(5)
    steps, loadings, cells = 6, 3, 8
    history = CoefficientHistory(
        t=np.linspace(0.0, 0.3, steps),
        linear=rng.normal(size=(steps, OUTPUTS, OUTPUTS)),
        tilt=rng.normal(size=(steps, OUTPUTS, FEATURES)),
        tau=rng.random(steps),
        diffusion=rng.random((steps, OUTPUTS, OUTPUTS)),
    )
    given = {
        "loading_points": rng.normal(size=(loadings, FEATURES)),
        "loading_weights": np.full(loadings, 1 / 3),
        "origins": rng.normal(size=(TIMES, loadings, 2)),
        "axes": rng.normal(size=(TIMES, loadings, 2, 2)),
        "coordinates": rng.normal(size=(TIMES, loadings, 2, cells)),
        "densities": rng.random((TIMES, loadings, cells, cells)),
        "density_error": rng.random(TIMES),
        "coefficients": history,
        "method": mv.methods.PlaneSplitting(cells=64, positive=True),
        "rtol": 1e-6,
    }
    return PlanePdeSolution(route="pde", **given, **_common(problem))


BUILDERS = {
    OdeSolution: _ode,
    PdeSolution: _pde,
    PlanePdeSolution: _plane,
    SgdSolution: lambda problem: _runs(SgdSolution, problem),
    ParticleSolution: lambda problem: _runs(ParticleSolution, problem, snapshots=0),
}


def _assert_same(a, b):
    """Compare by content, bit by bit, whatever is nested in what."""
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, (dict, MappingProxyType)):
        assert set(a) == set(b)
        for key in a:
            _assert_same(a[key], b[key])
    elif dataclasses.is_dataclass(a) and not isinstance(a, Value):
        assert type(a) is type(b)
        for field in dataclasses.fields(a):
            _assert_same(getattr(a, field.name), getattr(b, field.name))
    else:
        assert type(a) is type(b)
        assert a == b


def _subclasses(cls):
    return {cls}.union(*map(_subclasses, cls.__subclasses__()))


def test_every_kind_of_solution_is_tried_here():
    assert _subclasses(Solution) - {Solution, RunsSolution} == set(BUILDERS)


@pytest.mark.parametrize("cls", BUILDERS)
def test_a_solution_survives_being_saved_and_loaded(cls, tmp_path):
    solution = BUILDERS[cls](_problem())
    solution.save(tmp_path / "run.nc")
    _assert_same(mv.load(tmp_path / "run.nc"), solution)
    assert [path.name for path in tmp_path.iterdir()] == ["run.nc"]


@pytest.mark.parametrize("cls", BUILDERS)
def test_the_dataset_is_labelled(cls):
    solution = BUILDERS[cls](_problem())
    dataset = solution.to_xarray()
    assert isinstance(dataset, xarray.Dataset)
    assert dataset["R"].dims == ("time", "output", "feature")
    assert dataset["Q"].dims == ("time", "output", "output_")
    assert dataset["time"].attrs["units"] == "steps / N"
    assert dataset.attrs["status"] == "reached t = 0.3"
    assert json.loads(dataset.attrs["stats"])["steps"] == 17
    assert "numpy" in json.loads(dataset.attrs["versions"])
    np.testing.assert_array_equal(dataset["R"].sel(output=1, feature=2), solution.R[:, 1, 2])
    np.testing.assert_array_equal(dataset["cosine_similarity"], solution.cosine_similarity)
    if isinstance(solution, RunsSolution):
        assert dataset["runs.R"].dims == ("time", "run", "output", "feature")


def test_a_solution_that_never_got_anywhere_is_kept_too(tmp_path):
    solution = _ode(_problem())
    arrays = {f.name: getattr(solution, f.name) for f in dataclasses.fields(solution)}
    nothing = {name: value[:0] for name, value in arrays.items() if isinstance(value, np.ndarray)}
    empty = dataclasses.replace(solution, **nothing, status=Status(False, "diverged at t = 0"))
    empty.save(tmp_path / "run.nc")
    _assert_same(mv.load(tmp_path / "run.nc"), empty)


def test_the_problem_in_a_file_is_the_text_of_a_problem_file(tmp_path):
    solution = _ode(_problem(batch_size=np.inf))
    text = solution.to_xarray().attrs["problem"]
    (tmp_path / "problem.toml").write_text(text)
    assert mv.read_problem(tmp_path / "problem.toml") == (solution.problem, solution.initial)


def test_long_problems_are_stored_whole(tmp_path):
    """Text of 300 kB, beyond the 64 KiB that HDF5 used to allow for an attribute."""
    rng = np.random.default_rng(5)
    loadings = orthonormalize(rng.normal(size=(3000, FEATURES)))
    weights = rng.normal(size=(3000, OUTPUTS))
    solution = dataclasses.replace(_ode(_problem()), initial=mv.initial.Empirical(weights, loadings))
    solution.save(tmp_path / "run.nc")
    assert mv.load(tmp_path / "run.nc").initial == solution.initial


def test_a_problem_with_an_unnamed_function_is_asked_for_and_nothing_else_is_lost(tmp_path):
    problem = _problem(learning_rate=lambda t: 0.1)
    solution = _ode(problem)
    solution.save(tmp_path / "run.nc")
    with pytest.raises(mv.InvalidInput, match=r"problem\.learning_rate.*pass problem=\.\.\. and initial=\.\.\."):
        mv.load(tmp_path / "run.nc")
    _assert_same(mv.load(tmp_path / "run.nc", problem=problem, initial=INITIAL), solution)


def test_a_problem_that_does_not_fit_the_file_is_refused(tmp_path):
    _ode(_problem()).save(tmp_path / "run.nc")
    with pytest.raises(mv.InvalidInput, match=r"initial\.R"):
        mv.load(tmp_path / "run.nc", problem=_problem(outputs=1))


def test_a_failed_write_leaves_the_earlier_file_and_no_other(tmp_path, monkeypatch):
    solution = _ode(_problem())
    solution.save(tmp_path / "run.nc")
    before = (tmp_path / "run.nc").read_bytes()

    def fails(dataset, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", fails)
    with pytest.raises(OSError, match="No space"):
        solution.save(tmp_path / "run.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["run.nc"]
    assert (tmp_path / "run.nc").read_bytes() == before


def test_files_of_others_are_refused(tmp_path):
    xarray.Dataset({"x": ("n", np.zeros(2))}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    (tmp_path / "text.nc").write_text("hello")
    for name in ("other.nc", "text.nc"):
        with pytest.raises(mv.InvalidInput, match=r"Solution\.save"):
            mv.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        mv.load(tmp_path / "missing.nc")


@pytest.mark.parametrize("attribute", ["structure", "problem"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_file_is_named_in_one_line(tmp_path, attribute, damage):
    path = tmp_path / "run.nc"
    solve().save(path)
    with h5py.File(path, "r+") as file:
        text = file.attrs[attribute]
        del file.attrs[attribute]
        if damage == "cut":
            file.attrs[attribute] = text[: len(text) // 2]
    with pytest.raises(mv.InvalidInput, match="path: got") as raised:
        mv.load(path)
    assert "\n" not in str(raised.value)


def test_a_problem_of_another_size_is_refused(tmp_path):
    path = tmp_path / "run.nc"
    solve().save(path)
    other = mv.Problem(hidden=mv.hidden.Rademacher([1.0, 1.0, 1.0]), activation="tanh", learning_rate=0.1)
    with pytest.raises(mv.InvalidInput, match=r"1 output\(s\) and 2 feature\(s\)"):
        mv.load(path, problem=other, initial=mv.initial.Gaussian(1.0, 0.0))


def solve():
    problem, initial = mv.read_problem("contrastive")
    return mv.solve_ode(problem, initial, t_eval=[0.0, 0.1])


def test_a_file_cannot_name_classes_from_elsewhere():
    with pytest.raises(mv.InvalidInput, match="this package"):
        storage._rebuild({"class": "subprocess:Popen", "fields": {}}, {})


def test_solving_saving_and_loading_goes_on_where_it_stopped(tmp_path):
    problem, initial = mv.read_problem("contrastive")
    times = np.array([0.0, 0.05, 0.1])
    pde = mv.solve_pde(problem, initial, t_eval=times, progress=False)
    pde.save(tmp_path / "pde.nc")
    loaded = mv.load(tmp_path / "pde.nc")
    _assert_same(loaded, pde)
    _assert_same(loaded.density(0.1, [0.4, -0.3]), pde.density(0.1, [0.4, -0.3]))
    sgd = mv.simulate_sgd(problem, initial, t_eval=times, dimension=60, runs=2, rng=0, snapshots=[0.1], progress=False)
    sgd.save(tmp_path / "sgd.nc")
    _assert_same(mv.load(tmp_path / "sgd.nc").histogram(0.1), sgd.histogram(0.1))
