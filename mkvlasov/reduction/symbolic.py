"""The closed system of the order parameters in symbols (docs/theory.md, sections 3, 4, 9 and 10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import sympy as sp
from scipy import special

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.limit.closure import require_closure
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.limit.moments import moment_rates
from mkvlasov.problem.activations import Erf, Identity, Polynomial
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.losses import Covariance
from mkvlasov.reduction.averages import Average, Averages, NamedAverages, sigma
from mkvlasov.reduction.erf_integrals import ErfAverages, bivariate_sign
from mkvlasov.reduction.latex import align
from mkvlasov.reduction.names import Names, Variable, exact, matrix, subscript
from mkvlasov.reduction.polynomial import PolynomialAverages

MAX_DEGREE = {1: 3, 2: 2}
"""Polynomials up to this degree are expanded, per number of outputs; degree 1 for any number."""

_NUMERIC_RTOL = 1e-10
"""Accuracy of the coefficients where integrals have no closed form."""


@dataclass(frozen=True, eq=False)
class SymbolicSystem:
    """dQ/dt and dR/dt in symbols.

        dR/dt = -tau [(G + kappa) R + H],
        dQ/dt = -tau [(G + kappa) Q + Q (G + kappa)^T + H R^T + R H^T] + Lambda,

    and on the sphere the terms that keep Q_jj.

    Attributes
    ----------
    problem : Problem
    G, Gbar, Lambda, dQ : sympy.Matrix, shape (m, m)
    H, dR : sympy.Matrix, shape (m, K)
        In terms of the entries Q_{jl} and R_{jk}, tau, the parameters and the law of c alone.
    compact : dict
        "G", "H" and "Lambda" in terms of the abbreviations in `definitions`; empty where samples or outputs interact
        (then `latex` gives them in matrix form).
    definitions : dict
        Abbreviations and what they stand for.
    values : dict
        Number of each parameter (tau, which may depend on time, excepted).
    legend : dict
        LaTeX of further notation, and what it means.
    is_closed_form : bool
        Whether the matrices are free of unevaluated averages.
    """

    problem: Problem
    G: sp.Matrix
    Gbar: sp.Matrix
    H: sp.Matrix
    Lambda: sp.Matrix
    dR: sp.Matrix  # noqa: N815
    dQ: sp.Matrix  # noqa: N815
    compact: dict[str, sp.Matrix]
    definitions: dict[sp.Symbol, sp.Expr]
    values: dict[sp.Symbol, float]
    legend: dict[str, str]
    is_closed_form: bool
    names: Names

    @property
    def symbols(self) -> dict[str, sp.Symbol]:
        """All symbols of the matrices by name: state, learning rate, parameters and moments (or points) of c."""
        found = {*self.names.state, self.names.tau, *self.values}
        return {str(s): s for s in sorted(found, key=str)}

    def evaluate(self, Q: ArrayLike, R: ArrayLike, t: float = 0.0) -> tuple[Array, Array]:
        """Return the numbers (dQ/dt, dR/dt) of the formulas at a state.

        Parameters
        ----------
        Q : array, shape (..., m, m)
        R : array, shape (..., m, K)
        t : float
            Only the learning rate depends on it.

        Returns
        -------
        dQ : ndarray, shape (..., m, m)
        dR : ndarray, shape (..., m, K)

        Raises
        ------
        InvalidInput
            If shapes do not fit or entries are not finite.

        Notes
        -----
        Without a closed form (see `is_closed_form`) the averages are those of `LimitCoefficients` at rtol 1e-10.
        """
        q, r = _checks.overlaps(Q, R, self.names.outputs, self.names.features)
        t = _checks.number("t", t, minimum=0.0)
        tau = self.problem.rate(t)
        if not self.is_closed_form:
            kappa = self.problem.regularizer.linear_strength
            assert kappa is not None  # the closure test has passed
            coefficients = LimitCoefficients(self.problem, rtol=_NUMERIC_RTOL)(q, r, t)
            return moment_rates(
                coefficients, q, r, tau=tau, phi_a=kappa * r, phi_w=kappa * q, constraint=self.problem.constraint
            )
        m, features = self.names.outputs, self.names.features
        state = [q[..., j, k] for j in range(m) for k in range(j, m)]
        state += [r[..., j, k] for j in range(m) for k in range(features)]
        lead = q.shape[:-2]
        entries = [np.broadcast_to(e, lead) for e in self._function(tau, *state, *self.values.values())]
        rates = np.stack(entries, axis=-1) if entries else np.zeros((*lead, 0))
        return rates[..., : m * m].reshape(q.shape), rates[..., m * m :].reshape(r.shape)

    def growth_matrix(self) -> sp.Matrix:
        """Return the Jacobian of dR/dt with respect to R at R = 0, shape (m K, m K), entries of R row by row.

        Its eigenvalues are the growth rates of the uninformative state (docs/theory.md, section 7). Without a closed
        form it contains derivatives of named averages.
        """
        entries = sp.Matrix(list(self.dR))
        zero = dict.fromkeys(self.names.R, sp.S.Zero)
        return entries.jacobian(list(self.names.R)).subs(zero).applyfunc(sp.expand)

    def with_numbers(self) -> SymbolicSystem:
        """Return the system with numbers in place of the parameters and the moments of c (and of tau, if constant)."""
        numbers = {s: exact(v) for s, v in self.values.items()}
        if self.problem.rate_is_constant:
            numbers[self.names.tau] = exact(self.problem.rate(0.0))
        fields = ("G", "Gbar", "H", "Lambda", "dR", "dQ")
        return replace(
            self,
            **{name: getattr(self, name).xreplace(numbers) for name in fields},
            compact={name: value.xreplace(numbers) for name, value in self.compact.items()},
            definitions={symbol: sp.expand(value.xreplace(numbers)) for symbol, value in self.definitions.items()},
        )

    def latex(self) -> str:
        """Return an ``align`` environment: the equations in matrix form, G, H, Lambda, and all abbreviations."""
        return align(self.problem, self.names, self.compact, self.definitions, self.legend)

    @cached_property
    def _function(self) -> Callable[..., list[Array]]:
        """Return the compiled right-hand side: tau, state and parameters -> entries of dQ, then of dR."""
        special_functions = {"Psi": bivariate_sign, "erf": special.erf}
        symbols = [self.names.tau, *self.names.state, *self.values]
        # Names that are valid in Python already; lambdify is slow at replacing others.
        plain = {s: sp.Symbol(f"x{i}") for i, s in enumerate(symbols)}
        entries = [entry.xreplace(plain) for entry in (*self.dQ, *self.dR)]
        compiled: Callable[..., list[Array]] = sp.lambdify(
            list(plain.values()), entries, modules=[special_functions, "numpy"], cse=True
        )
        return compiled


def symbolic_system(problem: Problem, *, general_moments: bool = False) -> SymbolicSystem:
    """Derive the closed system of a problem in symbols.

    Closed forms: the covariance loss without decorrelation (or with one output) and without centring, for polynomial
    activations (m = 1 up to degree 3, m = 2 up to degree 2, any m for degree 1) and for erf where the law of c
    consists of at most 32 points (up to sign) or is Gaussian. Everything else: the same equations with named averages.

    Parameters
    ----------
    problem : Problem
        With an L2 regularizer or none.
    general_moments : bool
        For polynomials: keep all moments of c as symbols, also those that vanish or factorize for this law.

    Returns
    -------
    SymbolicSystem

    Raises
    ------
    ClosureError
        If the moments do not close; names the terms.

    Notes
    -----
    docs/theory.md, sections 4 and 10.
    """
    require_closure(problem)
    if not isinstance(problem.loss, Covariance) or problem.loss.centered or _decorrelates(problem):
        return _general(problem)
    return _without_interaction(problem, _averages(problem, general_moments))


def _decorrelates(problem: Problem) -> bool:
    return problem.outputs > 1 and isinstance(problem.loss, Covariance) and problem.loss.decorrelation > 0.0


def _averages(problem: Problem, general_moments: bool) -> Averages:
    """Return the averages of products of sigma and its derivatives, in the best form that there is."""
    coefficients = _polynomial(problem)
    if coefficients is not None:
        return PolynomialAverages(Names.of(problem), coefficients, problem.hidden, general=general_moments)
    if isinstance(problem.activation, Erf):
        nodes = problem.hidden.nodes(2)
        return ErfAverages(Names.of(problem, nodes.covariance), nodes, is_exact=problem.hidden.is_exact)
    return NamedAverages(Names.of(problem))


def _polynomial(problem: Problem) -> list[float] | None:
    """Return the coefficients of a polynomial activation of a degree that is expanded."""
    if isinstance(problem.activation, Identity):
        return [0.0, 1.0]
    if not isinstance(problem.activation, Polynomial):
        return None
    coefficients: list[float] = np.trim_zeros(problem.activation.coefficients, "b").tolist() or [0.0]
    return coefficients if len(coefficients) - 1 <= MAX_DEGREE.get(problem.outputs, 1) else None


def _without_interaction(problem: Problem, averages: Averages) -> SymbolicSystem:
    """Assemble the coefficients where alpha_j^(1) = -(1/B) sigma'(h_j^(1)) sigma(h_j^(2)), and likewise for view 2."""
    names = averages.names
    m, features, T = names.outputs, names.features, names.T
    first = [_curvature(averages, j, 0) for j in range(m)]
    second = first if names.exchangeable else [_curvature(averages, j, 1) for j in range(m)]
    slopes = [_slopes(averages, j) for j in range(m)]
    parts = list(zip(first, second, slopes, strict=True))
    G = sp.diag(*(-(T[0, 0] * a + T[1, 1] * b + 2 * T[0, 1] * d) for a, b, d in parts))
    total = [a + b + 2 * d for a, b, d in parts]
    Gbar = -sp.diag(*total)
    H = matrix(m, features, lambda j, k: names.eta * names.R[j, k] * total[j] - _signal(averages, j, k))
    Lambda = sp.zeros(m, m)
    if names.per_sample != 0:
        for j in range(m):
            for k in range(j, m):
                Lambda[j, k] = Lambda[k, j] = names.tau**2 * names.per_sample * _diffusion(averages, j, k)
    return _assemble(problem, averages, G, Gbar, H, Lambda)


