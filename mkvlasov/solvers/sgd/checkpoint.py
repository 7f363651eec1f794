"""Checkpoints of a simulation: everything that it needs to go on with the same numbers, in one file.

A file is written beside the old one and then takes its place, so that a kill at any moment leaves a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mkvlasov.errors import InvalidInput
from mkvlasov.solvers.sgd.plan import Block

if TYPE_CHECKING:
    from mkvlasov.solvers.sgd.lockstep import Progress

_FORMAT = 1


@dataclass
class Checkpoint:
    """Where and when a simulation is saved, and what must agree for it to go on.

    Attributes
    ----------
    path : Path
    every : float
        Seconds between saves.
    identity : dict from str to text or number
        What the numbers depend on, by the names of the arguments.
    """

    path: Path
    every: float
    identity: dict[str, Any]
    _last: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._last >= self.every

    def restore(self, progress: Progress, blocks: list[Block]) -> bool:
        """Continue from the file, if there is one.

        Raises
        ------
        InvalidInput
            If the file is no checkpoint, or one of another simulation; names the first difference.
        """
        if not self.path.exists():
            return False
        content, arrays = self._read()
        self._compare(content)
        progress.step, progress.stopped = content["step"], float(content["stopped"])
        for part in fields(progress.record):
            getattr(progress.record, part.name)[...] = arrays[f"record.{part.name}"]
        for name in content["observables"]:
            progress.observables[name] = arrays[f"observables.{name}"]
        first = 0
        for block in blocks:
            runs = slice(first, first + len(block.streams))
            block.weights[...], block.features[...] = arrays["weights"][runs], arrays["features"][runs]
            for streams, states in zip(block.streams, content["generators"][runs], strict=True):
                for name, state in states.items():
                    state["state"]["state"] = np.array(state["state"]["state"], dtype=np.uint64)
                    getattr(streams, name).bit_generator.state = state
            first = runs.stop
        return True

    def write(self, progress: Progress, blocks: list[Block]) -> None:
        """Replace the file."""
        content = {
            "format": _FORMAT,
            "identity": self.identity,
            "step": progress.step,
            "stopped": str(progress.stopped),
            "observables": list(progress.observables),
            "generators": [
                {name: _generator_state(getattr(streams, name)) for name in ("samples", "losses")}
                for block in blocks
                for streams in block.streams
            ],
        }
        arrays = {f"record.{part.name}": getattr(progress.record, part.name) for part in fields(progress.record)}
        arrays |= {f"observables.{name}": values for name, values in progress.observables.items()}
        arrays["weights"] = np.concatenate([block.weights for block in blocks])
        arrays["features"] = np.concatenate([block.features for block in blocks])
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            with temporary.open("wb") as file:
                np.savez(file, content=np.array(json.dumps(content)), **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
        self._last = time.monotonic()

    def _read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the description and the arrays of the file."""
        try:
            with self.path.open("rb") as file:
                if file.read(2) != b"PK":
                    raise ValueError("it is another kind of file")
                file.seek(0)
                with np.load(file, allow_pickle=False) as stored:
                    content = json.loads(str(stored["content"]))
                    arrays = {name: stored[name] for name in stored.files if name != "content"}
            if not isinstance(content, dict) or not {"format", "identity"} <= content.keys():
                raise ValueError("it holds something else")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InvalidInput("checkpoint", str(self.path), f"a checkpoint of simulate_sgd ({error})") from error
        return content, arrays

    def _compare(self, content: dict[str, Any]) -> None:
        if content["format"] != _FORMAT:
            raise InvalidInput("checkpoint", str(self.path), f"a file of format {_FORMAT} (not {content['format']})")
        for name, value in self.identity.items():
            stored = content["identity"].get(name)
            if stored != value:
                allowed = f"a checkpoint of this simulation: its {name} is {stored}, not {value}"
                raise InvalidInput("checkpoint", str(self.path), allowed)


def digest(value: object) -> str:
    """Return a short text that tells laws and problems with different content apart; functions count by their names."""
    found = hashlib.sha256()
    _digest(value, found.update)
    return found.hexdigest()[:16]


def _digest(value: object, update: Callable[[bytes], None]) -> None:
    if isinstance(value, np.ndarray):
        update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value) and not isinstance(value, type):
        update(type(value).__qualname__.encode())
        for part in fields(value):
            _digest(getattr(value, part.name), update)
    elif isinstance(value, (tuple, list)):
        for item in value:
            _digest(item, update)
    elif callable(value):
        update(f"{value.__module__}:{getattr(value, '__qualname__', type(value).__qualname__)}".encode())
    else:
        update(repr(value).encode())


def _generator_state(rng: np.random.Generator) -> dict[str, Any]:
    state = dict(rng.bit_generator.state)
    return {**state, "state": {name: value.tolist() for name, value in state["state"].items()}}
