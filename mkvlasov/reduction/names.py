"""Symbols of the reduced system and their values for one problem (docs/theory.md, sections 0 and 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy as sp

from mkvlasov._typing import Array
from mkvlasov.problem.contrastive import Problem

Variable = tuple[int, int]
"""Output j and view v (both from 0) of a pre-activation h_j^(v)."""


def subscript(*numbers: int) -> str:
    """Return indices as one subscript: 12, or 1,12 when a number has two digits."""
    return ("," if max(numbers) > 9 else "").join(str(n) for n in numbers)


def exact(value: float) -> sp.Expr:
    """Return a number as a fraction if it is a short decimal up to rounding (0.4 as 2/5), else as a float."""
    fraction = sp.Rational(f"{value:.14g}")
    return fraction if fraction.q <= 10_000 and abs(fraction.p) <= 10_000_000 else sp.Float(float(value))


def matrix(rows: int, columns: int, entry: Any) -> sp.Matrix:
    """Return the matrix with the given function of (row, column), without simplification."""
    return sp.Matrix([[entry(i, j) for j in range(columns)] for i in range(rows)])


@dataclass(frozen=True, eq=False)
class Names:
    """The symbols of one problem. Parameters that are exactly zero are dropped, equal noises share one symbol.

    Attributes
    ----------
    R, Q : sympy.Matrix, shapes (m, K) and (m, m)
        Order parameters.
    tau, kappa, eta, per_sample : sympy.Expr
        Learning rate, L2 strength, background variance and 1 / B.
    S, T : sympy.Matrix, shape (2, 2)
        Covariance of the augmentation noises, and eta + S (as abbreviations where both terms are there).
    hidden_covariance : sympy.Matrix, shape (K, K)
        Covariance of the Gaussian part of c that is averaged together with the noise.
    values : dict
        Numbers of all parameters but tau.
    definitions : dict
        Abbreviations, in the order in which they were needed, and what they stand for.
    meanings : dict
        LaTeX of the average that an abbreviation stands for, where it is one.
    expanded : dict
        The abbreviations in terms of the state and parameters alone, as far as they were needed.
    """

    R: sp.Matrix
    Q: sp.Matrix
    tau: sp.Symbol
    kappa: sp.Expr
    eta: sp.Expr
    per_sample: sp.Expr
    S: sp.Matrix
    T: sp.Matrix
    hidden_covariance: sp.Matrix
    values: dict[sp.Symbol, float]
    definitions: dict[sp.Symbol, sp.Expr] = field(default_factory=dict)
    meanings: dict[sp.Symbol, str] = field(default_factory=dict)
    expanded: dict[sp.Symbol, sp.Expr] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem, hidden_covariance: Array | None = None) -> Names:
        """Return the symbols of a problem; `hidden_covariance` is that of the Gaussian part of c, if kept apart."""
        m, features = problem.outputs, problem.n_features
        values: dict[sp.Symbol, float] = {}

        def parameter(name: str, value: float) -> sp.Expr:
            if value == 0.0:
                return sp.S.Zero
            symbol = sp.Symbol(name, real=True)
            values[symbol] = float(value)
            return symbol

        R = matrix(m, features, lambda j, k: sp.Symbol(f"R_{{{subscript(j + 1, k + 1)}}}", real=True))
        Q = matrix(m, m, lambda j, k: sp.Symbol(f"Q_{{{subscript(*sorted((j + 1, k + 1)))}}}", real=True))
        eta = parameter("eta", problem.background_variance)
        kappa = parameter("kappa", problem.regularizer.linear_strength or 0.0)
        noise = problem.noise_covariance
        seen: dict[float, sp.Expr] = {}
        for v, w in ((0, 0), (1, 1), (0, 1)):
            seen.setdefault(float(noise[v, w]), parameter(f"S_{{{v + 1}{w + 1}}}", noise[v, w]))
        for name in [s for s in values if str(s).startswith("S_") and s not in seen.values()]:
            del values[name]
        S = matrix(2, 2, lambda v, w: seen[float(noise[v, w])])
        inner = np.zeros((features, features)) if hidden_covariance is None else hidden_covariance
        Sigma = matrix(
            features, features,
            lambda k, n: parameter(rf"\Sigma_{{{subscript(*sorted((k + 1, n + 1)))}}}", float(inner[k, n])),
        )  # fmt: skip
        per_sample = sp.S.Zero if math.isinf(problem.batch_size) else 1 / parameter("B", problem.batch_size)
        definitions: dict[sp.Symbol, sp.Expr] = {}

        def total(v: int, w: int) -> sp.Expr:
            if eta == 0 or S[v, w] == 0:
                return eta + S[v, w]
            symbol = sp.Symbol(str(S[v, w]).replace("S", "T"), real=True)
            definitions[symbol] = eta + S[v, w]
            return symbol

        T = matrix(2, 2, total)
        return cls(R, Q, sp.Symbol("tau", positive=True), kappa, eta, per_sample, S, T, Sigma, values, definitions)

    @property
    def outputs(self) -> int:
        """Number of outputs m."""
        return int(self.Q.rows)

    @property
    def features(self) -> int:
        """Number of features K."""
        return int(self.R.cols)

    @property
    def state(self) -> tuple[sp.Symbol, ...]:
        """The entries of Q (upper triangle) and of R."""
        m = self.outputs
        return (*(self.Q[j, k] for j in range(m) for k in range(j, m)), *self.R)

    @property
    def exchangeable(self) -> bool:
        """Whether the two views have the same law."""
        return bool(self.S[0, 0] == self.S[1, 1])

    def define(self, name: str, meaning: sp.Expr) -> sp.Symbol:
        """Return an abbreviation; the same name always has the same meaning."""
        symbol = sp.Symbol(name, real=True)
        self.definitions.setdefault(symbol, meaning)
        return symbol

    def average(self, name: str, meaning: str, value: sp.Expr) -> sp.Expr:
        """Return an abbreviation of an average, with the LaTeX of what is averaged; numbers stay numbers."""
        if value.is_number:
            return value
        symbol = self.define(name, value)
        self.meanings[symbol] = meaning
        return symbol

    def covariance(self, a: Variable, b: Variable) -> sp.Symbol:
        """Return the abbreviation of Cov(g_a, g_b), the covariance of two pre-activations given (the point of) c."""
        (j, v), (k, w) = sorted((a, b))
        noise = self.S[v, w]
        if noise == self.S[0, 0] == self.S[1, 1]:
            letter = "V"
        else:
            letter = f"V^{{({v + 1})}}" if v == w and not self.exchangeable else ("V" if v == w else "X")
        name = letter if self.outputs == 1 else f"{letter}_{{{subscript(j + 1, k + 1)}}}"
        learnt = sum(self.R[j, n] * self.R[k, n] for n in range(self.features))
        hidden = sum(
            self.R[j, n] * self.hidden_covariance[n, i] * self.R[k, i]
            for n in range(self.features)
            for i in range(self.features)
        )
        return self.define(name, self.eta * (self.Q[j, k] - learnt) + noise * self.Q[j, k] + hidden)

    def expand(self, expression: sp.Expr) -> sp.Expr:
        """Replace all abbreviations by what they stand for."""
        # What an abbreviation uses was defined before it.
        for symbol in [s for s in self.definitions if s not in self.expanded]:
            self.expanded[symbol] = self.definitions[symbol].xreplace(self.expanded)
        return expression.xreplace(self.expanded)
