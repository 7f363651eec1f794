"""The derivation of the closed ODEs from the PDE, in words and formulas of a problem (docs/theory.md, sections 2-4)."""

# ruff: noqa: RUF001 - the text is mathematics with Greek letters

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.limit.closure import require_closure
from mkvlasov.problem.activations import Erf, Identity, Polynomial
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.losses import Covariance

_WIDTH = 110
_SHOWN = 4
"""Matrices with more rows or columns than this are summarized."""


def explain(problem: Problem) -> str:
    """Return the derivation of dR/dt and dQ/dt from the PDE, step by step, with the numbers of the problem.

    Parameters
    ----------
    problem : Problem
        With an L2 regularizer or none.

    Returns
    -------
    str
        Plain text, lines of at most 110 characters, unless the description of a piece has no spaces.

    Raises
    ------
    ClosureError
        If the moments do not close; names the terms and points to the PDE.

    Notes
    -----
    docs/theory.md, sections 2 to 4, 7 and 9.
    """
    require_closure(problem)
    steps = (
        ("What is reduced", _setting(problem)),
        ("The PDE", _equation(problem)),
        ("Closure condition", _closure(problem)),
        ("Weak form", _weak_form(problem)),
        ("Test functions", _test_functions(problem)),
        ("The closed system", _system(problem)),
        ("The coefficients", _coefficients(problem)),
        ("What of the law of c enters", _moments(problem)),
    )
    lines: list[str] = []
    for number, (title, body) in enumerate(steps, start=1):
        lines.append(f"{number}. {title}")
        lines += [part for line in body for part in _wrapped(line)]
        lines.append("")
    return "\n".join(lines[:-1])


def _wrapped(line: str) -> list[str]:
    """Indent a line under its heading, continued with a deeper indent where it is too long."""
    indent = " " * (3 + len(line) - len(line.lstrip()))
    return textwrap.wrap(
        line.lstrip(), _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    ", break_long_words=False
    )


def _setting(problem: Problem) -> list[str]:
    m, features = problem.outputs, problem.n_features
    entries = m * features + m * (m + 1) // 2
    return [
        f"m = {m} output{'s' * (m > 1)}, K = {features} feature{'s' * (features > 1)}. State: the overlaps "
        f"R = E[w aᵀ] ({m} x {features}) and Q = E[w wᵀ] ({m} x {m}, symmetric),",
        f"{entries} numbers, admissible while Q - R Rᵀ ≥ 0; time t = steps / N. Here E is over the law μ_t of (w, a).",
        "The loadings a enter through E[a aᵀ] = I alone: their law shapes the density of w, not R and Q.",
    ]


def _equation(problem: Problem) -> list[str]:
    diffusion = "" if math.isinf(problem.batch_size) else " + (1/2) div_w div_w [ Λ μ ]"
    lines = [f"dμ/dt = div_w [ τ ( G w + H a + φ'(w) ) μ ]{diffusion},"]
    if diffusion:
        lines.append("with G, H, Λ functions of (Q, R) alone (step 7).")
    else:
        lines.append("with G, H functions of (Q, R) alone (step 7); Λ = 0 since the batch is infinite (gradient flow).")
    if problem.rate_is_constant:
        lines.append(f"Learning rate τ = {problem.rate(0.0):g}.")
    else:
        lines.append(
            f"Learning rate τ = τ(t) = {problem.learning_rate!r}, τ(0) = {problem.rate(0.0):g}: "
            "a schedule changes nothing in the derivation."
        )
    if problem.constraint == "sphere":
        lines += [
            "Sphere: rescaling the columns after each step adds the drift ν_j w_j to w_j, linear in w_j as well,",
            "with ν_j = -(dQ_jj/dt without constraint) / (2 Q_jj).",
        ]
    return lines


def _closure(problem: Problem) -> list[str]:
    kappa = _kappa(problem)
    if kappa:
        phi = f"φ(w) = κ w²/2 with κ = {kappa:g}, so φ'(w) = κ w"
    else:
        phi = "no regularizer, φ'(w) = 0 (κ = 0)"
    return [
        f"Needed: a drift that is linear in w and a, and a diffusion that does not depend on w. Here {phi}:",
        "the condition holds. A φ' that is not linear would leave E[φ'(w) aᵀ] and E[φ'(w) wᵀ], which need the whole "
        "density.",
    ]


def _weak_form(problem: Problem) -> list[str]:
    second = "" if math.isinf(problem.batch_size) else " + (1/2) Σ_jl Λ_jl E[ ∂²f/∂w_j∂w_l ]"
    return [
        "Multiply by a test function f(w, a), integrate, and integrate by parts (once for the drift"
        + (", twice for the diffusion);" if second else ");"),
        "the boundary terms vanish since μ decays:",
        f"d/dt E[f] = -τ E[ ∇_w f · ({_drift(problem)} w + H a) ]{second}"
        + (" + Σ_j ν_j E[ w_j ∂f/∂w_j ]" if problem.constraint == "sphere" else "")
        + ".",
    ]


