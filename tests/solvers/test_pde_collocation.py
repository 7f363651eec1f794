"""The PDE against a solver of another kind: collocation of order six with findiff, method of lines with BDF.

The double well does not close and is smooth, so neither the closed ODEs nor the Gibbs law could replace this check. The
two share the limit coefficients and nothing else.
"""

import numpy as np
from findiff import Diff
from scipy.integrate import solve_ivp
from scipy.sparse import block_diag, diags_array

import mkvlasov as mv
from mkvlasov.limit.coefficients import LimitCoefficients

PROBLEM = mv.Problem(
    hidden=mv.hidden.Rademacher(3.0),
    activation="tanh",
    learning_rate=0.5,
    regularizer=mv.regularizers.DoubleWell(0.4),
    augmentation=mv.augmentations.GaussianNoise(std=[0.4, 0.8], correlation=-0.3),
    loadings=mv.loadings.Discrete([-0.5, 2.0], [0.8, 0.2]),
)
INITIAL = mv.initial.Gaussian(Q=0.3, R=0.2)
TIMES = np.array([0.5, 2.0])


def collocation(points=301, half_width=4.2):
    """Return the grid and p(w | a) at the times, shape (times, loadings, points), by high-order finite differences.

    With dp/dt = tau d/dw[(G w + H a + phi') p] + (Lambda / 2) d2p/dw2; the box is so wide that p vanishes at its walls.
    """
    w = np.linspace(-half_width, half_width, points)
    loadings, weights = np.array([-0.5, 2.0]), np.array([0.8, 0.2])
    first = Diff(0, w[1] - w[0], acc=6).matrix((points,))
    second = (Diff(0, w[1] - w[0], acc=6) ** 2).matrix((points,))
    # p = 0 at the walls: the drift points inward there, so a value has to be prescribed.
    inside = diags_array(np.r_[0.0, np.ones(points - 2), 0.0])
    penalty = 0.4 * (w**2 - 1.0) * w
    coefficients = LimitCoefficients(PROBLEM, rtol=1e-9)

    def mean(f):
        return np.trapezoid(f, w)  # spectrally accurate for a density that vanishes at both ends

    def operators(y):
        """Return the linear operator of each loading at the order parameters of the state."""
        p = y.reshape(2, points)
        Q = sum(v * mean(w**2 * row) for v, row in zip(weights, p, strict=True))
        R = sum(v * a * mean(w * row) for v, a, row in zip(weights, loadings, p, strict=True))
        c = coefficients([[Q]], [[R]])
        G, H, Lambda = c.G[0, 0], c.H[0, 0], c.Lambda[0, 0]
        drifts = [0.5 * first @ diags_array(G * w + H * a + penalty) for a in loadings]
        return block_diag([inside @ (drift + 0.5 * Lambda * second) for drift in drifts], format="csc")

    start = [np.exp(-0.5 * (w - 0.2 * a) ** 2 / 0.26) / np.sqrt(2 * np.pi * 0.26) for a in loadings]
    # The operator at frozen order parameters serves Newton's method as the Jacobian.
    result = solve_ivp(
        lambda t, y: operators(y) @ y, (0, TIMES[-1]), np.concatenate(start), "BDF", TIMES, rtol=1e-6, atol=1e-8,
        jac=lambda t, y: operators(y),
    )  # fmt: skip
    assert result.success
    return w, result.y.T.reshape(len(TIMES), 2, points)


def test_pde_agrees_with_collocation_within_its_reported_error():
    w, p = collocation()
    pde = mv.solve_pde(PROBLEM, INITIAL, t_eval=TIMES)
    for i, t in enumerate(TIMES):
        Q = np.trapezoid(w**2 * (0.8 * p[i, 0] + 0.2 * p[i, 1]), w)
        R = np.trapezoid(w * (-0.4 * p[i, 0] + 0.4 * p[i, 1]), w)
        # 1e-5: the tolerance of BDF, accumulated over the run.
        assert abs(Q - pde.Q[i, 0, 0]) <= pde.Q_error[i, 0, 0] + 1e-5
        assert abs(R - pde.R[i, 0, 0]) <= pde.R_error[i, 0, 0] + 1e-5
        for a, row in zip((-0.5, 2.0), p[i], strict=True):
            density = pde.density(t, a)
            gap = np.abs(np.interp(w, density.w, density.p, left=0.0, right=0.0) - row)
            # Linear interpolation between the nodes of the PDE adds an error of the order of its own.
            assert np.trapezoid(gap, w) <= 3.0 * pde.density_error[i] + 1e-4
