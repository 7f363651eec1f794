"""Errors of the limit coefficients over those requested and those reported, at random states, many nearly singular.

    python benchmarks/coefficient_errors.py [FIGURE.png]

The exact values come from `coefficient_references`, which shares no code with the package: tensor rules with many
nodes, mpmath, closed forms for erf, integrals over sectors for rectifiers, Gauss-Hermite rules for polynomials. Errors
are relative to the scale that `Coefficients.error` refers to: the sum of the absolute values of the terms of an entry.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import coefficient_references as references
import numpy as np

import mkvlasov as mv
from mkvlasov.limit.coefficients import LimitCoefficients

TOLERANCES = (1e-4, 1e-6, 1e-8)
FLOOR = 1e-12
"""What the references, and states given in double precision, are good for."""

VIEWS = ("generic", "equal", "nearly equal", "opposite noise")


class Case(NamedTuple):
    """A problem at a state, with the exact coefficients."""

    family: str
    problem: mv.Problem
    Q: np.ndarray
    R: np.ndarray
    exact: dict


class Outcome(NamedTuple):
    """What was requested, reported and true."""

    family: str
    requested: float
    reported: float
    true: float


def overlaps(rng, m, kind, largest=10.0):
    """Return a random state with Q from 0.02 to `largest`; "learnt" and "dependent" ones are nearly singular."""
    W = rng.normal(size=(m, m + 3)) * np.sqrt(np.exp(rng.uniform(np.log(0.02), np.log(largest))) / (m + 3))
    if kind == "learnt":
        W[:, 2:] *= 1e-5
    elif kind == "fully learnt":
        W[:, 2:] = 0.0
    elif kind == "dependent" and m > 1:
        W[-1] = W[0] + 1e-6 * W[-1]
    return W @ W.T, W[:, :2]


def make(rng, activation, m, views, *, gaussian=False, decorrelation=0.0):
    """Return a problem with noise of some kind; the learning rate is one."""
    std, correlation = {
        "generic": (rng.uniform(0.1, 1.0, size=2), rng.uniform(-0.95, 0.95)),
        "equal": (0.0, 0.0),
        "nearly equal": (1e-3, 0.0),
        "opposite noise": (rng.uniform(0.1, 1.0), -1.0),
    }[views]
    law = mv.hidden.Gaussian if gaussian else mv.hidden.Rademacher
    return mv.Problem(
        hidden=law(variance=[1.3, 0.6]),
        activation=activation,
        learning_rate=1.0,
        outputs=m,
        loss=mv.losses.Covariance(decorrelation=decorrelation),
        background_variance=rng.uniform(0.5, 1.0),
        augmentation=mv.augmentations.GaussianNoise(std=std, correlation=correlation),
    )


def one_output(rng, count) -> Iterator[Case]:
    """Smooth activations, m = 1: double sums."""
    for i in range(count):
        activation = ("tanh", "sigmoid", "softplus", "erf")[i % 4]
        problem = make(rng, activation, 1, VIEWS[rng.integers(4)])
        Q, R = overlaps(rng, 1, ("generic", "learnt")[rng.integers(2)])
        yield Case("m = 1", problem, Q, R, references.literal(problem, Q, R))


def many_digits(rng, count) -> Iterator[Case]:
    """Hyperbolic tangent, m = 1: double sums in 28 digits."""
    for _ in range(count):
        problem = make(rng, "tanh", 1, VIEWS[rng.integers(4)])
        Q, R = overlaps(rng, 1, "generic", largest=2.0)
        yield Case("m = 1", problem, Q, R, references.in_many_digits(problem, Q, R))


def closed_forms(rng, count) -> Iterator[Case]:
    """Erf, m = 1 to 4, without decorrelation: closed forms."""
    for i in range(count):
        problem = make(rng, "erf", 1 + i % 4, VIEWS[rng.integers(4)], gaussian=True)
        Q, R = overlaps(rng, 1 + i % 4, ("generic", "learnt", "dependent")[rng.integers(3)])
        yield Case("erf, m = 1 to 4", problem, Q, R, references.erf_closed(problem, Q, R))


def low_rank(rng, count) -> Iterator[Case]:
    """Two and three outputs with decorrelation where the pre-activations have rank m: sums in m variables."""
    for i in range(count):
        m = 3 if i % 8 == 7 else 2
        views, kind = (("equal", "generic"), ("opposite noise", "fully learnt"))[rng.integers(2)]
        problem = make(rng, ("tanh", "sigmoid")[i % 2], m, views, decorrelation=(0.0, 0.7)[rng.integers(2)])
        Q, R = overlaps(rng, m, kind, largest=1.0 if m == 3 else 10.0)
        yield Case("m = 2, 3", problem, Q, R, references.literal(problem, Q, R))


def polynomials(rng, count) -> Iterator[Case]:
    """Quadratic activation with decorrelation, generic views: Gauss-Hermite rules are exact."""
    for i in range(count):
        m = 3 if i % 4 == 3 else 2
        problem = make(rng, mv.activations.Polynomial([0.1, 0.6, 0.3]), m, "generic", decorrelation=0.7)
        Q, R = overlaps(rng, m, "generic", largest=2.0)
        exact = references.literal(problem, Q, R, references.hermite(8))
        yield Case("m = 2, 3", problem, Q, R, exact)


def rectifiers(rng, count) -> Iterator[Case]:
    """ReLU, m = 1 to 3, without decorrelation: closed forms and integrals over sectors."""
    for i in range(count):
        problem = make(rng, "relu", 1 + i % 3, ("generic", "nearly equal")[rng.integers(2)], gaussian=True)
        Q, R = overlaps(rng, 1 + i % 3, ("generic", "dependent")[rng.integers(2)])
        yield Case("ReLU, m = 1 to 3", problem, Q, R, references.relu_by_sectors(problem, Q, R))


FAMILIES = {
    one_output: 120, many_digits: 3, closed_forms: 160, low_rank: 48, polynomials: 8, rectifiers: 48,
}  # fmt: skip


def outcomes(case: Case) -> Iterator[Outcome]:
    """Compare the coefficients with the exact ones at every tolerance."""
    for rtol in TOLERANCES:
        limit = LimitCoefficients(case.problem, rtol=rtol)
        terms, reported = limit._converge_hidden(case.Q[None], case.R[None])
        true = 0.0
        for name, values in zip(terms._fields, terms, strict=True):
            value, magnitude, _, size = values[:, 0]
            scale = np.maximum(np.maximum(magnitude, 1e-3 * size), 1e-300)
            true = max(true, float((np.abs(value - case.exact[name].reshape(value.shape)) / scale).max()))
        yield Outcome(case.family, rtol, float(reported[0]), true)


def draw(results: list[Outcome], path: str) -> None:
    """Draw the distributions of true over requested, and of true over reported errors."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), sharey=True, layout="constrained")
    styles = ("-", "--", ":", "-.")
    for rtol, ls in zip(TOLERANCES, styles, strict=False):
        ratios = np.sort([x.true / rtol for x in results if x.requested == rtol])
        shares = np.arange(1, len(ratios) + 1) / len(ratios)
        left.step(np.maximum(ratios, 1e-10), shares, ls=ls, label=f"rtol = {rtol:.0e}")
    for family, ls in zip(dict.fromkeys(x.family for x in results), styles, strict=False):
        ratios = np.sort([x.true / max(x.reported, FLOOR) for x in results if x.family == family])
        right.step(np.maximum(ratios, 1e-10), np.arange(1, len(ratios) + 1) / len(ratios), ls=ls, label=family)
    left.set(xlabel="true error / requested error", ylabel="share of states", xscale="log", xlim=(1e-10, 10.0))
    right.set(xlabel="true error / reported error", xscale="log", xlim=(1e-10, 10.0))
    for axes in (left, right):
        axes.axvline(1.0, color="black", linewidth=0.8, linestyle="--")
        axes.legend(loc="upper left", fontsize="small", frameon=False)
    figure.savefig(path, dpi=150)


def main(arguments):
    rng = np.random.default_rng(2026)
    results = []
    for family, count in FAMILIES.items():
        found = [x for case in family(rng, count) for x in outcomes(case)]
        results += found
        print(f"\n{family.__doc__.strip()} {count} states")
        for rtol in TOLERANCES:
            chosen = [x for x in found if x.requested == rtol]
            requested = np.array([x.true / rtol for x in chosen])
            reported = np.array([x.true / max(x.reported, FLOOR) for x in chosen])
            missed = sum(x.reported > rtol for x in chosen)
            print(
                f"  rtol {rtol:.0e}: true / requested: median {np.median(requested):.1e}, largest {requested.max():.1e}"
                f"; true / reported: median {np.median(reported):.1e}, largest {reported.max():.1e};"
                f" reported above requested: {missed}"
            )
    if arguments:
        draw(results, arguments[0])


if __name__ == "__main__":
    main(sys.argv[1:])