def _test_functions(problem: Problem) -> list[str]:
    drift = _drift(problem)
    lam = "" if math.isinf(problem.batch_size) else " + Λ_jl"
    sphere = problem.constraint == "sphere"
    return [
        "f = w_j a_k:  ∂f/∂w_i = δ_ij a_k, no second derivative, and E[a aᵀ] = I, so",
        f"   d/dt E[w_j a_k] = -τ ( [{drift} R]_jk + H_jk ){' + ν_j R_jk' if sphere else ''}.",
        "f = w_j w_l:  ∂f/∂w_i = δ_ij w_l + δ_il w_j" + (", ∂²f = the two mixed terms, so" if lam else ", so"),
        f"   d/dt E[w_j w_l] = -τ ( [{drift} Q + H Rᵀ]_jl + the same with j and l exchanged ){lam}"
        f"{' + (ν_j + ν_l) Q_jl' if sphere else ''},",
        "   where E[a wᵀ] = Rᵀ was used. No other moment of (w, a) appears: the system is closed.",
    ]


def _system(problem: Problem) -> list[str]:
    drift = _drift(problem)
    lam = "" if math.isinf(problem.batch_size) else " + Λ"
    transposed = "Gᵀ" if drift == "G" else f"{drift}ᵀ"
    sphere = problem.constraint == "sphere"
    lines = [
        f"dR/dt = -τ [ {drift} R + H ]{' + ν R' if sphere else ''}",
        f"dQ/dt = -τ [ {drift} Q + Q {transposed} + H Rᵀ + R Hᵀ ]{lam}{' + ν Q + Q ν' if sphere else ''}",
    ]
    if sphere:
        lines.append("ν = diag(ν_j) makes dQ_jj/dt = 0: each Q_jj keeps its initial value.")
    return lines


def _coefficients(problem: Problem) -> list[str]:
    S, eta = problem.noise_covariance, problem.background_variance
    lines = [
        "Given c, the pre-activations are h^(v) = R c + g^(v), g Gaussian with "
        "Cov(g^(v), g^(v')) = η (Q - R Rᵀ) + S_vv' Q;",
        f"η = {eta:g}, S = {_matrix(S)}, T = η + S = {_matrix(eta + S)}, y = σ(h), σ = {problem.activation!r}.",
    ]
    lines += _loss(problem)
    if _interacts(problem):
        lines += [
            "D_vv' = E[ Σ_b ∂α_b^(v)/∂h_b^(v') ] (Stein's lemma),  G = Σ_vv' T_vv' D_vv',  Ḡ = Σ_vv' D_vv',",
            "H = E[ Σ_b (α_b^(1) + α_b^(2)) c_bᵀ ] - η Ḡ R" + ("." if math.isinf(problem.batch_size) else ","),
        ]
        if not math.isinf(problem.batch_size):
            lines.append("Λ = τ² Σ_vv' T_vv' E[ Σ_b α_b^(v) α_b^(v')ᵀ ].")
    else:
        lines += _pair_formulas(problem)
    return [*lines, _evaluation(problem)]


def _loss(problem: Problem) -> list[str]:
    B = problem.batch_size
    batch = "∞" if math.isinf(B) else f"{B:g}"
    loss = problem.loss
    if not isinstance(loss, Covariance):
        return [f"Loss F = (1/B) Σ_b f(y_b^(1), y_b^(2)), B = {batch}, f = {loss!r}; α_b^(v) = ∂F/∂h_b^(v)."]
    centre = " about the batch means" if loss.centered else ""
    strength = loss.decorrelation if problem.outputs > 1 else 0.0
    head = f"Loss F = - Σ_j C_jj, C = (1/B) Σ_b y_b^(1) y_b^(2)ᵀ{centre}, B = {batch}"
    if strength:
        return [
            head.replace("Σ_j C_jj,", "Σ_j C_jj + (λ/2) Σ_j≠l C_jl²,") + f", λ = {strength:g}; with M_jj = -1 and",
            "M_jl = λ C_jl:",
            "   α_bj^(1) = (1/B) σ'(h_bj^(1)) Σ_l M_jl y_bl^(2),  α_bl^(2) = (1/B) σ'(h_bl^(2)) Σ_j M_jl y_bj^(1).",
            "C holds the other samples of the batch too; they enter through the first two moments of y_j^(1) y_l^(2).",
        ]
    if loss.centered:
        return [
            f"{head}; α_bj^(1) = -(1/B) σ'(h_bj^(1)) (y_bj^(2) - batch mean), and with the views",
            "exchanged. In the drift y is replaced by (1 - 1/B)(y - E y); Λ also has the spread of the batch means.",
        ]
    return [
        f"{head}; α_bj^(1) = -(1/B) σ'(h_bj^(1)) y_bj^(2), and with the views exchanged.",
        "Samples do not interact: the drift is that of one sample"
        + (", and Λ vanishes." if math.isinf(B) else ", and Λ that of one sample divided by B."),
    ]


