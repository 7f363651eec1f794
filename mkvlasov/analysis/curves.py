"""Fixed points of the closed ODEs as zeros of an equation in a parameter, and branches of zeros as fixed points."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.analysis import arclength, newton
from mkvlasov.analysis.arclength import Branch
from mkvlasov.analysis.diagram import FixedPointBranch
from mkvlasov.analysis.equations import Equation
from mkvlasov.analysis.families import Family
from mkvlasov.analysis.fixed_points import name_of
from mkvlasov.analysis.stability import classify
from mkvlasov.analysis.symmetries import Symmetries
from mkvlasov.errors import UnsupportedError
from mkvlasov.limit.coefficients import LimitCoefficients

VANISHES = "Q vanishes"
SINGULAR = "Q - R R^T becomes singular"

_OUTSIDE = -1e-9
"""Smallest eigenvalue of Q - R R^T, over Q, of an admissible state."""
_FAR_OUTSIDE = -1e-2
"""The same where rates are asked for on the way."""
_EMPTY = 1e-12
_VANISHING = 1e-5
"""Q, over that of the state from which a branch was followed, at which it ends because weights vanish."""
_NEARLY = 10.0
"""A last point has vanished below this multiple of it."""
_SINGULAR = 1e-4


class Curves:
    """Fixed points in the entries of (R, Q) that symmetries leave free.

    Parameters
    ----------
    family : Family
    bounds : pair of floats
        Of the parameter.
    logarithmic : bool
    symmetries : Symmetries
        Of the problem at every value of the parameter.
    tick : function
        Called once per point, to show progress.
    """

    def __init__(
        self,
        family: Family,
        bounds: tuple[float, float],
        logarithmic: bool,
        symmetries: Symmetries,
        tick: Callable[[], object],
    ) -> None:
        self.family, self.bounds, self.logarithmic, self.symmetries = family, bounds, logarithmic, symmetries
        self.entries, self.tick = family.closed.entries, tick
        self.kept = _without_rotations(family.closed.free, symmetries)

    def equation(self, x: Array) -> Equation:
        """Return the equation of fixed points, with the scales of a state."""
        family, kept = self.family, self.kept

        def residual(y: Array, p: float) -> Array:
            state = self.state(y)
            return np.full(len(y), np.nan) if self._is_far_outside(state) else self._rates(state, p)[kept]

        def jacobian(y: Array, p: float) -> tuple[Array, Array]:
            state = self.state(y)
            if self._is_far_outside(state):
                return np.full((len(y), len(y)), np.nan), np.full(len(y), np.nan)
            self.tick()
            try:
                return family.jacobian(state, p).value[np.ix_(kept, kept)], family.by_parameter(state, p)[kept]
            except UnsupportedError:
                return np.full((len(y), len(y)), np.nan), np.full(len(y), np.nan)

        def admissible(y: Array, p: float) -> bool:
            state = self.state(y)
            if x.any() and self._largest(state) < _VANISHING * self._largest(x):
                return False
            q = newton.scales(self.entries, state)[-1]
            return bool(newton.smallest_eigenvalue(self.entries, state) >= _OUTSIDE * q)

        return Equation(
            residual=residual, jacobian=jacobian, bounds=self.bounds, scale=newton.scales(self.entries, x)[kept],
            logarithmic=self.logarithmic, admissible=admissible,
        )  # fmt: skip

    def state(self, y: Array) -> Array:
        """Return the whole state (d,) of the entries that are followed."""
        x = self.entries.pack(np.eye(self.entries.outputs), np.zeros((self.entries.outputs, self.entries.features)))
        if self.family.problem.constraint != "sphere":
            x[:] = 0.0
        x[self.kept] = y
        # Zero weights: rounding would ask for the limit at a negative Q.
        return x if np.abs(x).max() > _EMPTY else np.zeros_like(x)

    def described(self, branch: Branch) -> FixedPointBranch:
        """Return a branch as fixed points with their stability."""
        states = np.array([self.state(y) for y in branch.x])
        Q, R = self.entries.unpack(states)
        free = np.ix_(self.family.closed.free, self.family.closed.free)
        stabilities, losses, residuals = [], [], []
        for x, q, r, p in zip(states, Q, R, branch.p, strict=True):
            derivative = self.family.jacobian(x, p)
            stabilities.append(classify(derivative.value[free], derivative.error[free]))
            problem = self.family.problem_at(p)
            losses.append(float(LimitCoefficients(problem, self.family.rtol)(q, r).loss))
            residuals.append(float(np.abs(self.family.rates(x, p)).max()))
        middle = states[len(states) // 2]
        return FixedPointBranch(
            name=name_of(*self.entries.unpack(middle)), parameter=branch.p, Q=Q, R=R, loss=np.array(losses),
            eigenvalues=np.array([s.eigenvalues for s in stabilities]),
            unstable_dimension=np.array([s.unstable_dimension for s in stabilities]),
            centre_dimension=np.array([s.centre_dimension for s in stabilities]),
            residual=np.array(residuals), copies=len(self.symmetries.copies(middle)),
            is_continuum=self.symmetries.is_rotated(middle),
            ends=(self._end(states, 0, branch.ends[0]), self._end(states, -1, branch.ends[1])),
        )  # fmt: skip

    def _end(self, states: Array, where: int, reason: str) -> str:
        """Say more exactly how a branch leaves the admissible set."""
        if reason not in (arclength.INADMISSIBLE, arclength.STEP):
            return reason
        last = states[where]
        if last.any() and self._largest(last) < _NEARLY * _VANISHING * max(map(self._largest, states)):
            return VANISHES
        # Branches of the gradient flow lie on that edge all along.
        least = [
            newton.smallest_eigenvalue(self.entries, x) / self._largest(x) for x in (last, states[len(states) // 2])
        ]
        return SINGULAR if least[0] < _SINGULAR <= least[1] or reason == arclength.INADMISSIBLE else reason

    def _largest(self, state: Array) -> float:
        return float(np.diagonal(self.entries.unpack(state)[0]).max())

    def _rates(self, state: Array, p: float) -> Array:
        try:
            return self.family.rates(state, p)
        except UnsupportedError:
            return np.full(len(state), np.nan)

    def _is_far_outside(self, state: Array) -> bool:
        q = newton.scales(self.entries, state)[-1]
        return bool(newton.smallest_eigenvalue(self.entries, state) < _FAR_OUTSIDE * q)


def _without_rotations(free: npt.NDArray[np.int64], symmetries: Symmetries) -> npt.NDArray[np.int64]:
    """Return the free entries without those that `Symmetries.unrotated` makes zero."""
    entries = symmetries.entries
    fixed = {
        j * entries.features + feature
        for block in symmetries.rotated
        for j in range(entries.outputs)
        for feature in block[j + 1 :]
    }
    return np.array([i for i in free if i not in fixed], dtype=np.int64)
