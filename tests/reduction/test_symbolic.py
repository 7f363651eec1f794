"""The equations in symbols against the numerical coefficients, the erf integrals against quadrature, and LaTeX."""

import re
from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
from scipy import integrate, special

import mkvlasov as mv
from mkvlasov.limit import LimitCoefficients, moment_rates
from mkvlasov.reduction.erf_integrals import Psi, bivariate_sign
from mkvlasov.reduction.symbolic import symbolic_system

CORRELATED = mv.hidden.Discrete([[-1.0, 0.5], [2.0, 0.5], [0.0, -2.25], [-1.5, 0.75]], [0.3, 0.3, 0.2, 0.2])
NOISES = {
    "none": mv.augmentations.GaussianNoise(std=0.0),
    "equal": mv.augmentations.GaussianNoise(std=0.5, correlation=-0.6),
    "opposite": mv.augmentations.GaussianNoise(std=0.7, correlation=-1.0),
    "unequal": mv.augmentations.GaussianNoise(std=[0.4, 0.9], correlation=0.3),
    "mask": mv.augmentations.RandomMask(keep=0.6),
}
DEGREES = {1: [0.3, 0.8], 2: [0.2, 1.0, -0.3], 3: [0.1, 1.0, -0.25, 0.05]}


def make(**kw):
    kw = {"hidden": CORRELATED, "learning_rate": 0.3, "regularizer": mv.regularizers.L2(0.2), **kw}
    return mv.Problem(**kw)


def polynomial(degree):
    return mv.activations.Polynomial(DEGREES[degree])


def random_state(rng, m, features, kind="generic"):
    W = rng.normal(size=(m, features + (m if kind == "generic" else 0)))
    W *= np.sqrt(rng.uniform(0.2, 3.0) / np.diag(W @ W.T).max())
    return W @ W.T, W[:, :features]


def deviation(problem, seed=5, states=3, kind="generic"):
    """Largest difference between symbols and numbers, relative to the sum of the absolute values of the terms."""
    rng = np.random.default_rng(seed)
    system = symbolic_system(problem)
    assert system.is_closed_form
    limit = LimitCoefficients(problem, rtol=1e-11)
    kappa, worst = problem.regularizer.linear_strength, 0.0
    for _ in range(states):
        Q, R = random_state(rng, problem.outputs, problem.n_features, kind)
        t = rng.uniform(0.0, 3.0)
        c, tau = limit(Q, R, t), problem.rate(t)
        expected = moment_rates(
            c, Q, R, tau=tau, phi_a=kappa * R, phi_w=kappa * Q, constraint=problem.constraint
        )  # fmt: skip
        drift = np.abs(c.G) + kappa * np.eye(len(Q))
        size = tau * (drift @ np.abs(Q) + np.abs(c.H) @ np.abs(R).T)
        sizes = (size + size.T + np.abs(c.Lambda), tau * (drift @ np.abs(R) + np.abs(c.H)))
        for found, wanted, scale in zip(system.evaluate(Q, R, t), expected, sizes, strict=True):
            worst = max(worst, (np.abs(found - wanted) / scale).max())
    return worst


# The requirement is 1e-10; both sides are accurate to about 1e-14 (1e-11 is asked from the quadrature).


@pytest.mark.parametrize(("degree", "noise"), [(1, "mask"), (2, "unequal"), (3, "none"), (3, "equal"), (3, "unequal")])
def test_polynomial_rates_equal_the_numerical_ones(degree, noise):
    problem = make(activation=polynomial(degree), augmentation=NOISES[noise], background_variance=0.7, batch_size=3)
    assert deviation(problem) < 1e-10


@pytest.mark.parametrize(("degree", "noise"), [(1, "unequal"), (2, "equal")])
def test_polynomial_rates_of_two_outputs_equal_the_numerical_ones(degree, noise):
    problem = make(activation=polynomial(degree), augmentation=NOISES[noise], outputs=2, batch_size=2)
    assert deviation(problem, states=3) < 1e-10