def _indexed(names: Names, letter: str, *numbers: int) -> str:
    """Return a name with indices of outputs, left out where there is one output."""
    return letter if names.outputs == 1 else f"{letter}_{{{subscript(*(n + 1 for n in numbers))}}}"


def _product(*factors: sp.Expr) -> str:
    """Return the LaTeX of the average of a product."""
    powers = (str(f) if n == 1 else f"{f}^{{{n}}}" for f, n in Counter(factors).items())
    return r"\langle " + r" \, ".join(powers) + r" \rangle"


def _curvature(averages: Averages, j: int, view: int) -> sp.Expr:
    names = averages.names
    letter = "A" if names.exchangeable else f"A^{{({view + 1})}}"
    meaning = _product(sigma((j, view), 2), sigma((j, 1 - view), 0))
    value = averages.curvature(j, view)
    # The average of two slopes that is a part of it has a name of its own.
    slopes = _slopes(averages, j)
    if slopes.is_Symbol:
        value = value.xreplace({names.definitions[slopes]: slopes})
    return names.average(_indexed(names, letter, j), meaning, value)


def _slopes(averages: Averages, j: int) -> sp.Expr:
    name = _indexed(averages.names, "D", j)
    return averages.names.average(name, _product(sigma((j, 0), 1), sigma((j, 1), 1)), averages.slopes(j))


