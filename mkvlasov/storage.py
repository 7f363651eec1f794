"""Solutions as labelled datasets, and to and from NetCDF files.

Storage knows no route: a solution is a tree of dataclasses whose leaves are arrays, numbers, text, mappings and tuples.
Arrays become variables named by their path in the tree ("Q", "runs.Q"); the tree itself, with everything small, is kept
as JSON in the attribute "structure"; the problem as the text of a problem file in the attribute "problem". Initial laws
that no problem file can hold (where another solution ended, large samples) are part of the tree.
"""

from __future__ import annotations

import json
import os
import platform
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import scipy
import tomli_w
import xarray

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.configuration import from_table, problem_from_table, problem_to_table, to_toml
from mkvlasov.errors import InvalidInput
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import Empirical, InitialLaw, check_initial
from mkvlasov.solution import Solution

_FORMAT = 2
"""Raised when files written earlier can no longer be read."""

_MOST_ROWS = 10_000
"""Samples of more rows are stored as arrays, not as text."""

_PER_TIME = {"Q": ("output", "output_"), "R": ("output", "feature"), "loss": ()}
_DIMENSIONS: dict[str, tuple[str, ...]] = {
    "t": ("time",),
    **{name: ("time", *last) for name, last in _PER_TIME.items()},
    **{f"{name}_error": ("time", *last) for name, last in _PER_TIME.items()},
    **{f"{name}_stderr": ("time", *last) for name, last in _PER_TIME.items()},
    **{f"runs.{name}": ("time", "run", *last) for name, last in _PER_TIME.items()},
    "A": ("time", "output", "output_"),
    "C": ("time", "output", "feature"),
    "P": ("time", "output", "output_"),
    "loading_points": ("loading", "feature"),
    "loading_weights": ("loading",),
    "nodes": ("time", "loading", "node"),
    "densities": ("time", "loading", "node"),
    "quadrature": ("time", "loading", "node"),
    "density_error": ("time",),
    "coefficients.t": ("step",),
    "coefficients.linear": ("step",),
    "coefficients.tilt": ("step", "feature"),
    "coefficients.tau": ("step",),
    "coefficients.diffusion": ("step",),
    "snapshots.t": ("snapshot",),
    "snapshots.weights": ("snapshot", "run", "coordinate", "output"),
    "snapshots.loadings": ("run", "coordinate", "feature"),
}
"""Names of the axes; arrays that are not listed here get names of their own."""

_TWO_OUTPUTS: dict[str, tuple[str, ...]] = {
    "origins": ("time", "loading", "output"),
    "axes": ("time", "loading", "output", "side"),
    "coordinates": ("time", "loading", "side", "cell"),
    "densities": ("time", "loading", "cell", "cell_"),
    "coefficients.linear": ("step", "output", "output_"),
    "coefficients.tilt": ("step", "output", "feature"),
    "coefficients.diffusion": ("step", "output", "output_"),
}
"""The same for the PDE with two outputs, where arrays have more axes."""

_LONG_NAMES = {
    "Q": "overlaps of weights with weights",
    "R": "overlaps of weights with features",
    "loss": "expected training loss",
    "A": "propagator of the initial weights",
    "C": "response to the loading",
    "P": "covariance added by the noise",
    "nodes": "weights w at which the densities are given",
    "densities": "density p(w | a)",
    "origins": "w = origin + axes xi: origins of the boxes",
    "axes": "w = origin + axes xi: axes of the boxes",
    "coordinates": "xi at the centres of the cells",
    "quadrature": "quadrature weights of the nodes",
    "density": "density p(w | a) in L1, mean over the loadings",
}


