"""Options that the two simulators share."""

from __future__ import annotations

import os

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.errors import InvalidInput


def snapshot_times(snapshots: ArrayLike | None, last: float) -> Array:
    """Return the times at which all weights are kept, none of them after the `last` output time."""
    if snapshots is None:
        return np.empty(0)
    kept = _checks.times("snapshots", snapshots)
    if kept[-1] > last:
        raise InvalidInput("snapshots", snapshots, f"times up to the last of t_eval, {last:g}")
    return kept


def worker_count(workers: int | None) -> int:
    """Return the number of threads: as asked for, or one per processor that this process may use."""
    if workers is not None:
        return _checks.integer("workers", workers, minimum=1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