def _signal(averages: Averages, j: int, k: int) -> sp.Expr:
    sums = " + ".join(f"{sigma((j, v), 1)} \\, {sigma((j, 1 - v), 0)}" for v in (0, 1))
    meaning = rf"\langle [ {sums} ] \, c_{{{k + 1}}} \rangle"
    return averages.names.average(f"Z_{{{subscript(j + 1, k + 1)}}}", meaning, averages.signal(j, k))


def _diffusion(averages: Averages, j: int, k: int) -> sp.Expr:
    """Return sum_vv' T_vv' B^2 E[alpha_j^(v) alpha_k^(v')] of one sample."""
    names, T = averages.names, averages.names.T

    def spread(letter: str, a: Variable, b: Variable) -> sp.Expr:
        c, d = (a[0], 1 - a[1]), (b[0], 1 - b[1])
        meaning = _product(sigma(a, 1), sigma(c, 0), sigma(b, 1), sigma(d, 0))
        return names.average(_indexed(names, letter, a[0], b[0]), meaning, averages.spread((a, b), (c, d)))

    first = spread("P" if names.exchangeable else "P^{(1)}", (j, 0), (k, 0))
    second = first if names.exchangeable else spread("P^{(2)}", (j, 1), (k, 1))
    crossed = spread("P^{\\times}", (j, 0), (k, 1))
    total = T[0, 0] * first + T[1, 1] * second
    if j == k or names.exchangeable:
        return total + 2 * T[0, 1] * crossed
    return total + T[0, 1] * (crossed + spread("P^{\\times}", (k, 0), (j, 1)))


