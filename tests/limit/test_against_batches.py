"""G, H, Lambda against Monte Carlo over whole batches of the literal loss: checks the derivation."""

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.limit import LimitCoefficients

DRAWS = 30_000


def draw_batches(problem, Q, R, rng):
    """Return hidden variables (n, B, K) and pre-activations (n, B, m) of both views, by the law of theory section 2."""
    B, m = problem.batch_size, problem.outputs
    c = problem.hidden.sample(rng, (DRAWS, B))
    covariance = np.kron(np.ones((2, 2)), problem.background_variance * (Q - R @ R.T))
    covariance += np.kron(problem.noise_covariance, Q)
    g = rng.standard_normal((DRAWS, B, 2 * m)) @ np.linalg.cholesky(covariance).T
    mean = c @ R.T
    return c, mean + g[..., :m], mean + g[..., m:]


def samples(problem, Q, R, rng):
    """Return samples whose means are G, Gbar, H, Lambda and the loss."""
    c, h1, h2 = draw_batches(problem, Q, R, rng)
    B, m = problem.batch_size, problem.outputs
    a1, a2 = problem.alpha(h1, h2)
    T = problem.background_variance + problem.noise_covariance
    G, Gbar = np.zeros((DRAWS, m, m)), np.zeros((DRAWS, m, m))
    step = 1e-4
    for b in range(B):
        for view in (0, 1):
            for k in range(m):
                moved = []
                for sign in (1.0, -1.0):
                    h = [h1.copy(), h2.copy()]
                    h[view][:, b, k] += sign * step
                    moved.append([a[:, b] for a in problem.alpha(*h)])
                for other in (0, 1):
                    slope = (moved[0][other] - moved[1][other]) / (2.0 * step)
                    G[:, :, k] += T[other, view] * slope
                    Gbar[:, :, k] += slope
    H = np.einsum("nbj,nbk->njk", a1 + a2, c) - problem.background_variance * Gbar @ R
    Lambda = np.zeros((DRAWS, m, m))
    for v, x in enumerate((a1, a2)):
        for w, z in enumerate((a1, a2)):
            Lambda += T[v, w] * np.einsum("nbj,nbk->njk", x, z)
    loss = problem.batch_loss(problem.activation.value(h1), problem.activation.value(h2))
    return {"G": G, "Gbar": Gbar, "H": H, "Lambda": problem.rate(0.0) ** 2 * Lambda, "loss": loss}


def distance(y1, y2):
    return ((y1 - y2) ** 2).sum(axis=-1) + 0.5 * y1[..., 0] * y2[..., 1]


def distance_gradient(y1, y2):
    g1, g2 = 2.0 * (y1 - y2), 2.0 * (y2 - y1)
    g1[..., 0] += 0.5 * y2[..., 1]
    g2[..., 1] += 0.5 * y1[..., 0]
    return g1, g2


CASES = {
    "decorrelation, two outputs, B = 4": (
        {"activation": "tanh", "outputs": 2, "batch_size": 4, "loss": mv.losses.Covariance(decorrelation=3.0)},
        ([0.4, 0.7], -0.5),
    ),
    "decorrelation, three outputs, B = 2": (
        {"activation": "tanh", "outputs": 3, "batch_size": 2, "loss": mv.losses.Covariance(decorrelation=2.0)},
        ([0.4, 0.7], 0.5),
    ),
    "centred, one output, B = 3": (
        {"activation": "sigmoid", "batch_size": 3, "loss": mv.losses.Covariance(centered=True)},
        ([0.4, 0.7], -0.5),
    ),
    "centred, two outputs, B = 3": (
        {"activation": "softplus", "outputs": 2, "batch_size": 3, "loss": mv.losses.Covariance(centered=True)},
        ([0.4, 0.7], 0.5),
    ),
    "custom, two outputs, B = 2": (
        {
            "activation": "tanh",
            "outputs": 2,
            "batch_size": 2,
            "loss": mv.losses.Custom(distance, distance_gradient),
        },
        (0.6, -0.5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_monte_carlo_of_whole_batches(name):
    options, (std, correlation) = CASES[name]
    problem = mv.Problem(
        hidden=mv.hidden.Discrete([[-1.0, 1.5], [2.0, 0.0], [0.0, -1.5]], [0.4, 0.2, 0.4]),
        learning_rate=0.5,
        background_variance=0.7,
        augmentation=mv.augmentations.GaussianNoise(std=std, correlation=correlation),
        **options,
    )
    m = problem.outputs
    W = np.array([[0.8, 0.5, 0.4, 0.1], [0.3, -0.4, 0.6, 0.5], [-0.5, 0.5, 0.2, 0.7]])[:m] * 1.2
    Q, R = W @ W.T, W[:, :2]
    found = LimitCoefficients(problem)(Q, R)
    for entry, values in samples(problem, Q, R, np.random.default_rng(2024)).items():
        mean, error = values.mean(axis=0), values.std(axis=0) / np.sqrt(DRAWS)
        # 4.5 standard errors: about 100 entries are tested, a chance failure has probability below 1e-3.
        # Sampled limits (three outputs, a loss of one's own) come from 16384 Sobol points or more: errors near 1e-4.
        sampled = 2e-4 * np.abs(mean).max() if found.error > 1e-8 else 0.0
        gap = np.abs(getattr(found, entry) - mean)
        # 1e-7: the differences in the literal gradient
        assert (gap <= 4.5 * error + sampled + 1e-7).all(), (entry, gap / error)


def test_the_comparison_notices_a_missing_term():
    """Control: without the covariance over the rest of the batch Lambda is rejected."""
    options, (std, correlation) = CASES["decorrelation, two outputs, B = 4"]
    problem = mv.Problem(
        hidden=mv.hidden.Rademacher(variance=[2.0, 1.0]),
        learning_rate=0.5,
        augmentation=mv.augmentations.GaussianNoise(std=std, correlation=correlation),
        **options,
    )
    W = np.array([[0.8, 0.5, 0.4, 0.1], [0.3, -0.4, 0.6, 0.5]]) * 1.2
    Q, R = W @ W.T, W[:, :2]
    single = mv.Problem(
        hidden=problem.hidden, activation="tanh", learning_rate=0.5, outputs=2, batch_size=1, loss=problem.loss,
        augmentation=problem.augmentation,
    )  # fmt: skip
    values = samples(problem, Q, R, np.random.default_rng(7))["Lambda"]
    wrong = LimitCoefficients(single)(Q, R).Lambda / 4.0  # as if the samples of a batch did not interact
    assert (np.abs(values.mean(axis=0) - wrong) > 10 * values.std(axis=0) / np.sqrt(DRAWS)).any()
