"""Problem files: what `Problem(...)` and the initial laws say, as TOML tables of the same names.

    [problem]
    activation = "tanh"
    learning_rate = 0.4
    [problem.hidden]
    law = "Rademacher"
    variance = [4, 3]
    [initial]
    law = "Gaussian"
    R = [0.3, 0.2]
    [run]
    t_final = 6

A table names a class (`law = ...` or `name = ...`); its other keys are the arguments of that class, read off its
signature, so that a new class needs no line here. A name alone stands for a table without arguments. Functions, and
objects of one's own, are given as "module:name".
"""

from __future__ import annotations

import inspect
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from mkvlasov import _checks
from mkvlasov._pieces import SECTIONS, Nothing, known_keys, listed, read_piece, required_keys, write_piece
from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw, check_initial

DEFAULT_PROBLEM = "contrastive"
"""The built-in problem that commands take when none is given."""


@dataclass(frozen=True)
class RunOptions:
    """What the commands need beyond the problem; table [run] of a problem file.

    Attributes
    ----------
    t_final : float
        Last time, in units of N steps; 6 by default.
    times : int
        Number of equally spaced output times from 0 to `t_final`; 31 by default.
    dimension : int
        N of SGD; 1000 by default.
    runs : int
        Independent runs of SGD and of the particle system; 16 by default.
    particles : int
        Particles per run; 10 000 by default.
    seed : int
        Of everything random; 0 by default.
    """

    t_final: float = 6.0
    times: int = 31
    dimension: int = 1000
    runs: int = 16
    particles: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "t_final", _checks.number("run.t_final", self.t_final, minimum=0.0, maximum=math.inf, exclusive=True))
        for name, least in (("times", 2), ("dimension", 2), ("runs", 1), ("particles", 2), ("seed", 0)):
            put(self, name, _checks.integer(f"run.{name}", getattr(self, name), minimum=least))

    @property
    def t_eval(self) -> Array:
        """The output times, shape (times,)."""
        return np.linspace(0.0, self.t_final, self.times)


@dataclass(frozen=True)
class ProblemFile:
    """Content of a problem file.

    Attributes
    ----------
    problem : Problem
    initial : InitialLaw
    run : RunOptions
    name : str
        Name of the built-in problem, or of the file without its ending.
    """

    problem: Problem
    initial: InitialLaw
    run: RunOptions
    name: str


def read_problem(source: str | Path) -> tuple[Problem, InitialLaw]:
    """Return the problem and the initial law that a file, or a built-in problem, describes.

    Parameters
    ----------
    source : str or Path
        Path of a TOML file, or the name of a built-in problem (`builtin_problems` lists them; their names win).

    Returns
    -------
    problem : Problem
    initial : InitialLaw

    Raises
    ------
    InvalidInput
        A `ValueError` naming the field by its path in the file, its value, and what is allowed.

    Notes
    -----
    Functions named "module:name" are imported, from the installed packages or from the folder of the file: read only
    files that you would also run.
    """
    content = read_problem_file(source)
    return content.problem, content.initial


def read_problem_file(source: str | Path) -> ProblemFile:
    """Return everything that a problem file says; see `read_problem`."""
    text, name, folder = _read_text(source)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput("problem file", str(source), f"valid TOML ({error})") from None
    return from_table(table, name=name, folder=folder)


def from_table(table: Mapping[str, Any], *, name: str = "", folder: Path | None = None) -> ProblemFile:
    """Return what the tables of a problem file say.

    Parameters
    ----------
    table : mapping
        With the tables "problem", "initial" and, optionally, "run".
    name : str
        Name of the result.
    folder : Path, optional
        Where modules of functions are looked for, after the usual places.
    """
    known_keys("", table, ["problem", "initial", "run"])
    problem = problem_from_table(table, folder=folder)
    initial = check_initial(
        read_piece("initial", table.get("initial", Nothing()), kind="initial", folder=folder), problem
    )
    options = _table("run", table.get("run", {}))
    known_keys("run", options, [f.name for f in fields(RunOptions)])
    return ProblemFile(problem, initial, RunOptions(**options), name)


def problem_from_table(table: Mapping[str, Any], *, folder: Path | None = None) -> Problem:
    """Return what the table "problem" of a problem file says; `folder` as for `from_table`."""
    given = _table("problem", table.get("problem", Nothing()))
    parameters = inspect.signature(Problem).parameters
    known_keys("problem", given, list(parameters))
    required_keys("problem", given, parameters, "a value; every problem needs one")
    arguments = {
        key: read_piece(f"problem.{key}", value, kind=key, folder=folder) if key in SECTIONS else value
        for key, value in given.items()
    }
    try:
        return Problem(**arguments)
    except InvalidInput as error:
        raise error.within("problem") from None


def to_table(problem: Problem, initial: InitialLaw, run: RunOptions | None = None) -> dict[str, Any]:
    """Return the tables of the problem file that says the same: the inverse of `from_table`.

    Raises
    ------
    InvalidInput
        If a function or an object of the user's cannot be named as "module:name" (a lambda, for example).
    """
    table = {**problem_to_table(problem), "initial": write_piece("initial", initial, "initial")}
    if run is not None:
        table["run"] = {f.name: getattr(run, f.name) for f in fields(run)}
    return table


def problem_to_table(problem: Problem) -> dict[str, Any]:
    """Return the table "problem" of a problem file; raises like `to_table`."""
    return {
        "problem": {
            f.name: write_piece(f"problem.{f.name}", getattr(problem, f.name), f.name)
            for f in fields(problem)
            if getattr(problem, f.name) is not None
        }
    }


def to_toml(problem: Problem, initial: InitialLaw, run: RunOptions | None = None) -> str:
    """Return the text of the problem file that says the same; raises like `to_table`."""
    return tomli_w.dumps(to_table(problem, initial, run))


def builtin_problems() -> dict[str, str]:
    """Return the names of the built-in problems, the default first, each with a line that says what it shows."""
    found = {
        item.name.removesuffix(".toml"): item.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for item in resources.files("mkvlasov").joinpath("builtin").iterdir()
        if item.name.endswith(".toml")
    }
    return {name: found[name] for name in sorted(found, key=lambda name: (name != DEFAULT_PROBLEM, name))}


def builtin_text(name: str) -> str:
    """Return the file of a built-in problem as it is; raises `InvalidInput` for an unknown name."""
    known = builtin_problems()
    if name not in known:
        raise InvalidInput("built-in problem", name, "one of " + listed(known))
    return resources.files("mkvlasov").joinpath("builtin", f"{name}.toml").read_text(encoding="utf-8")


def _read_text(source: str | Path) -> tuple[str, str, Path | None]:
    """Return text, name and folder of a problem file."""
    if not isinstance(source, (str, Path)):
        raise InvalidInput("problem file", source, "a path or the name of a built-in problem")
    if isinstance(source, str) and source in builtin_problems():
        return builtin_text(source), source, None
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8"), path.stem, path.resolve().parent
    except FileNotFoundError:
        allowed = "an existing file, or one of the built-in problems " + listed(builtin_problems())
        raise InvalidInput("problem file", str(source), allowed) from None
    except UnicodeDecodeError as error:
        raise InvalidInput("problem file", str(source), f"a text file in UTF-8 ({error.reason})") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput("problem file", str(source), f"a readable file ({reason})") from None


def _table(path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(path, value, f"a table [{path}]")
    return value
