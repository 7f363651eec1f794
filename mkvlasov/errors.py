"""Errors with names from the domain; every message says what came, what is allowed, and what to try."""

from __future__ import annotations


class MkvlasovError(Exception):
    """Base class of all errors that the package raises on purpose."""


class InvalidInput(MkvlasovError, ValueError):
    """A field of an object or file has a value that it cannot have.

    Parameters
    ----------
    field : str
        Name of the field, as the user typed it (``hidden.variance``).
    value : object
        What was given.
    allowed : str
        What may be given instead, as a noun phrase.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field, self.value, self.allowed = field, value, allowed
        # One line, whatever the parts contain: a message that a terminal or a log shows whole.
        super().__init__(" ".join(f"{field}: got {_shorten(value)}; expected {allowed}".split()))

    def within(self, prefix: str) -> InvalidInput:
        """Return the same error with the field named from further outside (``hidden`` -> ``problem.hidden``)."""
        return InvalidInput(f"{prefix}.{self.field}", self.value, self.allowed)


class ClosureError(MkvlasovError):
    """The moment equations do not close; the message names the terms and points to the PDE."""


class UnsupportedError(MkvlasovError, ValueError):
    """A route cannot honour what was asked; the message says why and which route can."""


class UnconfinedError(UnsupportedError):
    """Nothing holds the weights back, so that there are no stationary densities; the message says what would."""


def _shorten(value: object, limit: int = 160) -> str:
    """Print a value on one line, however large it is."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
