"""Continuous parameters of a problem by name, such as "regularizer.strength" or "hidden.variance[0]"."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import InvalidInput
from mkvlasov.problem.contrastive import Problem

_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\[(\d+)\])?")


def parameter(problem: Problem, name: str) -> Array | float:
    """Return the number(s) that a path names; raises `InvalidInput` if there are none."""
    fields, index = _split(name)
    value: Any = problem
    try:
        for field in fields:
            value = getattr(value, field)
        value = value if index is None else np.asarray(value)[index]
    except (AttributeError, IndexError):
        raise InvalidInput("name", name, "the path of a number in the problem, such as 'hidden.variance[0]'") from None
    kind = np.asarray(value).dtype.kind
    if kind != "f" or fields[0] == "batch_size":
        raise InvalidInput("name", name, "the path of a continuous parameter of the problem (this one is not)")
    return value


def with_parameter(problem: Problem, name: str, value: ArrayLike) -> Problem:
    """Return the problem with one parameter replaced; frozen pieces are rebuilt, and so checked.

    Parameters
    ----------
    problem : Problem
    name : str
        A path that `parameter` knows.
    value : float or array
        The new value; one number stands for all entries of an array.

    Raises
    ------
    InvalidInput
        If the piece refuses the value, or cannot be rebuilt.
    """
    fields, index = _split(name)

    def rebuild(piece: Any, rest: list[str]) -> Any:
        if not rest:
            changed = np.array(piece, dtype=np.float64)
            changed[... if index is None else index] = value
            return changed if changed.ndim else float(changed)
        return replace(piece, **{rest[0]: rebuild(getattr(piece, rest[0]), rest[1:])})

    try:
        return rebuild(problem, fields)
    except TypeError:
        raise InvalidInput("name", name, "a parameter of a frozen dataclass, so that it can be replaced") from None


def _split(name: str) -> tuple[list[str], int | None]:
    match = _PATH.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise InvalidInput("name", name, "a path such as 'regularizer.strength' or 'hidden.variance[0]'")
    return match[1].split("."), None if match[2] is None else int(match[2])
