"""Where and when a run of the spectral elements starts: point masses are let diffuse for an instant first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.initial import GaussianMixture
from mkvlasov.solvers.pde.elements.march import DIFFUSION, LINEAR, TAU, TILT
from mkvlasov.solvers.pde.elements.mesh import LineLaw
from mkvlasov.solvers.pde.elements.run import Equations

# So many standard deviations away a normal law does not feel a kink.
_FAR = 12.0


@dataclass(frozen=True, slots=True)
class Start:
    """Laws with densities at a time, and a first time step in which little happens."""

    time: float
    laws: Sequence[LineLaw]
    first_step: float


def start(equations: Equations, laws: Sequence[LineLaw], end: float, rtol: float) -> Start:
    """Return where to start from.

    In a time so short that drift and diffusion hardly change over it, a point mass becomes a narrow normal law whose
    mean moves with the drift: exact up to a small part of `rtol`. Near a kink, the jump of the drift must not move it
    by more than a small part of that width.
    """
    points, weights = equations.loadings, equations.weights
    mean = np.array([float(law.mean[0]) for law in laws])
    second = np.array([float(law.second_moment[0, 0]) for law in laws])
    y = np.concatenate([[weights @ second], (weights * mean) @ points, [0.0]])
    rates = equations.rates.evaluate(np.zeros(1), y[None])[0]
    if not np.isfinite(rates).all():
        return Start(0.0, laws, rtol * end)
    tilt = points @ rates[TILT:]
    width = np.sqrt(np.maximum(second - mean * mean, 1e-300))
    ends = np.array([law.ends(1e-6) for law in laws])
    slope = _slope(equations, ends)
    size = np.maximum(np.abs(ends).max(axis=1), width)
    speed = float(np.max(np.abs(rates[LINEAR]) + (np.abs(tilt) + rates[TAU] * slope) / size))
    diffusion = float(rates[DIFFUSION])
    time = 0.0
    if any(isinstance(law, GaussianMixture) and not law.is_smooth for law in laws) and diffusion > 0.0:
        time = 1e-2 * rtol * min(end, 1.0 / max(speed, 1e-300))
        for kink in equations.regularizer.kinks:
            gap = min(float(np.abs(law.means[:, 0] - kink).min()) for law in laws if isinstance(law, GaussianMixture))
            jump = max(rates[TAU] * float(slope.max()), 1e-300)
            near = max(0.03 * rtol / jump * 2.0 * diffusion, gap / _FAR, 1e-8 * float(size.max()))
            time = min(time, near * near / (2.0 * diffusion))
        laws = [_spread(equations, law, rates, h, time) for law, h in zip(laws, tilt, strict=True)]
        width = np.sqrt(2.0 * diffusion * time) * np.ones(len(laws))
    fastest = float(np.max(speed + np.abs(tilt) / width + diffusion / width**2))
    if equations.regularizer.linear_strength is not None:
        # Coordinates that move along leave little to resolve at the start.
        fastest = speed + (diffusion / float(width.min()) ** 2 if time > 0.0 else 0.0)
    return Start(time, laws, min(1e-3 * end, rtol / max(fastest, 1e-300)))


def _slope(equations: Equations, ends: Array) -> Array:
    if equations.regularizer.linear_strength is not None:
        return np.zeros(len(ends))
    return np.abs(equations.regularizer.gradient(ends[..., None])[..., 0]).max(axis=1)


def _spread(equations: Equations, law: LineLaw, rates: Array, tilt: float, time: float) -> LineLaw:
    if not isinstance(law, GaussianMixture):
        return law
    w = law.means[:, 0]
    drift = rates[LINEAR] * w + tilt
    if equations.regularizer.linear_strength is None:
        drift = drift + rates[TAU] * equations.regularizer.gradient(law.means)[:, 0]
    means = law.means - time * drift[:, None]
    shrunk = (1.0 - 2.0 * rates[LINEAR] * time) * law.covariances
    return GaussianMixture(law.weights, means, shrunk + 2.0 * rates[DIFFUSION] * time)
