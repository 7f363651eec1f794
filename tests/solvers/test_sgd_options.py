"""Direct SGD: checkpoints, observables, callbacks, losses with a g of one's own and stop-gradients."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import mkvlasov
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.problem import augmentations, hidden, initial, losses, regularizers
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solution_runs import SgdSolution
from mkvlasov.solvers.ode import solve_ode
from mkvlasov.solvers.sgd.literal import batch_losses, data_increment, draw_views
from mkvlasov.solvers.sgd.simulate import simulate_sgd

START = initial.Gaussian(Q=1.0, R=[0.3, 0.2])


def make_problem(**fields: object) -> Problem:
    given = {
        "hidden": hidden.Rademacher([4.0, 3.0]),
        "activation": "tanh",
        "learning_rate": 0.4,
        "regularizer": regularizers.L1(0.2),
        "augmentation": augmentations.GaussianNoise([0.5, 0.8], -0.6),
    }
    return Problem(**{**given, **fields})


def run(problem: Problem | None = None, **options: object) -> SgdSolution:
    given = {"t_eval": np.linspace(0.0, 4.0, 9), "dimension": 50, "runs": 4, "rng": 1, "progress": False}
    return simulate_sgd(problem or make_problem(), START, **{**given, **options})


def sparsity(w: np.ndarray, u: np.ndarray) -> np.ndarray:
    return (np.abs(w) < 0.1).mean(axis=0)


def overlap(w: np.ndarray, u: np.ndarray) -> np.ndarray:
    return w.T @ u / np.sqrt(len(w))


@pytest.mark.parametrize("method", ["reduced", "literal"])
def test_observables_are_functions_of_weights_and_features(method: str, tmp_path: Path) -> None:
    s = run(method=method, observables={"sparsity": sparsity, "overlap": overlap}, snapshots=[4.0])
    np.testing.assert_allclose(s.observables["overlap"], s.runs.R, atol=1e-12)
    assert s.observables["sparsity"].shape == (9, 4, 1)
    np.testing.assert_array_equal(s.observables["sparsity"][-1], (np.abs(s.snapshots.weights[0]) < 0.1).mean(axis=1))
    s.save(tmp_path / "s.nc")
    loaded = mkvlasov.load(tmp_path / "s.nc")
    assert isinstance(loaded, SgdSolution)
    np.testing.assert_array_equal(loaded.observables["sparsity"], s.observables["sparsity"])


def test_observables_that_are_none_are_refused() -> None:
    for bad in ([sparsity], {"a b": sparsity}, {"a": 3.0}):
        with pytest.raises(InvalidInput, match=r"^observables"):
            run(observables=bad)
    with pytest.raises(InvalidInput, match="one shape"):
        run(observables={"big": lambda w, u: w[np.abs(w) > 0.5]})


def test_a_callback_sees_all_runs_and_can_stop_them() -> None:
    whole, seen = run(method="literal"), []

    def until(t: float, Q: np.ndarray, R: np.ndarray) -> bool:
        seen.append((t, R))
        return t >= 2.0

    s = run(method="literal", callback=until, snapshots=[0.0, 3.0])
    assert [t for t, _ in seen] == s.t.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    np.testing.assert_array_equal(np.array([R for _, R in seen]), s.runs.R)
    np.testing.assert_array_equal(s.runs.R, whole.runs.R[:5])
    assert not s.status.success
    assert s.status.message == "stopped by the callback at t = 2"
    assert s.snapshots.t.tolist() == [0.0]
    assert s.stats["steps"] == 100


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import test_sgd_options as t
t.run(method={method!r}, checkpoint={path!r}, checkpoint_every=0.0, t_eval=t.LONG, snapshots=[0.0, 300.0])
print("done")
"""
LONG = np.linspace(0.0, 3000.0, 301)


