"""Averages for polynomial activations: polynomials in the order parameters and the moments of c.

h_j^(v) = u_j + g_j^(v) with u = R c; the noise g is averaged by Isserlis' theorem, which leaves moments of u.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import comb

import numpy as np
import sympy as sp

from mkvlasov._typing import Array
from mkvlasov.problem.hidden import HiddenLaw, HiddenNodes
from mkvlasov.reduction.names import Names, Variable, exact, subscript

Coefficients = tuple[sp.Expr, ...]
Powers = tuple[int, ...]

_NODES = 12
"""Nodes per feature of a continuous law: Gauss rules of that order give moments up to 23 exactly, 10 are needed."""

_ROUNDING = 1e-12
"""Moments smaller than this part of what they sum over are zero by symmetry, and likewise for factorization."""


def hidden_moment(nodes: HiddenNodes, powers: Powers) -> float:
    """Return E[prod_k c_k^powers_k] for a law given as points plus a Gaussian part."""
    return float(nodes.weights @ _point_moments(nodes.points, nodes.covariance, powers))


def _point_moments(points: Array, covariance: Array, powers: Powers) -> Array:
    """Stein's lemma for c = point + Gaussian: E[c_k f(c)] = point_k E f + sum_l Cov_kl E[d_l f]."""
    if not any(powers):
        return np.ones(len(points))
    k = next(i for i, n in enumerate(powers) if n)
    rest = tuple(n - (i == k) for i, n in enumerate(powers))
    total = points[:, k] * _point_moments(points, covariance, rest)
    for i, n in enumerate(rest):
        if n and covariance[k, i]:
            lower = tuple(p - (q == i) for q, p in enumerate(rest))
            total = total + covariance[k, i] * n * _point_moments(points, covariance, lower)
    return total


