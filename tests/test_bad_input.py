"""Bad input: one case per field and kind of mistake. One line that names the field, the value and what is allowed."""

import copy
import math
import re

import numpy as np
import pytest
import tomli_w

import mkvlasov as mv
from mkvlasov.cli import main

GOOD = {
    "problem": {
        "activation": "tanh",
        "learning_rate": 0.4,
        "outputs": 1,
        "batch_size": 1,
        "background_variance": 1.0,
        "hidden": {"law": "Rademacher", "variance": [4.0, 3.0]},
        "loadings": {"law": "Gaussian"},
        "regularizer": {"name": "L2", "strength": 0.3},
        "augmentation": {"name": "GaussianNoise", "std": 0.5, "correlation": -0.6},
        "loss": {"name": "Covariance", "decorrelation": 0.0, "centered": False},
    },
    "initial": {"law": "Gaussian", "Q": 1.0, "R": [0.3, 0.2]},
    "run": {"t_final": 0.1, "times": 2, "dimension": 50, "runs": 2, "particles": 100, "seed": 0},
}

MISSING = object()
TWO_GAUSSIANS = [{"law": "Gaussian", "Q": 1.0, "R": [0.3, 0.2]}, {"law": "Gaussian", "Q": 2.0, "R": [0.0, 0.0]}]

