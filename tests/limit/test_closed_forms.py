"""G, H, Lambda against the closed Gaussian integrals of docs/theory.md, section 10, singular covariances included."""

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.limit import LimitCoefficients


def gg(C, a, b):
    return 2 / np.pi * np.arcsin(C[a, b] / np.sqrt((1 + C[a, a]) * (1 + C[b, b])))


def dd(C, a, b):
    return 2 / np.pi / np.sqrt((1 + C[a, a]) * (1 + C[b, b]) - C[a, b] ** 2)


def sg(C, a, b):
    return -C[a, b] / (1 + C[a, a]) * dd(C, a, b)


def ddgg(C, a, b, c, d):
    one, two = 1 + C[a, a], 1 + C[b, b]
    L4 = one * two - C[a, b] ** 2
    L0 = L4 * C[c, d] - C[b, c] * C[b, d] * one - C[a, c] * C[a, d] * two
    L0 += C[a, b] * (C[a, c] * C[b, d] + C[a, d] * C[b, c])
    L1, L2 = (
        L4 * (1 + C[e, e]) - C[b, e] ** 2 * one - C[a, e] ** 2 * two + 2 * C[a, b] * C[a, e] * C[b, e] for e in (c, d)
    )
    return 4 / np.pi**2 * np.arcsin(L0 / np.sqrt(L1 * L2)) / np.sqrt(L4)


def erf_coefficients(Q, R, variance, S, eta, tau):
    """Coefficients for lambda = 0, B = 1, Gaussian c, with the sums of absolute values of their terms."""
    m = len(Q)
    shared = (R * variance) @ R.T + eta * (Q - R @ R.T)
    C = np.kron(np.ones((2, 2)), shared) + np.kron(S, Q)
    T = eta + S
    D = np.zeros((2, 2, m, m))
    L = np.zeros((2, 2, m, m))
    for j in range(m):
        D[0, 0, j, j], D[1, 1, j, j] = -sg(C, j, m + j), -sg(C, m + j, j)
        D[0, 1, j, j] = D[1, 0, j, j] = -dd(C, j, m + j)
        for k in range(m):
            L[0, 0, j, k] = ddgg(C, j, k, m + j, m + k)
            L[1, 1, j, k] = ddgg(C, m + j, m + k, j, k)
            L[0, 1, j, k] = ddgg(C, j, m + k, m + j, k)
            L[1, 0, k, j] = L[0, 1, j, k]
    inner = R @ np.diag(variance - eta)
    values, scales = {}, {}
    for store, f in ((values, lambda x: x), (scales, np.abs)):
        store["G"] = np.einsum("vw,vwjk->jk", f(T), f(D))
        store["Gbar"] = f(D).sum(axis=(0, 1))
        store["H"] = f(D).sum(axis=(0, 1)) @ f(inner)
        store["Lambda"] = tau**2 * np.einsum("vw,vwjk->jk", f(T), f(L))
        store["loss"] = -sum(f(gg(C, j, m + j)) for j in range(m))
    return values, scales


def random_state(rng, m, features, q, kind):
    if kind == "generic":
        W = rng.normal(size=(m, m + features + 1))
    elif kind == "learnt":
        W = rng.normal(size=(m, features))
    else:  # dependent outputs
        W = np.outer([1.0, -0.7][:m], rng.normal(size=features + 2))
    W *= np.sqrt(q / np.diag(W @ W.T).max())
    return W @ W.T, W[:, :features]


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize(
    "noise", [(0.0, 0.0), (0.6, 0.4), (0.6, -1.0), (0.6, 1.0), ([0.9, 0.0], 0.0), ([0.3, 0.8], 1.0)]
)
@pytest.mark.parametrize("kind", ["generic", "learnt", "dependent"])
@pytest.mark.parametrize("q", [0.02, 1.0, 10.0])
def test_erf(m, noise, kind, q):
    variance, eta, tau = np.array([1.7, 0.6]), 0.7, 0.4
    Q, R = random_state(np.random.default_rng(17), m, 2, q, kind)
    problem = mv.Problem(
        hidden=mv.hidden.Gaussian(variance=variance),
        activation="erf",
        learning_rate=tau,
        outputs=m,
        background_variance=eta,
        augmentation=mv.augmentations.GaussianNoise(std=noise[0], correlation=noise[1]),
    )
    found = LimitCoefficients(problem)(Q, R)
    values, scales = erf_coefficients(Q, R, variance, problem.noise_covariance, eta, tau)
    for name, value in values.items():
        gap = np.abs(getattr(found, name) - value)
        # what the package promises; 1e-14: entries that vanish by symmetry have no scale of their own
        assert (gap <= 1e-8 * np.abs(scales[name]) + 1e-14).all(), (name, gap)
    # the state is exactly singular up to rounding, which must not show as an inadmissible state
    assert found.error <= 1e-8


