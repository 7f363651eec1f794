"""Gradients of the package's regularizers as a few numbers, for code that cannot call their methods."""

from __future__ import annotations

from dataclasses import dataclass

from mkvlasov.problem import regularizers


@dataclass(frozen=True, slots=True)
class EntryPenalty:
    """phi'(w) = linear w + cubic w^3 + kink clip(w / width, -1, 1) for every entry; width 0 stands for sign(w)."""

    linear: float = 0.0
    cubic: float = 0.0
    kink: float = 0.0
    width: float = 0.0


@dataclass(frozen=True, slots=True)
class RowPenalty:
    """grad phi(w) = strength w / |w| for every row w."""

    strength: float


def builtin_penalty(regularizer: regularizers.Regularizer) -> EntryPenalty | RowPenalty | None:
    """Return the gradient of a regularizer of the package; None for one of the user's own."""
    kind = type(regularizer)
    if regularizer.linear_strength is not None:
        return EntryPenalty(linear=regularizer.linear_strength)
    if isinstance(regularizer, regularizers.GroupLasso) and kind is regularizers.GroupLasso:
        return RowPenalty(regularizer.strength)
    if isinstance(regularizer, regularizers.DoubleWell) and kind is regularizers.DoubleWell:
        return EntryPenalty(linear=-regularizer.strength, cubic=regularizer.strength)
    if isinstance(regularizer, regularizers.L1) and kind is regularizers.L1:
        return EntryPenalty(kink=regularizer.strength)
    if isinstance(regularizer, regularizers.ElasticNet) and kind is regularizers.ElasticNet:
        return EntryPenalty(linear=regularizer.l2, kink=regularizer.l1)
    if isinstance(regularizer, regularizers.Huber) and kind is regularizers.Huber:
        return EntryPenalty(kink=regularizer.strength, width=regularizer.delta)
    return None
