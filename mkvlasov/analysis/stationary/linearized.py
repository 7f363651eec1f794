"""Linear stability of stationary densities: the linearized PDE with its nonlocal part of few ranks.

A perturbation f p of the densities p(w | a) changes (Q, R), hence G, H and Lambda, which act on all densities:

    df/dt = L_a [ f + beta psi ],   psi = dG w^2 / 2 + (dH . a) w - (dLambda / Lambda) V,   beta = 2 tau / Lambda,

with L_a the self-adjoint operator of `relaxation` and V the energy of the density. Outside the spectra of the L_a, the
eigenvalues are the zeros of a determinant of the size of the order parameters,

    F(lambda) = 1 - C(lambda) D,
    C(lambda) = beta E_a < (a w, w^2), (lambda - L_a)^-1 L_a (w^2 / 2, a w, -V / Lambda) >,

D the derivative of (G, H, Lambda) by (R, Q). At lambda = 0 it is the derivative of the self-consistency. Poles lie on
the negative axis only, so that the turning of the determinant along the imaginary axis counts the unstable eigenvalues.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import eig

from mkvlasov._typing import Array
from mkvlasov.analysis.stationary.gibbs import gibbs_densities
from mkvlasov.analysis.stationary.relaxation import Modes, relaxation_modes
from mkvlasov.analysis.stationary.self_consistency import SelfConsistency
from mkvlasov.analysis.stationary.slices import Slices

Complex = npt.NDArray[np.complex128]

_SHIFTS = 14
_FEW = 60
"""Modes up to this number are not reduced."""
_INDEPENDENT = 1e-12
_COUPLED = 1e-11
"""Modes that couple less than this part of the largest coupling are left out."""
_POLISHES = 6
_MOVED = 1e-3
"""A candidate that refinement moves by more than this part of its distance from zero was none."""
_ACCURATE, _RELATIVE = 0.01, 1e-3
"""Eigenvalues are listed up to errors of this part of them, or of the slowest rate of single loadings."""
_SAME = 1e-7
_REAL = 1e-10
_POLE = 1e-9
"""A zero this close to the rate of a single loading, relatively, is that rate."""
_LISTED = 12
_TILTED = 1e-10
"""Tilts closer than this, relative to the largest, are one."""
_BAND = 1e-6
"""Relative width from which rates of single loadings make a band."""
_HEAVY = 1e-12
"""Probability from which a loading is asked for its slowest rate."""
_TURN = 0.7


@dataclass(frozen=True)
class Linearization:
    """The determinant of a stationary state, as sums over modes.

    Attributes
    ----------
    rates : ndarray, shape (S,)
        Rates mu of the modes of all loadings.
    outputs : ndarray, shape (S, K + 1)
        Coefficients of (a w, w^2).
    inputs : ndarray, shape (S, K + 2)
        -beta times coefficients of (w^2 / 2, a w, -V / Lambda).
    slopes : ndarray, shape (K + 2, K + 1)
        D; on the sphere by R and the total linear drift G' in place of Q.
    on_sphere : bool
    """

    rates: Array
    outputs: Array
    inputs: Array
    slopes: Array
    on_sphere: bool

    def response(self, values: Complex) -> tuple[Complex, Complex]:
        """Return C(lambda) and its derivative, shape (n, K + 1, K + 2), at values (n,)."""
        shifted = values[:, None] + self.rates
        products = (self.outputs[:, :, None] * self.inputs[:, None, :]).reshape(len(self.rates), -1)
        shape = (len(values), self.outputs.shape[1], self.inputs.shape[1])
        value, slope = (self.rates / shifted) @ products, (-self.rates / shifted**2) @ products
        return value.reshape(shape), slope.reshape(shape)

    def matrix(self, values: Complex) -> tuple[Complex, Complex]:
        """Return F and its derivative, shape (n, K + 1, K + 1), at values (n,)."""
        C, C_slope = self.response(values)
        own = np.eye(len(self.slopes) - 1)
        if self.on_sphere:
            own[-1, -1] = 0.0
        return own - C @ self.slopes, -(C_slope @ self.slopes)

    def winding(self, beyond: float) -> int | None:
        """Return the number of zeros with real parts above a number >= 0, or None if the count is not resolved."""
        fast = float(self.rates.max())
        omega = np.concatenate([[0.0], np.geomspace(1e-3 * self.rates.min() + 1e-12 * fast, 1e4 * fast, 2000)])
        z = beyond + 1j * omega
        F, _ = self.matrix(z)
        if self.on_sphere:
            F[:, -1] *= (z + fast)[:, None] / fast  # the constraint acts at once: its row falls off
        angle = np.angle(np.linalg.det(F))
        steps = np.diff(angle)
        steps -= 2.0 * np.pi * np.round(steps / (2.0 * np.pi))
        turns = -steps.sum() / np.pi
        if np.abs(steps).max() > _TURN or abs(turns - round(turns)) > 0.05:
            return None
        return round(float(turns))


@dataclass(frozen=True, eq=False)
class LinearStability:
    """Eigenvalues of the linearized PDE outside the spectra of single loadings, and what they say.

    Attributes
    ----------
    type : str
        "stable node", "stable focus", "saddle" or "saddle focus" (infinitely many directions are stable in any case),
        or "degenerate": a real part is zero within its error.
    unstable_dimension : int
        Number of eigenvalues with a positive real part, from the turning of the determinant where that is resolved.
    centre_dimension : int
        Number of eigenvalues whose real part is zero within its error.
    eigenvalues : ndarray of complex, shape (n,)
        The leading ones, by falling real part.
    errors : ndarray, shape (n,)
        Their estimated errors.
    modes : ndarray of complex, shape (n, K + 1)
        How (R, Q) move along; of norm one.
    relaxation_rate : float
        Slowest rate at which the density of a single loading relaxes at fixed (Q, R). Where p(w | a) has two wells, its
        inverse is the time to cross between them.
    is_complete : bool
        Whether the turning of the determinant confirms the number of unstable eigenvalues.
    """

    type: str
    unstable_dimension: int
    centre_dimension: int
    eigenvalues: Complex
    errors: Array
    modes: Complex
    relaxation_rate: float
    is_complete: bool

    @property
    def is_stable(self) -> bool:
        """Whether every real part is negative beyond its error."""
        return not self.unstable_dimension and not self.centre_dimension

    def __str__(self) -> str:
        text = self.type
        if self.centre_dimension:
            text += f" ({self.centre_dimension} real part(s) zero within their errors)"
        if self.unstable_dimension:
            text += f", {self.unstable_dimension} unstable direction(s)"
        values = ", ".join(_show(value) for value in self.eigenvalues[:6]) or "none apart from single loadings"
        text += f"; eigenvalues {values}; single loadings relax at {self.relaxation_rate:.4g} or faster"
        return text if self.is_complete else text + "; the count of unstable eigenvalues is not confirmed"


def linear_stability(equations: SelfConsistency, y: Array, level: int) -> LinearStability:
    """Return the stability of a zero y (K + 1,) of the self-consistency.

    Parameters
    ----------
    equations : SelfConsistency
    y : ndarray, shape (K + 1,)
    level : int
        Of the quadrature over the loadings.
    """
    fields = equations.acting(y[None])[0]
    tilts = _merged(equations.slices(fields[None], level))
    G, Lambda = float(fields[0]), float(fields[-1])
    beta = 2.0 * equations.tau / Lambda
    count = len(tilts.s)
    regularizer = equations.problem.regularizer
    densities = gibbs_densities(regularizer, np.full(count, beta), np.full(count, G), tilts.s)
    assert densities is not None  # its moments have been taken
    pairs = [relaxation_modes(densities, i, G=G, s=float(s), Lambda=Lambda, beta=beta) for i, s in enumerate(tilts.s)]
    modes, fewer = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    slopes, slopes_error = _slopes(equations, y)
    linear, other = (_assembled(part, tilts.gram, beta, Lambda, slopes, equations.on_sphere) for part in (modes, fewer))
    bands = _bands(modes, tilts) if not equations.problem.loadings.is_exact else []
    rounding = max(m.rounding for m in modes)
    model = _reduced(linear)
    missed = _missed(equations, fields, level)
    values, vectors, errors = _zeros(linear, other, model, (slopes_error, missed), rounding, bands)
    heavy = tilts.gram[:, 0, 0] > _HEAVY
    slowest = min(m.rates[0] for m, kept in zip(modes, heavy, strict=True) if kept)
    return _classified(model, values, vectors, errors, float(slowest))


def _merged(tilts: Slices) -> Slices:
    """Return slices of different tilts, shapes (L,) and (L, 1 + K, 1 + K), of one state."""
    s, gram = tilts.s[0], tilts.gram[0]
    scale = max(float(np.abs(s).max()), 1e-300)
    _, first, group = np.unique(np.round(s / scale / _TILTED), return_index=True, return_inverse=True)
    total = np.zeros((len(first), *gram.shape[1:]))
    np.add.at(total, group.ravel(), gram)
    return Slices(s[first], total)


def _slopes(equations: SelfConsistency, y: Array) -> tuple[Array, Array]:
    """Return the derivatives of the fields that act by (R, Q), on the sphere by R and G', with their error."""
    derivative = equations.field_slopes(equations.overlaps(y))
    value, error = derivative.value.copy(), derivative.error.copy()
    if equations.on_sphere:
        value[0], value[:, -1], error[0], error[:, -1] = 0.0, 0.0, 0.0, 0.0
        value[0, -1] = 1.0
    return value, error