# (where the mistake is made, what is put there, the field that is named, part of what is said to be allowed)
FILE_CASES = [
    # wrong type
    ("problem.learning_rate", True, "problem.learning_rate", "a finite number > 0"),
    ("problem.learning_rate", [0.4], "problem.learning_rate", "a finite number > 0"),
    ("problem.outputs", 1.0, "problem.outputs", "an integer >= 1"),
    ("problem.outputs", "one", "problem.outputs", "an integer >= 1"),
    ("problem.batch_size", 2.5, "problem.batch_size", "an integer >= 1, or infinity"),
    ("problem.batch_size", "many", "problem.batch_size", "an integer >= 1, or infinity"),
    ("problem.background_variance", "1", "problem.background_variance", "a finite number >= 0"),
    ("problem.constraint", 3, "problem.constraint", "'sphere'"),
    ("problem.activation", 5, "problem.activation", "'tanh'"),
    ("problem.hidden", 4.0, "problem.hidden", "'Rademacher'"),
    ("problem.hidden.variance", "four", "problem.hidden.variance", "an array of finite numbers > 0"),
    ("problem.hidden.variance", [True, False], "problem.hidden.variance", "an array of finite numbers > 0"),
    ("problem.regularizer.strength", "0.3", "problem.regularizer.strength", "a finite number >= 0"),
    ("problem.augmentation.std", "low", "problem.augmentation.std", "an array of finite numbers >= 0"),
    ("problem.augmentation.correlation", "high", "problem.augmentation.correlation", ">= -1 and <= 1"),
    ("problem.loss.centered", 1, "problem.loss.centered", "True or False"),
    ("problem.loss.decorrelation", False, "problem.loss.decorrelation", "a finite number >= 0"),
    ("problem", 3, "problem", "a table [problem]"),
    ("initial", [1.0], "initial", "'Gaussian'"),
    ("initial.Q", "one", "initial.Q", "an array of finite numbers"),
    ("initial.R", {"law": "Point"}, "initial.R.w", "Point needs one"),
    ("run", "now", "run", "a table [run]"),
    ("run.t_final", "6", "run.t_final", "a finite number > 0"),
    ("run.times", 2.5, "run.times", "an integer >= 2"),
    ("run.seed", "zero", "run.seed", "an integer >= 0"),
    # out of range
    ("problem.learning_rate", 0.0, "problem.learning_rate", "a finite number > 0"),
    ("problem.learning_rate", -0.4, "problem.learning_rate", "a finite number > 0"),
    ("problem.learning_rate", 10**400, "problem.learning_rate", "a finite number > 0"),
    ("problem.outputs", 0, "problem.outputs", "an integer >= 1"),
    ("problem.batch_size", 0, "problem.batch_size", "an integer >= 1"),
    ("problem.batch_size", -math.inf, "problem.batch_size", "an integer >= 1, or infinity"),
    ("problem.background_variance", -1.0, "problem.background_variance", "a finite number >= 0"),
    ("problem.hidden.variance", [4.0, -3.0], "problem.hidden.variance", "> 0"),
    ("problem.hidden.variance", 0.0, "problem.hidden.variance", "> 0"),
    ("problem.hidden", {"law": "Sparse", "variance": [1.0, 2.0], "kurtosis": 0.5}, "problem.hidden.kurtosis", ">= 1"),
    ("problem.loadings", {"law": "Sparse", "density": 0.0}, "problem.loadings.density", "> 0 and <= 1"),
    ("problem.loadings", {"law": "Sparse", "density": 1.5}, "problem.loadings.density", "<= 1"),
    ("problem.regularizer.strength", -0.1, "problem.regularizer.strength", "a finite number >= 0"),
    ("problem.regularizer", {"name": "Huber", "strength": 1.0, "delta": 0.0}, "problem.regularizer.delta", "> 0"),
    ("problem.regularizer", {"name": "ElasticNet", "l1": 1.0, "l2": -1.0}, "problem.regularizer.l2", ">= 0"),
    ("problem.augmentation.correlation", 1.01, "problem.augmentation.correlation", ">= -1 and <= 1"),
    ("problem.augmentation.std", [0.5, -0.5], "problem.augmentation.std", ">= 0"),
    ("problem.augmentation", {"name": "RandomMask", "keep": 0.0}, "problem.augmentation.keep", "> 0 and <= 1"),
    ("problem.augmentation", {"name": "RandomMask", "keep": 2.0}, "problem.augmentation.keep", "<= 1"),
    ("problem.loss.decorrelation", -1.0, "problem.loss.decorrelation", ">= 0"),
    ("problem.constraint", "ball", "problem.constraint", "'sphere'"),
    ("initial.Q", 0.0, "initial.Q", "positive"),
    ("initial.Q", [[-1.0]], "initial.Q", "positive definite"),
    ("run.t_final", 0, "run.t_final", "> 0"),
    ("run.times", 1, "run.times", ">= 2"),
    ("run.dimension", 0, "run.dimension", ">= 2"),
    ("run.runs", 0, "run.runs", ">= 1"),
    ("run.particles", 1, "run.particles", ">= 2"),
    ("run.seed", -1, "run.seed", ">= 0"),
    # not a number, infinite
    ("problem.learning_rate", math.nan, "problem.learning_rate", "a finite number > 0"),
    ("problem.learning_rate", math.inf, "problem.learning_rate", "a finite number > 0"),
    ("problem.background_variance", math.nan, "problem.background_variance", "a finite number >= 0"),
    ("problem.batch_size", math.nan, "problem.batch_size", "an integer >= 1, or infinity"),
    ("problem.hidden.variance", [4.0, math.nan], "problem.hidden.variance", "finite"),
    ("problem.regularizer.strength", math.nan, "problem.regularizer.strength", "finite"),
    ("problem.augmentation.std", math.inf, "problem.augmentation.std", "finite"),
    ("problem.augmentation.correlation", math.nan, "problem.augmentation.correlation", "finite"),
    ("problem.loss.decorrelation", math.nan, "problem.loss.decorrelation", "finite"),
    ("initial.R", [0.3, math.nan], "initial.R", "finite"),
    ("initial.Q", math.nan, "initial.Q", "finite"),
    ("run.t_final", math.inf, "run.t_final", "finite"),
    # shape
    ("problem.hidden.variance", [[4.0, 3.0]], "problem.hidden.variance", "dimension"),
    ("problem.hidden.variance", [], "problem.hidden.variance", "an array of finite numbers"),
    ("problem.augmentation.std", [0.1, 0.2, 0.3], "problem.augmentation.std", "two (one per view)"),
    ("initial.R", [0.3, 0.2, 0.1], "initial.R", "shape (1, 2)"),
    ("initial.R", [[0.3, 0.2], [0.1, 0.0]], "initial.R", "shape (1, 2)"),
    ("initial.R", [[0.3, 0.2], [0.1]], "initial.R", "an array of finite numbers"),
    ("initial.Q", [[1.0, 0.0], [0.0, 1.0]], "initial.R", "2 row(s)"),
    ("initial.Q", [[1.0, 0.0]], "initial.Q", "shape (1, 1)"),
    (
        "problem.hidden",
        {"law": "Sparse", "variance": [1.0, 2.0], "kurtosis": [2.0] * 3},
        "problem.hidden.kurtosis",
        "2",
    ),
    # unknown name
    ("problem.activation", "swish", "problem.activation", "'softplus'"),
    ("problem.activation", {"name": "swish"}, "problem.activation.name", "'softplus'"),
    ("problem.hidden.law", "Cauchy", "problem.hidden.law", "'Laplace'"),
    ("problem.loadings.law", "Uniform", "problem.loadings.law", "'Sparse'"),
    ("problem.regularizer.name", "L3", "problem.regularizer.name", "'DoubleWell'"),
    ("problem.regularizer", "L3", "problem.regularizer", "'DoubleWell'"),
    ("problem.augmentation.name", "Crop", "problem.augmentation.name", "'RandomMask'"),
    ("problem.loss.name", "InfoNCE", "problem.loss.name", "'Covariance'"),
    ("problem.learning_rate", {"name": "Cosine"}, "problem.learning_rate.name", "'PowerDecay'"),
    ("problem.learning_rate", "fast", "problem.learning_rate", "'PowerDecay'"),
    ("initial.law", "Uniform", "initial.law", "'Mixture'"),
    ("initial.law", "GaussianMixture", "initial.law", "'Mixture'"),
    # unknown key
    ("problem.learning_rat", 0.4, "problem.learning_rat", "'learning_rate'"),
    ("problem.hidden.varience", 4.0, "problem.hidden.varience", "'variance'"),
    ("problem.loadings.density", 0.5, "problem.loadings.density", "only 'law'"),
    ("problem.regularizer.power", 2, "problem.regularizer.power", "'strength'"),
    ("problem.augmentation.keep", 0.5, "problem.augmentation.keep", "'std'"),
    ("problem.loss.center", True, "problem.loss.center", "'centered'"),
    ("initial.mean", 0.0, "initial.mean", "'Q', 'R'"),
    ("run.t_end", 6.0, "run.t_end", "'t_final'"),
    ("solver", {"rtol": 1e-8}, "solver", "'problem', 'initial', 'run'"),
    ("a\nb", 1, "a b", "'problem', 'initial', 'run'"),
    # missing
    ("problem", MISSING, "problem", "a table [problem]"),
    ("problem.hidden", MISSING, "problem.hidden", "every problem needs one"),
    ("problem.activation", MISSING, "problem.activation", "every problem needs one"),
    ("problem.learning_rate", MISSING, "problem.learning_rate", "every problem needs one"),
    ("problem.hidden.law", MISSING, "problem.hidden.law", "'Rademacher'"),
    ("problem.hidden.variance", MISSING, "problem.hidden.variance", "Rademacher needs one"),
    ("problem.regularizer.strength", MISSING, "problem.regularizer.strength", "L2 needs one"),
    ("initial", MISSING, "initial", "'Gaussian'"),
    ("initial.law", MISSING, "initial.law", "'Gaussian'"),
    # functions by name
    ("problem.learning_rate", "no_such_module:rate", "problem.learning_rate", "ModuleNotFoundError"),
    ("problem.learning_rate", "math:no_such_function", "problem.learning_rate", "AttributeError"),
    ("problem.learning_rate", "math:factorial", "problem.learning_rate", "function of the time t"),
    ("problem.activation", "math:tanh", "problem.activation", "maps an array"),
    ("problem.activation", {"name": "Custom", "function": "tanh"}, "problem.activation.function", '"module:name"'),
    ("problem.activation", {"name": "Custom", "function": 3}, "problem.activation.function", '"module:name"'),
    ("problem.regularizer", "math:pi", "problem.regularizer", "mkvlasov.regularizers"),
    ("problem.loss", {"name": "Custom", "function": "numpy:add"}, "problem.loss.function", "gives an array (...)"),
    (
        "problem.regularizer",
        {"name": "Custom", "value": "numpy:square", "gradient": "numpy:square"},
        "problem.regularizer.gradient",
        "the derivative of value",
    ),
    # inconsistent with another field
    ("initial.R", [0.9, 0.9], "initial.R", "positive semidefinite"),
    ("initial.Q", 0.1, "initial.R", "positive semidefinite"),
    ("initial.R", 0.3, "initial.R", "shape (1, 2)"),
    ("initial", {"law": "Point", "w": [1.0, 2.0]}, "initial.w", "1 number(s), one per output"),
    ("initial", {"law": "Empirical", "weights": [1.0], "loadings": [1.0, -1.0]}, "initial.loadings", "1 rows"),
    ("initial", {"law": "Empirical", "weights": [1.0], "loadings": [2.0]}, "initial.loadings", "identity"),
    ("initial", {"law": "Empirical", "weights": [1.0], "loadings": [1.0]}, "initial.loadings", "2 number(s)"),
    ("initial", {"law": "Mixture", "weights": [0.5, 0.6], "components": TWO_GAUSSIANS}, "initial.weights", "sum to 1"),
    ("initial", {"law": "Mixture", "weights": [1.0], "components": TWO_GAUSSIANS}, "initial.weights", "shape (2)"),
    ("initial", {"law": "Mixture", "weights": [1.0], "components": []}, "initial.components", "non-empty"),
    (
        "initial",
        {"law": "Mixture", "weights": [0.5, 0.5], "components": [TWO_GAUSSIANS[0], {"law": "Gaussian", "Q": -1.0}]},
        "initial.components[1].Q",
        "positive",
    ),
    ("problem.loss.centered", True, "problem.batch_size", ">= 2 when the loss is centered"),
    (
        "problem.loadings",
        {"law": "Discrete", "atoms": [1, -1], "weights": [0.5, 0.5]},
        "problem.loadings.atoms",
        "2 com",
    ),
    (
        "problem.loadings",
        {"law": "Discrete", "atoms": [2, -2], "weights": [0.5, 0.5]},
        "problem.loadings.atoms",
        "iden",
    ),
    ("problem.loadings", {"law": "Empirical", "values": [0.5, -0.5]}, "problem.loadings.values", "identity"),
    (
        "problem.hidden",
        {"law": "Discrete", "atoms": [1, 2], "weights": [0.5, 0.5]},
        "problem.hidden.atoms",
        "mean zero",
    ),
    ("problem.hidden", {"law": "Discrete", "atoms": [1, -1], "weights": [0.5]}, "problem.hidden.weights", "shape (2)"),
    ("problem.hidden", {"law": "Empirical", "samples": [1.0, 1.0]}, "problem.hidden.samples", "mean zero"),
    (
        "problem.augmentation",
        {"name": "RandomMask", "keep": 0.8, "overlap": 0.5},
        "problem.augmentation.overlap",
        "0.6",
    ),
    (
        "problem.augmentation",
        {"name": "RandomMask", "keep": 0.4, "overlap": 0.5},
        "problem.augmentation.overlap",
        "0.4",
    ),
    (
        "problem.learning_rate",
        {"name": "ExponentialDecay", "initial": 0.4, "timescale": 0.0},
        "problem.learning_rate.timescale",
        "> 0",
    ),
]


