"""Validators with one idea each: they return the clean value or raise `InvalidInput` naming field, value and range."""

from __future__ import annotations

import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mkvlasov._typing import Array, Seed
from mkvlasov.errors import InvalidInput


def number(
    field: str,
    value: object,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    exclusive: bool = False,
) -> float:
    """Return a finite float within [minimum, maximum], or within the open interval if `exclusive`."""
    allowed = "a finite number" + _range(minimum, maximum, exclusive)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.ndarray)):
        raise InvalidInput(field, value, allowed)
    if isinstance(value, np.ndarray) and (value.ndim or not np.issubdtype(value.dtype, np.number)):
        raise InvalidInput(field, value, allowed)
    try:
        result = float(value)
    except OverflowError:
        raise InvalidInput(field, value, allowed) from None
    inside = minimum < result < maximum if exclusive else minimum <= result <= maximum
    if not math.isfinite(result) or not inside:
        raise InvalidInput(field, value, allowed)
    return result


def integer(field: str, value: object, *, minimum: int, maximum: int | None = None) -> int:
    """Return an int within [minimum, maximum]."""
    allowed = f"an integer >= {minimum}" + ("" if maximum is None else f" and <= {maximum}")
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise InvalidInput(field, value, allowed)
    result = int(value)
    if result < minimum or (maximum is not None and result > maximum):
        raise InvalidInput(field, value, allowed)
    return result


def flag(field: str, value: object) -> bool:
    """Return a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidInput(field, value, "True or False")
    return bool(value)


def choice(field: str, value: object, options: Iterable[Any]) -> Any:
    """Return the value if it is one of the options."""
    listed = list(options)
    if not isinstance(value, (str, type(None))) or value not in listed:
        raise InvalidInput(field, value, "one of " + ", ".join(repr(option) for option in listed))
    return value


def function(field: str, value: object) -> Callable[..., Any]:
    """Return the value if it can be called."""
    if not callable(value):
        raise InvalidInput(field, value, "a function")
    return value


def function_of(field: str, value: object, count: int, allowed: str) -> Callable[..., Any]:
    """Return the value if it can be called with `count` arguments, as far as its signature tells."""
    if not callable(value):
        raise InvalidInput(field, value, allowed)
    try:
        inspect.signature(value).bind(*range(count))
    except TypeError:
        raise InvalidInput(field, value, allowed) from None
    except ValueError:
        pass  # some functions written in C do not tell
    return value


def path(field: str, value: object) -> Path:
    """Return a path that is given as one or as text."""
    if isinstance(value, (str, os.PathLike)) and (text := os.fspath(value)) and isinstance(text, str):
        return Path(text)
    raise InvalidInput(field, value, "a path, as text or Path")


def output_file(field: str, value: object) -> Path:
    """Return the path of a file that can be written, as far as folders tell."""
    target = path(field, value)
    folder = target.absolute().parent
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InvalidInput(field, str(target), "a file in an existing folder where files can be written")
    return target


def output_folder(field: str, value: object) -> Path:
    """Return the path of a folder, existing or not, where files can be written, as far as folders tell."""
    target = path(field, value)
    nearest = target.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InvalidInput(field, str(target), "a folder, existing or not, where files can be written")
    return target


def elementwise(field: str, f: object) -> Callable[[Array], Array]:
    """Check once, on a small array, that a user's function is vectorized and finite."""
    checked = function(field, f)
    allowed = "a function that maps an array of finite numbers to finite numbers of the same shape"
    probe = np.linspace(-2.0, 2.0, 6).reshape(2, 3)
    try:
        result = np.asarray(checked(probe), dtype=np.float64)
    except Exception as error:
        raise InvalidInput(field, f, f"{allowed} (on a 2 x 3 array it raised {error!r})") from error
    if result.shape != probe.shape or not np.isfinite(result).all():
        raise InvalidInput(field, f, f"{allowed} (on a 2 x 3 array it gave {result!r})")
    return checked


