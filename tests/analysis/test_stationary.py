"""Stationary states against the fixed points of the closed ODEs, time evolution, and a direct discretization."""

from dataclasses import replace

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.limit.coefficients import LimitCoefficients

PAPER, _ = mv.read_problem("contrastive")
ONE = replace(PAPER, hidden=mv.hidden.Rademacher(4.0), loadings=mv.loadings.Sparse(0.3))
SPARSE_L1 = replace(ONE, regularizer=mv.regularizers.L1(0.6))
UNLEARNT_L1 = replace(
    ONE,
    hidden=mv.hidden.Rademacher(3.0),
    loadings=mv.loadings.Rademacher(),
    augmentation=mv.augmentations.GaussianNoise(std=1.0, correlation=-1.0),
    regularizer=mv.regularizers.L1(0.3),
)


@pytest.fixture(scope="module")
def sparse():
    return mv.stationary_states(SPARSE_L1, starts=8)


@pytest.fixture(scope="module")
def unlearnt():
    return mv.stationary_states(UNLEARNT_L1, starts=16)


@pytest.mark.parametrize("loadings", [mv.loadings.Gaussian(), mv.loadings.Sparse(0.3)])
@pytest.mark.parametrize("constraint", [None, "sphere"])
def test_under_weight_decay_they_are_the_fixed_points_of_the_odes(loadings, constraint):
    """Positions, losses, types, and the eigenvalues of the ODEs among those of the linearized PDE."""
    problem = replace(PAPER, loadings=loadings, constraint=constraint)
    states = {state.name: state for state in mv.stationary_states(problem, starts=16)}
    points = {point.name: point for point in mv.reduce(problem).fixed_points(starts=16) if point.Q.any()}
    assert states.keys() == points.keys()
    for name, point in points.items():
        state = states[name]
        error = point.error + state.error
        assert error < 1e-9
        # Copies are the same set, whichever comes first.
        gaps = [max(np.abs(state.Q - Q).max(), np.abs(state.R - R).max()) for Q, R in point.copies]
        assert min(gaps) < error
        assert len(state.copies) == len(point.copies)
        assert state.loss == pytest.approx(point.loss, abs=1e-9)
        for value in point.stability.eigenvalues:
            gap = np.abs(state.stability.eigenvalues - value)
            assert gap.min() < 1e-7
            assert gap.min() < point.stability.error + 10.0 * state.stability.errors[gap.argmin()] + 1e-10
        assert state.stability.unstable_dimension == point.stability.unstable_dimension
        assert state.stability.is_complete


def test_densities_under_weight_decay_are_gaussian():
    problem = replace(ONE, regularizer=mv.regularizers.L2(0.3))
    state = mv.stationary_states(problem, starts=8).stable[0]
    c, rate = state.coefficients, 0.4
    stiffness = c.G[0, 0] + 0.3
    variance = c.Lambda[0, 0] / (2.0 * rate * stiffness)
    for a in (0.0, 1.0 / np.sqrt(0.3), -0.7):
        mean = -c.H[0, 0] * a / stiffness
        w = mean + np.sqrt(variance) * np.linspace(-5.0, 5.0, 41)
        expected = np.exp(-0.5 * (w - mean) ** 2 / variance) / np.sqrt(2.0 * np.pi * variance)
        np.testing.assert_allclose(state.density(a).pdf(w), expected, rtol=1e-9)


def test_a_long_run_of_the_pde_ends_at_the_stable_state(sparse):
    """L1: the slowest eigenvalue is 0.3, so that nothing is left of the start at t = 200."""
    (state,) = sparse.stable
    assert state.stability.eigenvalues[0].real < -0.25
    initial = mv.initial.Gaussian(Q=1.0, R=0.5)
    pde = mv.solve_pde(SPARSE_L1, initial, t_eval=[200.0], rtol=1e-7, progress=False)
    assert abs(pde.Q[-1] - state.Q).max() < 1e-6
    assert abs(pde.R[-1] - state.R).max() < 1e-6
    for a in (0.0, 1.0 / np.sqrt(0.3)):
        found = pde.density(200.0, a)
        gap = np.abs(found.p - state.density(a).pdf(found.w))
        assert found.weights @ gap < 1e-5  # in L1, whose integral is one


def test_every_state_reproduces_its_moments(unlearnt):
    """Independent of Newton's method: trapezoidal sums of the Gibbs formula at the coefficients of (Q, R)."""
    limit = LimitCoefficients(UNLEARNT_L1, 1e-11)
    assert len(unlearnt) == 4
    for state in unlearnt:
        c = limit(state.Q, state.R)
        beta = 2.0 * 0.4 / c.Lambda[0, 0]
        # Trapezoidal in u, w = sinh(u) / 1e5: fine at the kink, which is a node, and wide.
        u = np.linspace(-16.0, 16.0, 400_001)
        w, dw = np.sinh(u) * 1e-5, np.cosh(u)
        moments = np.zeros(2)
        for a in (-1.0, 1.0):
            exponent = -beta * (0.5 * c.G[0, 0] * w * w + c.H[0, 0] * a * w + 0.3 * np.abs(w))
            p = np.exp(exponent - exponent.max()) * dw
            moments += 0.5 * np.array([(p * w).sum() * a, (p * w * w).sum()]) / p.sum()
        scale = state.Q[0, 0]
        assert moments == pytest.approx([state.R[0, 0], state.Q[0, 0]], abs=1e-9 * np.sqrt(scale))
        assert state.residual < 1e-10