def _changed(path, value):
    table = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    inner = table
    for parent in parents:
        inner = inner[parent]
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    return table


def _exit_of(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def _identifier(case):
    return f"{case[0]}={case[1]!r}"[:70] if case[1] is not MISSING else f"{case[0]}=MISSING"


@pytest.mark.parametrize("case", FILE_CASES, ids=_identifier)
def test_a_mistake_in_a_file_is_one_line_on_standard_error(case, tmp_path, capsys):
    path, value, field, allowed = case
    problem, output = tmp_path / "problem.toml", tmp_path / "out.nc"
    problem.write_text(tomli_w.dumps(_changed(path, value)))
    assert _exit_of(["solve", str(problem), "--method", "ode", "-o", str(output)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith(f"mkvlasov: {field}: got ")
    given, _, expected = printed.err.partition("; expected ")
    assert allowed in expected
    if value is MISSING:
        assert given.endswith("got nothing")
    elif field == path and isinstance(value, (bool, int, float, str)) and ":" not in str(value):
        assert repr(value)[:100] in given
    assert sorted(tmp_path.iterdir()) == [problem]


def test_the_file_that_the_mistakes_are_made_in_is_good(tmp_path):
    problem = tmp_path / "problem.toml"
    problem.write_text(tomli_w.dumps(GOOD))
    read, initial = mv.read_problem(problem)
    assert read.n_features == 2
    assert initial == mv.initial.Gaussian(1.0, [0.3, 0.2])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[problem\nactivation = 1", "line 1"),
        (b"[problem]\nactivation = \n", "line 2"),
        (b"[problem]\nouputs = 1\nouputs = 2\n", "line 3"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"", "a table [problem]"),
    ],
)
def test_a_file_that_is_not_toml_is_named_with_the_line(content, said, tmp_path, capsys):
    problem = tmp_path / "problem.toml"
    problem.write_bytes(content)
    assert _exit_of(["validate", str(problem), "-o", str(tmp_path / "report")]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert said in printed
    assert sorted(tmp_path.iterdir()) == [problem]


@pytest.mark.parametrize("source", ["no_such.toml", "no_such_builtin", ".", "\0"])
def test_a_file_that_cannot_be_read_is_named(source, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _exit_of(["solve", source, "--method", "pde"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith("mkvlasov: problem file: got ")
    with pytest.raises(ValueError, match=re.escape(repr(source))):
        mv.read_problem(source)


def _problem(**changes):
    arguments = {"hidden": mv.hidden.Rademacher([4.0, 3.0]), "activation": "tanh", "learning_rate": 0.4}
    return mv.Problem(**{**arguments, **changes})


W = np.linspace(-5.0, 5.0, 41)
BELL = np.exp(-0.5 * W * W) / math.sqrt(2.0 * math.pi)


def _table(**changes):
    arguments = {"loadings": [1.0, -1.0], "probabilities": [0.5, 0.5], "w": [W, W], "p": [BELL, BELL]}
    return mv.initial.Tabulated(**{**arguments, **changes})


# What can only go wrong in Python: (name of the field, what is called, part of the value, part of what is allowed).
PYTHON_CASES = [
    ("hidden", lambda: _problem(hidden=None), "None", "mkvlasov.hidden"),
    ("hidden", lambda: _problem(hidden=mv.hidden.Rademacher), "Rademacher", "mkvlasov.hidden"),
    ("hidden", lambda: _problem(hidden="Rademacher"), "'Rademacher'", "mkvlasov.hidden"),
    ("activation", lambda: _problem(activation="swish"), "'swish'", "'tanh', 'erf'"),
    ("activation", lambda: _problem(activation=np.tanh), "tanh", "activation object"),
    ("activation", lambda: _problem(activation=mv.activations.Tanh), "Tanh", "activation object"),
    ("activation", lambda: _problem(activation=None), "None", "activation object"),
    ("learning_rate", lambda: _problem(learning_rate="0.4"), "'0.4'", "function of the time"),
    ("learning_rate", lambda: _problem(learning_rate=None), "None", "function of the time"),
    ("learning_rate", lambda: _problem(learning_rate=lambda t: "fast"), "'fast'", "a finite number >= 0"),
    ("learning_rate", lambda: _problem(learning_rate=lambda t: math.nan), "nan", "a finite number >= 0"),
    ("learning_rate", lambda: _problem(learning_rate=lambda: 0.4), "<lambda>", "function of the time"),
    ("learning_rate", lambda: _problem(learning_rate=lambda t: 1.0 - t).rate(2.0), "-1.0", "a finite number >= 0"),
    ("regularizer", lambda: _problem(regularizer=0.3), "0.3", "mkvlasov.regularizers"),
    ("augmentation", lambda: _problem(augmentation=0.5), "0.5", "mkvlasov.augmentations"),
    ("loss", lambda: _problem(loss="covariance"), "'covariance'", "mkvlasov.losses"),
    ("loadings", lambda: _problem(loadings=mv.hidden.Gaussian(1.0)), "Gaussian", "mkvlasov.loadings"),
    ("outputs", lambda: _problem(outputs=True), "True", "an integer >= 1"),
    ("outputs", lambda: _problem(outputs=np.inf), "inf", "an integer >= 1"),
    ("batch_size", lambda: _problem(batch_size=None), "None", "an integer >= 1, or infinity"),
    ("background_variance", lambda: _problem(background_variance=1j), "1j", "a finite number >= 0"),
    ("constraint", lambda: _problem(constraint=["sphere"]), "['sphere']", "'sphere'"),
    ("hidden.variance", lambda: mv.hidden.Gaussian({"a": 1}), "{'a': 1}", "finite numbers > 0"),
    ("hidden.variance", lambda: mv.hidden.Gaussian([1.0, [2.0]]), "[1.0, [2.0]]", "finite numbers > 0"),
    ("hidden.variance", lambda: mv.hidden.Uniform(1j), "1j", "finite numbers > 0"),
    ("hidden.variance", lambda: mv.hidden.Laplace(None), "None", "finite numbers > 0"),
    ("hidden.atoms", lambda: mv.hidden.Discrete([[0.0], [0.0]], [0.5, 0.5]), "[0.]", "positive variance"),
    ("hidden.weights", lambda: mv.hidden.Discrete([1.0, -1.0], [1.5, -0.5]), "-0.5", "> 0"),
    ("hidden.samples", lambda: mv.hidden.Empirical([[1.0, np.nan]]), "nan", "finite numbers"),
    ("loadings.density", lambda: mv.loadings.Sparse("half"), "'half'", "a finite number"),
    ("loadings.atoms", lambda: mv.loadings.Discrete(np.ones((2, 2, 2)), [0.5, 0.5]), "array", "1 or 2 dimension(s)"),
    ("activation.slope", lambda: mv.activations.LeakyReLU(np.inf), "inf", "a finite number"),
    ("activation.coefficients", lambda: mv.activations.Polynomial([[1.0]]), "[[1.0]]", "1 dimension"),
    ("activation.coefficients", lambda: mv.activations.Polynomial([]), "[]", "finite numbers"),
    ("activation.function", lambda: mv.activations.Custom("tanh"), "'tanh'", "a function"),
    ("activation.function", lambda: mv.activations.Custom(math.tanh), "tanh", "same shape"),
    ("activation.function", lambda: mv.activations.Custom(np.log), "log", "finite numbers"),
    ("activation.function", lambda: mv.activations.Custom(np.sum), "sum", "same shape"),
    ("activation.derivative", lambda: mv.activations.Custom(np.sin, 1.0), "1.0", "a function"),
    ("regularizer.gradient", lambda: mv.regularizers.Custom(np.square, np.cos), "cos", "derivative of value"),
    ("regularizer.value", lambda: mv.regularizers.Custom(2.0, np.cos), "2.0", "a function"),
    ("regularizer.proximal", lambda: mv.regularizers.Custom(np.sin, np.cos, 1.0), "1.0", "a function"),
    ("regularizer.strength", lambda: mv.regularizers.GroupLasso(np.ones(2)), "array([1., 1.])", "a finite number >= 0"),
    ("step", lambda: mv.regularizers.DoubleWell(2.0).proximal(np.ones((1, 1)), 0.5), "0.5", "below 1 / strength"),
    ("augmentation.overlap", lambda: mv.augmentations.RandomMask(0.5, -0.1), "-0.1", ">= 0 and <= 0.5"),
    ("loss.function", lambda: mv.losses.Custom(1.0), "1.0", "a function"),
    ("loss.gradient", lambda: mv.losses.Custom(np.add, 1.0), "1.0", "a function"),
    ("loss.function", lambda: _problem(loss=mv.losses.Custom(np.multiply)), "multiply", "gives an array (...)"),
    ("loss.function", lambda: _problem(loss=mv.losses.Custom(lambda y: y)), "<lambda>", "two arrays"),
    ("learning_rate.exponent", lambda: mv.schedules.PowerDecay(1.0, 1.0, -1.0), "-1.0", ">= 0"),
    ("learning_rate.floor", lambda: mv.schedules.ExponentialDecay(1.0, 1.0, np.nan), "nan", ">= 0"),
    ("initial.Q", lambda: mv.initial.Gaussian([[1.0, 0.5], [0.4, 1.0]], 0.0), "0.4", "a symmetric matrix"),
    ("initial.Q", lambda: mv.initial.Gaussian([[1.0, 2.0], [2.0, 1.0]], 0.0), "2.0", "positive definite"),
    ("initial.R", lambda: mv.initial.Gaussian(1.0, "none"), "'none'", "finite numbers"),
    ("initial.w", lambda: mv.initial.Point([[1.0]]), "[[1.0]]", "dimension"),
    ("initial.components", lambda: mv.initial.Mixture([1.0], 3), "3", "Gaussian or Point"),
    ("initial.components", lambda: mv.initial.Mixture([1.0], [mv.initial.Gaussian]), "Gaussian", "Gaussian or Point"),
    ("initial.p", lambda: _table(p=[BELL, BELL * (1.0 + 3.0 * np.sin(8.0 * W))]), "array", "not negative"),
    ("initial.quadrature", lambda: _table(quadrature=-np.ones((2, 41))), "-1.", ">= 0"),
    ("initial.loadings", lambda: _table(loadings=[1.0, 1.0]), "[1.0, 1.0]", "that all differ"),
    ("initial.start", lambda: mv.initial.Affine(0.5, [[1.0]], [[0.1]], [[0.1]]), "0.5", "mkvlasov.initial"),
    ("initial.start", lambda: mv.initial.Affine(None, [[1.0]], [[0.1]], [[0.1]]), "None", "mkvlasov.initial"),
    ("order", lambda: mv.methods.Collocation(order=4.0), "4.0", "an integer"),
    ("order", lambda: mv.methods.Collocation(order=np.array([2, 4])), "array", "an integer"),
    ("order", lambda: mv.methods.Collocation(order=3), "3", "2, 4 or 6"),
    ("solution", lambda: mv.closure_defect(None), "None", "solve_pde"),
    ("solution", lambda: mv.closure_defect([]), "[]", "solve_pde"),
    ("path", lambda: mv.load(3), "3", "a path"),
    ("path", lambda: mv.load(""), "''", "a path"),
    ("problem file", lambda: mv.read_problem(3), "3", "a path"),
    ("path", lambda: mv.load(__file__), "test_bad_input.py", "Solution.save"),
]


@pytest.mark.parametrize("case", PYTHON_CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(PYTHON_CASES)])
def test_a_mistake_in_python_is_a_value_error_of_one_line(case):
    field, call, value, allowed = case
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the message is checked below, piece by piece
        call()
    message = str(raised.value)
    assert isinstance(raised.value, mv.InvalidInput)
    assert "\n" not in message
    assert message.startswith(field)
    given, separator, expected = message.removeprefix(field).partition("; expected ")
    assert separator
    assert value in given
    assert allowed in expected


FINE = {"problem": _problem(), "initial": mv.initial.Gaussian(1.0, [0.3, 0.2]), "t_eval": [0.0, 0.1]}
SMALL = {
    mv.solve_ode: {},
    mv.solve_pde: {"method": mv.methods.FiniteVolumes(40)},
    mv.simulate_particles: {"particles": 100, "runs": 2, "rng": 0},
    mv.simulate_sgd: {"dimension": 50, "runs": 2, "rng": 0},
}
SIMULATIONS = [mv.simulate_particles, mv.simulate_sgd]
# (routes, field, what is put there, part of what is said to be allowed)
ROUTE_CASES = [
    (list(SMALL), "problem", "contrastive", "a mkvlasov.Problem"),
    (list(SMALL), "problem", FINE["initial"], "a mkvlasov.Problem"),
    (list(SMALL), "initial", None, "mkvlasov.initial"),
    (list(SMALL), "initial.R", mv.initial.Gaussian(1.0, [0.3, 0.2, 0.1]), "shape (1, 2)"),
    (list(SMALL), "t_eval", 3.0, "1 dimension"),
    (list(SMALL), "t_eval", [], "finite numbers"),
    (list(SMALL), "t_eval", [-1.0, 1.0], ">= 0"),
    (list(SMALL), "t_eval", [0.0, 1.0, 1.0], "increasing"),
    (list(SMALL), "t_eval", [0.0, math.nan], "finite numbers"),
    (list(SMALL), "t_eval", "now", "finite numbers"),
    (list(SMALL), "progress", "no", "True or False"),
    ([mv.solve_ode, mv.solve_pde, mv.simulate_particles], "rtol", 0.0, "a finite number"),
    ([mv.solve_ode, mv.solve_pde, mv.simulate_particles], "rtol", "tight", "a finite number"),
    ([mv.solve_pde], "method", "FiniteVolumes", "a method from mkvlasov.methods"),
    ([mv.solve_pde], "method", mv.methods.FiniteVolumes, "a method from mkvlasov.methods"),
    ([mv.solve_pde], "loading_order", 0, ">= 2"),
    ([mv.solve_pde], "loading_order", 10**9, "<= 20000"),
    (SIMULATIONS, "runs", 0, ">= 1"),
    (SIMULATIONS, "rng", "x", "an integer"),
    (SIMULATIONS, "rng", -1, ">= 0"),
    (SIMULATIONS, "rng", 1.5, "an integer"),
    (SIMULATIONS, "snapshots", [5.0], "up to the last of t_eval"),
    (SIMULATIONS, "snapshots", [-1.0], ">= 0"),
    (SIMULATIONS, "snapshots", 0.05, "1 dimension"),
    (SIMULATIONS, "workers", 0, ">= 1"),
    ([mv.simulate_particles], "particles", 0, "an integer"),
    ([mv.simulate_particles], "time_step", 0.0, "> 0"),
    ([mv.simulate_sgd], "dimension", 3, ">= 4"),
    ([mv.simulate_sgd], "dimension", 1e3, "an integer"),
    ([mv.simulate_sgd], "exact_overlaps", "yes", "True or False"),
    ([mv.simulate_sgd], "loss_batches", 0, ">= 1"),
    ([mv.simulate_sgd], "t_eval", [0.0, 1e300], "steps"),
    ([mv.simulate_sgd], "observables", np.zeros(3), "a mapping"),
    ([mv.simulate_sgd], "callback", object, "a function of t, Q and R"),
    ([mv.simulate_sgd], "checkpoint", 3, "a path"),
    ([mv.simulate_sgd], "checkpoint", b"run.npz", "a path"),
    ([mv.simulate_sgd], "checkpoint", "", "a path"),
    ([mv.simulate_sgd], "checkpoint", "/nowhere/run.npz", "an existing folder"),
    ([mv.simulate_sgd], "checkpoint", __file__ + "/run.npz", "an existing folder"),
    ([mv.simulate_sgd], "checkpoint", __file__, "a checkpoint of simulate_sgd"),
    ([mv.simulate_sgd], "checkpoint_every", "often", "a finite number"),
]


@pytest.mark.parametrize(
    ("route", "field", "value", "allowed"),
    [(route, *case) for routes, *case in ROUTE_CASES for route in routes],
    ids=[f"{route.__name__}-{case[0]}={case[1]!r}"[:70] for routes, *case in ROUTE_CASES for route in routes],
)
def test_a_bad_argument_of_a_route_is_named_before_any_work(route, field, value, allowed):
    arguments = {**FINE, **SMALL[route], field.partition(".")[0]: value}
    with pytest.raises(mv.InvalidInput) as raised:
        route(arguments.pop("problem"), arguments.pop("initial"), **arguments)
    message = str(raised.value)
    assert message.startswith(f"{field}: got ")
    assert "\n" not in message
    assert allowed in message.partition("; expected ")[2]


@pytest.mark.parametrize("route", SMALL)
def test_a_schedule_that_fails_on_the_way_is_named_with_the_time(route):
    def failing(t):
        if t > 0.05:
            raise RuntimeError("boom")
        return 0.4

    with pytest.raises(mv.InvalidInput, match=r"^learning_rate: .*at t = 0\.\d+ it raised RuntimeError\('boom'\)"):
        route(_problem(learning_rate=failing), FINE["initial"], t_eval=[0.0, 0.1], **SMALL[route])


@pytest.mark.parametrize("t", ["now", None, math.nan, [0.1], 0.03])
def test_a_density_at_what_is_no_stored_time_is_refused(t):
    ode = mv.solve_ode(FINE["problem"], FINE["initial"], t_eval=[0.0, 0.1])
    with pytest.raises(mv.InvalidInput, match=r"^t: got "):
        ode.density(t=t, loading=[1.0, 0.0])


@pytest.mark.parametrize("times", [[], 0.1, "all"])
def test_times_of_a_figure_that_are_no_list_of_times_are_named(times):
    ode = mv.solve_ode(FINE["problem"], FINE["initial"], t_eval=[0.0, 0.1])
    with pytest.raises(mv.InvalidInput, match=r"^times: got "):
        ode.plot_density(times=times)


@pytest.mark.parametrize("content", ["array", "list", "empty"])
def test_a_file_of_numpy_that_is_no_checkpoint_is_named(content, tmp_path):
    path = tmp_path / "run.npz"
    with path.open("wb") as file:
        if content == "array":
            np.save(file, np.zeros(3))
        else:
            np.savez(file, content=np.array({"list": "[1, 2]", "empty": "{}"}[content]))
    with pytest.raises(mv.InvalidInput, match=r"^checkpoint: got .*a checkpoint of simulate_sgd"):
        mv.simulate_sgd(**FINE, **SMALL[mv.simulate_sgd], checkpoint=path)


def test_a_callback_of_one_argument_or_with_an_unclear_answer_is_named():
    for callback, allowed in ((lambda t: False, "of t, Q and R"), (lambda t, Q, R: np.zeros(3), "true or false")):
        with pytest.raises(mv.InvalidInput, match=rf"^callback: got .*{allowed}"):
            mv.simulate_sgd(**FINE, **SMALL[mv.simulate_sgd], callback=callback)


def test_an_observable_that_takes_one_argument_is_named_before_any_work():
    with pytest.raises(mv.InvalidInput, match=r"^observables\['size'\]: got .*a function of W and U"):
        mv.simulate_sgd(**FINE, **SMALL[mv.simulate_sgd], observables={"size": lambda W: 1.0})


def test_the_dimension_beside_data_is_one_integer():
    data = mv.from_data(np.random.default_rng(0).standard_normal((200, 12)), n_features=1)
    problem = data.problem(activation="tanh", learning_rate=0.4)
    for dimension in (np.array([12, 12]), 12.0):
        with pytest.raises(mv.InvalidInput, match=r"^dimension: got "):
            mv.simulate_sgd(problem, mv.initial.Gaussian(1.0, 0.3), t_eval=[0.1], data=data, dimension=dimension)


def test_several_states_or_a_bad_name_or_range_are_refused_by_the_analysis():
    system = mv.reduce(_problem(regularizer=mv.regularizers.L2(0.3)))
    with pytest.raises(mv.InvalidInput, match=r"^point: got .*not several"):
        system.stability((np.ones((3, 1, 1)), np.zeros((3, 1, 2))))
    with pytest.raises(mv.InvalidInput, match=r"^name: got "):
        system.learnability().critical_values(np.zeros(2))
    with pytest.raises(mv.InvalidInput, match=r"^bounds: got \(-2, 2\)"):
        system.learnability().critical_values("batch_size", bounds=(-2, 2))


def test_the_closure_defect_of_particles_asks_for_snapshots():
    problem, initial = mv.read_problem("sparse")
    particles = mv.simulate_particles(problem, initial, t_eval=[0.0, 0.1], particles=100, runs=2, progress=False)
    with pytest.raises(mv.InvalidInput, match=r"^solution: got .*with snapshots"):
        mv.closure_defect(particles)


@pytest.mark.parametrize("function", [None, "w", 3.0, object, lambda: 1.0, lambda w: "x"])
def test_what_is_no_function_of_the_weight_has_no_mean(function):
    ode = mv.solve_ode(FINE["problem"], FINE["initial"], t_eval=[0.0, 0.1])
    sgd = mv.simulate_sgd(**FINE, **SMALL[mv.simulate_sgd], snapshots=[0.1])
    for density in (ode.density(0.1, [1.0, 0.0]), sgd.histogram(0.1)):
        with pytest.raises(mv.InvalidInput, match=r"^function: got "):
            density.mean_of(function)
    with pytest.raises(mv.InvalidInput, match=r"^w: got .*increasing"):
        ode.density(0.1, [1.0, 0.0], w=[2.0, 1.0])


def test_a_solution_is_saved_and_loaded_by_a_path_and_with_a_problem(tmp_path):
    ode = mv.solve_ode(FINE["problem"], FINE["initial"], t_eval=[0.0, 0.1])
    for path in (None, 3, ""):
        with pytest.raises(mv.InvalidInput, match=r"^path: got "):
            ode.save(path)
    ode.save(tmp_path / "run.nc")
    for name in ("problem", "initial"):
        for value in (0, [], np.zeros(2)):
            with pytest.raises(mv.InvalidInput, match=f"^{name}: got "):
                mv.load(tmp_path / "run.nc", **{name: value})


def test_what_is_no_solution_is_not_drawn(tmp_path):
    ode = mv.solve_ode(FINE["problem"], FINE["initial"], t_eval=[0.0, 0.1])
    one = mv.solve_ode(_problem(hidden=mv.hidden.Rademacher(4.0)), mv.initial.Gaussian(1.0, 0.3), t_eval=[0.0, 0.1])
    for bad in (None, [], (), "ode", ode, [None], {"ode": ode}, np.zeros(3), [ode, 3], [ode, one]):
        for draw in (
            mv.plot_solutions,
            lambda given: mv.plot_densities(given, [0.1]),
            lambda given: mv.animate_density(given, tmp_path / "film.gif"),
        ):
            with pytest.raises(mv.InvalidInput, match=r"^solutions: got "):
                draw(bad)
        if bad is not ode:
            with pytest.raises(mv.InvalidInput, match=r"^solution: got "):
                mv.plot_density_map(bad)
    for path in (None, 3, b"film.gif"):
        with pytest.raises(mv.InvalidInput, match=r"^path: got "):
            ode.animate_density(path)


def test_a_time_without_snapshot_gives_no_empty_panel():
    for snapshots in (None, [0.1]):
        sgd = mv.simulate_sgd(**FINE, **SMALL[mv.simulate_sgd], snapshots=snapshots)
        with pytest.raises(mv.InvalidInput, match=r"^times: got 0\.05"):
            sgd.plot_density([0.05])
