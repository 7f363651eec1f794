"""The positive method on random problems: whole, non-negative masses and overlaps that exist, or words.

`python tests/solvers/test_pde_random.py 200` runs as many problems and prints each.
"""

import sys
import time

import numpy as np
import pytest

import mkvlasov as mv

COUNT = 10


def _custom_value(w):
    return 0.3 * np.logaddexp(2.0 * w, -2.0 * w)


def _custom_gradient(w):
    return 0.6 * np.tanh(2.0 * w)


def _regularizer(rng):
    strength = 10.0 ** rng.uniform(-2, 1.3)
    return [
        None,
        mv.regularizers.L1(strength),
        mv.regularizers.L2(strength),
        mv.regularizers.ElasticNet(strength, 0.3),
        mv.regularizers.Huber(strength, 10.0 ** rng.uniform(-2, 0)),
        mv.regularizers.DoubleWell(min(strength, 3.0)),
        mv.regularizers.GroupLasso(strength),
        mv.regularizers.Custom(_custom_value, _custom_gradient),
    ][rng.integers(8)]


def _loadings(rng, features):
    laws = [mv.loadings.Gaussian(), mv.loadings.Rademacher(), mv.loadings.Sparse(rng.uniform(0.05, 1.0))]
    if features == 1:
        laws.append(mv.loadings.Discrete([-0.5, 2.0], [0.8, 0.2]))
    return laws[rng.integers(len(laws))]


def _gaussian(rng, features, Q):
    R = rng.normal(size=features)
    return mv.initial.Gaussian(Q, R * np.sqrt(Q * rng.choice([0.0, 0.1, 0.5, 0.999])) / np.linalg.norm(R))


def _initial(rng, problem):
    features = problem.n_features
    Q = 1.0 if problem.constraint else 10.0 ** rng.uniform(-4, 1.4)
    if rng.random() < 0.6 or problem.constraint:
        return _gaussian(rng, features, Q)
    kind = rng.integers(3)
    if kind == 0:
        return mv.initial.Point(rng.choice([-1.0, 1.0]) * np.sqrt(Q))
    if kind == 1:
        parts = [_gaussian(rng, features, Q), mv.initial.Point(0.3), _gaussian(rng, features, 0.1 * Q)]
        return mv.initial.Mixture([0.5, 0.2, 0.3], parts)
    a = np.kron(np.ones((5, 1)), np.concatenate([np.eye(features), -np.eye(features)]) * np.sqrt(features))
    return mv.initial.Empirical(np.sqrt(Q) * rng.normal(size=len(a)), a)


def random_case(seed):
    """Return a problem, an initial law and a final time, wide in scale: Lambda from 1e-8 to order one."""
    rng = np.random.default_rng(seed)
    features = int(rng.choice([1, 1, 2]))
    hidden = [
        mv.hidden.Rademacher,
        mv.hidden.Gaussian,
        lambda variance: mv.hidden.Sparse(variance, kurtosis=4.0),
    ][rng.integers(3)]
    rate = 10.0 ** rng.uniform(-1.5, 0)
    problem = mv.Problem(
        hidden=hidden(list(rng.uniform(0.5, 5.0, size=features))),
        activation=str(rng.choice(["tanh", "erf", "relu", "softplus", "sigmoid", "identity"])),
        learning_rate=rate if rng.random() < 0.7 else mv.schedules.PowerDecay(rate, 1.0, 0.7),
        regularizer=_regularizer(rng),
        augmentation=mv.augmentations.GaussianNoise(float(rng.choice([0.0, 0.4, 1.0])), float(rng.uniform(-1, 1))),
        loadings=_loadings(rng, features),
        batch_size=int(rng.choice([1, 10, 10_000, 10**8])),
        constraint="sphere" if rng.random() < 0.15 else None,
    )
    return problem, _initial(rng, problem), float(10.0 ** rng.uniform(-1, 1.3))


def run(seed):
    problem, initial, end = random_case(seed)
    method = mv.methods.FiniteVolumes(cells=60)
    return mv.solve_pde(
        problem, initial, t_eval=[0.0, 0.3 * end, end], method=method, rtol=5e-3, loading_order=6, progress=False
    )


@pytest.mark.parametrize("seed", range(COUNT))
def test_a_random_problem_keeps_its_mass_and_its_order(seed):
    check(run(seed))


def check(pde):
    mass = (pde.quadrature * pde.densities).sum(axis=-1)
    assert np.abs(mass - 1.0).max() < 1e-12
    assert pde.densities.min() >= 0.0
    Q, R = pde.Q[:, 0, 0], pde.R[:, 0]
    # Rounding of a sum over cells and loadings.
    assert (Q - (R * R).sum(axis=1) >= -1e-12 * Q).all()
    for values in (Q, R, pde.Q_error, pde.R_error, pde.density_error, pde.loss):
        assert np.isfinite(values).all()
    # Not every activation is bounded: a run may end early, but then says when.
    assert pde.status.success == (len(pde.t) == 3)
    assert pde.status.success or "t = " in pde.status.message


if __name__ == "__main__":
    for seed in range(*(int(argument) for argument in sys.argv[1:])):
        started = time.perf_counter()
        try:
            pde = run(seed)
            check(pde)
            said = f"{pde.stats['error_estimate'] / pde.Q.max():8.1e} {pde.stats['steps']:6.0f} {pde.status}"
        except Exception as error:
            said = f"FAILED {type(error).__name__}: {str(error)[:200]}"
        print(seed, f"{time.perf_counter() - started:6.2f} s", said, flush=True)  # noqa: T201