def _general(problem: Problem) -> SymbolicSystem:
    """Assemble the coefficients with named averages of the gradients alpha of the batch loss."""
    averages = NamedAverages(Names.of(problem))
    names, m, T = averages.names, problem.outputs, averages.names.T
    views = [(v, w) for v in (0, 1) for w in (0, 1)]

    def average(integrand: str) -> sp.Expr:
        return Average(sp.Symbol(rf"\textstyle\sum_b {integrand}", real=True), *names.state)

    def alpha(j: int, v: int) -> str:
        return rf"\alpha^{{({v + 1})}}_{{b{subscript(j + 1)}}}"

    def curvature(j: int, k: int, v: int, w: int) -> sp.Expr:
        return average(rf"\partial {alpha(j, v)} / \partial h^{{({w + 1})}}_{{b{subscript(k + 1)}}}")

    def signal(j: int, k: int) -> sp.Expr:
        return average(rf"({alpha(j, 0)} + {alpha(j, 1)}) c_{{b{subscript(k + 1)}}}")

    G = matrix(m, m, lambda j, k: sum(T[v, w] * curvature(j, k, v, w) for v, w in views))
    Gbar = matrix(m, m, lambda j, k: sum(curvature(j, k, v, w) for v, w in views))
    H = matrix(m, names.features, signal) - names.eta * Gbar * names.R
    Lambda = sp.zeros(m, m)
    if names.per_sample != 0:
        for j in range(m):
            for k in range(j, m):
                spread = sum(T[v, w] * average(f"{alpha(j, v)} {alpha(k, w)}") for v, w in views)
                Lambda[j, k] = Lambda[k, j] = names.tau**2 * spread
    return _assemble(problem, averages, G, Gbar, H, Lambda, interacting=True)


def _assemble(
    problem: Problem, averages: Averages, G: sp.Matrix, Gbar: sp.Matrix, H: sp.Matrix, Lambda: sp.Matrix,
    *, interacting: bool = False,
) -> SymbolicSystem:  # fmt: skip
    """Put the coefficients into dR/dt and dQ/dt."""
    names = averages.names
    compact = {} if interacting else {"G": G, "H": H, "Lambda": Lambda}
    G, Gbar, H, Lambda = (x.applyfunc(averages.expand) for x in (G, Gbar, H, Lambda))
    R, Q, tau = names.R, names.Q, names.tau
    drift = G + names.kappa * sp.eye(names.outputs)
    dR = -tau * (drift * R + H)
    half = -tau * (drift * Q + H * R.T)
    dQ = half + half.T + Lambda
    if problem.constraint == "sphere":
        rate = sp.diag(*(-dQ[j, j] / (2 * Q[j, j]) for j in range(names.outputs)))
        dR, dQ = dR + rate * R, dQ + rate * Q + Q * rate
    return SymbolicSystem(
        problem=problem, G=G, Gbar=Gbar, H=H, Lambda=Lambda, dR=dR, dQ=dQ, compact=compact,
        definitions=dict(names.definitions), values=dict(names.values), legend=averages.legend,
        is_closed_form=averages.is_closed_form, names=names,
    )  # fmt: skip