def array(
    field: str,
    value: object,
    *,
    ndim: int | tuple[int, ...] | None = None,
    shape: tuple[int | None, ...] | None = None,
    minimum: float = -math.inf,
    exclusive: bool = False,
) -> Array:
    """Return a read-only float64 copy with finite entries; `None` in `shape` leaves that length free."""
    allowed = "an array of finite numbers" + _range(minimum, math.inf, exclusive)
    dimensions = (ndim,) if isinstance(ndim, int) else ndim
    if shape is not None:
        allowed += " of shape (" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
    elif dimensions is not None:
        allowed += " with " + " or ".join(str(n) for n in dimensions) + " dimension(s)"
    try:
        raw = np.asarray(value)
    except ValueError:
        raise InvalidInput(field, value, allowed) from None
    if raw.dtype == bool or not (np.issubdtype(raw.dtype, np.integer) or np.issubdtype(raw.dtype, np.floating)):
        raise InvalidInput(field, value, allowed)
    result = np.array(raw, dtype=np.float64)
    if dimensions is not None and result.ndim not in dimensions:
        raise InvalidInput(field, value, allowed)
    if shape is not None and not _shape_fits(result.shape, shape):
        raise InvalidInput(field, value, allowed)
    inside = result > minimum if exclusive else result >= minimum
    if not result.size or not np.isfinite(result).all() or not inside.all():
        raise InvalidInput(field, value, allowed)
    result.flags.writeable = False
    return result


def probabilities(field: str, value: object, length: int) -> Array:
    """Return weights that are positive and sum to one (to 1e-9, then exactly)."""
    weights = array(field, value, shape=(length,), minimum=0.0, exclusive=True)
    if abs(weights.sum() - 1.0) > 1e-9:
        raise InvalidInput(field, value, f"{length} positive numbers that sum to 1 (they sum to {weights.sum():.12g})")
    normalized = weights / weights.sum()
    normalized.flags.writeable = False
    return normalized


def times(field: str, value: object) -> Array:
    """Return increasing output times, not negative."""
    result = array(field, value, ndim=1, minimum=0.0)
    if (np.diff(result) <= 0).any():
        raise InvalidInput(field, value, "increasing times, not negative")
    return result


def symmetric_matrix(field: str, value: object, size: int) -> Array:
    """Return a symmetric (size, size) matrix; entries may differ from their mirror by rounding only."""
    result = array(field, value, shape=(size, size))
    if not np.allclose(result, result.T, rtol=1e-10, atol=1e-12 * (1.0 + np.abs(result).max())):
        raise InvalidInput(field, value, "a symmetric matrix")
    return result


def overlaps(Q: object, R: object, outputs: int, features: int) -> tuple[Array, Array]:
    """Return order parameters Q (..., m, m) and R (..., m, K) of stacked states, finite and of matching shapes."""
    q, r = _numbers("Q", Q), _numbers("R", R)
    if q.ndim < 2 or q.shape[-2:] != (outputs, outputs) or not np.isfinite(q).all():
        raise InvalidInput("Q", Q, f"finite numbers of shape (..., {outputs}, {outputs})")
    if r.shape != (*q.shape[:-2], outputs, features) or not np.isfinite(r).all():
        shape = ", ".join(str(n) for n in (*q.shape[:-2], outputs, features))
        raise InvalidInput("R", R, f"finite numbers of shape ({shape})")
    return q, r


def _numbers(field: str, value: object) -> Array:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInput(field, value, "an array of finite numbers") from None


def seed_sequence(field: str, value: Seed) -> np.random.SeedSequence:
    """Return the seed sequence behind a seed or a generator; children spawned from it are independent streams."""
    if isinstance(value, np.random.SeedSequence):
        return value
    if isinstance(value, np.random.Generator):
        # Drawing from the generator makes two calls with the same generator use different streams.
        return np.random.SeedSequence(value.integers(0, 2**63, size=2).tolist())
    if value is None:
        return np.random.SeedSequence()
    return np.random.SeedSequence(integer(field, value, minimum=0))


def _shape_fits(shape: tuple[int, ...], pattern: tuple[int | None, ...]) -> bool:
    return len(shape) == len(pattern) and all(want in (None, got) for got, want in zip(shape, pattern, strict=True))


def _range(minimum: float, maximum: float, exclusive: bool) -> str:
    less, more = ("<", ">") if exclusive else ("<=", ">=")
    lower = f" {more} {minimum:g}" if minimum > -math.inf else ""
    upper = f" {less} {maximum:g}" if maximum < math.inf else ""
    return lower + (" and" if lower and upper else "") + upper
