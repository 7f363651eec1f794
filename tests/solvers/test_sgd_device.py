"""SGD through PyTorch: on its CPU device where PyTorch is installed, and on a GPU where there is one."""

import sys

import numpy as np
import pytest
from scipy.linalg import null_space

import mkvlasov as mv
from mkvlasov.solvers.sgd.literal import draw_views, sgd_increment
from mkvlasov.solvers.sgd.plan import Plan
from mkvlasov.solvers.sgd.start import Streams, rescale_to_sphere

REGULARIZERS = [
    None,
    mv.regularizers.L1(0.5),
    mv.regularizers.L2(0.4),
    mv.regularizers.ElasticNet(0.3, 0.2),
    mv.regularizers.Huber(0.4, 0.5),
    mv.regularizers.DoubleWell(0.6),
    mv.regularizers.GroupLasso(0.7),
]


def problem(**changes):
    fields = {
        "hidden": mv.hidden.Rademacher([4.0, 2.0]),
        "activation": "tanh",
        "learning_rate": 0.5,
        "augmentation": mv.augmentations.GaussianNoise([0.5, 0.8], -0.6),
        "loss": mv.losses.Covariance(0.7),
        "outputs": 2,
        "batch_size": 3,
    }
    return mv.Problem(**(fields | changes))


START = mv.initial.Gaussian([[1.0, 0.2], [0.2, 1.3]], [[0.3, 0.1], [0.0, 0.4]])


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    torch = pytest.importorskip("torch")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return request.param


def block_of(setting, device, dimension, seeds=(0,), dtype=float):
    from mkvlasov.solvers.sgd.device import DeviceBlock

    steps = np.array([1000])
    plan = Plan(setting, START, dimension, False, 1, steps, steps[:0], {}, False, np.dtype(dtype), device=device)
    streams = [Streams.spawn(np.random.SeedSequence(seed)) for seed in seeds]
    return DeviceBlock(plan, streams, np.empty((len(seeds), 0, 2)))


@pytest.mark.parametrize("constraint", [None, "sphere"])
@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=repr)
def test_one_step_is_that_of_the_host_on_the_same_samples(device, regularizer, constraint):
    setting = problem(regularizer=regularizer, constraint=constraint)
    block = block_of(setting, device, 20, seeds=(0, 1))
    before = block.weights.copy()
    views = np.array([draw_views(setting, features, np.random.default_rng(3), 1)[0] for features in block.features])
    block._draw = lambda: block._upload(views)[:, None]
    block.chunk = 1
    block.advance(0, 1)
    expected = before + sgd_increment(setting, before, views, 0.5)
    if constraint:
        rescale_to_sphere(expected)
    np.testing.assert_allclose(block.weights, expected, rtol=1e-12, atol=1e-13)


def test_samples_have_the_covariance_of_the_model(device):
    """Against diag(<c^2>, eta, ...) + S_vv' I in a basis that begins with the features, entry by entry."""
    # A background far from one, so that its part along the features is seen if it is not taken out.
    setting = problem(background_variance=0.2)
    block = block_of(setting, device, 6)
    block._w, block._u = block._upload(block.weights), block._upload(block.features)
    u = block.features[0]
    basis = np.concatenate([u, null_space(u).T])
    views = np.concatenate([block._draw().cpu().numpy()[0] for _ in range(400)]) @ basis.T
    views = np.moveaxis(views, 1, 2).reshape(-1, 12)
    shared = np.diag([4.0, 2.0, 0.2, 0.2, 0.2, 0.2])
    expected = np.kron(np.ones((2, 2)), shared) + np.kron(setting.noise_covariance, np.eye(6))
    found = views.T @ views / len(views)
    products = np.einsum("ni,nj->nij", views, views)
    assert (np.abs(found - expected) < 5.0 * products.std(axis=0) / np.sqrt(len(views))).all()
    assert (np.abs(views.mean(axis=0)) < 5.0 * views.std(axis=0) / np.sqrt(len(views))).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_samples_have_the_precision_that_was_asked_for(device, dtype):
    block = block_of(problem(), device, 20, dtype=dtype)
    block._u = block._upload(block.features)
    assert block.weights.dtype == dtype
    assert block._draw().cpu().numpy().dtype == dtype


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_mean_path_is_that_of_the_chain(device, dtype):
    """Two algorithms of the same law at every N."""
    setting = problem(regularizer=mv.regularizers.L2(0.3))
    options = {"t_eval": [0.0, 1.0, 2.0], "dimension": 100, "progress": False}
    found = mv.simulate_sgd(setting, START, runs=200, rng=1, device=device, dtype=dtype, **options)
    chain = mv.simulate_sgd(setting, START, runs=4000, rng=2, method="chain", **options)
    for name in ("Q", "R"):
        gap = np.abs(getattr(found, name) - getattr(chain, name))
        error = np.hypot(getattr(found, f"{name}_stderr"), getattr(chain, f"{name}_stderr"))
        # Fourteen entries at three times: 4.5 errors are exceeded by chance with a probability below 1e-3.
        assert (gap <= 4.5 * error + 1e-12).all()


def test_a_run_depends_neither_on_the_others_nor_on_a_stop(device, tmp_path):
    setting = problem(regularizer=mv.regularizers.L1(0.2))
    options = {"dimension": 60, "rng": 4, "device": device, "progress": False}
    whole = mv.simulate_sgd(setting, START, t_eval=[0.0, 2.0, 4.0], runs=3, **options)
    alone = mv.simulate_sgd(setting, START, t_eval=[4.0], runs=1, **options)
    # Products of several runs at once are rounded in another order.
    np.testing.assert_allclose(alone.runs.Q[-1, 0], whole.runs.Q[-1, 0], rtol=1e-10)
    path = tmp_path / "state.npz"

    def killed(t, Q, R):
        if t >= 2.0:
            raise KeyboardInterrupt

    kept = {"checkpoint": path, "checkpoint_every": 0.0, "t_eval": [0.0, 2.0, 4.0], "runs": 3}
    with pytest.raises(KeyboardInterrupt):
        mv.simulate_sgd(setting, START, callback=killed, **kept, **options)
    assert path.exists()
    resumed = mv.simulate_sgd(setting, START, **kept, **options)
    np.testing.assert_array_equal(resumed.runs.Q, whole.runs.Q)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {"method": "chain"}, "method='chain'"),
        ({}, {"regularizer_step": "proximal"}, "proximal"),
        ({"augmentation": mv.augmentations.RandomMask(0.5)}, {}, "Mask"),
        ({"regularizer": mv.regularizers.Custom(np.cosh, np.sinh)}, {}, "Custom"),
    ],
)
def test_what_a_device_does_not_cover_is_named(changes, options, words):
    with pytest.raises(mv.UnsupportedError, match=words):
        mv.simulate_sgd(problem(**changes), START, t_eval=[1.0], device="cpu", progress=False, **options)


def test_a_device_that_is_missing_is_named():
    pytest.importorskip("torch")
    with pytest.raises(mv.InvalidInput, match="device"):
        mv.simulate_sgd(problem(), START, t_eval=[1.0], device="abacus", progress=False)


def test_without_pytorch_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "mkvlasov.solvers.sgd.device", raising=False)
    with pytest.raises(mv.UnsupportedError, match=r"mkvlasov\[gpu\]"):
        mv.simulate_sgd(problem(), START, t_eval=[1.0], device="cuda", progress=False)
