"""The products of `mkvlasov.limit.monomials` for activations of two straight lines, such as rectifiers.

Each product is a polynomial in four pre-activations on each side of the kinks: moments of a normal law restricted to
orthants, which a recursion leads back to probabilities of orthants, at most one smooth integral in one dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from mkvlasov._quadrature import gauss_legendre
from mkvlasov._typing import Array
from mkvlasov.limit.bounded import bounded
from mkvlasov.limit.monomials import FourLaw, Group, Monomial, Outputs, canonical
from mkvlasov.limit.views import ViewLaw
from mkvlasov.problem.activations import Activation

_GAIN = 0.01
"""Two nodes more per panel divide the error by some 1000, here taken as 100."""

_ROUNDING = 1e-14
_ONE: Monomial = ((0, 0), (0, 0))


def is_piecewise_linear(activation: Activation) -> bool:
    """Return whether an activation is two straight lines that meet at its only kink, judged on a set of points."""
    if len(activation.kinks) != 1:
        return False
    distance = np.linspace(0.0, 12.0, 97) ** 1.5
    for h in (activation.kinks[0][0] + side * distance for side in (-1.0, 1.0)):
        y, slope = activation.value(h), activation.derivative(h[1:2])
        if not np.allclose(y, y[0] + slope * (h - h[0]), rtol=1e-14, atol=1e-14):
            return False
    return True


def linear_groups(
    activation: Activation,
    law: ViewLaw,
    groups: tuple[Group, ...],
    *,
    offsets: Array,
    rtol: float,
    effort: int,
) -> list[Array]:
    """Return the same averages as `mkvlasov.limit.monomials.smooth_groups`, for two straight lines.

    The order of the rule along the integrals grows with the effort; a rule of lower order tells the error.
    """
    order = (5 if rtol > 1e-6 else 8) + 3 * effort
    results: dict[int, Array] = {}
    for outputs in dict.fromkeys(group.outputs for group in groups):
        members = {i: group for i, group in enumerate(groups) if group.outputs == outputs}
        four = _FourPieces.of(activation, law, outputs, offsets)
        wanted = [pair for group in members.values() for pair in product(group.first, group.second)]
        fine, coarse = (four.averages(wanted, n) for n in (order, order - 2))
        # Squares contain variables of one view only, which the order does not matter for.
        squares = four.averages([(_square(a), _ONE) for a, _ in wanted] + [(_ONE, _square(b)) for _, b in wanted], 1)
        first, second = np.split(np.sqrt(np.maximum(squares, 0.0)), 2, axis=-1)
        size = first * second
        tables = bounded(fine, _GAIN * np.abs(fine - coarse) + _ROUNDING * size, size)
        sums = np.einsum("bspn,p->bsn", tables, law.weights)
        start = 0
        for i, group in members.items():
            shape = (len(group.first), len(group.second))
            results[i] = sums[..., start : start + shape[0] * shape[1]].reshape(*sums.shape[:2], *shape)
            start += shape[0] * shape[1]
    return [results[i] for i in range(len(groups))]


def _square(monomial: Monomial) -> Monomial:
    (a, b), (c, d) = monomial
    return (2 * a, 2 * b), (2 * c, 2 * d)


@dataclass(frozen=True, slots=True)
class _FourPieces:
    """Law of four pre-activations and the activation, as the kernel takes them."""

    mean: Array  # (S, P, 4), relative to the kink
    loadings: Array  # (S, 2, 2, 2)
    r: Array  # (S, 2)
    shift: Array  # (S, 4)
    same: npt.NDArray[np.bool_]  # (S, 2, 2)
    kink: Array  # slope below, slope above, value at the kink

    @classmethod
    def of(cls, activation: Activation, law: ViewLaw, outputs: tuple[Outputs, Outputs], offsets: Array) -> _FourPieces:
        four = FourLaw.of(law, outputs)
        first, second, r = canonical(four)
        position = activation.kinks[0][0]
        around = position + np.array([-1.0, 1.0, 0.0])
        shift = np.concatenate([o[:, list(pair)] for o, pair in zip(offsets, outputs, strict=True)], axis=-1)
        variances = [np.diagonal(x, axis1=-2, axis2=-1) for x in four.own]
        twice = four.cross - variances[0][:, :, None], four.cross - variances[1][:, None, :]
        same = (np.maximum(*np.abs(twice)) <= 1e-15 * np.abs(four.cross)) & (shift[:, :2, None] == shift[:, None, 2:])
        return cls(
            np.concatenate(four.mean, axis=-1) - position,
            np.stack([first, second], axis=1),
            r,
            shift,
            same & np.equal.outer(outputs[0], outputs[1]),
            np.append(activation.derivative(around[:2]), activation.value(around[2:])),
        )

    def averages(self, wanted: list[tuple[Monomial, Monomial]], order: int) -> Array:
        """Return expectations of products of two monomials, (S, P, n)."""
        # Importing Numba takes most of a second.
        from mkvlasov.limit.orthant_moment_kernels import products

        distinct = list(dict.fromkeys(wanted))
        exponents = np.array([(*a, *b) for a, b in distinct], dtype=np.int64)
        states, points, _ = self.mean.shape
        state = np.repeat(np.arange(states), points)
        x, w = gauss_legendre(order)
        mean, own = self.mean.reshape(-1, 4), (self.loadings[state], self.r[state], self.shift[state], self.same[state])
        found = products(mean, *own, exponents, self.kink, x, w)
        where = {pair: i for i, pair in enumerate(distinct)}
        return found.reshape(states, points, -1)[..., [where[pair] for pair in wanted]]
