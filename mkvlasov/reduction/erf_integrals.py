"""Averages for sigma(h) = erf(h / sqrt 2): closed Gaussian integrals, with shifted means (docs/theory.md, section 10).

Every sigma' is a Gaussian factor: it tilts the law of the pre-activations and leaves a product of at most two error
functions. With z_1, z_2 standard normal of correlation r,

    Psi(x, y; r) = E[sign(x + z_1) sign(y + z_2)]
                 = sign(x y) - 4 T(x, (y / x - r) / sqrt(1 - r^2)) - 4 T(y, (x / y - r) / sqrt(1 - r^2)),

T is Owen's function, and Psi(0, 0; r) = (2 / pi) arcsin r.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp
from scipy import special

from mkvlasov._typing import Array
from mkvlasov.limit.views import folded
from mkvlasov.problem.hidden import HiddenNodes
from mkvlasov.reduction.averages import HiddenAverage
from mkvlasov.reduction.names import Names, Variable, subscript

MAX_POINTS = 32
"""More points of the hidden law than this are not written out as a sum."""

_SHORT = 3
"""Coefficients of up to so many terms are written out, longer ones get names."""


class Psi(sp.Function):
    """E[sign(x + z_1) sign(y + z_2)] for standard normal z of correlation r."""

    nargs = 3

    @classmethod
    def eval(cls, x: sp.Expr, y: sp.Expr, r: sp.Expr) -> sp.Expr | None:
        if x == 0 and y == 0:
            return 2 * sp.asin(r) / sp.pi
        return None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        x, y, r = self.args
        if argindex == 3:
            root = sp.sqrt(1 - r**2)
            return 2 * sp.exp(-(x**2 - 2 * r * x * y + y**2) / (2 * root**2)) / (sp.pi * root)
        if argindex == 2:
            x, y = y, x
        slope = sp.erf((y - r * x) / sp.sqrt(2 * (1 - r**2)))
        return sp.sqrt(2 / sp.pi) * sp.exp(-(x**2) / 2) * slope

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        x, y, r = (printer._print(a) for a in self.args)
        return rf"\Psi{'' if exp is None else f'^{{{exp}}}'}\left({x}, {y}; {r}\right)"


def bivariate_sign(x: Array, y: Array, r: Array) -> Array:
    """Return Psi(x, y; r), entry by entry, for |r| < 1."""
    x, y, r = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (x, y, r)))
    root = np.sqrt((1.0 - r) * (1.0 + r))
    total = np.sign(x) * np.sign(y)
    for a, b in ((x, y), (y, x)):
        # At a = 0 half of the sign and the two values T(0, +-inf) = +-1/4 cancel.
        safe = np.where(a == 0.0, 1.0, a)
        total = total - np.where(a == 0.0, 0.0, 4.0 * special.owens_t(a, (b / safe - r) / root))
    return np.where((x == 0.0) & (y == 0.0), 2.0 / np.pi * np.arcsin(r), total)


class ErfAverages:
    """Averages for the error function and any law of c on points plus a Gaussian part.

    Parameters
    ----------
    names : Names
        With the covariance of the Gaussian part of c.
    nodes : HiddenNodes
        The law of c.
    is_exact : bool
        Whether the points are the law, or only a quadrature of it (then averages over c stay unevaluated).
    """

    def __init__(self, names: Names, nodes: HiddenNodes, *, is_exact: bool) -> None:
        self.names = names
        self._all = len(nodes.points)
        nodes = folded(nodes)
        self._points = nodes.points
        self._has_points = bool(nodes.points.any())
        self.is_closed_form = is_exact and len(nodes.points) <= MAX_POINTS
        m, features = names.outputs, names.features
        self._u = [sp.Symbol("u" if m == 1 else f"u_{{{j + 1}}}", real=True) for j in range(m)]
        self._c = [sp.Symbol(f"c_{{{k + 1}}}", real=True) for k in range(features)]
        self._atoms: list[dict[sp.Symbol, sp.Expr]] = []
        self._weights: list[sp.Symbol] = []
        if not (self._has_points and self.is_closed_form):
            return
        for a, (point, weight) in enumerate(zip(nodes.points, nodes.weights, strict=True)):
            c = [self._number(f"c^{{({a + 1})}}_{{{k + 1}}}", value) for k, value in enumerate(point)]
            u = names.R * sp.Matrix(c)
            self._atoms.append(dict(zip([*self._u, *self._c], [*u, *c], strict=True)))
            self._weights.append(self._number(f"p_{{{a + 1}}}", weight))

    def _number(self, name: str, value: float) -> sp.Expr:
        if value == 0.0:
            return sp.S.Zero
        symbol = sp.Symbol(name, real=True)
        self.names.values[symbol] = float(value)
        return symbol

    @property
    def legend(self) -> dict[str, str]:
        result = {}
        if self._has_points:
            u = "u" if self.names.outputs == 1 else "u_j"
            row = "1" if self.names.outputs == 1 else "j"
            result[rf"{u} = \sum_k R_{{{row}k}} c_k"] = "the signal"
            if self.is_closed_form:
                points = f"{len(self._points)} point{'s' if len(self._points) > 1 else ''}"
                pairs = "" if len(self._points) == self._all else ", one of each pair $c$ and $-c$"
                result[r"\langle f(c) \rangle_c = \sum_a p_a f(c^{(a)})"] = f"the average over {points}{pairs}"
            else:
                result[r"\langle\,\cdot\,\rangle_c"] = "the average over $c$, to be computed numerically"
            result[r"\Psi(x, y; r)"] = (
                r"the mean of $\mathrm{sign}(x + z) \, \mathrm{sign}(y + z')$ for standard normal $z, z'$ "
                "with correlation $r$"
            )
        return result

    def curvature(self, j: int, view: int) -> sp.Expr:
        # sigma'' = -h sigma'; under the tilted law Stein's lemma gives both terms.
        own = 1 + self._cov((j, view), (j, view))
        cross = self._cov((j, 0), (j, 1))
        u = self._u[j]
        return -(self._mean(u * self._slope_output(j, view)) + cross * self._mean(self._slopes(j))) / own

    def slopes(self, j: int) -> sp.Expr:
        return self._mean(self._slopes(j))

    def signal(self, j: int, k: int) -> sp.Expr:
        result = self._mean(self._c[k] * (self._slope_output(j, 0) + self._slope_output(j, 1)))
        Sigma = self.names.hidden_covariance
        rows = sum(self.names.R[j, n] * Sigma[n, k] for n in range(self.names.features))
        if rows != 0:
            # Stein's lemma for the Gaussian part of c
            result += (self.curvature(j, 0) + self.curvature(j, 1) + 2 * self.slopes(j)) * rows
        return result

    def spread(self, slopes: tuple[Variable, Variable], outputs: tuple[Variable, Variable]) -> sp.Expr:
        """Return E[sigma'(a) sigma'(b) sigma(c) sigma(d)] with L0, L1, L2, L4 of docs/theory.md, section 10."""
        (a, b), (c, d) = slopes, outputs
        one, two, ab = 1 + self._cov(a, a), 1 + self._cov(b, b), self._cov(a, b)
        L4 = sp.expand(one * two - ab**2)

        def dot(x: tuple[sp.Expr, sp.Expr], y: tuple[sp.Expr, sp.Expr]) -> sp.Expr:
            return two * x[0] * y[0] + one * x[1] * y[1] - ab * (x[0] * y[1] + x[1] * y[0])

        with_c, with_d = ((self._cov(a, e), self._cov(b, e)) for e in (c, d))
        means = (self._u[a[0]], self._u[b[0]])
        L1, L2 = (sp.expand(L4 * (1 + self._cov(e, e)) - dot(x, x)) for e, x in ((c, with_c), (d, with_d)))
        L0 = sp.expand(L4 * self._cov(c, d) - dot(with_c, with_d))
        shift_c, shift_d = (self._shift(L4 * self._u[e[0]] - dot(x, means)) for e, x in ((c, with_c), (d, with_d)))
        l4, l1, l2, l0 = (self._define(value) for value in (L4, L1, L2, L0))
        exponent = sp.factor(dot(means, means)) / (2 * l4)
        correlation = l0 / l1 if l1 == l2 else l0 / sp.sqrt(l1 * l2)
        signs = Psi(shift_c / sp.sqrt(l4 * l1), shift_d / sp.sqrt(l4 * l2), correlation)
        if not self._has_points:
            signs = 2 * sp.asin(correlation) / sp.pi
        return self._mean(2 / sp.pi * sp.exp(-exponent) * signs / sp.sqrt(l4))

    def expand(self, expression: sp.Expr) -> sp.Expr:
        expression = self.names.expand(expression)
        if self.is_closed_form and self._has_points:
            expression = expression.replace(HiddenAverage, lambda f, *_: self._sum(f))
        return expression

    def _sum(self, integrand: sp.Expr) -> sp.Expr:
        return sp.Add(*(p * integrand.xreplace(a) for p, a in zip(self._weights, self._atoms, strict=True)))

    def _mean(self, integrand: sp.Expr) -> sp.Expr:
        if not self._has_points:
            return integrand.xreplace(dict.fromkeys([*self._u, *self._c], sp.S.Zero))
        return HiddenAverage(integrand, *self.names.state)

    def _cov(self, a: Variable, b: Variable) -> sp.Symbol:
        return self.names.covariance(a, b)

    def _slopes(self, j: int) -> sp.Expr:
        first, second, cross = self._cov((j, 0), (j, 0)), self._cov((j, 1), (j, 1)), self._cov((j, 0), (j, 1))
        delta = self._delta(j)
        # u^T (1 + C)^-1 u for a common mean u
        shift = self._u[j] ** 2 * sp.factor((2 + first + second - 2 * cross) / 2) / delta
        return 2 / (sp.pi * sp.sqrt(delta)) * sp.exp(-shift)

    def _slope_output(self, j: int, view: int) -> sp.Expr:
        """Return E[sigma'(h^(view)) sigma(h^(other))] given the point."""
        own, cross, u = 1 + self._cov((j, view), (j, view)), self._cov((j, 0), (j, 1)), self._u[j]
        argument = u * (own - cross) / (sp.sqrt(2) * sp.sqrt(own) * sp.sqrt(self._delta(j)))
        return sp.sqrt(2 / sp.pi) / sp.sqrt(own) * sp.exp(-(u**2) / (2 * own)) * sp.erf(argument)

    def _shift(self, expression: sp.Expr) -> sp.Expr:
        """Return a linear form in the signals with names for its long coefficients, so that it fits on a line."""
        expression, result = sp.expand(expression), sp.S.Zero
        for u in self._u:
            factor = expression.coeff(u)
            result += u * (self._define(factor) if len(sp.Add.make_args(factor)) > _SHORT else factor)
        return result

    def _delta(self, j: int) -> sp.Symbol:
        first, second, cross = self._cov((j, 0), (j, 0)), self._cov((j, 1), (j, 1)), self._cov((j, 0), (j, 1))
        name = r"\Delta" if self.names.outputs == 1 else rf"\Delta_{{{subscript(j + 1)}}}"
        return self.names.define(name, sp.expand((1 + first) * (1 + second) - cross**2))

    def _define(self, meaning: sp.Expr) -> sp.Expr:
        """Return a name for a polynomial of covariances: the old one if there is one; a plain symbol needs none."""
        if meaning.is_Symbol:
            return meaning
        for symbol, known in self.names.definitions.items():
            if sp.expand(known) == meaning:
                return symbol
        taken = sum(str(s).startswith("L_") for s in self.names.definitions)
        return self.names.define(f"L_{{{taken + 1}}}", meaning)