def to_xarray(solution: Solution) -> xarray.Dataset:
    """Return everything that a solution holds as a labelled dataset.

    Parameters
    ----------
    solution : Solution

    Returns
    -------
    xarray.Dataset
        Dimensions time, output, output_, feature (and run, ...); arrays of parts of the solution are named by their
        path ("runs.Q"). Attributes: route, how the run ended, statistics, versions, and the problem as the text of a
        problem file (or a note where it holds functions that a file cannot name).
    """
    arrays: dict[str, Array] = {}
    structure = _flatten("", solution, arrays, skip=("problem", "initial"))
    source = _source(solution, structure, arrays)
    m, k = solution.R.shape[1:]
    sizes = {"time": len(solution.t), "output": m, "output_": m, "feature": k}
    variables = {name: _variable(name, values, sizes) for name, values in arrays.items() if name != "t"}
    time = ("time", solution.t, {"units": "steps / N", "long_name": "time"})
    derived = ("time", "output", "feature")
    variables["cosine_similarity"] = xarray.Variable(derived, solution.cosine_similarity)
    attributes: dict[str, Any] = {
        "route": solution.route,
        "success": int(solution.status.success),
        "status": solution.status.message,
        "stats": json.dumps(dict(solution.stats)),
        "versions": json.dumps(_versions()),
        "format": _FORMAT,
        "structure": json.dumps(structure),
        **source,
    }
    coordinates = {"time": time, "output": np.arange(m), "output_": np.arange(m), "feature": np.arange(k)}
    return xarray.Dataset(variables, coordinates, attributes)


def _source(solution: Solution, structure: dict[str, Any], arrays: dict[str, Array]) -> dict[str, str]:
    """Return the attributes that hold problem and initial law; a law that is no matter for text goes to the arrays."""
    problem, initial, note = solution.problem, solution.initial, ""
    try:
        if not (isinstance(initial, Empirical) and len(initial.weights) > _MOST_ROWS):
            return {"problem": to_toml(problem, initial)}
    except InvalidInput as error:
        note = str(error)
    inside: dict[str, Array] = {}
    try:
        law = _flatten("initial", initial, inside)
        text = tomli_w.dumps(problem_to_table(problem))
    except InvalidInput as error:
        note = str(error)
    except TypeError as error:
        note = note or str(error)
    else:
        structure["fields"]["initial"] = law
        arrays.update(inside)
        return {"problem": text}
    return {"problem_note": f"not stored: {note}", "problem_printed": f"{problem!r}\n{initial!r}"}


