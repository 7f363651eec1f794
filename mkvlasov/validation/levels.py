"""Budgets of a validation: how much of what is simulated at each level.

Sizes follow from the problem and fixed prices, not from the speed of the machine: the same call gives the same numbers
everywhere. Two kinds of SGD are run. The literal algorithm, with all weights, at a moderate dimension: it costs N per
step. And the one that decides: where (Q, R) is a Markov chain, the chain, whose steps cost the same at every N, at a
dimension so large that the bias of order 1/N is far below the noise; elsewhere two dimensions, N and N / 2, to be
extrapolated in 1/N.

The mean of n runs at dimension N has a variance proportional to 1 / (n N), and the price of the chain is n N per unit
of time: more runs at a smaller N buy nothing but degrees of freedom, and their number is what the joint test asks for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mkvlasov.problem.contrastive import Problem
from mkvlasov.solvers.sgd.chain import chain_applies

_LITERAL_PRICE = 10.0
"""Work of a coordinate and sample in literal SGD over that of an update of a coordinate in reduced SGD (measured)."""


@dataclass(frozen=True)
class Level:
    """A budget.

    Attributes
    ----------
    name : str
    deviation : float
        Relative deviation for which the power is stated.
    literal_samples : float
        Coordinates x samples of literal SGD, over all runs.
    literal_runs : int
    particles, systems : int
        Particles per system and number of systems.
    chain_samples : float
        Samples of the chain, over all runs.
    updates : float
        Updates of coordinates at the two dimensions, over all runs.
    deciding_runs : int
        Runs of the simulations that decide.
    theory : bool
        Whether the predicted bias and spread are used where they exist.
    """

    name: str
    deviation: float
    literal_samples: float
    literal_runs: int
    particles: int
    systems: int
    chain_samples: float
    updates: float
    deciding_runs: int
    theory: bool


LEVELS = {
    level.name: level
    for level in (
        Level("quick", 0.1, 5e6, 16, 5_000, 16, 2e6, 1e8, 64, theory=False),
        Level("standard", 0.05, 1e8, 32, 20_000, 32, 2e7, 1e9, 128, theory=True),
        Level("thorough", 0.02, 3e9, 64, 100_000, 64, 6e8, 3e10, 512, theory=True),
    )
}


@dataclass(frozen=True)
class Sizes:
    """Dimensions of SGD.

    Attributes
    ----------
    literal : int
        N of the literal algorithm; the others are multiples, so that all are recorded at the same times.
    deciding : tuple of int
        One dimension of the chain, or two to be extrapolated, the larger one first.
    """

    literal: int
    deciding: tuple[int, ...]


def sizes_of(level: Level, problem: Problem, t_final: float, times: int) -> Sizes:
    """Return the dimensions that use up a budget, each at least so large that the output times differ.

    Parameters
    ----------
    level : Level
    problem : Problem
        With a finite batch.
    t_final : float
    times : int
        Output times.
    """
    least = math.ceil(max(10.0 * (problem.n_features + problem.outputs), (times - 1) / t_final))
    samples = level.literal_runs * t_final * problem.batch_size
    literal = max(least, _two_digits(math.sqrt(level.literal_samples / samples)))
    work = level.deciding_runs * t_final
    if not chain_applies(problem):
        largest = level.chain_samples / (work * problem.batch_size)
        return Sizes(literal, (literal * max(2, round(largest / literal)),))
    price = 1.0 if problem.augmentation.is_gaussian else _LITERAL_PRICE * problem.batch_size
    smaller = 0.5 * math.sqrt(level.updates / (1.25 * work * price))
    literal = max(least, min(literal, _two_digits(smaller)))
    smaller = literal * max(1, round(smaller / literal))
    return Sizes(literal, (2 * smaller, smaller))


def _two_digits(size: float) -> int:
    unit = 10.0 ** max(0, math.floor(math.log10(max(size, 1.0))) - 1)
    return int(math.floor(size / unit) * unit)