def _pair_formulas(problem: Problem) -> list[str]:
    """Return G, H, Lambda where outputs and samples do not interact, with the numbers T in place."""
    T = problem.background_variance + problem.noise_covariance
    one, two = "y_j^(1)", "y_j^(2)"
    first, second = f"E[σ''(h_j^(1)) {two}]", f"E[{one} σ''(h_j^(2))]"
    if T[0, 0] == T[1, 1]:
        curvature, doubled = f"{2 * T[0, 0]:g} {first}", f"2 {first}"
    else:
        curvature, doubled = f"{T[0, 0]:g} {first} + {T[1, 1]:g} {second}", f"{first} + {second}"
    lines = [
        f"G_jj = -( {curvature} + {2 * T[0, 1]:g} E[σ'(h_j^(1)) σ'(h_j^(2))] ), G_jl = 0 for j ≠ l,",
        f"Ḡ_jj = -( {doubled} + 2 E[σ'(h_j^(1)) σ'(h_j^(2))] ),",
        f"H_jk = -E[( σ'(h_j^(1)) {two} + {one} σ'(h_j^(2)) ) c_k] - {problem.background_variance:g} Ḡ_jj R_jk"
        + ("." if math.isinf(problem.batch_size) else ","),
    ]
    if not math.isinf(problem.batch_size):
        lines += [
            f"Λ_jl = (τ²/{problem.batch_size:g}) Σ_vv' T_vv' E[a_j^(v) a_l^(v')],  "
            f"a_j^(1) = σ'(h_j^(1)) {two}, a_j^(2) = σ'(h_j^(2)) {one}.",
        ]
    if problem.outputs == 1:
        return [_single(line) for line in lines]
    return lines


def _single(line: str) -> str:
    """Drop the indices of outputs for m = 1."""
    return (
        line.replace(", G_jl = 0 for j ≠ l", "").replace("_jj", "").replace("_jk", "_k").replace("_jl", "")
        .replace("_j^", "^").replace("_l^", "^")
    )  # fmt: skip


def _evaluation(problem: Problem) -> str:
    if _interacts(problem):
        return "These averages are evaluated numerically."
    if isinstance(problem.activation, Identity | Polynomial):
        return "σ is a polynomial: Isserlis' theorem makes every average a polynomial in Q, R and the moments of c."
    if isinstance(problem.activation, Erf) and problem.hidden.is_exact:
        return "σ' is a Gaussian: every average is a sum of closed forms (arcsine law, Owen's T) over the points of c."
    return "These averages are evaluated numerically."


def _moments(problem: Problem) -> list[str]:
    covariance = problem.hidden.covariance
    lines = [f"c ~ {problem.hidden!r}, E c = 0, E[c cᵀ] = {_matrix(covariance)}."]
    degree = _degree(problem)
    if degree is not None and not _interacts(problem):
        drift, spread = max(2 * degree, 2), max(4 * degree - 2, 2)
        if math.isinf(problem.batch_size) or degree == 0:
            lines.append(f"σ has degree {degree}: moments of c up to order {drift} enter (H).")
        else:
            lines.append(f"σ has degree {degree}: moments of c up to order {drift} enter the drift, up to {spread} Λ.")
    else:
        kurtosis = ", ".join(f"{k:.4g}" for k in np.atleast_1d(problem.hidden.kurtosis))
        lines.append(
            f"Away from R = 0 the whole law of c enters, through R c (kurtosis of the components: {kurtosis})."
        )
    lines.append(
        "Near R = 0, to first order H = Ḡ R (E[c cᵀ] - η I): only second moments of c decide what starts to grow."
    )
    shift = " + ν" if problem.constraint == "sphere" else ""
    excess = covariance - problem.background_variance * np.eye(len(covariance))
    modes = np.linalg.eigvalsh(excess)[::-1]
    kappa = " + κ" if _kappa(problem) else ""
    lines.append(
        f"A mode of E[c cᵀ] with s = variance - η grows like the eigenvalues of -τ [ G{kappa} + s Ḡ ]{shift} at R = 0;"
    )
    lines.append(f"here s = {_numbers(modes)}.")
    return lines


def _degree(problem: Problem) -> int | None:
    if isinstance(problem.activation, Identity):
        return 1
    if isinstance(problem.activation, Polynomial):
        return max(len(np.trim_zeros(problem.activation.coefficients, "b")) - 1, 0)
    return None


def _kappa(problem: Problem) -> float:
    kappa = problem.regularizer.linear_strength
    assert kappa is not None  # the closure test has passed
    return kappa


def _drift(problem: Problem) -> str:
    if not _kappa(problem):
        return "G"
    return "(G + κ)" if problem.outputs == 1 else "(G + κ I)"


def _interacts(problem: Problem) -> bool:
    """Return whether samples or outputs interact, so that alpha is more than a product of sigma' and sigma."""
    loss = problem.loss
    return not isinstance(loss, Covariance) or loss.centered or (problem.outputs > 1 and loss.decorrelation > 0.0)


def _matrix(values: Array) -> str:
    if max(values.shape) > _SHOWN:
        return (
            f"(a {values.shape[0]} x {values.shape[1]} matrix, diagonal {_numbers(np.diagonal(values)[:_SHOWN])}, ...)"
        )
    return "[" + "; ".join(" ".join(f"{x:.6g}" for x in row) for row in values + 0.0) + "]"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{x:.4g}" for x in values)