def _missed(equations: SelfConsistency, fields: Array, level: int) -> Array:
    """Return what finer quadrature over the loadings changes in the response at lambda = 0, (K + 1, K + 2)."""
    finer = min(level + 1, equations.levels[-1])
    here, there = (equations.moments(fields[None], n).slope[0] for n in (level, finer))
    return np.abs(there - here)


def _assembled(
    modes: list[Modes], gram: Array, beta: float, Lambda: float, slopes: Array, on_sphere: bool
) -> Linearization:
    rates, outputs, inputs = [], [], []
    for mode, moments in zip(modes, gram, strict=True):
        sizes, directions = np.linalg.eigh(moments)
        factor = (directions * np.sqrt(np.maximum(sizes, 0.0)))[:, sizes > 1e-14 * sizes[-1]]
        one, a = factor[0], factor[1:]
        for j in range(factor.shape[1]):
            along = np.outer(mode.w, a[:, j])
            rates.append(mode.rates)
            outputs.append(np.column_stack([along, mode.q * one[j]]))
            inputs.append(-beta * np.column_stack([0.5 * mode.q * one[j], along, -mode.V / Lambda * one[j]]))
    mu, u, v = np.concatenate(rates), np.concatenate(outputs), np.concatenate(inputs)
    coupling = np.linalg.norm(u / np.linalg.norm(u, axis=0), axis=1) * np.linalg.norm(v, axis=1)
    kept = coupling > _COUPLED * coupling.max()
    return Linearization(mu[kept], u[kept], v[kept], slopes, on_sphere)