def save(solution: Solution, path: str | Path) -> None:
    """Write a solution to a NetCDF file, all or nothing: an interrupted write leaves what was there before.

    Parameters
    ----------
    solution : Solution
    path : str or Path
        An existing file is replaced.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    target = _checks.path("path", path)
    dataset = to_xarray(solution)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        dataset.to_netcdf(temporary, engine="h5netcdf", format="NETCDF4")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path, *, problem: Problem | None = None, initial: InitialLaw | None = None) -> Solution:
    """Return the solution that `save` wrote.

    Parameters
    ----------
    path : str or Path
    problem, initial : optional
        Take the place of the stored ones; needed where these hold functions that a file cannot name.

    Returns
    -------
    Solution
        Of the class that was saved.

    Raises
    ------
    InvalidInput
        If the file is none of ours, or if it lacks the problem and none is given.
    OSError
        If the file cannot be read.

    Notes
    -----
    A stored problem may name functions, which are imported: load only files that you would also run.
    """
    path = _checks.path("path", path)
    try:
        return _load(path, problem, initial)
    except (KeyError, TypeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        allowed = f"a whole file that Solution.save wrote (this one is damaged: {error!r})"
        raise InvalidInput("path", str(path), allowed) from error


def _load(path: str | Path, problem: Problem | None, initial: InitialLaw | None) -> Solution:
    dataset = _open(Path(path))
    structure = json.loads(dataset.attrs["structure"])
    arrays = {str(name): np.asarray(variable.values) for name, variable in dataset.variables.items()}
    arrays["t"] = arrays.pop("time")
    law = structure["fields"].pop("initial", None)
    if initial is None and law is not None:
        initial = _rebuild(law, arrays)
    if problem is None or initial is None:
        stored = _stored_problem(dataset, path, with_initial=initial is None)
        problem = stored[0] if problem is None else problem
        initial = stored[1] if initial is None else initial
    check_initial(initial, problem)
    shape = arrays["R"].shape[1:]
    if shape != (problem.outputs, problem.n_features):
        raise InvalidInput("problem", problem, f"a problem with {shape[0]} output(s) and {shape[1]} feature(s)")
    solution = _rebuild(structure, arrays, {"problem": problem, "initial": initial})
    assert isinstance(solution, Solution)
    return solution


def _open(path: Path) -> xarray.Dataset:
    """Read a whole file, if it is one of ours."""
    if not path.exists():
        raise FileNotFoundError(2, "no such file", str(path))
    if path.is_dir():
        raise IsADirectoryError(21, "is a directory", str(path))
    allowed = "a NetCDF file that Solution.save wrote"
    try:
        dataset = xarray.load_dataset(path, engine="h5netcdf", decode_times=False)
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        raise InvalidInput("path", str(path), allowed) from None
    if "structure" not in dataset.attrs:
        raise InvalidInput("path", str(path), allowed)
    if int(dataset.attrs["format"]) != _FORMAT:
        raise InvalidInput("path", str(path), f"a file in format {_FORMAT} (this one: {dataset.attrs['format']})")
    return dataset


def _stored_problem(
    dataset: xarray.Dataset, path: str | Path, *, with_initial: bool
) -> tuple[Problem, InitialLaw | None]:
    advice = "; pass problem=... and initial=... to load, nothing else is missing"
    field, value = "path", str(path)
    if "problem" not in dataset.attrs:
        note = dataset.attrs["problem_note"]
        raise InvalidInput(field, value, f"a file with its problem ({note}){advice}")
    try:
        table = tomllib.loads(dataset.attrs["problem"])
        if not with_initial:
            return problem_from_table(table), None
        content = from_table(table)
    except InvalidInput as error:
        raise InvalidInput(field, value, f"a file with a readable problem ({error}){advice}") from None
    return content.problem, content.initial


def _variable(name: str, values: Array, sizes: dict[str, int]) -> xarray.Variable:
    """Name the axes of an array, and say what it is; `sizes` holds the lengths that the names already stand for."""
    plane = _TWO_OUTPUTS.get(name, ())
    known = plane if len(plane) == values.ndim else _DIMENSIONS.get(name, ())
    fits = len(known) == values.ndim and all(sizes.get(d, n) == n for d, n in zip(known, values.shape, strict=True))
    # An array that does not fit (loadings that were not kept, say) gets axes of its own.
    dimensions = known if fits else tuple(f"{name}_{axis}" for axis in range(values.ndim))
    sizes.update(zip(dimensions, values.shape, strict=True))
    base = name.removeprefix("runs.").removesuffix("_error").removesuffix("_stderr")
    attributes = {"long_name": _LONG_NAMES[base]} if base in _LONG_NAMES and known else {}
    if known and name.endswith("_error"):
        attributes["long_name"] += ", estimated discretization error"
    if known and name.endswith("_stderr"):
        attributes["long_name"] += ", standard error of the mean over runs"
    if dimensions == ("snapshot",):
        attributes["units"] = "steps / N"
    return xarray.Variable(dimensions, values, attributes)


def _flatten(path: str, value: Any, arrays: dict[str, Array], *, skip: tuple[str, ...] = ()) -> Any:
    """Return the JSON form of a value; arrays are collected under their path."""
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"array": path}
    if isinstance(value, Problem):
        return problem_to_table(value)
    if is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        inside = {
            f.name: _flatten(_join(path, f.name), getattr(value, f.name), arrays)
            for f in fields(value)
            if f.init and f.name not in skip
        }
        return {"class": f"{cls.__module__}:{cls.__qualname__}", "fields": inside}
    if isinstance(value, Mapping):
        return {"mapping": {str(key): _flatten(_join(path, str(key)), item, arrays) for key, item in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [_flatten(_join(path, str(i)), item, arrays) for i, item in enumerate(value)]}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path}: only arrays, numbers, text and dataclasses of these can be stored, not {value!r}")


def _rebuild(node: Any, arrays: Mapping[str, Array], given: Mapping[str, Any] | None = None) -> Any:
    """Invert `_flatten`; `given` adds fields to the outermost dataclass."""
    if not isinstance(node, dict):
        return node
    if "array" in node:
        return arrays[node["array"]]
    if "problem" in node:
        return problem_from_table(node)
    if "mapping" in node:
        return {key: _rebuild(item, arrays) for key, item in node["mapping"].items()}
    if "tuple" in node:
        return tuple(_rebuild(item, arrays) for item in node["tuple"])
    module, _, name = node["class"].partition(":")
    if module.partition(".")[0] != __package__:
        raise InvalidInput("path", node["class"], "a class of this package")
    cls = getattr(import_module(module), name)
    return cls(**{key: _rebuild(item, arrays) for key, item in node["fields"].items()}, **(given or {}))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _versions() -> dict[str, str]:
    return {
        "mkvlasov": metadata.version("mkvlasov"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "h5netcdf": h5netcdf.__version__,
    }
