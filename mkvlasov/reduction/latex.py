"""The reduced system as one LaTeX align environment."""

from __future__ import annotations

import math
import re
from typing import Any

import sympy as sp
from sympy.printing.latex import LatexPrinter

from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.losses import Covariance
from mkvlasov.reduction.averages import Average, HiddenAverage
from mkvlasov.reduction.names import Names, subscript

_LINE = 75
"""Characters that fit on a line of a page, roughly; sums are broken between terms beyond that."""


class _Printer(LatexPrinter):
    """Prints products with thin spaces and floats with six digits."""

    def __init__(self) -> None:
        super().__init__({"mul_symbol": r" \, "})

    def _print_Float(self, expr: Any) -> str:
        return f"{float(expr):.6g}"


def align(
    problem: Problem,
    names: Names,
    compact: dict[str, sp.Matrix],
    definitions: dict[sp.Symbol, sp.Expr],
    legend: dict[str, str],
) -> str:
    """Return the equations, the coefficients and their abbreviations as an align* environment that compiles.

    Parameters
    ----------
    problem : Problem
    names : Names
    compact : dict
        Matrices "G", "H", "Lambda" in terms of abbreviations.
    definitions : dict
    legend : dict
        LaTeX of a relation, and its meaning in words.
    """
    rows = _equations(problem, names)
    if not compact:
        rows += _matrix_form(problem)
    for name, letter in (("G", "G"), ("H", "H"), ("Lambda", r"\Lambda")):
        rows += _entries(letter, compact[name]) if name in compact else []
    used = {s for m in compact.values() for s in m.free_symbols}
    for symbol, meaning in reversed(definitions.items()):
        if symbol in used:
            used |= meaning.free_symbols
    listed = sorted((s for s in definitions if s in used), key=lambda s: s not in names.meanings)
    rows += [_row(_print(s), definitions[s], names.meanings.get(s)) for s in listed]
    rows += [_note(relation, words) for relation, words in legend.items()]
    return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"


def _entries(letter: str, entries: sp.Matrix) -> list[str]:
    """Return rows for the entries of G or Lambda (symmetric here, zeros left out) or H."""
    indices = [(j, k) for j in range(entries.rows) for k in range(entries.cols)]
    if letter != "H":
        indices = [(j, k) for j, k in indices if k == j or (k > j and entries[j, k] != 0)]
    return [_row(f"{letter}_{{{subscript(j + 1, k + 1)}}}", entries[j, k]) for j, k in indices]


def _matrix_form(problem: Problem) -> list[str]:
    """Return the coefficients of a loss in which samples or outputs interact, in terms of its gradients alpha."""
    rows = [
        r"G &= \sum_{v, v'} T_{vv'} \left\langle \textstyle\sum_b \partial \alpha^{(v)}_b / \partial h^{(v') \top}_b "
        r"\right\rangle, \qquad T_{vv'} = \eta + S_{vv'}",
        r"H &= \left\langle \textstyle\sum_{b, v} \alpha^{(v)}_b c_b^{\top} \right\rangle - \eta \, \sum_{v, v'} "
        r"\left\langle \textstyle\sum_b \partial \alpha^{(v)}_b / \partial h^{(v') \top}_b \right\rangle R",
    ]
    if not math.isinf(problem.batch_size):
        rows.append(
            r"\Lambda &= \tau^{2} \sum_{v, v'} T_{vv'} \left\langle \textstyle\sum_b \alpha^{(v)}_b "
            r"\alpha^{(v') \top}_b \right\rangle"
        )
    rows.append(r"\alpha^{(v)}_{b} &= \partial F / \partial h^{(v)}_{b}, \qquad h^{(v)}_b = R c_b + g^{(v)}_b")
    rows.append(r"\left\langle g^{(v)} g^{(v') \top} \right\rangle &= \eta \, (Q - R R^{\top}) + S_{vv'} Q")
    return rows + _loss(problem)