class PolynomialAverages:
    """Averages for sigma(h) = sum_n coefficients[n] h^n.

    Parameters
    ----------
    names : Names
    coefficients : sequence of float
    hidden : HiddenLaw
    general : bool
        Keep all moments of c (but a mean of zero) as symbols, even those that vanish or factorize for this law.
    """

    is_closed_form = True

    def __init__(self, names: Names, coefficients: Sequence[float], hidden: HiddenLaw, *, general: bool) -> None:
        self.names = names
        self._nodes = hidden.nodes(_NODES)
        self._general = general
        self._value = tuple(exact(b) for b in coefficients)
        self._slope = _derivative(self._value)
        self._second = _derivative(self._slope)
        self._wick: dict[tuple[Variable, ...], sp.Expr] = {}
        self._moments: dict[tuple[Powers, int | None], sp.Expr] = {}

    @property
    def legend(self) -> dict[str, str]:
        features = self.names.features
        index = ",".join(f"n_{k + 1}" for k in range(features))
        inside = r"\,".join(rf"c_{k + 1}^{{n_{k + 1}}}" for k in range(features))
        return {rf"m_{{{index}}} = \langle {inside} \rangle": "moments of the hidden variables"}

    def curvature(self, j: int, view: int) -> sp.Expr:
        return self._average([((j, view), self._second), ((j, 1 - view), self._value)])

    def slopes(self, j: int) -> sp.Expr:
        return self._average([((j, 0), self._slope), ((j, 1), self._slope)])

    def signal(self, j: int, k: int) -> sp.Expr:
        return sum(self._average([((j, v), self._slope), ((j, 1 - v), self._value)], k) for v in (0, 1))

    def spread(self, slopes: tuple[Variable, Variable], outputs: tuple[Variable, Variable]) -> sp.Expr:
        return self._average([(a, self._slope) for a in slopes] + [(a, self._value) for a in outputs])

    def expand(self, expression: sp.Expr) -> sp.Expr:
        return self.names.expand(expression)

    def _average(self, factors: list[tuple[Variable, Coefficients]], k: int | None = None) -> sp.Expr:
        """Return E[product of polynomials of pre-activations (times c_k)]."""
        merged: dict[Variable, Coefficients] = {}
        for variable, coefficients in factors:
            merged[variable] = _times(merged.get(variable, (sp.S.One,)), coefficients)
        variables = tuple(merged)
        terms = []
        for powers in product(*(range(len(merged[a])) for a in variables)):
            coefficient = sp.Mul(*(merged[a][n] for a, n in zip(variables, powers, strict=True)))
            if coefficient:
                terms.append(coefficient * self._monomial(variables, powers, k))
        return sp.expand(sp.Add(*terms))

    def _monomial(self, variables: tuple[Variable, ...], powers: Powers, k: int | None) -> sp.Expr:
        """Return E[prod (u + g)^power (times c_k)]."""
        terms = []
        for noisy in product(*(range(n + 1) for n in powers)):
            if sum(noisy) % 2:
                continue
            ways = 1
            shared = [0] * self.names.outputs
            noise: tuple[Variable, ...] = ()
            for a, n, i in zip(variables, powers, noisy, strict=True):
                ways *= comb(n, i)
                shared[a[0]] += n - i
                noise += (a,) * i
            moment = self._signal_moment(tuple(shared), k)
            if moment != 0:
                terms.append(ways * moment * self._isserlis(noise))
        return sp.Add(*terms)

    def _isserlis(self, noise: tuple[Variable, ...]) -> sp.Expr:
        """Return E[product of the centred Gaussian g]: the sum over all pairings."""
        if not noise:
            return sp.S.One
        if noise not in self._wick:
            first, rest = noise[0], noise[1:]
            self._wick[noise] = sp.expand(
                sum(self.names.covariance(first, a) * self._isserlis(rest[:i] + rest[i + 1 :])
                    for i, a in enumerate(rest))
            )  # fmt: skip
        return self._wick[noise]

    def _signal_moment(self, powers: Powers, k: int | None) -> sp.Expr:
        """Return E[prod_j u_j^powers_j (times c_k)] as an abbreviation."""
        if (powers, k) not in self._moments:
            meaning = self._expanded_moment(powers, k)
            if meaning.is_number:
                self._moments[powers, k] = meaning
            else:
                upper = "" if k is None else f"^{{({k + 1})}}"
                self._moments[powers, k] = self.names.define(f"M{upper}_{{{subscript(*powers)}}}", meaning)
        return self._moments[powers, k]

    def _expanded_moment(self, powers: Powers, k: int | None) -> sp.Expr:
        c = [sp.Dummy() for _ in range(self.names.features)]
        u = self.names.R * sp.Matrix(c)
        polynomial = sp.Poly(sp.Mul(*(u[j] ** n for j, n in enumerate(powers)), 1 if k is None else c[k]), *c)
        return sp.Add(*(value * self._hidden_moment(index) for index, value in polynomial.terms()))

    def _hidden_moment(self, index: Powers) -> sp.Expr:
        """Return the symbol of a moment of c; zero or a product of simpler ones where this law makes it so."""
        if not any(index):
            return sp.S.One
        value = hidden_moment(self._nodes, index)
        size = np.abs(self._nodes.points) + np.sqrt(np.diag(self._nodes.covariance))
        scale = float(self._nodes.weights @ np.prod(size ** np.array(index), axis=1))
        if (sum(index) == 1 or not self._general) and abs(value) <= _ROUNDING * scale:
            return sp.S.Zero
        alone = [tuple(n if i == k else 0 for i in range(len(index))) for k, n in enumerate(index) if n]
        if len(alone) > 1 and not self._general:
            factorized = float(np.prod([hidden_moment(self._nodes, single) for single in alone]))
            if abs(value - factorized) <= _ROUNDING * scale:
                return sp.Mul(*(self._hidden_moment(single) for single in alone))
        symbol = sp.Symbol(f"m_{{{','.join(str(n) for n in index)}}}", real=True)
        self.names.values[symbol] = value
        return symbol


def _derivative(coefficients: Coefficients) -> Coefficients:
    return tuple(n * b for n, b in enumerate(coefficients))[1:]


def _times(a: Coefficients, b: Coefficients) -> Coefficients:
    result = [sp.S.Zero] * max(len(a) + len(b) - 1, 0)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] += x * y
    return tuple(result)
