"""Search for stationary states: zeros of the self-consistency, from many starts and beside those that are known."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array, Seed
from mkvlasov.analysis.fixed_points import constant_rate
from mkvlasov.analysis.starts import make_starts
from mkvlasov.analysis.stationary.newton import (
    CONVERGED,
    DIVERGED,
    STALLED,
    UNCONFINED,
    VANISHED,
    Found,
    polish,
    search,
)
from mkvlasov.analysis.stationary.self_consistency import SelfConsistency
from mkvlasov.analysis.symmetries import Symmetries, Symmetry, find_symmetries, same
from mkvlasov.errors import InvalidInput, UnconfinedError, UnsupportedError
from mkvlasov.problem.contrastive import Problem

RTOL, _SEARCH_RTOL = 1e-11, 1e-6
_STARTS = 48
SEARCH_LEVEL = 1
"""Of the quadrature over the loadings."""
_SCAN = np.geomspace(1e-3, 1e3, 31)
_BEYOND = 3.0
_SAME, _NEARBY = 1e-6, 1e-4
SETTLED = 1e-12
"""Change of the moments by finer quadrature over the loadings at which it is fine enough."""
_DEFLATED = 12
"""Starts of each search beside the states that are known."""
_ROUNDS = 3


@dataclass(frozen=True)
class Search:
    """What a search found: unknowns of the states, one of each class of copies, and how often each was found."""

    equations: SelfConsistency
    symmetries: Symmetries
    classes: list[tuple[Array, int]]
    starts: int
    failures: dict[str, int]


def find_states(problem: Problem, *, starts: int | None, rng: Seed) -> Search:
    """Search stationary states without describing them; arguments and errors as in `stationary_states`."""
    check_problem(problem)
    number = _STARTS if starts is None else _checks.integer("starts", starts, minimum=1)
    generator = np.random.default_rng(_checks.seed_sequence("rng", rng))
    exact, coarse = SelfConsistency(problem, RTOL), SelfConsistency(problem, _SEARCH_RTOL)
    symmetries = stationary_symmetries(coarse)
    low, high = _range(coarse)
    begin = coarse.unknowns(make_starts(coarse.unregularized, (low, high), number, generator))
    level = min(SEARCH_LEVEL, coarse.levels[-1])
    bounds = (1e-4 * low, 10.0 * high)
    reasons = (UNCONFINED, DIVERGED, VANISHED, STALLED)
    failures: Counter[str] = Counter(dict.fromkeys(reasons, 0))
    classes: list[tuple[Array, int]] = []
    total, known = 0, None
    for _ in range(1 + _ROUNDS):
        found = search(coarse, begin, bounds, level=level, known=known)
        total += len(begin)
        before = len(classes)
        _collect(exact, symmetries, found, classes, failures)
        if len(classes) == before:
            break
        known = np.concatenate([copies_of(exact, symmetries, y) for y, _ in classes])
        begin = begin[generator.permutation(len(begin))[:_DEFLATED]]
    lost = failures[UNCONFINED] + failures[DIVERGED]
    if not classes and 2 * lost >= total:
        raise UnconfinedError(_unconfined(problem, lost))
    return Search(exact, symmetries, classes, total, dict(failures))


def check_problem(problem: object) -> None:
    """Raise `UnsupportedError` unless stationary densities of a problem are known."""
    if not isinstance(problem, Problem):
        raise InvalidInput("problem", problem, "a mkvlasov.Problem")
    if problem.outputs != 1:
        raise UnsupportedError(
            f"stationary_states: found for outputs=1 only (this problem has {problem.outputs}); where moments close "
            "take reduce(problem).fixed_points(), else a long run of simulate_particles"
        )
    constant_rate(problem)
    if np.isinf(problem.batch_size):
        raise UnsupportedError(
            "stationary_states: without diffusion (batch_size = inf) stationary weights are points, not densities"
        )


def settled(equations: SelfConsistency, y: Array, *tolerances: float) -> tuple[int, ...]:
    """Return the levels of the quadrature over the loadings from which on the moments change less than tolerances."""
    fields = equations.acting(y[None])
    levels = [equations.levels[-1]] * len(tolerances)
    before = equations.moments(fields, equations.levels[0]).value
    for level in equations.levels[1:]:
        now = equations.moments(fields, level).value
        change = float(np.abs(now - before).max() / now[0, -1])
        levels = [
            min(known, level - 1) if change <= wanted else known
            for known, wanted in zip(levels, tolerances, strict=True)
        ]
        if max(levels) < level:
            break
        before = now
    return tuple(levels)


def refine(equations: SelfConsistency, y: Array) -> tuple[Array, int] | None:
    """Return the zero near an approximate one, and the level of the quadrature over the loadings that it needs."""
    level = min(SEARCH_LEVEL, equations.levels[-1])
    while True:
        y, converged = polish(equations, y, level)
        if not converged:
            return None
        (needed,) = settled(equations, y, SETTLED)
        if needed <= level:
            return y, level
        level = needed


def stationary_symmetries(equations: SelfConsistency) -> Symmetries:
    """Return the changes of sign, exchanges and rotations that map stationary states to such states.

    Those of the coefficients under which the moments of Gibbs densities change alike: that asks phi and the loadings.
    """
    features = equations.problem.n_features
    rng = np.random.default_rng(1)  # any generic tilt does
    tilt = rng.normal(size=features)
    fields = np.concatenate([[1.0], tilt, [equations.tau]])  # confined, with beta = 2
    level = min(SEARCH_LEVEL + 1, equations.levels[-1])

    def moments(H: Array) -> Array:
        changed = fields.copy()
        changed[1:-1] = H
        return equations.moments(changed[None], level).value[0]

    value = moments(tilt)
    if not np.isfinite(value).all():
        return Symmetries(equations.entries, (), ())

    def lifts(symmetry: Symmetry) -> bool:
        map_ = symmetry.outputs[0, 0] * symmetry.features
        image = moments(map_ @ tilt)
        wanted = np.append(map_ @ value[:-1], value[-1])
        return bool(np.abs(image - wanted).max() <= _SAME * np.abs(value).max())

    return find_symmetries(equations.unregularized, equations.tau, also=lifts)


def _collect(
    equations: SelfConsistency,
    symmetries: Symmetries,
    found: Found,
    classes: list[tuple[Array, int]],
    failures: Counter[str],
) -> None:
    """Add what a search found to the classes of states, refined; count its failures."""
    failures.update(reason for reason in found.ended if reason != CONVERGED)
    groups: list[tuple[Array, int]] = []
    for y in found.y[found.ended == CONVERGED]:
        _count(equations, symmetries, y, 1, groups, _NEARBY)
    for y, count in groups:
        refined = refine(equations, y)
        if refined is None:
            failures[STALLED] += count
        else:
            _count(equations, symmetries, refined[0], count, classes, _SAME)


def _count(
    equations: SelfConsistency,
    symmetries: Symmetries,
    y: Array,
    count: int,
    classes: list[tuple[Array, int]],
    tolerance: float,
) -> None:
    """Add a state to the class it belongs to, or begin a new one."""
    entries = equations.entries
    x = symmetries.unrotated(equations.overlaps(y))
    for i, (representative, known) in enumerate(classes):
        copies = symmetries.copies(equations.overlaps(representative))
        if any(same(entries, x, copy, tolerance) for copy in copies):
            classes[i] = (representative, known + count)
            return
    classes.append((copies_of(equations, symmetries, y)[0], count))


def copies_of(equations: SelfConsistency, symmetries: Symmetries, y: Array) -> Array:
    """Return the unknowns of the copies of a state (n, K + 1); on the sphere all have the same multiplier."""
    x = symmetries.copies(equations.overlaps(y))
    Q = x[:, -1:]
    return np.concatenate([x[:, :-1] / np.sqrt(Q), np.full_like(Q, y[-1])], axis=1)


def _range(equations: SelfConsistency) -> tuple[float, float]:
    """Return the range of Q to search: around all Q where the second moment of the densities crosses Q.

    Looked at without overlaps, and for weights nearly along each feature.
    """
    if equations.on_sphere:
        return 1.0, 1.0
    features = equations.problem.n_features
    cosines = np.concatenate([np.zeros((1, features)), 0.9 * np.eye(features)])
    y = np.concatenate([np.repeat(cosines, len(_SCAN), axis=0), np.tile(np.log(_SCAN), len(cosines))[:, None]], axis=1)
    moments = equations.moments(equations.acting(y), equations.levels[0]).value[:, -1]
    # Where densities do not exist, weights grow.
    growing = ~(moments < np.exp(y[:, -1])).reshape(len(cosines), -1)
    _, before = np.nonzero(growing[:, 1:] != growing[:, :-1])
    if not len(before):
        return 0.1, 10.0
    return float(_SCAN[before.min()] / _BEYOND), float(_SCAN[before.max() + 1] * _BEYOND)


def _unconfined(problem: Problem, number: int) -> str:
    return (
        f"stationary_states: nothing holds the weights back: with phi of {problem.regularizer!r} no state was found, "
        f"and {number} searches ended where Q grows without bound, or where G w^2 / 2 + (H . a) w + phi(w) does not "
        "grow on both sides for every loading; take a stronger regularizer, or see with solve_pde how the weights grow"
    )
