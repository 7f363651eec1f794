"""Real data: what is measured on samples of the model itself, and SGD on given samples against an exact step."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import mkvlasov as mv

CHOICES = {"activation": "tanh", "learning_rate": 0.3, "regularizer": mv.regularizers.L2(0.3)}
NOISE = mv.augmentations.GaussianNoise(0.4, correlation=-0.3)


def draw_model(n, dimension, rng, *, background=1.0):
    """Samples of x = U c + sqrt(eta) z off the features: c = +-3 and a uniform c of variance 4."""
    features = np.linalg.qr(rng.standard_normal((dimension, 2)))[0]
    c = np.column_stack([3.0 * rng.choice([-1.0, 1.0], n), rng.uniform(-np.sqrt(12.0), np.sqrt(12.0), n)])
    z = rng.standard_normal((n, dimension)) * np.sqrt(background)
    return c @ features.T + z - z @ features @ features.T, features


@pytest.fixture(scope="module")
def white():
    """3000 samples of the model with N = 400, in other units, shifted, with constant coordinates between the others."""
    x, features = draw_model(3000, 400, np.random.default_rng(1))
    given = np.insert(2.5 * x + np.arange(400.0), [0, 17, 400], [0.0, 5.0, -1.0], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = mv.from_data(given, n_features=2)
    return given, features, model


def test_features_law_and_background_of_the_model_are_recovered(white):
    given, features, model = white
    n, dimension = 3000, 400
    assert np.flatnonzero(~model.kept).tolist() == [0, 18, 402]
    np.testing.assert_allclose(model.mean, given[:, model.kept].mean(axis=0))
    np.testing.assert_allclose(model.samples * model.scale + model.mean, given[:, model.kept], atol=1e-10)
    # The variance of the background is a mean of n (N - K) squares, of relative error sqrt(2 / n (N - K)); the features
    # take gamma l / (l - 1) / N of it with them.
    assert abs(model.scale**2 / 2.5**2 - 1.0) < 5.0 * np.sqrt(2.0 / (n * dimension)) + 1e-3
    # Spiked covariance: a spike l is seen at l (1 + gamma / (l - 1)), and a share of it lies off the features.
    spikes, gamma = np.array([9.0, 4.0]), dimension / n
    seen = spikes * (1.0 + gamma / (spikes - 1.0))
    errors = spikes * np.sqrt((np.array([1.0, 1.8]) - 1.0 + 4.0 / spikes) / n)
    assert (np.abs(np.diagonal(model.hidden.covariance) - seen) < 5.0 * errors).all()
    lost = 1.0 - (1.0 - gamma / (spikes - 1.0) ** 2) / (1.0 + gamma / (spikes - 1.0))
    assert (model.features.max(axis=0) > -model.features.min(axis=0)).all()
    off = 1.0 - ((features.T @ model.features) ** 2).sum(axis=0)
    assert (np.abs(off / lost - 1.0) < 5.0 * np.sqrt(2.0 / dimension)).all()
    # The direction found leans towards the noise of the very samples that it is found from, so that the projections
    # stay close to c: squared correlation 1 - gamma / (l - 1)^2; the rest is Gaussian, without excess.
    shares = 1.0 - gamma / (spikes - 1.0) ** 2
    # The kurtosis of 3000 uniform numbers has a standard error of 0.02; the draw is fixed.
    np.testing.assert_allclose(model.hidden.kurtosis, 3.0 + shares**2 * np.array([-2.0, -1.2]), atol=0.03)
    assert model.dimension == dimension
    assert model.background_variance == 1.0
    np.testing.assert_allclose(model.loadings.values, np.sqrt(dimension) * model.features)
    # Marchenko-Pastur, with N - K and n - 1 for N and n (0.25%), and edges to some N^(-2/3) = 0.02.
    assert model.spread == pytest.approx(np.sqrt(gamma), rel=0.02)
    assert model.white_spread == pytest.approx(np.sqrt(gamma), rel=0.01)
    edges = (1.0 + np.array([1.0, -1.0]) * np.sqrt(gamma)) ** 2
    np.testing.assert_allclose(model.spectrum[[0, -1]], edges, atol=0.05)


def test_the_prediction_agrees_with_sgd_on_the_samples_and_a_wrong_one_does_not(white):
    *_, model = white
    problem = model.problem(**CHOICES, augmentation=NOISE)
    initial, t = mv.initial.Gaussian(R=[0.3, 0.1]), [0.0, 1.0, 2.0]
    ode = mv.solve_ode(problem, initial, t_eval=t, rtol=1e-5, progress=False)
    sgd = mv.simulate_sgd(problem, initial, t_eval=t, data=model, runs=16, rng=2, exact_overlaps=True, progress=False)
    assert sgd.stats["dimension"] == 400
    assert sgd.stats["visits"] == pytest.approx(2.0 * 400 / 3000)
    comparison = mv.compare(ode, sgd)
    assert comparison.passed, comparison
    # The Gaussian law with these variances, which is what kurtosis 3 would be.
    variance = np.diagonal(model.hidden.covariance)
    gaussian = mv.Problem(hidden=mv.hidden.Gaussian(variance), loadings=problem.loadings, augmentation=NOISE, **CHOICES)
    wrong = mv.solve_ode(gaussian, initial, t_eval=t, progress=False)
    assert not mv.compare(wrong, sgd).passed


def test_the_pde_takes_thousands_of_atoms_and_agrees_with_the_closed_equations():
    x, _ = draw_model(1200, 20, np.random.default_rng(3))
    model = mv.from_data(x, n_features=2)
    problem = model.problem(**CHOICES, augmentation=NOISE)
    initial, t = mv.initial.Gaussian(R=[0.3, 0.1]), [0.0, 1.0]
    pde = mv.solve_pde(problem, initial, t_eval=t, method=mv.methods.FiniteVolumes(cells=60), progress=False)
    ode = mv.solve_ode(problem, initial, t_eval=t, rtol=1e-5, progress=False)
    assert pde.loading_points.shape == (20, 2)
    assert mv.compare(ode, pde).passed


def test_one_step_on_given_samples_is_one_of_those_that_the_samples_allow():
    rng = np.random.default_rng(4)
    n, runs = 7, 700
    model = quiet(rng.standard_normal((n, 4)) * [3.0, 1.0, 1.0, 1.0], n_features=1)
    problem = model.problem(activation="tanh", learning_rate=0.7)
    w = rng.standard_normal(4)
    start = mv.initial.Empirical(w, model.loadings.values)
    sgd = mv.simulate_sgd(problem, start, t_eval=[0.0, 0.25], data=model, runs=runs, rng=5, progress=False)
    np.testing.assert_allclose(sgd.runs.R[0, :, 0, 0], np.sqrt(4.0) * model.features[:, 0] @ w / 4.0)
    # Written out: F = -tanh(h)^2 for equal views, h = x.w / sqrt(N), and its gradient in w.
    h = model.samples @ w / 2.0
    gradient = (-2.0 * np.tanh(h) * (1.0 - np.tanh(h) ** 2))[:, None] * model.samples / 2.0
    moved = w - 0.7 * gradient
    possible = moved @ model.features[:, 0] / 2.0
    distance = np.abs(sgd.runs.R[1, :, 0, 0, None] - possible)
    assert distance.min(axis=1).max() < 1e-12
    counts = np.bincount(distance.argmin(axis=1), minlength=n)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_training_loss_is_that_of_the_samples():
    x, _ = draw_model(50, 12, np.random.default_rng(6), background=np.linspace(0.1, 1.9, 12))
    model = quiet(x, n_features=2)
    problem = model.problem(activation="tanh", learning_rate=0.3)
    w = np.zeros(12)
    w[11] = 3.0  # where the background is twice as strong as white noise would be
    start = mv.initial.Empirical(w, model.loadings.values)
    sgd = mv.simulate_sgd(problem, start, t_eval=[0.0], data=model, runs=50, rng=8, loss_batches=200, progress=False)
    exact = -(np.tanh(model.samples @ w / np.sqrt(12.0)) ** 2).mean()
    assert abs(sgd.loss[0] - exact) < 5.0 * sgd.loss_stderr[0]


def test_masks_hide_entries_of_the_samples_themselves():
    x, _ = draw_model(40, 10, np.random.default_rng(9))
    model = quiet(x, n_features=1)
    mask = mv.augmentations.RandomMask(keep=0.5, overlap=0.0)
    problem = model.problem(activation="identity", learning_rate=0.1, augmentation=mask)
    start = mv.initial.Empirical(np.ones(10), model.loadings.values)
    sgd = mv.simulate_sgd(problem, start, t_eval=[0.0], data=model, runs=200, rng=10, loss_batches=100, progress=False)
    # Complementary masks: E h1 h2 = (4 / N) sum_ij E[b_i b'_j] x_i x_j with E[b_i b'_j] = 1/4 off the diagonal, else 0.
    rows = model.samples
    exact = -(rows.sum(axis=1) ** 2 - (rows**2).sum(axis=1)).mean() / 10.0
    assert abs(sgd.loss[0] - exact) < 5.0 * sgd.loss_stderr[0]


def test_far_from_white_is_said_with_the_numbers():
    rng = np.random.default_rng(11)
    variances = np.where(np.arange(60) % 2, 0.25, 1.75)
    x, _ = draw_model(4000, 60, rng, background=variances)
    with pytest.warns(UserWarning, match="far from white") as caught:
        model = mv.from_data(x, n_features=2)
    # E tr S^2 = tr Sigma^2 + (tr Sigma)^2 / n: squared spread 0.75^2 + 60 / n.
    spread = np.sqrt(0.75**2 + 60.0 / 4000.0)
    assert model.spread == pytest.approx(spread, rel=0.03)
    assert model.participating == pytest.approx(58.0 / (1.0 + spread**2), rel=0.03)
    centred = x - x.mean(axis=0)
    eigenvalues = np.linalg.svd(centred, compute_uv=False)[2:] ** 2
    eigenvalues /= eigenvalues.mean()
    np.testing.assert_allclose(model.spectrum, eigenvalues, rtol=1e-9)
    said = [float(number) for number in re.findall(r"\d[\d.e-]*\d", str(caught[0].message))]
    for number in (eigenvalues[-1], eigenvalues[0], eigenvalues.std(), 58.0 / (1.0 + eigenvalues.std() ** 2)):
        assert float(f"{number:.3g}") in said
    assert float(f"{np.sqrt(58.0 / 3999.0):.3g}") in said
    assert caught[0].filename == __file__


def test_units_and_origin_of_the_data_do_not_matter():
    x, _ = draw_model(300, 8, np.random.default_rng(12))
    model = quiet(x, n_features=2)
    for factor, shift in ((1e200, 0.0), (1e-200, 0.0), (3.0, 100.0)):
        other = quiet(factor * x + shift, n_features=2)
        np.testing.assert_allclose(other.samples, model.samples, rtol=1e-7, atol=1e-10)
        assert other.scale / factor == pytest.approx(model.scale, rel=1e-12)


def test_the_printed_text_has_the_numbers(white):
    *_, model = white
    text = str(model)
    assert "3000 samples of 400 coordinates (3 more are constant, dropped)" in text
    for number in (*model.hidden.kurtosis, model.spread, model.participating):
        assert f"{number:.4g}" in text or f"{number:.3g}" in text
    assert "400" in repr(model)


X = np.random.default_rng(13).standard_normal((20, 5))


def with_entry(value):
    changed = X.copy()
    changed[3, 2] = value
    return changed


@pytest.mark.parametrize(
    ("data", "n_features", "field"),
    [
        (with_entry(np.nan), 1, "X"),
        (with_entry(np.inf), 1, "X"),
        (X[0], 1, "X"),
        (X.astype(str), 1, "X"),
        (X[:1], 1, "X"),
        (X[:2], 1, "X"),
        (np.ones((20, 5)), 1, "X"),
        (np.outer(X[:, 0], X[0]), 1, "X"),
        (X[:4], 3, "n_features"),
        (X, 0, "n_features"),
        (X, 5, "n_features"),
        (X, 1.5, "n_features"),
        (X, True, "n_features"),
    ],
)
def test_bad_data_are_named(data, n_features, field):
    with pytest.raises(mv.InvalidInput) as caught:
        mv.from_data(data, n_features=n_features)
    assert caught.value.field == field


def test_what_real_samples_cannot_do_is_refused_by_name():
    model = quiet(X, n_features=1)
    problem, initial = model.problem(**CHOICES), mv.initial.Gaussian()

    def simulate(problem=problem, data=model, **options):
        return mv.simulate_sgd(problem, initial, t_eval=[0.0, 1.0], data=data, runs=2, rng=0, progress=False, **options)

    for method in ("chain", "reduced"):
        with pytest.raises(mv.UnsupportedError, match=f"{method}.*real samples"):
            simulate(method=method)
    with pytest.raises(mv.UnsupportedError, match="single precision"):
        simulate(dtype="float32")
    with pytest.raises(mv.UnsupportedError, match="device: data"):
        simulate(device="cpu")
    with pytest.raises(mv.InvalidInput, match="dimension"):
        simulate(dimension=6)
    with pytest.raises(mv.InvalidInput, match="data"):
        simulate(data=X)
    other = mv.Problem(hidden=mv.hidden.Gaussian(2.0), loadings=model.loadings, **CHOICES)
    with pytest.raises(mv.InvalidInput, match=r"problem\.hidden"):
        simulate(problem=other)
    louder = mv.Problem(hidden=model.hidden, loadings=model.loadings, background_variance=2.0, **CHOICES)
    with pytest.raises(mv.InvalidInput, match=r"problem\.background_variance"):
        simulate(problem=louder)
    np.testing.assert_array_equal(simulate(dimension=5, workers=1).runs.R, simulate(workers=2).runs.R)


def test_a_checkpoint_of_other_samples_is_refused(tmp_path):
    model = quiet(X, n_features=1)
    problem, file = model.problem(**CHOICES), tmp_path / "run.npz"

    def simulate(data):
        return mv.simulate_sgd(
            problem, mv.initial.Gaussian(), t_eval=[0.0, 1.0], data=data, runs=2, rng=0, checkpoint=file, progress=False
        )

    first = simulate(model)
    np.testing.assert_array_equal(simulate(model).runs.R, first.runs.R)
    with pytest.raises(mv.InvalidInput, match="its data is"):
        simulate(replace(model, samples=model.samples[::-1]))


def test_results_on_real_samples_are_stored_and_gone_on_from(tmp_path):
    x, _ = draw_model(2500, 12, np.random.default_rng(14))
    model = mv.from_data(x, n_features=2)
    problem = model.problem(**CHOICES)
    options = {"data": model, "runs": 3, "rng": 0, "progress": False, "snapshots": [0.5]}
    sgd = mv.simulate_sgd(problem, mv.initial.Gaussian(R=[0.3, 0.1]), t_eval=[0.0, 0.5], **options)
    sgd.save(tmp_path / "run.nc")
    loaded = mv.load(tmp_path / "run.nc")
    assert loaded.problem == problem
    np.testing.assert_array_equal(loaded.runs.R, sgd.runs.R)
    second = mv.simulate_sgd(problem, sgd.final, t_eval=[0.0, 0.5], **options)
    # Rows of the law are those of all runs: three per loading, of which every new run draws one.
    start = second.initial.weights.reshape(3, 12)
    assert second.runs.R.shape == (2, 3, 1, 2)
    low, high = (start @ np.eye(12)).min(axis=0), start.max(axis=0)
    assert np.abs(second.runs.Q[0, :, 0, 0]).max() <= np.maximum(low**2, high**2).mean() + 1e-12


def test_rows_for_given_loadings_have_their_conditional_law():
    loadings = np.array([[1.0], [-1.0]])
    problem = mv.Problem(hidden=mv.hidden.Rademacher(4.0), loadings=mv.loadings.Rademacher(), **CHOICES)
    initial = mv.initial.Gaussian(R=0.5)
    ode = mv.solve_ode(problem, initial, t_eval=[0.0, 1.0], progress=False)
    pde = mv.solve_pde(problem, initial, t_eval=[0.0, 1.0], progress=False)
    sampled = mv.initial.Empirical([0.5, 1.5, -2.0, -1.0], np.array([1.0, 1.0, -1.0, -1.0]))
    a = np.repeat(loadings, 4000, axis=0)
    for law in (initial, ode.final, pde.final, pde.final.table, sampled):
        w = law.sample(np.random.default_rng(15), a, problem)
        assert w.shape == (8000, 1)
        for rows, loading in zip(w.reshape(2, 4000), loadings, strict=True):
            expected = law.conditional(loading, problem)
            variance = float(expected.second_moment[0, 0] - expected.mean[0] ** 2)
            assert abs(rows.mean() - expected.mean[0]) < 5.0 * np.sqrt(variance / 4000)
            # None of the laws has heavier tails than a normal one.
            assert rows.var() == pytest.approx(variance, rel=5.0 * np.sqrt(2.0 / 4000))


def quiet(x, *, n_features):
    """The model of a few samples, whose background is far from white whatever they are drawn from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mv.from_data(x, n_features=n_features)
