"""Averages that stay unevaluated: named integrals over the pre-activations, and averages over the hidden variables."""

from __future__ import annotations

from typing import Any, Protocol

import sympy as sp

from mkvlasov.reduction.names import Names, Variable


class Average(sp.Function):
    """E[integrand] over pre-activations and hidden variables; further arguments are the state it depends on."""

    _mark = ""

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        text = rf"\left\langle {printer._print(self.args[0])} \right\rangle{self._mark}"
        return text if exp is None else rf"{{{text}}}^{{{exp}}}"

    def _sympystr(self, printer: Any) -> str:
        return f"E[{printer._print(self.args[0])}]"


class HiddenAverage(Average):
    """Average over the hidden variables alone, of a function of u = R c (and c)."""

    _mark = r"_{c}"

    def _sympystr(self, printer: Any) -> str:
        return f"E_c[{printer._print(self.args[0])}]"


class Averages(Protocol):
    """The averages that G, H and Lambda consist of when outputs do not interact (lambda = 0, not centred)."""

    names: Names

    @property
    def is_closed_form(self) -> bool:
        """Whether no unevaluated average is left after `expand`."""

    @property
    def legend(self) -> dict[str, str]:
        """LaTeX of the names that occur beside the abbreviations, and what they are in words."""

    def curvature(self, j: int, view: int) -> sp.Expr:
        """Return E[sigma''(h_j^(view)) sigma(h_j^(other view))]."""

    def slopes(self, j: int) -> sp.Expr:
        """Return E[sigma'(h_j^(1)) sigma'(h_j^(2))]."""

    def signal(self, j: int, k: int) -> sp.Expr:
        """Return E[(sigma'(h_j^(1)) sigma(h_j^(2)) + sigma(h_j^(1)) sigma'(h_j^(2))) c_k]."""

    def spread(self, slopes: tuple[Variable, Variable], outputs: tuple[Variable, Variable]) -> sp.Expr:
        """Return E[sigma'(h_a) sigma'(h_b) sigma(h_c) sigma(h_d)]."""

    def expand(self, expression: sp.Expr) -> sp.Expr:
        """Return an expression of the state and parameters alone."""


class NamedAverages:
    """Averages for any activation: integrals with names."""

    is_closed_form = False

    def __init__(self, names: Names) -> None:
        self.names = names

    @property
    def legend(self) -> dict[str, str]:
        return {r"\langle\,\cdot\,\rangle": "an average over $c$ and the pre-activations, to be computed numerically"}

    def curvature(self, j: int, view: int) -> sp.Expr:
        return self._average(sigma((j, view), 2), sigma((j, 1 - view), 0))

    def slopes(self, j: int) -> sp.Expr:
        return self._average(sigma((j, 0), 1), sigma((j, 1), 1))

    def signal(self, j: int, k: int) -> sp.Expr:
        c = sp.Symbol(f"c_{{{k + 1}}}", real=True)
        return self._average(c, sum(sigma((j, v), 1) * sigma((j, 1 - v), 0) for v in (0, 1)))

    def spread(self, slopes: tuple[Variable, Variable], outputs: tuple[Variable, Variable]) -> sp.Expr:
        return self._average(*(sigma(a, 1) for a in slopes), *(sigma(a, 0) for a in outputs))

    def expand(self, expression: sp.Expr) -> sp.Expr:
        return self.names.expand(expression)

    def _average(self, *factors: sp.Expr) -> sp.Expr:
        return Average(sp.Mul(*factors), *self.names.state)


def sigma(variable: Variable, order: int) -> sp.Expr:
    """Return the symbol of sigma or a derivative of it at a pre-activation."""
    j, v = variable
    primes = "'" * order
    return sp.Symbol(rf"\sigma{primes}(h^{{({v + 1})}}_{{{j + 1}}})", real=True)