def _discretized(problem, state, cells):
    """Eigenvalues of the nonlinear PDE on a grid, linearized by differences of the coefficients alone."""
    atoms, shares = problem.loadings.nodes(1, 2)
    limit, tau = LimitCoefficients(problem, 1e-11), problem.rate(0.0)

    def fields(Q, R):
        c = limit(np.array([[Q]]), np.array([[R]]))
        return np.array([c.G[0, 0], c.H[0, 0], c.Lambda[0, 0]])

    G, H, Lambda = fields(state.Q[0, 0], state.R[0, 0])
    beta, kappa = 2.0 * tau / Lambda, problem.regularizer.strength
    operators, densities, grids = [], [], []
    for a in atoms[:, 0]:
        density = state.density(a)
        inside = density.w[density.p > 1e-13 * density.p.max()]
        low, high = inside[0], inside[-1]
        # The kink at a face: phi enters fluxes as a difference.
        h = (high - low) / cells
        low = np.floor(low / h) * h
        w = low + h * (np.arange(cells + 1) + 0.5)
        faces = w[:-1] + 0.5 * h
        energy = beta * (0.5 * G * w * w + H * a * w + kappa * np.abs(w))
        at_faces = beta * (0.5 * G * faces**2 + H * a * faces + kappa * np.abs(faces))
        p = np.exp(energy.min() - energy)
        p /= p.sum() * h
        norm = np.exp(energy.min()) / (np.exp(energy.min() - energy).sum() * h)
        up = 0.5 * Lambda * norm * np.exp(-at_faces) / h**2  # flux = up (f_i+1 - f_i), f = q / p
        n = len(w)
        L = np.zeros((n, n))
        i = np.arange(n - 1)
        L[i, i + 1] += up / p[1:]
        L[i, i] -= up / p[:-1]
        L[i + 1, i + 1] -= up / p[1:]
        L[i + 1, i] += up / p[:-1]
        operators.append(L)
        densities.append((p, up * h, energy, at_faces))
        grids.append((w, faces, h, a))
    size = sum(len(L) for L in operators)
    A = np.zeros((size, size))
    starts = np.cumsum([0, *(len(L) for L in operators)])
    step = 1e-5
    by_Q = (fields(state.Q[0, 0] + step, state.R[0, 0]) - fields(state.Q[0, 0] - step, state.R[0, 0])) / (2 * step)
    by_R = (fields(state.Q[0, 0], state.R[0, 0] + step) - fields(state.Q[0, 0], state.R[0, 0] - step)) / (2 * step)
    for k, (w, faces, h, a) in enumerate(grids):
        A[starts[k] : starts[k + 1], starts[k] : starts[k + 1]] += operators[k]
        p, up, energy, at_faces = densities[k]
        mobility = up * h * 2.0 / Lambda  # p at the faces
        V = energy / beta
        for change, observed in ((by_Q, lambda w, a: w * w), (by_R, lambda w, a: a * w)):
            dG, dH, dLambda = change
            # d/dw [ tau (dG w + dH a) p + (dLambda / 2) p' ], with p' = -beta V' p.
            flux = mobility * (tau * (dG * faces + dH * a) - 0.5 * dLambda * beta * np.diff(V) / h)
            source = (np.append(flux, 0.0) - np.append(0.0, flux)) / h
            for j, (w2, _, h2, a2) in enumerate(grids):
                A[starts[k] : starts[k + 1], starts[j] : starts[j + 1]] += np.outer(
                    source, shares[j] * h2 * observed(w2, a2)
                )
    return np.linalg.eigvals(A)


@pytest.mark.parametrize("which", ["sparse", "unlearnt"])
def test_eigenvalues_are_those_of_a_direct_discretization(which, request):
    """Finite volumes of order one or more err by the gap to a grid of half as many cells at most; twice it is allowed.

    Eigenvalues beside the continuum of exponential tails depend on the range of the grid, which their errors say.
    """
    states = request.getfixturevalue(which)
    problem = {"sparse": SPARSE_L1, "unlearnt": UNLEARNT_L1}[which]
    for state in states:
        wanted = state.stability.eigenvalues[:2]
        coarse, fine = (_discretized(problem, state, cells) for cells in (150, 300))
        for value in wanted:
            pair = [values[np.abs(values - value).argmin()] for values in (coarse, fine)]
            error = state.stability.errors[np.abs(state.stability.eigenvalues - value).argmin()]
            assert abs(pair[1] - value) < 2.0 * abs(pair[1] - pair[0]) + 2.0 * error + 1e-5
            assert abs(pair[1] - value) < 0.01 * max(abs(value), 0.1)
        leading = fine[fine.real > 1e-6]
        assert len(leading) == state.stability.unstable_dimension