def relu_coefficients(c11, c22, c12, T, tau):
    """Lambda = 0, B = 1 closed forms with centred pre-activations: arc-cosine kernels."""
    cos = np.clip(c12 / np.sqrt(c11 * c22), -1.0, 1.0)
    th = np.arccos(cos)
    yy = np.sqrt(c11 * c22) / (2 * np.pi) * (np.sin(th) + (np.pi - th) * cos)
    dd = (np.pi - th) / (2 * np.pi)
    sy, ys = np.sqrt(c22 / c11) * np.sin(th) / (2 * np.pi), np.sqrt(c11 / c22) * np.sin(th) / (2 * np.pi)
    half = (np.pi - th + np.sin(th) * cos) / (2 * np.pi)
    G = -(T[0, 0] * sy + T[1, 1] * ys + 2 * T[0, 1] * dd)
    Lambda = tau**2 * (T[0, 0] * c22 * half + T[1, 1] * c11 * half + 2 * T[0, 1] * yy)
    return {"G": G, "Gbar": -(sy + ys + 2 * dd), "Lambda": Lambda, "loss": -yy}


@pytest.mark.parametrize("noise", [(0.0, 0.0), (0.6, 0.4), (0.6, -1.0), (0.6, 0.9999), ([0.3, 0.8], 1.0), (0.05, 0.0)])
@pytest.mark.parametrize("q", [0.02, 1.0, 10.0])
def test_relu(noise, q):
    variance, eta, tau = 1.7, 0.7, 0.4
    problem = mv.Problem(
        hidden=mv.hidden.Gaussian(variance=variance),
        activation="relu",
        learning_rate=tau,
        background_variance=eta,
        augmentation=mv.augmentations.GaussianNoise(std=noise[0], correlation=noise[1]),
    )
    S = problem.noise_covariance
    r2 = 0.3 * q
    found = LimitCoefficients(problem)(np.array([[q]]), np.array([[np.sqrt(r2)]]))
    shared = r2 * variance + eta * (q - r2)
    expected = relu_coefficients(*(shared + q * s for s in (S[0, 0], S[1, 1], S[0, 1])), eta + S, tau)
    for name, value in expected.items():
        np.testing.assert_allclose(np.squeeze(getattr(found, name)), value, rtol=1e-8, err_msg=name)
    np.testing.assert_allclose(np.squeeze(found.H), expected["Gbar"] * np.sqrt(r2) * (variance - eta), rtol=1e-8)
    assert found.error <= 1e-8


def test_leaky_relu_is_a_sum_of_rectifiers():
    # sigma(h) = relu(h) - slope relu(-h): with equal views E[sigma'^2] = (1 + slope^2) / 2, E[sigma'' sigma] = 0.
    problem = mv.Problem(
        hidden=mv.hidden.Gaussian(variance=1.0), activation=mv.activations.LeakyReLU(0.3), learning_rate=1.0
    )
    found = LimitCoefficients(problem)(np.array([[2.0]]), np.array([[0.5]]))
    second = (1 + 0.3**2) / 2
    np.testing.assert_allclose(found.G, -2 * second, rtol=1e-9)
    np.testing.assert_allclose(found.loss, -2.0 * second, rtol=1e-9)
    # Lambda = 4 E[sigma'^2 sigma^2] with E h^2 = 2
    np.testing.assert_allclose(found.Lambda, 4 * 2.0 * (1 + 0.3**4) / 2, rtol=1e-9)


@pytest.mark.parametrize("noise", [(0.0, 0.0), (0.5, 1.0), (0.5, -1.0), (0.5, 0.2)])
def test_zero_weights(noise):
    # At Q = 0 tanh is the identity: G = -2 T_12, H = 0, Lambda = 0, whatever the noise.
    for m in (1, 2):
        problem = mv.Problem(
            hidden=mv.hidden.Rademacher(variance=[2.0, 1.0]),
            activation="tanh",
            learning_rate=0.5,
            outputs=m,
            augmentation=mv.augmentations.GaussianNoise(std=noise[0], correlation=noise[1]),
        )
        found = LimitCoefficients(problem)(np.zeros((m, m)), np.zeros((m, 2)))
        T12 = 1.0 + problem.noise_covariance[0, 1]
        np.testing.assert_allclose(found.G, -2.0 * T12 * np.eye(m), atol=1e-13)
        np.testing.assert_allclose(found.Gbar, -2.0 * np.eye(m), atol=1e-13)
        for value in (found.H, found.Lambda, found.loss):
            np.testing.assert_allclose(value, 0.0, atol=1e-30)


