"""Order parameters read off weights and loadings that are built to have them."""

import numpy as np

from mkvlasov.order_parameters import cosine_similarity, orthonormalize, overlaps, readout_alignment


def weights_and_loadings(n=400, m=2, k=3):
    rng = np.random.default_rng(7)
    a = orthonormalize(rng.standard_normal((n, k)))
    return a @ rng.standard_normal((k, m)) + rng.standard_normal((n, m)), a


def test_readout_alignment_is_the_best_cosine_over_all_combinations_of_outputs():
    """Least squares finds the combination of columns nearest to a feature without using Q or R."""
    w, a = weights_and_loadings()
    alignment = readout_alignment(*overlaps(w, a))
    for k in range(3):
        fitted = w @ np.linalg.lstsq(w, a[:, k], rcond=None)[0]
        cosine = fitted @ a[:, k] / (np.linalg.norm(fitted) * np.linalg.norm(a[:, k]))
        assert abs(alignment[k] - cosine) < 1e-12


def test_readout_alignment_of_one_output_is_the_absolute_cosine():
    w, a = weights_and_loadings(m=1)
    Q, R = overlaps(w, a)
    np.testing.assert_allclose(readout_alignment(Q, R), np.abs(cosine_similarity(Q, R))[0], rtol=1e-12)


def test_outputs_that_repeat_each_other_add_nothing():
    w, a = weights_and_loadings(m=1)
    one = readout_alignment(*overlaps(w, a))
    twice = readout_alignment(*overlaps(np.hstack([w, -2.0 * w]), a))
    np.testing.assert_allclose(twice, one, rtol=1e-10)


def test_weights_that_are_zero_align_with_nothing():
    Q, R = np.zeros((2, 2)), np.zeros((2, 3))
    assert (readout_alignment(Q, R) == 0.0).all()
    assert (cosine_similarity(Q, R) == 0.0).all()
