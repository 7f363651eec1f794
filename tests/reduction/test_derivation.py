"""The derivation in words: the formulas and numbers of the problem at hand, and nothing that does not belong to it."""

# ruff: noqa: RUF001 - the text is mathematics with Greek letters

import subprocess
import sys

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.reduction.derivation import explain


def make(**kw):
    kw = {"hidden": mv.hidden.Rademacher([4.0, 3.0]), "activation": "tanh", "learning_rate": 0.4, **kw}
    return mv.Problem(**kw)


def words(text):
    return " ".join(text.split())


CASES = {
    "plain": {},
    "sphere": {"constraint": "sphere", "outputs": 2},
    "flow": {"batch_size": np.inf, "activation": mv.activations.Polynomial([0.0, 1.0, 0.2])},
    "decorrelation": {"outputs": 3, "loss": mv.losses.Covariance(decorrelation=0.7), "batch_size": 4},
    "centred": {"activation": "sigmoid", "loss": mv.losses.Covariance(centered=True), "batch_size": 8},
    "custom": {"loss": mv.losses.Custom(lambda y1, y2: ((y1 - y2) ** 2).sum(axis=-1))},
    "erf": {"activation": "erf", "hidden": mv.hidden.Gaussian(np.arange(1.0, 8.0))},
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_short_and_has_all_steps(name):
    lines = explain(make(**CASES[name])).splitlines()
    assert len(lines) < 80
    assert max(map(len, lines)) <= 110
    headings = [line for line in lines if line[:1].isdigit()]
    assert [h.split(".")[0] for h in headings] == list("12345678")


def test_the_numbers_are_those_of_the_problem():
    noise = mv.augmentations.GaussianNoise(std=0.5, correlation=-0.6)
    text = words(explain(make(regularizer=mv.regularizers.L2(0.3), augmentation=noise)))
    for piece in (
        "φ(w) = κ w²/2 with κ = 0.3",
        "τ = 0.4",
        "S = [0.25 -0.15; -0.15 0.25], T = η + S = [1.25 0.85; 0.85 1.25]",
        "G = -( 2.5 E[σ''(h^(1)) y^(2)] + 1.7 E[σ'(h^(1)) σ'(h^(2))] )",
        "E[c cᵀ] = [4 0; 0 3]",
        "here s = 3, 2.",
        "dR/dt = -τ [ (G + κ) R + H ]",
        "dQ/dt = -τ [ (G + κ) Q + Q (G + κ)ᵀ + H Rᵀ + R Hᵀ ] + Λ",
    ):
        assert piece in text
    assert "ν" not in text
    assert "λ" not in text


def test_the_equations_have_the_terms_of_the_problem_only():
    sphere = words(explain(make(constraint="sphere", outputs=2)))
    assert "dR/dt = -τ [ G R + H ] + ν R" in sphere
    assert "+ Λ + ν Q + Q ν" in sphere
    assert "κ" not in sphere.replace("(κ = 0)", "")
    flow = words(explain(make(batch_size=np.inf)))
    assert "dQ/dt = -τ [ G Q + Q Gᵀ + H Rᵀ + R Hᵀ ] " in flow
    assert "∂²" not in flow
    interacting = words(explain(make(outputs=2, loss=mv.losses.Covariance(decorrelation=0.7), batch_size=4)))
    assert "λ = 0.7" in interacting
    assert "B = 4" in interacting
    schedule = words(explain(make(learning_rate=mv.schedules.ExponentialDecay(0.5, 2.0))))
    assert "ExponentialDecay(initial=0.5" in schedule


@pytest.mark.parametrize(("degree", "drift", "spread"), [(1, 2, 2), (2, 4, 6), (3, 6, 10)])
def test_the_moments_that_enter_are_those_of_the_symbols(degree, drift, spread):
    from mkvlasov.reduction.symbolic import symbolic_system

    problem = make(
        activation=mv.activations.Polynomial([0.1, 1.0, 0.2, 0.3][: degree + 1]), hidden=mv.hidden.Laplace(1.0)
    )
    assert f"up to order {drift} enter the drift, up to {spread} Λ" in words(explain(problem))
    system = symbolic_system(problem)
    for matrices, order in (((system.G, system.H), drift), ((system.Lambda,), spread)):
        symbols = {str(s) for matrix in matrices for s in matrix.free_symbols}
        assert max(int(s[3:-1]) for s in symbols if s.startswith("m_{")) == order


def test_terms_that_do_not_close_are_named():
    with pytest.raises(mv.ClosureError, match=r"DoubleWell\(strength=0.2\).*phi'\(w\).*solve_pde"):
        explain(make(regularizer=mv.regularizers.DoubleWell(0.2)))


def test_the_explanation_does_without_sympy():
    program = (
        "import sys, mkvlasov as mv, mkvlasov.reduction as r;"
        "r.explain(mv.Problem(hidden=mv.hidden.Gaussian(1.0), activation='tanh', learning_rate=0.1));"
        "assert 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
