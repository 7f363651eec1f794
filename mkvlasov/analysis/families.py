"""The closed systems that a problem runs through while one of its parameters changes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.analysis.fixed_points import accuracy, constant_rate
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit.derivatives import ClosedRates, Derivative
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.losses import Covariance
from mkvlasov.problem.parameters import parameter, with_parameter

BATCH = "batch_size"
_REMEMBERED = 256
_NODES = 64
"""Per factor of two: the derivative by the parameter is that of a polynomial through rates at five of these values,
which all branches share. Its error, 1e-8, only turns the tangents of curves."""
_NEAR_ZERO = 1e-3
_OFFSETS = ((-2, -1, 0, 1, 2), (0, 1, 2, 3, 4), (1, 2, 3, 4, 5), (-4, -3, -2, -1, 0), (-5, -4, -3, -2, -1))


def at_value(problem: Problem, name: str, value: float) -> tuple[Problem, float]:
    """Return the problem at a value of a parameter, and a factor of its rates.

    A batch size is any positive number where the samples of a batch do not interact (`check_parameter`): the rates are
    then B times those of B = 1 at the learning rate tau / B.
    """
    if name == BATCH:
        return replace(problem, batch_size=1, learning_rate=problem.rate(0.0) / value), value
    return with_parameter(problem, name, value), 1.0


def check_parameter(problem: Problem, name: str) -> float:
    """Return the present value of a parameter (the mean of several, infinity for the gradient flow).

    Raises
    ------
    InvalidInput
        If there is no such parameter.
    UnsupportedError
        For the batch size, if the samples of a batch interact; for a learning rate that depends on time.
    """
    constant_rate(problem)
    if isinstance(name, str) and name == BATCH:
        loss = problem.loss
        if isinstance(loss, Covariance) and (loss.centered or (loss.decorrelation and problem.outputs > 1)):
            raise UnsupportedError("batch_size: the samples of a batch interact, so that only integers have a meaning")
        return float(problem.batch_size)
    return float(np.mean(parameter(problem, name)))


def check_bounds(name: str, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return two increasing finite numbers, positive for the batch size."""
    low, high = _checks.array("bounds", bounds, shape=(2,))
    if not low < high:
        raise InvalidInput("bounds", bounds, "two increasing numbers")
    if name == BATCH and low <= 0.0:
        raise InvalidInput("bounds", bounds, "two increasing numbers > 0")
    return float(low), float(high)


class Family:
    """Rates dx/dt of the entries of (R, Q) as functions of a parameter of the problem.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none, and a constant learning rate.
    name : str
        A path that `parameter` knows, or "batch_size".

    Raises
    ------
    ClosureError, InvalidInput, UnsupportedError
    """

    def __init__(self, problem: Problem, name: str) -> None:
        check_parameter(problem, name)
        self.problem, self.name = problem, name
        self.rtol = accuracy(problem)
        self.closed = ClosedRates(replace(problem, batch_size=1) if name == BATCH else problem, self.rtol)
        # `ClosedRates` keeps a problem of rate one as it is, which saves most of what a new value costs.
        self._unit = replace(problem, learning_rate=1.0)
        self._at = lru_cache(maxsize=_REMEMBERED)(self._made)
        self._jacobians: dict[tuple[float, bytes], Derivative] = {}

    def problem_at(self, value: float) -> Problem:
        """Return the problem at a value; for batch sizes the one whose fixed points are the same."""
        return at_value(self.problem, self.name, value)[0]

    def rates(self, x: Array, value: float) -> Array:
        """Return dx/dt (..., d) at states x (..., d)."""
        closed, tau, factor = self._at(value)
        return factor * closed.rates(x, tau)

    def jacobian(self, x: Array, value: float) -> Derivative:
        """Return the derivative by x, shape (d, d), with its error, at a state x (d,)."""
        key = (value, x.tobytes())
        if key not in self._jacobians:
            closed, tau, factor = self._at(value)
            found = closed.jacobian(x, tau)
            self._jacobians[key] = Derivative(factor * found.value, factor * found.error)
        return self._jacobians[key]

    def by_parameter(self, x: Array, value: float) -> Array:
        """Return the derivative by the parameter, shape (d,), at a state x (d,): exact, or to about 1e-8."""
        if self.name == BATCH:
            unit = self.closed.unit(x)
            tau = self.problem.rate(0.0)
            return -((tau / value) ** 2) * self.closed.unit(x).diffusion
        if self.name == "learning_rate":
            unit = self.closed.unit(x)
            return unit.drift + 2.0 * value * unit.diffusion
        spacing = 2.0 ** np.floor(np.log2(max(abs(value), _NEAR_ZERO))) / _NODES
        middle = round(value / spacing)
        reason: InvalidInput | None = None
        for offsets in _OFFSETS:
            nodes = spacing * (middle + np.array(offsets))
            try:
                rates = np.array([self.rates(x, float(node)) for node in nodes])
            except InvalidInput as error:
                reason = error
                continue
            gaps = (nodes - value) / spacing
            # Weights with which differences of polynomials up to order four are exact.
            weights = np.linalg.solve(np.vander(gaps, increasing=True).T, np.eye(len(gaps))[1])
            return np.asarray(weights @ rates / spacing)
        raise InvalidInput(
            "name", self.name, f"a parameter that can be varied by {4 * spacing:g} ({reason})"
        ) from reason

    def _made(self, value: float) -> tuple[ClosedRates, float, float]:
        tau = self.problem.rate(0.0)
        if self.name == BATCH:
            return self.closed, tau / value, value
        if self.name == "learning_rate":
            return self.closed, value, 1.0
        return ClosedRates(with_parameter(self._unit, self.name, value), self.rtol), tau, 1.0
