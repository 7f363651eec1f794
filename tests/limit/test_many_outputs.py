"""Lambda for three and four outputs, and the distribution of errors over random states, many of them singular."""

import importlib.util
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import mkvlasov as mv
from mkvlasov.limit import LimitCoefficients

NAMES = ("G", "Gbar", "H", "Lambda", "loss")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("std", [0.4, [0.3, 0.6]], ids=["alike", "different"])
def test_three_outputs_of_a_batch_match_a_rule_that_is_exact_for_polynomials(reference, std):
    problem = mv.Problem(
        hidden=mv.hidden.Rademacher(variance=[1.5]), activation=mv.activations.Polynomial([0.1, 0.6, 0.3]),
        learning_rate=0.4, outputs=3, batch_size=4, background_variance=0.8,
        loss=mv.losses.Covariance(decorrelation=0.7),
        augmentation=mv.augmentations.GaussianNoise(std=std, correlation=-0.5),
    )  # fmt: skip
    W = np.random.default_rng(1).normal(size=(3, 6)) * 0.25
    Q, R = W @ W.T, W[:, :1]
    # Products of eight factors have degree 14 in the pre-activations, 15 with the weight of Stein's lemma.
    expected, found = reference(problem, Q, R, 8, reach=None), LimitCoefficients(problem)(Q, R)
    for name in NAMES:
        exact = getattr(expected, name)
        assert np.abs(getattr(found, name) - exact).max() <= 1e-8 * np.abs(exact).max(), name
    assert found.error <= 1e-8


def test_a_permutation_of_four_outputs_permutes_lambda():
    problem = mv.Problem(
        hidden=mv.hidden.Rademacher(variance=[1.5]), activation="tanh", learning_rate=0.4, outputs=4, batch_size=3,
        loss=mv.losses.Covariance(decorrelation=0.7),
        augmentation=mv.augmentations.GaussianNoise(std=[0.3, 0.6], correlation=-0.5),
    )  # fmt: skip
    W = np.random.default_rng(2).normal(size=(4, 7)) * 0.3
    Q, R, order = W @ W.T, W[:, :1], [2, 0, 3, 1]
    limit = LimitCoefficients(problem, rtol=1e-6)
    plain, permuted = limit(Q, R).Lambda, limit(Q[np.ix_(order, order)], R[order]).Lambda
    np.testing.assert_allclose(permuted, plain[np.ix_(order, order)], rtol=0.0, atol=1e-6 * np.abs(plain).max())


@pytest.fixture(scope="module")
def errors():
    """Return the script that measures the distribution of errors."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("coefficient_errors", BENCHMARKS / "coefficient_errors.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["coefficient_errors"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_errors_are_below_those_requested_and_those_reported(errors):
    rng = np.random.default_rng(31)
    cases = chain(
        errors.one_output(rng, 12), errors.closed_forms(rng, 40), errors.low_rank(rng, 6), errors.rectifiers(rng, 4)
    )
    outcomes = [outcome for case in cases for outcome in errors.outcomes(case)]
    for outcome in outcomes:
        assert outcome.reported <= outcome.requested, outcome
        assert outcome.true <= max(outcome.reported, errors.FLOOR), outcome
    assert len(outcomes) == 3 * 62


@pytest.mark.parametrize("std", [1e-2, 1e-3])
def test_nearly_equal_outputs_in_nearly_equal_views_keep_their_digits(errors, std):
    problem = mv.Problem(
        hidden=mv.hidden.Gaussian(variance=[1.3, 0.6]), activation="erf", learning_rate=1.0, outputs=2,
        augmentation=mv.augmentations.GaussianNoise(std=std),
    )  # fmt: skip
    limit = LimitCoefficients(problem, rtol=1e-10)
    for seed in range(1, 6):
        W = np.random.default_rng(seed).normal(size=(2, 5)) * 0.8
        W[1] = W[0] + 1e-6 * W[1]
        Q, R = W @ W.T, W[:, :2]
        exact = errors.references.erf_closed(problem, Q, R)["Lambda"]
        # Rounding of the correlations along the direction that hardly varies would leave up to 3e-7.
        np.testing.assert_allclose(limit(Q, R).Lambda, exact, rtol=1e-11)
