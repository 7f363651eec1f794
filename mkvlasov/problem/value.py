"""Value semantics shared by every piece of a problem: compared by content, printed as typed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np


class Value:
    """Base of frozen dataclasses whose fields may be arrays: equality and printing by value."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))  # type: ignore[arg-type]

    def __hash__(self) -> int:
        return hash((type(self).__name__, *(_key(getattr(self, f.name)) for f in fields(self))))  # type: ignore[arg-type]

    def __repr__(self) -> str:
        inside = ", ".join(f"{f.name}={_show(getattr(self, f.name))}" for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({inside})"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return bool(a == b)


def _key(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return (value.shape, value.tobytes())
    return value


def _show(value: Any) -> str:
    if isinstance(value, np.ndarray):
        if value.size > 12:
            return f"<array of shape {value.shape}>"
        return str(value.tolist())
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    return repr(value)
