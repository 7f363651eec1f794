"""Problem files: what is read, what is written, and that both say the same."""

import importlib
import inspect

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov import configuration
from mkvlasov._pieces import SECTIONS, read_piece, write_piece
from mkvlasov.configuration import RunOptions, from_table, read_problem_file, to_table, to_toml

ATOMS = [[1.0, 1.0], [-1.0, 1.0], [0.0, -1.0]]
IDENTITY_ROWS = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]

# One object of every class that a file can name. A new class without an entry fails the test of completeness below.
PIECES = {
    "hidden": [
        mv.hidden.Rademacher([4.0, 3.0]),
        mv.hidden.Gaussian(2.0),
        mv.hidden.Uniform([1.0, 0.1]),
        mv.hidden.Laplace(1.5),
        mv.hidden.Sparse([1.0, 2.0], [3.0, 1.0]),
        mv.hidden.Discrete(ATOMS, [0.25, 0.25, 0.5]),
        mv.hidden.Empirical([[1.0, 0.1], [-1.0, -0.1]]),
    ],
    "loadings": [
        mv.loadings.Gaussian(),
        mv.loadings.Rademacher(),
        mv.loadings.Sparse(0.2),
        mv.loadings.Discrete(IDENTITY_ROWS, [0.25] * 4),
        mv.loadings.Empirical(IDENTITY_ROWS),
    ],
    "activation": [
        mv.activations.Identity(),
        mv.activations.Tanh(),
        mv.activations.Erf(),
        mv.activations.Sigmoid(),
        mv.activations.Softplus(),
        mv.activations.ReLU(),
        mv.activations.LeakyReLU(0.1),
        mv.activations.Polynomial([0.0, 1.0, 0.0, -0.1]),
        mv.activations.Custom(np.sin, np.cos),
    ],
    "regularizer": [
        mv.regularizers.Zero(),
        mv.regularizers.L1(0.1),
        mv.regularizers.L2(1 / 3),
        mv.regularizers.ElasticNet(0.1, 0.2),
        mv.regularizers.Huber(0.1, 0.5),
        mv.regularizers.DoubleWell(0.3),
        mv.regularizers.GroupLasso(0.3),
        mv.regularizers.Custom(np.sin, np.cos),
    ],
    "augmentation": [
        mv.augmentations.GaussianNoise([0.5, 0.2], -0.6),
        mv.augmentations.RandomMask(0.5, 0.0),
    ],
    "loss": [mv.losses.Covariance(0.5, False), mv.losses.Custom(np.hypot)],
    "learning_rate": [
        mv.schedules.ExponentialDecay(1.0, 2.0, 0.1),
        mv.schedules.PowerDecay(1.0, 2.0, 0.5),
        mv.schedules.PiecewiseLinear([0.0, 2.0], [1.0, 0.1]),
        mv.schedules.Continued(mv.schedules.PowerDecay(1.0, 2.0), 3.0),
        mv.schedules.Continued(np.exp, 3.0),
    ],
    "initial": [
        mv.initial.Gaussian(2.0, [0.3, 0.1]),
        mv.initial.Gaussian([[2.0]], [[0.3, 0.1]]),
        mv.initial.Point(1.0),
        mv.initial.Mixture([0.25, 0.75], [mv.initial.Point([0.5]), mv.initial.Gaussian(1.0, 0.0)]),
        mv.initial.Empirical([1.0, 2.0, 3.0, 4.0], IDENTITY_ROWS),
        mv.initial.Empirical([1.0, 2.0, 3.0, 4.0], IDENTITY_ROWS, [0.25, 0.25, 0.25, 0.25]),
    ],
}
CASES = [(kind, piece) for kind, pieces in PIECES.items() for piece in pieces]
REQUIRED = {"hidden": mv.hidden.Rademacher([4.0, 3.0]), "activation": mv.activations.Tanh(), "learning_rate": 0.4}
INITIAL = mv.initial.Gaussian(1.0, 0.0)


def _written_and_read(kind, piece):
    table = {"kind": write_piece(kind, piece, kind)}
    text = configuration.tomli_w.dumps(table)
    read = configuration.tomllib.loads(text)["kind"]
    return read_piece(kind, read, kind=kind, folder=None)


@pytest.mark.parametrize(("kind", "piece"), CASES, ids=[f"{k}-{type(p).__name__}" for k, p in CASES])
def test_every_piece_survives_being_written_and_read(kind, piece):
    assert _written_and_read(kind, piece) == piece


@pytest.mark.parametrize("kind", PIECES)
def test_every_class_that_a_file_can_name_is_tried_here(kind):
    assert {type(piece) for piece in PIECES[kind]} == set(SECTIONS[kind].classes.values())