def _bands(modes: list[Modes], tilts: Slices) -> list[tuple[float, float]]:
    """Return the ranges over a continuum of loadings of each eigenvalue of a single one."""
    heavy = [m for m, p in zip(modes, tilts.gram[:, 0, 0], strict=True) if p > _HEAVY]
    count = min(len(m.rates) for m in heavy)
    rates = np.array([m.rates[:count] for m in heavy])
    low, high = rates.min(axis=0), rates.max(axis=0)
    return [(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True) if b - a > _BAND * b]


def _zeros(
    linear: Linearization,
    other: Linearization,
    model: Linearization,
    unknown: tuple[Array, Array],
    rounding: float,
    bands: list[tuple[float, float]],
) -> tuple[Complex, Complex, Array]:
    """Return the zeros of the determinant (n,), null vectors (n, K + 1) and errors (n,), by falling real part."""
    found: list[tuple[complex, Complex, float]] = []
    for start in _candidates(model):
        polished = _polished(linear, other, start, unknown, rounding)
        if polished is None:
            continue
        value, vector, error = polished
        embedded = not value.imag and any(a <= -value.real <= b for a, b in bands)
        known = sum(abs(value - other) <= _SAME * abs(value) + error for other, _, _ in found)
        if not embedded and known < _nullity(linear, value):
            found += [polished, (value.conjugate(), vector.conj(), error)] if value.imag else [polished]
    found.sort(key=lambda item: -item[0].real)  # stable: pairs stay together
    found = found[:_LISTED]
    values = np.array([item[0] for item in found], dtype=np.complex128)
    vectors = np.array([item[1] for item in found], dtype=np.complex128).reshape(len(found), linear.slopes.shape[1])
    return values, vectors, np.array([item[2] for item in found])


