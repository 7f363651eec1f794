"""Predicted spread and bias at finite dimension against thousands of runs of the (Q, R) chain."""

import numpy as np
import pytest
from scipy import stats

import mkvlasov as mv
from mkvlasov.limit.entries import Entries
from mkvlasov.reduction.fluctuations import fluctuations
from mkvlasov.solvers.sgd.chain import simulate_chain


def make_problem(**changes):
    fields = {
        "hidden": mv.hidden.Rademacher([4.0, 3.0]),
        "activation": "tanh",
        "learning_rate": 0.4,
        "regularizer": mv.regularizers.L2(0.3),
        "augmentation": mv.augmentations.GaussianNoise(std=[0.5, 0.7], correlation=-0.6),
    }
    return mv.Problem(**{**fields, **changes})


def run(problem, initial, t, dimension, runs, exact):
    """Return the entries of all runs at one time, (runs, d)."""
    record = simulate_chain(
        problem, initial, dimension=dimension, steps=np.array([round(t * dimension)]),
        seeds=np.random.SeedSequence(1).spawn(runs), exact_overlaps=exact, loss_batches=1, workers=1, progress=False,
    )  # fmt: skip
    return Entries(problem.outputs, problem.n_features).pack(record.Q, record.R)[0]


def p_value_of_covariance(covariance, sample):
    """Test of the covariance of normal samples: entries of the whitened one have variance 2 / n and 1 / n."""
    white = np.linalg.solve(np.linalg.cholesky(covariance), (sample - sample.mean(axis=0)).T)
    n, d = sample.shape
    excess = np.cov(white) - np.eye(d)
    statistic = 0.5 * n * (np.diagonal(excess) ** 2).sum() + n * (np.triu(excess, 1) ** 2).sum()
    return stats.chi2.sf(statistic, d * (d + 1) // 2)


@pytest.mark.parametrize("exact", [True, False])
def test_spread_of_many_runs_is_the_predicted_one(exact):
    problem, initial, t, n = make_problem(), mv.initial.Gaussian(1.0, [0.5, 0.3]), 0.4, 1000
    predicted = fluctuations(problem, initial, [t], exact, rtol=1e-4)
    sample = run(problem, initial, t, n, 600, exact)
    covariance = predicted.covariance[0] / n
    assert p_value_of_covariance(covariance, sample) > 1e-3
    # 600 runs see 3% in a standard deviation, so 15% more is noticed.
    assert p_value_of_covariance(1.15**2 * covariance, sample) < 1e-3


def test_bias_of_many_runs_is_the_predicted_one():
    problem = make_problem(
        hidden=mv.hidden.Rademacher(4.0), learning_rate=1.5, batch_size=4, regularizer=mv.regularizers.L2(2.0)
    )
    initial, t, n = mv.initial.Gaussian(1.0, 0.5), 0.2, 150
    predicted = fluctuations(problem, initial, [t], exact_overlaps=True, rtol=1e-4)
    sample = run(problem, initial, t, n, 4000, True)
    stderr = sample.std(axis=0) / np.sqrt(len(sample))
    found = sample.mean(axis=0)
    assert (np.abs(found - predicted.limit[0]) > 4.0 * stderr).any()
    # 4 standard errors and the next order, taken as 5 / N of the bias.
    allowed = 4.0 * stderr + 5.0 / n * np.abs(predicted.bias[0]) / n
    assert (np.abs(found - predicted.mean(n)[0]) <= allowed).all()
