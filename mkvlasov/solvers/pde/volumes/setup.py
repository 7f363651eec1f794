"""From a problem to the Fokker-Planck equations of its loadings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.errors import UnsupportedError
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.problem.conditional import ConditionalLaw
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.solvers.pde.volumes.fluxes import Scheme
from mkvlasov.solvers.pde.volumes.march import Equations
from mkvlasov.solvers.pde.volumes.rates import RateFunction, Rates


class CoupledRates:
    """Rates from the limit coefficients: what couples the loadings (docs/theory.md, sections 3 and 9).

    On the sphere the drift of w gets the term -(1/2) (dQ/dt without constraint) w / Q. Beyond ten times the `largest`
    Q the rates are not a number.
    """

    def __init__(self, problem: Problem, limit: LimitCoefficients, largest: float) -> None:
        self._problem, self._limit, self._largest = problem, limit, largest
        self.evaluations = 0

    def __call__(self, t: float, moments: Array) -> Rates:
        R, virial = moments[1:-1], float(moments[-1])
        # Extrapolated moments may leave the set Q >= |R|^2 by the error of the extrapolation.
        Q = max(float(moments[0]), float(R @ R))
        tau = self._problem.rate(t)
        # Far beyond what counts as blown up (a trial step may get there) quadratures would take for ever.
        if not np.isfinite(moments[:-1]).all() or self._largest < 0.1 * Q:
            return _nowhere(len(R), tau)
        self.evaluations += 1
        try:
            c = self._limit(np.array([[Q]]), R[None], t)
        except UnsupportedError:
            # All weights have gone to zero, where an activation with a kink has no limit.
            return _nowhere(len(R), tau)
        G, H, Lambda = float(c.G[0, 0]), c.H[0], float(c.Lambda[0, 0])
        linear = tau * G
        if self._problem.constraint == "sphere" and Q > 0.0:
            unconstrained = -2.0 * tau * (G * Q + float(H @ R) + virial) + Lambda
            linear += 0.5 * unconstrained / Q
        return Rates(
            linear=linear,
            tilt=tau * H,
            tau=tau,
            # Rounding may leave a tiny negative number where the diffusion vanishes.
            diffusion=0.5 * max(Lambda, 0.0) if np.isfinite(Lambda) else np.nan,
            loss=float(c.loss),
            error=float(c.error),
        )


def _nowhere(features: int, tau: float) -> Rates:
    """Return rates that are no numbers: a step that asks for them is refused."""
    return Rates(linear=np.nan, tilt=np.full(features, np.nan), tau=tau, diffusion=np.nan)


@dataclass(frozen=True)
class Family:
    """The equations of all loadings, where they start, and from where on Q counts as blown up.

    Attributes
    ----------
    equations : Equations
    laws : list of ConditionalLaw
        Initial law of w for every loading.
    kinks : tuple of float
        Where phi' jumps.
    largest : float
    """

    equations: Equations
    laws: list[ConditionalLaw]
    kinks: tuple[float, ...]
    largest: float


def family_of(
    problem: Problem,
    initial: InitialLaw,
    loadings: LoadingNodes,
    *,
    rates: RateFunction,
    scheme: Scheme,
    largest: float,
) -> Family:
    """Return the equations and initial laws of the loadings."""
    regularizer = problem.regularizer

    def penalty(w: Array) -> Array:
        return regularizer.value(w[..., None])

    def slope(w: Array) -> Array:
        return regularizer.gradient(w[..., None])[..., 0]

    equations = Equations(loadings.points, loadings.weights, rates, penalty, slope, scheme)
    laws = [initial.conditional(a, problem) for a in loadings.points]
    return Family(equations, laws, tuple(regularizer.kinks), largest)