def test_a_learnt_feature_without_noise_leaves_no_randomness():
    # Q = R R^T, S = 0: h = R c exactly, so every expectation is a sum over the atoms of c.
    W = np.array([[0.9, -0.4], [0.3, 1.1]])
    problem = mv.Problem(
        hidden=mv.hidden.Rademacher(variance=[2.0, 1.0]), activation="tanh", learning_rate=0.5, outputs=2, batch_size=1,
        loss=mv.losses.Covariance(decorrelation=0.6),
    )  # fmt: skip
    found = LimitCoefficients(problem)(W @ W.T, W)
    c = problem.hidden.nodes(1).points
    y = np.tanh(c @ W.T)
    a1, a2 = problem.alpha((c @ W.T)[:, None], (c @ W.T)[:, None])
    a = (a1 + a2)[:, 0]
    np.testing.assert_allclose(found.Lambda, 0.25 * a.T @ a / 4.0, rtol=1e-10)
    np.testing.assert_allclose(found.H + found.Gbar @ W, a.T @ c / 4.0, atol=1e-12)
    np.testing.assert_allclose(found.loss, (-(y**2).sum(axis=1) + 0.6 * (y[:, 0] * y[:, 1]) ** 2).mean(), rtol=1e-12)


def test_h_at_small_overlap_is_gbar_r_times_second_moments():
    problem = mv.Problem(
        hidden=mv.hidden.Sparse(variance=[2.0, 0.7], kurtosis=[3.0, 5.0]), activation="tanh", learning_rate=0.5,
        background_variance=0.6, augmentation=mv.augmentations.GaussianNoise(std=0.4, correlation=-0.5),
    )  # fmt: skip
    limit = LimitCoefficients(problem)
    Q, direction = np.array([[1.1]]), np.array([[0.6, -0.8]])
    expected = limit(Q, 0.0 * direction).Gbar @ direction @ (problem.hidden.covariance - 0.6 * np.eye(2))
    for size in (1e-2, 1e-4):
        slope = limit(Q, size * direction).H / size
        # the next term is of relative order R^2
        np.testing.assert_allclose(slope, expected, rtol=20 * size**2 + 1e-8)


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("correlation", [1.0, -1.0])
def test_equal_or_opposite_noise_without_background(m, correlation):
    # eta = 0: the views are R c + L x and R c +- L x with one and the same normal x, so averages are over x alone.
    W = np.array([[0.9, -0.4, 0.3], [0.2, 0.7, 0.5]])[:m]
    Q, R = W @ W.T, W[:, :2]
    problem = mv.Problem(
        hidden=mv.hidden.Discrete([[-1.0, 0.5], [2.0, 0.5], [0.0, -0.75]], [0.4, 0.2, 0.4]),
        activation="sigmoid",
        learning_rate=0.5,
        outputs=m,
        background_variance=0.0,
        augmentation=mv.augmentations.GaussianNoise(std=0.8, correlation=correlation),
    )
    found = LimitCoefficients(problem)(Q, R)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x = np.stack([g.ravel() for g in np.meshgrid(*[nodes] * m)], axis=-1)
    w = np.prod(np.stack([g.ravel() for g in np.meshgrid(*[weights] * m)], axis=-1), axis=-1) / (2.0 * np.pi) ** (m / 2)
    noise = 0.8 * x @ np.linalg.cholesky(Q).T
    H, Lambda, loss = np.zeros((m, 2)), np.zeros((m, m)), 0.0
    T = problem.noise_covariance
    for c, p in zip(problem.hidden.atoms, problem.hidden.weights, strict=True):
        h1, h2 = R @ c + noise, R @ c + correlation * noise
        a1, a2 = (a[:, 0] for a in problem.alpha(h1[:, None], h2[:, None]))
        H += p * np.outer(w @ (a1 + a2), c)
        for v, a in enumerate((a1, a2)):
            for u, b in enumerate((a1, a2)):
                Lambda += 0.25 * p * T[v, u] * (a * w[:, None]).T @ b
        outputs = problem.activation.value(h1) * problem.activation.value(h2)
        loss -= p * np.sum(w @ outputs)
    # Gauss-Hermite with 60 nodes: 1e-10 for the sigmoid at deviations of 0.8
    np.testing.assert_allclose(found.H, H, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.Lambda, Lambda, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-9)
    assert found.error <= 1e-8