@pytest.mark.parametrize(
    "hidden",
    [
        mv.hidden.Rademacher([4.0, 3.0]), mv.hidden.Gaussian([1.0, 2.0]), mv.hidden.Uniform([1.0, 0.5]),
        mv.hidden.Laplace([0.5, 0.4]), mv.hidden.Sparse([1.0, 0.5], [3.0, 2.0]),
        mv.hidden.Empirical([[1.0, 0.2], [-0.4, 0.9], [-0.6, -1.1]]),
    ],
    ids=lambda law: type(law).__name__,
)  # fmt: skip
def test_every_hidden_law_enters_through_its_moments(hidden):
    assert deviation(make(activation=polynomial(2), hidden=hidden, augmentation=NOISES["equal"])) < 1e-10


ERF_LAWS = {
    "Rademacher": mv.hidden.Rademacher([4.0, 3.0]),
    "Sparse": mv.hidden.Sparse([2.0, 1.0], [3.0, 5.0]),
    "correlated": CORRELATED,
    "Gaussian": mv.hidden.Gaussian([1.0, 2.0]),
}


@pytest.mark.parametrize(
    ("law", "noise"),
    [
        *(("correlated", noise) for noise in NOISES),
        *((law, noise) for law in ERF_LAWS for noise in ("none", "unequal")),
    ],
)
def test_erf_rates_equal_the_numerical_ones(law, noise):
    problem = make(activation="erf", hidden=ERF_LAWS[law], augmentation=NOISES[noise], batch_size=2)
    assert deviation(problem, states=3) < 1e-10


@pytest.mark.parametrize(("law", "noise"), [("Rademacher", "equal"), ("Gaussian", "none")])
def test_erf_rates_of_two_outputs_equal_the_numerical_ones(law, noise):
    assert (
        deviation(make(activation="erf", hidden=ERF_LAWS[law], augmentation=NOISES[noise], outputs=2), states=2) < 1e-10
    )


@pytest.mark.parametrize(
    "option",
    [
        {"constraint": "sphere"}, {"batch_size": np.inf}, {"background_variance": 0.0}, {"regularizer": None},
        {"learning_rate": mv.schedules.ExponentialDecay(0.5, 2.0)}, {"loss": mv.losses.Covariance(decorrelation=0.4)},
    ],
    ids=lambda option: next(iter(option)),
)  # fmt: skip
def test_every_option_is_in_the_symbols(option):
    # decorrelation is without effect for one output
    problem = make(activation=polynomial(2), augmentation=NOISES["equal"], **option)
    assert deviation(problem, states=2) < 1e-10


@pytest.mark.parametrize("option", [{"constraint": "sphere"}, {"batch_size": np.inf, "background_variance": 0.0}])
def test_options_are_in_the_symbols_for_erf(option):
    problem = make(activation="erf", hidden=mv.hidden.Rademacher(2.0), augmentation=NOISES["equal"], **option)
    assert deviation(problem, states=2) < 1e-10


def test_a_sphere_with_two_outputs():
    problem = make(activation=polynomial(1), outputs=2, constraint="sphere")
    assert deviation(problem, states=2) < 1e-10
    Q, R = random_state(np.random.default_rng(1), 2, 2)
    dQ, _ = symbolic_system(problem).evaluate(Q, R)
    np.testing.assert_allclose(np.diagonal(dQ), 0.0, atol=1e-14)  # that is what the constraint is for


@pytest.mark.parametrize("activation", ["erf", polynomial(3)], ids=["erf", "polynomial"])
def test_fully_learnt_features_are_no_exception(activation):
    # Q = R R^T and no noise: h = R c exactly, every covariance of g vanishes.
    assert deviation(make(activation=activation, augmentation=NOISES["none"]), kind="learnt") < 1e-10