def _reduced(linear: Linearization) -> Linearization:
    """Return a model of few modes with the same response to the right of the origin.

    Galerkin's method on solutions for real shifts from zero to the fastest rates.
    """
    mu, root = linear.rates, np.sqrt(linear.rates)[:, None]
    if len(mu) <= _FEW:
        return linear
    inputs, outputs = root * linear.inputs, root * linear.outputs
    block = np.concatenate([inputs, outputs], axis=1)
    shifts = np.concatenate([[0.0], np.geomspace(0.1 * mu.min(), 3.0 * mu.max(), _SHIFTS - 1)])
    raw = np.concatenate([block / (mu + shift)[:, None] for shift in shifts], axis=1)
    norms = np.linalg.norm(raw, axis=0)
    basis, sizes, _ = np.linalg.svd(raw[:, norms > 0.0] / norms[norms > 0.0], full_matrices=False)
    basis = basis[:, sizes > _INDEPENDENT * sizes[0]]
    rates, turn = np.linalg.eigh((basis.T * mu) @ basis)
    basis = basis @ turn
    back = 1.0 / np.sqrt(rates)[:, None]
    return Linearization(rates, back * (basis.T @ outputs), back * (basis.T @ inputs), linear.slopes, linear.on_sphere)


def _candidates(model: Linearization) -> list[complex]:
    """Return the eigenvalues of a model of few modes (one of each pair), leading ones first."""
    n, d = model.outputs.shape
    own = np.eye(d)
    if model.on_sphere:
        own[-1, -1] = 0.0
    left = np.block(
        [[-np.diag(model.rates), model.rates[:, None] * model.inputs @ model.slopes], [model.outputs.T, -own]]
    )
    right = np.diag(np.concatenate([np.ones(n), np.zeros(d)]))
    alpha, beta = eig(left, right, right=False, homogeneous_eigvals=True)
    finite = np.abs(beta) > 1e-10 * np.abs(alpha).clip(1e-300)
    values = alpha[finite] / beta[finite]
    values = np.where(np.abs(values.imag) <= _REAL * np.abs(values), values.real, values)
    return sorted(values[values.imag >= 0.0].tolist(), key=lambda value: -value.real)


def _polished(
    linear: Linearization, other: Linearization, start: complex, unknown: tuple[Array, Array], rounding: float
) -> tuple[complex, Complex, float] | None:
    """Return the zero near a candidate with its null vector and error, or None."""
    value = complex(start)
    room = _MOVED * abs(value) + 1e-9 * float(linear.rates.max()) + 100.0 * rounding
    for _ in range(_POLISHES):
        if np.abs(value + linear.rates).min() <= _POLE * abs(value):
            return None
        F, slope = (part[0] for part in linear.matrix(np.array([value], dtype=np.complex128)))
        U, sizes, Vh = np.linalg.svd(F)
        w, v = U[:, -1], Vh[-1].conj()
        turn = w.conj() @ slope @ v
        if turn == 0.0:
            return None
        step = -sizes[-1] / turn
        value = value + step
        if not np.isfinite(value) or abs(value - start) > room:
            return None
        if abs(step) <= 1e-13 * abs(value):
            break
    if start.imag == 0.0:
        value = complex(value.real, 0.0)
    at = np.array([value], dtype=np.complex128)
    C, gap = linear.response(at)[0][0], (linear.matrix(at)[0] - other.matrix(at)[0])[0]
    slopes_error, response_error = unknown
    entries = np.abs(C) @ slopes_error + response_error @ np.abs(linear.slopes) + np.abs(gap)
    disturbance = float(np.abs(w) @ entries @ np.abs(v)) / abs(turn)
    error = float(abs(step)) + disturbance + rounding
    return (value, v, error) if error <= _ACCURATE * abs(value) + _RELATIVE * float(linear.rates.min()) else None


def _nullity(linear: Linearization, value: complex) -> int:
    F, _ = linear.matrix(np.array([value], dtype=np.complex128))
    sizes = np.linalg.svd(F[0], compute_uv=False)
    return max(1, int((sizes <= 1e-6 * max(sizes[0], 1.0)).sum()))


def _classified(
    model: Linearization, values: Complex, vectors: Complex, errors: Array, slowest: float
) -> LinearStability:
    centre = np.abs(values.real) <= errors
    unstable = values.real > errors
    beyond = 2.0 * float(errors[centre].max()) if centre.any() else 0.0
    counted = model.winding(beyond)
    number = int(unstable.sum()) if counted is None else counted
    turning = bool((np.abs(values.imag) > errors).any())
    if centre.any():
        kind = "degenerate"
    elif number:
        kind = "saddle focus" if turning else "saddle"
    else:
        kind = "stable focus" if turning else "stable node"
    return LinearStability(
        kind, number, int(centre.sum()), values, errors, vectors, slowest, counted == int(unstable.sum())
    )


def _show(value: complex) -> str:
    return f"{value.real:.4g}" if not value.imag else f"{value.real:.4g}{value.imag:+.4g}i"