@pytest.mark.parametrize("method", ["reduced", "literal"])
def test_a_killed_run_goes_on_to_the_same_numbers(method: str, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    script = SCRIPT.format(root=str(Path(__file__).parent), method=method, path=str(path))
    environment = {**os.environ, "PYTHONPATH": str(Path(mkvlasov.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    deadline = time.monotonic() + 120.0
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    assert b"done" not in output
    with np.load(path) as stored:
        assert 0 < stored["record.loss"].any(axis=1).sum() < 301
    options = {"method": method, "t_eval": LONG[:21], "snapshots": [0.0, 150.0]}
    with pytest.raises(InvalidInput, match="t_eval is 301 times"):
        run(checkpoint=path, **options)
    # The same simulation, cut short by a callback at a time that the killed one had not necessarily reached.
    whole = run(checkpoint=None, method=method, t_eval=LONG, snapshots=[0.0, 300.0], callback=lambda t, Q, R: t >= 400)
    resumed = run(
        checkpoint=path, method=method, t_eval=LONG, snapshots=[0.0, 300.0], callback=lambda t, Q, R: t >= 400
    )
    count = len(whole.t)
    for name in ("Q", "R", "loss"):
        np.testing.assert_array_equal(getattr(resumed.runs, name)[:count], getattr(whole.runs, name))
    np.testing.assert_array_equal(resumed.snapshots.weights, whole.snapshots.weights)
    np.testing.assert_array_equal(resumed.snapshots.loadings, whole.snapshots.loadings)


def test_a_checkpoint_of_another_simulation_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    finished = run(method="literal", checkpoint=path)
    again = run(method="literal", checkpoint=path, workers=2)
    np.testing.assert_array_equal(again.runs.loss, finished.runs.loss)
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    changes: dict[str, dict[str, object]] = {
        "dimension": {"dimension": 51},
        "runs": {"runs": 5},
        "rng": {"rng": 2},
        "method": {"method": "reduced"},
        "problem": {"problem": make_problem(learning_rate=0.5)},
        "exact_overlaps": {"exact_overlaps": True},
        "regularizer_step": {"regularizer_step": "proximal"},
    }
    for name, change in changes.items():
        with pytest.raises(InvalidInput, match=f"its {name} is"):
            run(**{"method": "literal", "checkpoint": path, **change})
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InvalidInput, match=r"^checkpoint"):
        run(method="literal", checkpoint=path)


def quartic(c: np.ndarray) -> np.ndarray:
    return np.cos(c) + c**4


@pytest.mark.parametrize("stop", [False, True])
def test_a_g_of_ones_own_is_differentiated(stop: bool) -> None:
    problem = make_problem(outputs=2, batch_size=3, loss=losses.Covariance(0.7, g=quartic, stop_gradient=stop))
    rng = np.random.default_rng(1)
    features = np.linalg.qr(rng.standard_normal((7, 2)))[0].T
    w, views = rng.standard_normal((2, 7)), draw_views(problem, features, rng, 1)
    y = [np.tanh(views[0, v] @ w.T / np.sqrt(7)) for v in range(2)]
    c = y[0].T @ y[1] / 3
    expected = -np.trace(c) + 0.7 * (quartic(c[0, 1]) + quartic(c[1, 0]))
    np.testing.assert_allclose(batch_losses(problem, w, views), expected)
    gradient = np.zeros_like(w)
    for index in np.ndindex(w.shape):
        for sign in (1.0, -1.0):
            moved = w.copy()
            moved[index] += sign * 1e-5
            # With a stop-gradient the second view is seen by fixed weights.
            second = y[1] if stop else np.tanh(views[0, 1] @ moved.T / np.sqrt(7))
            loss = problem.loss.value(np.tanh(views[0, 0] @ moved.T / np.sqrt(7)), second)
            gradient[index] += sign * loss / 2e-5
    np.testing.assert_allclose(data_increment(problem, w, views[0], 0.3), -0.3 * gradient, atol=1e-9)


def test_losses_without_a_limit_name_sgd() -> None:
    start = initial.Gaussian(1.0, [[0.3, 0.2], [-0.2, 0.4]])
    for loss in (losses.Covariance(0.7, g=quartic), losses.Covariance(stop_gradient=True)):
        problem = make_problem(outputs=2, loss=loss, regularizer=None)
        with pytest.raises(UnsupportedError, match="simulate_sgd"):
            solve_ode(problem, start, t_eval=[0.0, 1.0])
    with pytest.raises(InvalidInput, match=r"^loss\.g"):
        losses.Covariance(0.7, g=lambda c: c.sum())