def test_states_can_be_stacked():
    system = symbolic_system(make(activation="erf", augmentation=NOISES["equal"]))
    rng = np.random.default_rng(2)
    states = [random_state(rng, 1, 2) for _ in range(4)]
    Q, R = (np.stack(x).reshape(2, 2, *x[0].shape) for x in zip(*states, strict=True))
    dQ, dR = system.evaluate(Q, R)
    for i, (q, r) in enumerate(states):
        one = system.evaluate(q, r)
        np.testing.assert_allclose(dQ.reshape(4, 1, 1)[i], one[0], rtol=1e-13)
        np.testing.assert_allclose(dR.reshape(4, 1, 2)[i], one[1], rtol=1e-13)


def test_wrong_shapes_are_named():
    system = symbolic_system(make(activation=polynomial(1)))
    with pytest.raises(mv.InvalidInput, match=r"^R: "):
        system.evaluate(np.eye(1), np.zeros((1, 3)))


@pytest.mark.parametrize(
    "option",
    [
        {"activation": "tanh"}, {"activation": "relu", "outputs": 2},
        {"activation": mv.activations.Polynomial([0.0, 1.0, 0.0, 0.0, 0.1])},
        {"activation": "erf", "outputs": 2, "loss": mv.losses.Covariance(decorrelation=0.5)},
        {"activation": "sigmoid", "batch_size": 4, "loss": mv.losses.Covariance(centered=True), "constraint": "sphere"},
        {"activation": "erf", "hidden": mv.hidden.Uniform([1.0, 2.0])},
    ],
    ids=["tanh", "relu", "degree 4", "decorrelation", "centred", "continuous law"],
)  # fmt: skip
def test_what_has_no_closed_form_has_named_averages(option):
    problem = make(**option)
    system = symbolic_system(problem)
    assert not system.is_closed_form
    assert "E[" in str(system.dR) or "E_c[" in str(system.dR)
    assert r"\langle" in system.latex()
    # a named average depends on the state, so that a derivative of it is not silently zero
    assert system.G[0, 0].diff(system.names.Q[0, 0]) != 0
    if not mv.activations.from_name(problem.activation).kinks:
        Q, R = random_state(np.random.default_rng(1), problem.outputs, 2)
        c = LimitCoefficients(problem, rtol=1e-10)(Q, R)
        phi_a, phi_w = 0.2 * R, 0.2 * Q
        expected = moment_rates(c, Q, R, tau=0.3, phi_a=phi_a, phi_w=phi_w, constraint=problem.constraint)
        for found, wanted in zip(system.evaluate(Q, R), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


def test_a_regularizer_that_does_not_close_is_named():
    with pytest.raises(mv.ClosureError, match=r"L1\(strength=0.1\).*solve_pde"):
        symbolic_system(make(activation="erf", regularizer=mv.regularizers.L1(0.1)))


# --- the uninformative state


def orders(expression):
    """Orders of the moments m_{i,j} that occur."""
    return {sum(map(int, re.findall(r"\d+", str(s)))) for s in expression.free_symbols if str(s).startswith("m_")}


@pytest.mark.parametrize(("m", "degree"), [(1, 2), (1, 3), (2, 2)])
def test_growth_at_the_uninformative_state_has_second_moments_only(m, degree):
    problem = make(activation=polynomial(degree), outputs=m, augmentation=NOISES["unequal"], background_variance=0.7)
    system = symbolic_system(problem, general_moments=True)
    entries = sp.Matrix(list(system.dR))
    assert max(orders(entries)) > 2  # away from R = 0 higher moments do enter
    zero = dict.fromkeys(system.names.R, 0)
    assert entries.xreplace(zero).applyfunc(sp.expand) == sp.zeros(*entries.shape)  # R = 0 is stationary
    growth = system.growth_matrix()
    assert orders(growth) == {2}
    # and they enter as in docs/theory.md, section 7: -tau [G + kappa + Gbar (E c c^T - eta)] at R = 0
    names = system.names
    G, Gbar = (x.xreplace(zero) for x in (system.G, system.Gbar))
    m20, m11, m02 = (sp.Symbol(f"m_{{{i}}}", real=True) for i in ("2,0", "1,1", "0,2"))
    second = sp.Matrix([[m20, m11], [m11, m02]])
    theory = sp.kronecker_product(G + names.kappa * sp.eye(m), sp.eye(2))
    theory += sp.kronecker_product(Gbar, second - names.eta * sp.eye(2))
    assert (growth + names.tau * theory).applyfunc(sp.expand) == sp.zeros(2 * m, 2 * m)


def test_general_moments_do_not_change_the_numbers():
    problem = make(activation=polynomial(2), hidden=mv.hidden.Rademacher([1.0, 0.5]), augmentation=NOISES["equal"])
    Q, R = random_state(np.random.default_rng(1), 1, 2)
    special_form, general = symbolic_system(problem), symbolic_system(problem, general_moments=True)
    assert len(general.values) > len(special_form.values)
    for a, b in zip(special_form.evaluate(Q, R), general.evaluate(Q, R), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_independent_features_need_moments_of_single_components_only():
    names = symbolic_system(make(activation=polynomial(2), hidden=mv.hidden.Rademacher([2.0, 1.0]))).symbols
    moments = [n for n in names if n.startswith("m_")]
    assert set(moments) == {"m_{2,0}", "m_{4,0}", "m_{6,0}", "m_{0,2}", "m_{0,4}", "m_{0,6}"}


# --- the function of Owen's T


@pytest.mark.parametrize("r", [-0.95, -0.3, 0.0, 0.6, 0.999])
@pytest.mark.parametrize(
    ("x", "y"), [(0.3, 1.1), (-0.7, 0.4), (0.0, 0.8), (-1.2, 0.0), (1e-9, 0.5), (2.0, 2.0), (0.0, 0.0)]
)
def test_bivariate_sign_against_an_integral(x, y, r):
    # E over z1 of sign(x + z1) erf((y + r z1) / sqrt(2 (1 - r^2))), split at the jump
    def integrand(z):
        return special.erf((y + r * z) / np.sqrt(2.0 * (1.0 - r * r))) * np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)

    options = {"epsabs": 1e-13, "epsrel": 1e-12, "limit": 200}
    bend = -y / r if r else 0.0
    edges = np.clip(sorted({-12.0, -x, bend, bend - 0.2, bend + 0.2, 12.0}), -12.0, 12.0)
    pieces = [(integrate.quad(integrand, a, b, **options)[0], a) for a, b in pairwise(edges) if b > a]
    expected = sum(value if a >= -x else -value for value, a in pieces)
    assert abs(float(bivariate_sign(x, y, r)) - expected) < 1e-11


def test_derivatives_of_the_sign_function():
    symbols = sp.symbols("x y r", real=True)
    point = (0.4, -0.7, 0.3)
    for i, symbol in enumerate(symbols):
        formula = sp.lambdify(symbols, Psi(*symbols).diff(symbol), modules=[{"erf": special.erf}, "numpy"])(*point)
        step = np.eye(3)[i] * 1e-5
        difference = (bivariate_sign(*(point + step)) - bivariate_sign(*(point - step))) / 2e-5
        assert abs(formula - difference) < 1e-9  # central differences: 1e-10 truncation, 1e-11 rounding


def test_the_jacobian_of_erf_rates_in_symbols_is_that_of_the_numbers():
    problem = make(activation="erf", hidden=mv.hidden.Rademacher(2.0), augmentation=NOISES["equal"])
    system = symbolic_system(problem)
    q = system.names.Q[0, 0]
    Q, R = random_state(np.random.default_rng(1), 1, 1)
    numbers = {**system.values, system.names.tau: 0.3, q: Q[0, 0], **dict(zip(system.names.R, R[0], strict=True))}
    function = sp.lambdify(
        list(numbers), system.dR[0, 0].diff(q), modules=[{"Psi": bivariate_sign, "erf": special.erf}, "numpy"]
    )
    step = 1e-5
    up, down = (system.evaluate(Q + s, R)[1][0, 0] for s in (step, -step))
    assert abs(function(*numbers.values()) - (up - down) / (2 * step)) < 1e-8


# --- LaTeX


def balanced(text):
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


LATEX = {
    "polynomial": {"activation": polynomial(2), "augmentation": NOISES["unequal"]},
    "cubic": {"activation": polynomial(3), "augmentation": NOISES["equal"], "constraint": "sphere"},
    "two outputs": {"activation": polynomial(2), "outputs": 2, "augmentation": NOISES["equal"]},
    "erf": {"activation": "erf", "augmentation": NOISES["unequal"]},
    "erf, two outputs": {"activation": "erf", "hidden": mv.hidden.Rademacher(2.0), "outputs": 2},
    "erf Gaussian": {"activation": "erf", "hidden": mv.hidden.Gaussian(2.0), "batch_size": np.inf},
    "tanh": {"activation": "tanh", "outputs": 2, "constraint": "sphere", "regularizer": None},
    "decorrelation": {"activation": "tanh", "outputs": 2, "loss": mv.losses.Covariance(decorrelation=0.5)},
    "centred": {"activation": "sigmoid", "batch_size": 4, "loss": mv.losses.Covariance(centered=True)},
}


@pytest.mark.parametrize(
    ("name", "numbers"), [*((name, False) for name in LATEX), ("polynomial", True), ("erf", True), ("tanh", True)]
)
def test_latex_is_one_well_formed_align(name, numbers):
    system = symbolic_system(make(**LATEX[name]))
    text = (system.with_numbers() if numbers else system).latex()
    assert text.startswith("\\begin{align*}\n")
    assert text.endswith("\n\\end{align*}")
    rows = text.removeprefix("\\begin{align*}\n").removesuffix("\n\\end{align*}").split("\\\\\n")
    for row in rows:
        assert row.count("&") == 1, row
        assert balanced(row), row
        # \left and \right must meet within a line
        assert len(re.findall(r"\\left(?![a-z])", row)) == len(re.findall(r"\\right(?![a-z])", row)), row
        # no double superscripts or subscripts, which TeX refuses
        assert not re.search(r"\^\{[^{}]*\}(_\{[^{}]*\})?\^", row), row
        assert not re.search(r"_\{[^{}]*\}(\^\{[^{}]*\})?_", row), row
        assert "E_c" not in row
    assert "\n\n" not in text  # an empty line ends the formula


def test_latex_defines_every_abbreviation_that_it_uses():
    system = symbolic_system(make(activation="erf", augmentation=NOISES["unequal"]))
    text = system.latex()
    left = [line.split("&=")[0] for line in text.splitlines() if "&=" in line]
    for symbol in ("V^{(1)}", "V^{(2)}", "X", r"\Delta", "L_{1}", "T_{12}", "P^{\\times}"):
        assert symbol in text
        assert any(symbol in part for part in left), symbol


def test_numbers_replace_every_parameter():
    problem = make(activation=polynomial(2), hidden=mv.hidden.Rademacher([4.0, 3.0]), augmentation=NOISES["equal"])
    system = symbolic_system(problem).with_numbers()
    assert system.dR.free_symbols | system.dQ.free_symbols == set(system.names.state)
    Q, R = random_state(np.random.default_rng(1), 1, 2)
    values = dict(zip(system.names.state, [Q[0, 0], *R[0]], strict=True))
    np.testing.assert_allclose(
        np.array(system.dQ.subs(values), dtype=float), symbolic_system(problem).evaluate(Q, R)[0], rtol=1e-12
    )
