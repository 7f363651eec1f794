"""Pieces of a problem as TOML values, and back: the table of an object names its class and holds its arguments.

The classes are those of the modules in problem/, the arguments are read off their signatures: a new class needs no
line here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mkvlasov.errors import InvalidInput
from mkvlasov.problem import activations, augmentations, hidden, loadings, losses, regularizers, schedules
from mkvlasov.problem import initial as initial_laws
from mkvlasov.problem.value import Value


@dataclass(frozen=True)
class Section:
    """One kind of piece: the key that names the class, and the classes by name."""

    key: str
    classes: Mapping[str, type]


def _section(key: str, module: ModuleType, protocol: type | None, names: Mapping[str, type] | None = None) -> Section:
    """Collect the public pieces that a module defines and that can play the part of `protocol`."""
    needed = [name for name in vars(protocol) if not name.startswith("_")] if protocol else []
    classes = {
        name: item
        for name, item in vars(module).items()
        if isinstance(item, type)
        and not name.startswith("_")
        and item.__module__ == module.__name__
        and is_dataclass(item)
        and issubclass(item, Value)
        and all(hasattr(item, method) or method in item.__dataclass_fields__ for method in needed)
    }
    return Section(key, {**(names or {}), **classes})


_ACTIVATION_NAMES = {name: type(piece) for name, piece in activations.NAMED.items()}
SECTIONS = {
    "hidden": _section("law", hidden, hidden.HiddenLaw),
    "loadings": _section("law", loadings, loadings.LoadingLaw),
    "activation": _section("name", activations, activations.Activation, _ACTIVATION_NAMES),
    "regularizer": _section("name", regularizers, regularizers.Regularizer),
    "augmentation": _section("name", augmentations, augmentations.Augmentation),
    "loss": _section("name", losses, losses.Loss),
    "learning_rate": _section("name", schedules, None),
    "initial": _section("law", initial_laws, initial_laws.InitialLaw),
}


class Nothing:
    """Stands in messages for a value that was not given."""

    def __repr__(self) -> str:
        return "nothing"


def read_piece(path: str, value: Any, *, kind: str, folder: Path | None) -> Any:
    """Build one piece of a problem from its table, its name, or "module:name"; other values are passed on."""
    section = SECTIONS[kind]
    if isinstance(value, str):
        if ":" in value:
            return _named_piece(path, value, kind, folder)
        if value not in section.classes:
            raise InvalidInput(path, value, "one of " + listed(section.classes) + ', or "module:name"')
        return _build(path, {section.key: value}, kind, folder)
    if isinstance(value, Mapping):
        return _build(path, value, kind, folder)
    if kind == "learning_rate":
        return value
    allowed = f"a table with {section.key} = one of " + listed(section.classes)
    raise InvalidInput(path, value, allowed)


def _build(path: str, table: Mapping[str, Any], kind: str, folder: Path | None) -> Any:
    """Call the class that a table names with the arguments that it holds."""
    section = SECTIONS[kind]
    name = table.get(section.key, Nothing())
    if not isinstance(name, str) or name not in section.classes:
        raise InvalidInput(f"{path}.{section.key}", name, "one of " + listed(section.classes))
    cls = section.classes[name]
    parameters = inspect.signature(cls).parameters
    known_keys(path, table, [section.key, *parameters])
    required_keys(path, table, parameters, f"a value; {name} needs one")
    arguments = {
        key: _argument(f"{path}.{key}", value, parameters[key], kind, folder)
        for key, value in table.items()
        if key != section.key
    }
    try:
        return cls(**arguments)
    except InvalidInput as error:
        raise InvalidInput(f"{path}.{error.field.removeprefix(kind + '.')}", error.value, error.allowed) from None


def _argument(path: str, value: Any, parameter: inspect.Parameter, kind: str, folder: Path | None) -> Any:
    """Read one argument: functions by name, tables as pieces of the same kind (components of a mixture)."""
    if "Callable" in str(parameter.annotation):
        return _imported(path, value, folder)
    if parameter.annotation == "Schedule":
        return read_piece(path, value, kind=kind, folder=folder)
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return [_build(f"{path}[{i}]", item, kind, folder) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return _build(path, value, kind, folder)
    return value


def _named_piece(path: str, value: str, kind: str, folder: Path | None) -> Any:
    """Return the object behind "module:name"; a plain function as an activation is wrapped into one."""
    found = _imported(path, value, folder)
    if kind == "activation" and inspect.isroutine(found):
        try:
            return activations.Custom(found)
        except InvalidInput as error:
            raise InvalidInput(path, value, error.allowed) from None
    return found


def _imported(path: str, value: object, folder: Path | None) -> Any:
    """Return the object behind "module:name"."""
    allowed = 'a function or object as "module:name"'
    module, separator, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (separator and module and name):
        raise InvalidInput(path, value, allowed)
    if folder is not None and str(folder) not in sys.path:
        # At the end, where it hides nothing; it stays, because worker processes have to find the module as well.
        sys.path.append(str(folder))
    try:
        found = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(path, value, f"{allowed} that can be imported ({reason})") from None
    return found


def known_keys(path: str, table: Mapping[str, Any], known: list[str]) -> None:
    for key, value in table.items():
        if key not in known:
            field = f"{path}.{key}" if path else key
            raise InvalidInput(field, value, "no such key here, only " + listed(known))


def required_keys(
    path: str, table: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], allowed: str
) -> None:
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in table:
            raise InvalidInput(f"{path}.{name}", Nothing(), allowed)


def write_piece(path: str, value: Any, kind: str) -> Any:
    """Return a value in the types that TOML has."""
    if kind in SECTIONS and type(value) in SECTIONS[kind].classes.values():
        section = SECTIONS[kind]
        names = {cls: name for name, cls in reversed(list(section.classes.items()))}  # "tanh" comes before "Tanh"
        table = {section.key: names[type(value)]}
        stored = {f.name: getattr(value, f.name) for f in fields(value)}
        for name in inspect.signature(type(value)).parameters:
            # A field that holds a function beside a method of that name is called name_function.
            item = stored[name] if name in stored else stored[f"{name}_function"]
            if item is not None:
                table[name] = write_piece(f"{path}.{name}", item, kind)
        return table if len(table) > 1 else table[section.key]
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [write_piece(f"{path}[{i}]", item, kind) for i, item in enumerate(value)]
    return _name_of(path, value)


def _name_of(path: str, value: Any) -> str:
    """Return "module:name" of a function or object, if that leads back to it."""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    modules = ["numpy", "scipy.special"] if isinstance(value, np.ufunc) else [getattr(value, "__module__", None)]
    for module in modules:
        if name and module and module != "__main__" and _leads_to(module, name, value):
            return f"{module}:{name}"
    raise InvalidInput(path, value, 'a function that a file can name as "module:name" (not a lambda or an inner one)')


def _leads_to(module: str, name: str, value: Any) -> bool:
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return found is value


def listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