def test_every_argument_of_a_problem_is_read_by_its_kind():
    pieces = {"hidden", "loadings", "activation", "regularizer", "augmentation", "loss", "learning_rate"}
    plain = {"outputs", "batch_size", "background_variance", "constraint"}
    assert set(inspect.signature(mv.Problem).parameters) == pieces | plain
    assert set(SECTIONS) == pieces | {"initial"}


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": np.inf},
        {"batch_size": 4, "loss": mv.losses.Covariance(centered=True)},
        {"constraint": "sphere", "background_variance": 0.1},
        {"outputs": 2, "learning_rate": mv.schedules.PowerDecay(1.0, 2.0)},
        {"learning_rate": np.exp},
    ],
)
def test_a_problem_survives_being_written_and_read(changes):
    problem = mv.Problem(**{**REQUIRED, **changes})
    options = RunOptions(t_final=2.5, times=6, dimension=300, runs=4, particles=500, seed=7)
    text = to_toml(problem, INITIAL, options)
    content = from_table(configuration.tomllib.loads(text))
    assert content.problem == problem
    assert content.initial == INITIAL
    assert content.run == options


@pytest.mark.parametrize("name", mv.builtin_problems())
def test_built_in_problems_survive_being_written_and_read(name):
    content = read_problem_file(name)
    assert content.name == name
    again = from_table(to_table(content.problem, content.initial, content.run))
    assert (again.problem, again.initial, again.run) == (content.problem, content.initial, content.run)


def test_built_in_problems_are_listed_with_the_default_first_and_a_line_each():
    problems = mv.builtin_problems()
    assert next(iter(problems)) == configuration.DEFAULT_PROBLEM == "contrastive"
    assert {"unregularized", "sparse", "two_outputs"} <= set(problems)
    for description in problems.values():
        assert 20 < len(description) < 120


def test_the_built_in_problem_of_the_paper_is_the_one_of_the_documented_example():
    problem, initial = mv.read_problem("contrastive")
    expected = mv.Problem(
        hidden=mv.hidden.Rademacher(variance=[4.0, 3.0]),
        activation="tanh",
        learning_rate=0.4,
        regularizer=mv.regularizers.L2(0.3),
        augmentation=mv.augmentations.GaussianNoise(std=0.5, correlation=-0.6),
    )
    assert problem == expected
    assert initial == mv.initial.Gaussian(Q=1.0, R=[0.3, 0.2])


def test_tables_and_names_alone_say_the_same():
    short = {"activation": "relu", "learning_rate": 0.4, "hidden": {"law": "Rademacher", "variance": 1.0}}
    long = {**short, "activation": {"name": "ReLU"}, "regularizer": "Zero", "loadings": {"law": "Gaussian"}}
    initial = {"law": "Gaussian"}
    assert (
        from_table({"problem": short, "initial": initial}).problem
        == from_table({"problem": long, "initial": "Gaussian"}).problem
    )


def test_run_options_left_out_have_their_defaults():
    table = to_table(mv.Problem(**REQUIRED), INITIAL)
    assert from_table(table).run == RunOptions()
    assert from_table({**table, "run": {"seed": 3}}).run == RunOptions(seed=3)
    np.testing.assert_allclose(RunOptions(t_final=2.0, times=5).t_eval, [0.0, 0.5, 1.0, 1.5, 2.0])


def test_functions_are_found_beside_the_problem_file(tmp_path):
    (tmp_path / "pieces_of_mine.py").write_text(
        "import numpy as np\n"
        "from mkvlasov.problem.activations import Polynomial\n"
        "def halving(t): return 0.4 * 0.5**t\n"
        "def wave(h): return np.sin(h)\n"
        "cubic = Polynomial([0.0, 1.0, 0.0, -0.1])\n"
    )
    text = '[problem]\nactivation = "pieces_of_mine:{}"\nlearning_rate = "pieces_of_mine:halving"\n'
    text += '[problem.hidden]\nlaw = "Gaussian"\nvariance = 2\n[initial]\nlaw = "Gaussian"\n'
    path = tmp_path / "mine.toml"
    path.write_text(text.format("wave"))
    problem, _ = mv.read_problem(path)
    assert problem.rate(1.0) == pytest.approx(0.2)
    np.testing.assert_allclose(problem.activation.value(np.array([0.3])), np.sin(0.3))
    assert mv.read_problem(str(path))[0] == problem
    assert from_table(to_table(problem, INITIAL)).problem == problem
    path.write_text(text.format("cubic"))
    assert mv.read_problem(path)[0].activation == mv.activations.Polynomial([0.0, 1.0, 0.0, -0.1])


def _inner_function():
    def rate(t):
        return 0.1

    return rate


@pytest.mark.parametrize("function", [lambda t: 0.1, _inner_function()])
def test_a_function_without_a_name_of_its_own_cannot_be_written(function):
    with pytest.raises(mv.InvalidInput, match=r"problem\.learning_rate.*module:name"):
        to_table(mv.Problem(**{**REQUIRED, "learning_rate": function}), INITIAL)


def test_a_function_whose_name_leads_to_another_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "replaced.py").write_text("def rate(t): return 0.1\nfirst = rate\ndef rate(t): return 0.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    problem = mv.Problem(**{**REQUIRED, "learning_rate": importlib.import_module("replaced").first})
    with pytest.raises(mv.InvalidInput, match="module:name"):
        to_table(problem, INITIAL)