def _loss(problem: Problem) -> list[str]:
    if not isinstance(problem.loss, Covariance):
        return [r"F &= \frac{1}{B} \sum_b f(y^{(1)}_b, y^{(2)}_b), \qquad y^{(v)}_b = \sigma(h^{(v)}_b)"]
    centre = (r"\, - \, \bar{y}^{(1)}", r"\, - \, \bar{y}^{(2)}") if problem.loss.centered else ("", "")
    left, right = ((rf"(y^{{({v + 1})}}_b {centre[v]})" if centre[v] else f"y^{{({v + 1})}}_b") for v in (0, 1))
    strength = problem.loss.decorrelation if problem.outputs > 1 else 0.0
    rest = r" + \frac{\lambda}{2} \sum_{j \neq l} C_{jl}^{2}" if strength else ""
    value = rf", \qquad \lambda = {strength:g}" if strength else ""
    return [
        rf"F &= - \sum_j C_{{jj}}{rest}, \qquad C = \frac{{1}}{{B}} \sum_b {left} \, {right}{{}}^{{\top}}, \qquad "
        rf"y^{{(v)}}_b = \sigma(h^{{(v)}}_b){value}"
    ]


def _equations(problem: Problem, names: Names) -> list[str]:
    sphere = problem.constraint == "sphere"
    drift = "G" if names.kappa == 0 else (r"(G + \kappa)" if names.outputs == 1 else r"(G + \kappa I)")
    transposed = r"G^{\top}" if drift == "G" else rf"{drift}^{{\top}}"
    diffusion = "" if names.per_sample == 0 else r" + \Lambda"
    to_r = r" + \mathcal{N} R" if sphere else ""
    to_q = r" + \mathcal{N} Q + Q \mathcal{N}" if sphere else ""
    rows = [
        rf"\frac{{\mathrm{{d}}R}}{{\mathrm{{d}}t}} &= -\tau \left[ {drift} R + H \right]{to_r}",
        rf"\frac{{\mathrm{{d}}Q}}{{\mathrm{{d}}t}} &= -\tau \left[ {drift} Q + Q {transposed} "
        rf"+ H R^{{\top}} + R H^{{\top}} \right]{diffusion}{to_q}",
    ]
    if sphere:
        rows.append(
            rf"\mathcal{{N}} &= \mathrm{{diag}}_j\left( \frac{{1}}{{2 Q_{{jj}}}} \left\{{ \tau \left[ {drift} Q "
            rf"+ Q {transposed} + H R^{{\top}} + R H^{{\top}} \right]{diffusion.replace('+', '-')} \right\}}_{{jj}} "
            r"\right)"
        )
    return rows


def _row(left: str, expression: sp.Expr, meaning: str | None = None) -> str:
    """Return one aligned equation, its sum broken into lines between terms; first what is averaged, if it is that."""
    if meaning is not None:
        if isinstance(expression, Average) and not isinstance(expression, HiddenAverage):
            return f"{left} &= {meaning}"
        left = f"{left} &= {meaning} \\\\\n"
    lines, current = [], ""
    for term in _terms(expression):
        text = _print(term)
        signed = text if text.startswith("-") else f"+ {text}"
        if current and _width(current) + _width(signed) > _LINE:
            lines.append(current)
            current = signed
        else:
            current = f"{current} {signed}" if current else signed
    lines.append(current)
    lines[0] = lines[0].removeprefix("+ ")
    return f"{left} &= " + " \\\\\n&\\quad ".join(lines)


def _terms(expression: sp.Expr) -> list[sp.Expr]:
    """Return the terms of a sum; those of a number times a long sum are multiplied out."""
    if expression.is_Mul:
        sums = [f for f in expression.args if f.is_Add]
        if len(sums) == 1 and _width(_print(expression)) > _LINE:
            rest = expression / sums[0]
            return [t for term in sums[0].as_ordered_terms() for t in _terms(rest * term)]
    return list(expression.as_ordered_terms()) if expression.is_Add else [expression]


def _note(relation: str, words: str) -> str:
    return rf"&{relation} \quad \text{{({words})}}"


def _width(text: str) -> int:
    """Return about how many characters wide LaTeX is on the page: without commands, braces and spaces."""
    return len(re.sub(r"\\frac\{[^{}]*\}|\\[a-z]+|[\\{}^_ ,&]", "", text))


def _print(expression: sp.Expr) -> str:
    return str(_Printer().doprint(expression))
