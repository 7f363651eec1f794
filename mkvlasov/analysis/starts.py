"""Where to look for fixed points: the range of Q that the rates suggest, and starts that fill the admissible states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.losses import Covariance

_RTOL = 1e-6
_SCAN = np.geomspace(1e-4, 1e4, 65)
_BEYOND = 3.0
_COSINES = (0.5, 0.95)


def one_output(problem: Problem) -> Problem:
    """Return the problem of one output alone, whose coefficients are compiled, to see the scale of Q by.

    Losses of one's own may know their number of outputs, and are left as they are.
    """
    return replace(problem, outputs=1) if isinstance(problem.loss, Covariance) else problem


def overlap_range(problem: Problem, tau: float) -> tuple[float, float]:
    """Return the range of Q_jj to search: around all q where dQ/dt changes sign for one output, Q = q.

    Looked at without overlaps, and for weights nearly along each feature.
    """
    if problem.constraint == "sphere":
        return 1.0, 1.0
    closed = ClosedRates(one_output(problem), _RTOL)
    m, k = closed.entries.outputs, closed.entries.features
    directions = np.zeros((k + 1, m, k))
    directions[1:, 0] = 0.99 * np.eye(k)
    Q = np.broadcast_to(_SCAN[:, None, None, None] * np.eye(m), (len(_SCAN), k + 1, m, m))
    R = np.sqrt(_SCAN)[:, None, None, None] * directions
    dQ, _ = closed.entries.unpack(closed.rates(closed.entries.pack(Q, R), tau))
    growing = dQ[..., 0, 0] > 0.0
    before, _ = np.nonzero(growing[1:] != growing[:-1])
    if not len(before):
        return 0.1, 10.0
    return float(_SCAN[before.min()] / _BEYOND), float(_SCAN[before.max() + 1] * _BEYOND)


def make_starts(closed: ClosedRates, bounds: tuple[float, float], number: int, rng: np.random.Generator) -> Array:
    """Return starts (S, d): some without overlaps or along single features, and `number` random ones.

    Random states have log-uniform eigenvalues of Q in the bounds, and R = Q^(1/2) V with a random contraction V.
    """
    m, k = closed.entries.outputs, closed.entries.features
    levels = np.geomspace(*bounds, 4)[1:3] if bounds[0] < bounds[1] else np.array(bounds[:1])
    states = [(q * np.eye(m), np.zeros((m, k))) for q in levels]
    for q in levels:
        for feature in range(k):
            for cosine in _COSINES:
                R = np.zeros((m, k))
                R[range(m), [(feature + j) % k for j in range(m)]] = cosine * np.sqrt(q)
                # The first is learnt by one output alone where another one would have to share it.
                states.append((q * np.eye(m), R if m <= k else R * 0.7))
    for _ in range(number):
        basis = np.linalg.qr(rng.normal(size=(m, m)))[0]
        Q = basis * bounds[0] * (bounds[1] / bounds[0]) ** rng.uniform(size=m) @ basis.T
        V = rng.normal(size=(m, k))
        V *= rng.uniform() ** (1.0 / (m * k)) / np.linalg.norm(V, 2)
        states.append((Q, square_root(Q) @ V))
    Q, R = (np.array(part) for part in zip(*states, strict=True))
    if closed.problem.constraint == "sphere":
        inverse = 1.0 / np.sqrt(np.diagonal(Q, axis1=-2, axis2=-1))
        Q, R = Q * inverse[:, :, None] * inverse[:, None, :], R * inverse[:, :, None]
    return closed.entries.pack(Q, R)