def test_small_perturbations_grow_with_the_eigenvalue(unlearnt):
    """From the densities of the saddle for a strength that differs by 1e-6: the other eigenvalues are below -0.3."""
    (saddle,) = (s for s in unlearnt if s.name == "feature 0 (2)")
    growth = saddle.stability.eigenvalues[0].real
    assert saddle.stability.eigenvalues[1].real < -0.3
    assert growth > 1.0
    other = replace(UNLEARNT_L1, regularizer=mv.regularizers.L1(0.3 * (1.0 + 1e-6)))
    (start,) = (s for s in mv.stationary_states(other, starts=16) if s.name == "feature 0 (2)")
    # Nodes graded to the spike, with the kink among them, out to where exp(-beta kappa w) is 1e-16.
    half = np.sinh(np.linspace(0.0, 12.5, 1501)) * 1e-4
    w = np.array([np.concatenate([-half[:0:-1], half])] * 2)
    p = np.array([start.density(a).pdf(row) for a, row in zip((-1.0, 1.0), w, strict=True)])
    pde = mv.solve_pde(
        UNLEARNT_L1, mv.initial.Tabulated([-1.0, 1.0], [0.5, 0.5], w, p), t_eval=[0.0, 4.0, 6.0], rtol=1e-7,
        method=mv.methods.SpectralElements(), progress=False,
    )  # fmt: skip
    gap = np.abs(pde.R[:, 0, 0]) - saddle.R[0, 0]
    assert gap[-1] < 2e-3 * saddle.R[0, 0]  # what is of second order is of this size
    measured = np.log(gap[2] / gap[1]) / 2.0
    # Other modes have fallen by e^(-1.5 * 4) beside it; their part in the slope is half of that.
    assert measured == pytest.approx(growth, rel=3e-3)


def test_uninformative_densities_without_linear_drift_are_laplace(unlearnt):
    """Independent pre-activations: G = 0, p = exp(-beta kappa |w|) beta kappa / 2, so Q = 2 / (beta kappa)^2."""
    found = [s for s in unlearnt if s.name.startswith("uninformative")]
    assert len(found) == 2
    for state in found:
        rate = 2.0 * 0.4 / state.coefficients.Lambda[0, 0] * 0.3
        assert state.Q[0, 0] == pytest.approx(2.0 / rate**2, rel=1e-9)
        w = np.array([-2.0, 0.0, 0.7]) / rate
        np.testing.assert_allclose(state.density(1.0).pdf(w), 0.5 * rate * np.exp(-rate * np.abs(w)), rtol=1e-9)


def test_symmetric_copies_are_merged_and_named():
    """Loadings without symmetry keep the sign of the output: w -> -w maps R to -R."""
    atoms = np.array([-0.5, 2.0])
    states = mv.stationary_states(replace(SPARSE_L1, loadings=mv.loadings.Discrete(atoms, [0.8, 0.2])), starts=8)
    assert states.symmetries == ("sign of feature 0",)
    assert states.stable[0].copy_names == ("feature 0", "-feature 0")


def test_figures_show_every_state_and_loading(unlearnt):
    axes = [ax for ax in unlearnt.plot().axes if ax.get_visible()]
    assert [ax.get_title() for ax in axes] == [f"{s.name}\n{s.stability.type}" for s in unlearnt]
    for ax, state in zip(axes, unlearnt, strict=True):
        assert [line.get_label() for line in ax.get_lines()] == ["$a = -1$", "$a = 1$"]
        w, p = ax.get_lines()[1].get_data()
        np.testing.assert_allclose(p, state.density(1.0).pdf(w))
    assert len(unlearnt[0].plot().axes) == 1


def test_the_search_reports_itself(unlearnt):
    text = str(unlearnt)
    assert "4 stationary state(s)" in text
    assert sum(state.found for state in unlearnt) + sum(unlearnt.failures.values()) == unlearnt.starts
    assert len({state.name for state in unlearnt}) == 4


def test_where_nothing_confines_an_error_names_it():
    with pytest.raises(mv.UnconfinedError, match="nothing holds the weights back"):
        mv.stationary_states(mv.read_problem("unregularized")[0], starts=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": 2}, "outputs=1"),
        ({"batch_size": np.inf}, "without diffusion"),
        ({"learning_rate": lambda t: 1.0 / (1.0 + t)}, "schedule"),
    ],
)
def test_what_is_not_covered_is_refused(change, message):
    with pytest.raises(mv.UnsupportedError, match=message):
        mv.stationary_states(replace(SPARSE_L1, **change))


def test_bad_arguments(sparse):
    with pytest.raises(mv.InvalidInput, match="starts"):
        mv.stationary_states(SPARSE_L1, starts=0)
    with pytest.raises(mv.InvalidInput, match="loading"):
        sparse[0].density([1.0, 2.0])
    with pytest.raises(mv.InvalidInput, match="problem"):
        mv.stationary_states("sparse")
