"""Steps per second of the (Q, R) chain on one core, beside direct SGD where it is affordable, in one run.

    python benchmarks/chain.py

The time is that of the whole simulation, start included, on one thread; the best of five runs, which alternate between
cases so that other work on the machine disturbs all of them alike. Also the rate of the steps alone: the rest
of the time goes into the random numbers and the start.
"""

import time

import numpy as np

import mkvlasov as mv
from mkvlasov.solvers.sgd.chain import OrderParameterChain, simulate_chain

ONE = {
    "hidden": mv.hidden.Rademacher([4.0, 3.0]),
    "activation": "tanh",
    "learning_rate": 0.4,
    "regularizer": mv.regularizers.L2(0.3),
    "augmentation": mv.augmentations.GaussianNoise(std=[0.5, 0.7], correlation=-0.6),
}
TWO = {**ONE, "outputs": 2, "batch_size": 8, "loss": mv.losses.Covariance(decorrelation=0.5)}
OWN = {**ONE, "activation": mv.activations.Custom(np.tanh, lambda h: 1.0 - np.tanh(h) ** 2)}
CASES = {
    "m = 1, B = 1, N = 100": (ONE, 100, 2000),
    "m = 1, B = 1, N = 10^4": (ONE, 10_000, 20),
    "m = 1, B = 1, N = 10^6": (ONE, 1_000_000, 1),
    "m = 2, B = 8, N = 10^4": (TWO, 10_000, 4),
    "m = 1, B = 1, N = 100, one's own activation": (OWN, 100, 1000),
}


def start_of(problem):
    R = np.array([[0.5, 0.3], [-0.2, 0.4]])[: problem.outputs]
    return mv.initial.Gaussian(1.0, R)


def whole_run(problem, dimension, runs):
    """Return steps per second of CPU time on one thread, up to t = 1."""
    seeds = np.random.SeedSequence(0).spawn(runs)
    started = time.process_time()
    simulate_chain(
        problem, start_of(problem), dimension=dimension, steps=np.array([dimension]), seeds=seeds, exact_overlaps=True,
        loss_batches=1, workers=1, progress=False,
    )  # fmt: skip
    return runs * dimension / (time.process_time() - started)


def steps_alone(problem, dimension):
    """Return steps per second when the random numbers are there already, 16 runs at a time."""
    chain, runs = OrderParameterChain(problem, dimension), 16
    Q, R = start_of(problem).overlaps(problem)
    draws = chain.draw([np.random.Generator(np.random.SFC64(i)) for i in range(runs)], 0, chain.chunk)
    R, P = np.tile(R, (runs, 1, 1)), np.tile(Q - R @ R.T, (runs, 1, 1))
    started = time.process_time()
    chain.advance(R, P, np.full(runs, np.inf), draws, (0, chain.chunk), 0)
    return runs * chain.chunk / (time.process_time() - started)


def literal(problem, dimension, steps):
    """Return steps per second of direct SGD on one thread."""
    started = time.process_time()
    t_eval = [steps / dimension]
    mv.simulate_sgd(
        problem, start_of(problem), t_eval=t_eval, dimension=dimension, runs=16, rng=0, loss_batches=1, workers=1,
        method="literal", progress=False,
    )  # fmt: skip
    return 16 * steps / (time.process_time() - started)


def main():
    whole, alone = (dict.fromkeys(CASES, 0.0) for _ in range(2))
    for _ in range(5):
        for name, (fields, dimension, runs) in CASES.items():
            problem = mv.Problem(**fields)
            whole[name] = max(whole[name], whole_run(problem, dimension, runs))
            alone[name] = max(alone[name], steps_alone(problem, dimension))
    for name in CASES:
        print(f"{name:45s} {whole[name]:12,.0f} steps/s per core, steps alone {alone[name]:12,.0f}")
    for dimension, steps in ((100, 200), (10_000, 8)):
        rate = max(literal(mv.Problem(**ONE), dimension, steps) for _ in range(3))
        print(f"{f'direct SGD, m = 1, B = 1, N = {dimension}':45s} {rate:12,.0f} steps/s per core")


if __name__ == "__main__":
    main()
