"""Histograms of SGD runs at snapshots."""

from __future__ import annotations

import numpy as np
import pytest

from mkvlasov.errors import InvalidInput
from mkvlasov.problem import hidden, initial, loadings
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solution_runs import SgdSolution
from mkvlasov.solvers.sgd.simulate import simulate_sgd


def simulate(law: loadings.LoadingLaw, *, outputs: int = 1, features: int = 1, runs: int = 8) -> SgdSolution:
    problem = Problem(
        hidden=hidden.Rademacher(np.full(features, 2.0)),
        activation="tanh",
        learning_rate=0.3,
        loadings=law,
        outputs=outputs,
    )
    start = initial.Gaussian(1.0, np.full((outputs, features), 0.5 / outputs))
    return simulate_sgd(
        problem, start, t_eval=[0.0, 0.5], dimension=400, runs=runs, rng=1, snapshots=[0.0, 0.5], progress=False
    )


@pytest.fixture(scope="module")
def sparse() -> SgdSolution:
    return simulate(loadings.Sparse(0.25))


def test_an_atom_selects_the_coordinates_drawn_with_it(sparse: SgdSolution) -> None:
    on, off = sparse.histogram(0.5, 2.0), sparse.histogram(0.5, 0.0)
    assert on.count + off.count == 8 * 400
    assert on.count == (sparse.snapshots.loadings == 2.0).sum()
    # A quarter of the coordinates, within four standard deviations.
    assert abs(on.count - 800) < 4 * np.sqrt(3200 * 0.25 * 0.75)
    for histogram in (on, off):
        assert len(histogram.edges) == 81
        assert (histogram.density * np.diff(histogram.edges)).sum() == pytest.approx(1.0)
        assert (histogram.stderr > 0.0).all()
    assert on.centers @ on.density > off.centers @ off.density


def test_the_start_has_the_density_of_the_initial_law(sparse: SgdSolution) -> None:
    edges = np.linspace(-1.0, 3.0, 21)
    histogram = sparse.histogram(0.0, 2.0, bins=edges)
    law = sparse.initial.conditional(np.array([2.0]), sparse.problem)
    expected = np.diff(law.cdf(edges)) / np.diff(edges)
    # Errors from 8 runs have 7 degrees of freedom: their squares average to 7 / 5 with such a t law, not to 1.
    z = (histogram.density - expected) / histogram.stderr
    assert 0.4 < np.mean(z**2) < 3.0


def test_a_range_and_everything(sparse: SgdSolution) -> None:
    assert sparse.histogram(0.5, (1.0, 3.0)).count == sparse.histogram(0.5, 2.0).count
    assert sparse.histogram(0.5).count == 3200
    assert sparse.histogram(0.5, (-1.0, 3.0)).count == 3200


def test_several_features_and_outputs() -> None:
    s = simulate(loadings.Rademacher(), outputs=2, features=2, runs=3)
    corner = s.histogram(0.5, [1.0, -1.0], output=1)
    assert corner.count == (s.snapshots.loadings == [1.0, -1.0]).all(axis=-1).sum()
    box = s.histogram(0.5, [[0.0, -2.0], [2.0, 0.0]], output=1, bins=corner.edges)
    np.testing.assert_array_equal(box.density, corner.density)
    assert not np.array_equal(s.histogram(0.5, [1.0, -1.0], bins=corner.edges).density, corner.density)


def test_one_run_counts_binomially() -> None:
    histogram = simulate(loadings.Sparse(0.25), runs=1).histogram(0.5, 0.0, bins=5)
    width = np.diff(histogram.edges)
    fraction = histogram.density * width
    expected = np.sqrt(fraction * (1.0 - fraction) / histogram.count) / width
    np.testing.assert_allclose(histogram.stderr[fraction > 0], expected[fraction > 0])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"t": 0.25}, "t"),
        ({"t": 0.5, "loading": 1.0}, "loading"),
        ({"t": 0.5, "loading": [1.0, 2.0, 3.0]}, "loading"),
        ({"t": 0.5, "bins": 0}, "bins"),
        ({"t": 0.5, "bins": [1.0, 0.0]}, "bins"),
        ({"t": 0.5, "output": 1}, "output"),
    ],
)
def test_a_bad_argument_is_named(sparse: SgdSolution, arguments: dict[str, object], name: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{name}:"):
        sparse.histogram(**arguments)


def test_without_snapshots_the_error_says_how_to_keep_some() -> None:
    problem = Problem(hidden=hidden.Rademacher(2.0), activation="tanh", learning_rate=0.3)
    s = simulate_sgd(problem, initial.Gaussian(1.0, 0.5), t_eval=[0.1], dimension=20, runs=2, rng=2, progress=False)
    with pytest.raises(InvalidInput, match="snapshots="):
        s.histogram(0.1)
