"""Law of the one-step increments of the order parameters: mean, covariance, and what finite dimension changes.

With Gaussian noise the increment of (Q, R) in one step depends on the pre-activations h, on u_k . x (the samples
along the features) and on inner products of samples. The last have mean T_vv' N + O(1) and fluctuate by sqrt(N)
only, so that in the limit everything is a function of h and u . x, jointly Gaussian given the hidden variables;
u . x is integrated out by its conditional law given h, exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.stats import qmc

from mkvlasov import _checks
from mkvlasov._quadrature import trapezoidal_rule
from mkvlasov._typing import Array
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.limit.entries import Entries
from mkvlasov.limit.views import view_law
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.hidden import HiddenNodes
from mkvlasov.problem.losses import Covariance

_REACH = 8.0
_SPACINGS = (0.5, 0.25, 0.125, 0.0625)
_POINTS_LOG2 = 12
"""Sobol points of one randomization: 2^12."""
_RANDOMIZATIONS = 8
_CHUNK = 2**16
_HIDDEN_POINTS = 300


@dataclass(frozen=True, slots=True)
class Increments:
    """Moments of delta = N times the increment of the entries of (R, Q) in one step.

    Attributes
    ----------
    mean : ndarray, shape (..., d)
        E delta for N to infinity: the right-hand side of the closed ODE.
    covariance : ndarray, shape (..., d, d)
        V = Cov(delta) for N to infinity.
    finite_size : ndarray, shape (..., d)
        lim N (E delta at dimension N - mean); NaN for augmentations that are not Gaussian.
    error : ndarray, shape (...)
        Estimated error of the covariance, relative to sqrt(V_ii V_jj).
    """

    mean: Array
    covariance: Array
    finite_size: Array
    error: Array


@dataclass(frozen=True)
class _Moments:
    """Averages over the points, one row per rule (or randomization)."""

    increment: Array  # (L, d)
    products: Array  # (L, d, d): E[d d^T]
    slopes: Array  # (L, 2m, 2m): E sum_b alpha_b alpha_b^T
    signal: Array  # (L, m, K): E sum alpha (u . x)^T
    rest: Array  # (L, m, m): E sum alpha e^T, e whitened
    squares: Array  # (L, m, m): E of the squares of the two before

    def plus(self, other: _Moments, weight: float) -> _Moments:
        names = self.__dataclass_fields__
        return _Moments(**{k: getattr(self, k) + weight * getattr(other, k) for k in names})


class IncrementLaw:
    """Evaluates the law of the increments of a problem with L2 regularization or none.

    Parameters
    ----------
    problem : Problem
    rtol : float
        Accuracy of the covariance wanted. Met by smooth activations where the pre-activations that interact have two
        dimensions (m = 1, any batch, not centred; m = 2 without augmentation noise); kinks leave 1e-4 or so there;
        otherwise randomized quasi-Monte Carlo with 2^15
        points gives three digits or so, and an honest error.

    Notes
    -----
    docs/theory.md, section 8. With X the views of a batch, N delta_Q is quadratic in alpha with X^T X / N between,
    whose mean given h and u . x is, to order 1/N,

        T_vv' delta_bb' + (1/N) [ (u . x_b^(v)) . (u . x_b'^(v')) + e_b^(v) P^-1 e_b'^(v')
                                  - (K + rank P) T_vv' delta_bb' ],

    e = h - R (u . x), P = Q - R R^T: N - K - rank P directions are seen by no overlap. delta_R has no correction.
    """

    def __init__(self, problem: Problem, rtol: float = 1e-6) -> None:
        self._problem = problem
        self._rtol = _checks.number("rtol", rtol, minimum=1e-12, maximum=0.1)
        self.entries = Entries(problem.outputs, problem.n_features)
        loss = problem.loss
        interacting = isinstance(loss, Covariance) and (
            loss.centered or (loss.decorrelation > 0.0 and problem.outputs > 1)
        )
        # Without interaction a batch is an average over independent samples.
        self._together = int(problem.batch_size) if interacting and math.isfinite(problem.batch_size) else 1
        self._average = 1.0 if interacting else 1.0 / problem.batch_size
        self._noise = problem.noise_covariance
        self._total = problem.background_variance + self._noise

    def __call__(self, Q: Array, R: Array, tau: Array | float) -> Increments:
        """Return the law of the increments at states Q (..., m, m), R (..., m, K) for learning rates tau (...)."""
        lead, d = Q.shape[:-2], self.entries.size
        rates = np.broadcast_to(np.asarray(tau, dtype=np.float64), lead).ravel()
        flat_q, flat_r = Q.reshape(-1, *Q.shape[-2:]), R.reshape(-1, *R.shape[-2:])
        results = [self._state(*state) for state in zip(flat_q, flat_r, rates, strict=True)]
        mean, covariance, finite, error = (np.array(part) for part in zip(*results, strict=True))
        return Increments(
            mean.reshape(*lead, d), covariance.reshape(*lead, d, d), finite.reshape(*lead, d), error.reshape(lead)
        )

    def _state(self, Q: Array, R: Array, tau: float) -> tuple[Array, Array, Array, float]:
        if math.isinf(self._problem.batch_size):
            return self._gradient_flow(Q, R, tau)
        hidden = self._problem.hidden
        if hidden.is_exact:
            return self._with_nodes(Q, R, tau, hidden.nodes(1))
        order = max(6, min(24, int(_HIDDEN_POINTS ** (1.0 / self._problem.n_features))))
        *fine, error = self._with_nodes(Q, R, tau, hidden.nodes(order))
        *coarse, _ = self._with_nodes(Q, R, tau, hidden.nodes(2 * order // 3))
        mean, covariance, finite = fine
        return mean, covariance, finite, error + _relative(covariance, covariance - coarse[1])

    def _with_nodes(self, Q: Array, R: Array, tau: float, nodes: HiddenNodes) -> tuple[Array, Array, Array, float]:
        state = _State.of(self._problem, Q, R, nodes, self._noise)
        if self._together == 1 and state.normals <= 2:
            for spacing in _SPACINGS:
                moments = self._tensor(state, tau, spacing)
                values = [self._assemble(state, moments, tau, slice(row, row + 1)) for row in (0, 1)]
                error = _relative(values[0][1], values[0][1] - values[1][1])
                # Halving the spacing squares the error of a spectrally accurate rule, and no less is known of others.
                if error <= math.sqrt(self._rtol) * 1e-2 or error <= self._rtol:
                    break
            estimate = error if self._problem.activation.kinks else error * min(1.0, 100.0 * error)
            return *values[0], estimate
        moments = self._sampled(state, tau)
        mean, covariance, finite = self._assemble(state, moments, tau, slice(None))
        each = [self._assemble(state, moments, tau, slice(i, i + 1))[1] for i in range(_RANDOMIZATIONS)]
        spread = np.std(each, axis=0, ddof=1) / math.sqrt(_RANDOMIZATIONS)
        return mean, covariance, finite, _relative(covariance, spread)

    def _tensor(self, state: _State, tau: float, spacing: float) -> _Moments:
        """Average over a tensor grid, with all points and with every second one."""
        x, w = trapezoidal_rule(spacing, _REACH)
        grids = np.meshgrid(*[x] * state.normals, indexing="ij")
        xi = np.stack([g.ravel() for g in grids], axis=-1) if state.normals else np.zeros((1, 0))
        weights = np.ones((2, 1))
        for _ in range(state.normals):
            weights = (weights[:, :, None] * w[:2, None, :]).reshape(2, -1)
        kept = weights[0] > 1e-18
        xi, weights = xi[kept], weights[:, kept]
        total: _Moments | None = None
        for point, probability in zip(state.nodes.points, state.nodes.weights, strict=True):
            part = self._moments(state, np.broadcast_to(point, (len(xi), 1, len(point))), xi[:, None], weights, tau)
            total = part.plus(part, probability - 1.0) if total is None else total.plus(part, probability)
        assert total is not None
        return total

    def _sampled(self, state: _State, tau: float) -> _Moments:
        """Average over scrambled Sobol points, one row per randomization; the seeds are fixed."""
        together, normals, n = self._together, state.normals, 2**_POINTS_LOG2
        points, chances = state.nodes.points, state.nodes.weights
        rows: list[_Moments] = []
        uniform = np.full((1, n), 1.0 / n)
        for seed in range(_RANDOMIZATIONS):
            size = together * (normals if together == 1 else normals + 1)
            u = qmc.Sobol(size, rng=np.random.default_rng([2026, seed])).random(n)
            xi = special.ndtri(np.clip(u[:, : together * normals], 1e-15, 1.0 - 1e-15)).reshape(n, together, normals)
            if together == 1:
                parts = [self._moments(state, np.broadcast_to(p, (n, 1, len(p))), xi, uniform, tau) for p in points]
                row = parts[0].plus(parts[0], chances[0] - 1.0)
                for part, chance in zip(parts[1:], chances[1:], strict=True):
                    row = row.plus(part, chance)
            else:
                which = np.searchsorted(np.cumsum(chances)[:-1], u[:, together * normals :], side="right")
                row = self._moments(state, points[which], xi, uniform, tau)
            rows.append(row)
        return _Moments(**{k: np.concatenate([getattr(r, k) for r in rows]) for k in _Moments.__dataclass_fields__})

    def _moments(self, state: _State, points: Array, xi: Array, weights: Array, tau: float) -> _Moments:
        """Average over points (n, b, K) of the hidden law and standard normals (n, b, :), weights (L, n)."""
        m, d = self._problem.outputs, self.entries.size
        k = self._problem.n_features
        parts: list[_Moments] = []
        for first in range(0, len(xi), max(1, _CHUNK // self._together)):
            block = slice(first, first + max(1, _CHUNK // self._together))
            p, x, w = points[block], xi[block], weights[:, block]
            n, b = x.shape[:2]
            h = (p @ state.R.T)[:, :, None] + (x @ state.factor.T).reshape(n, b, 2, m)
            u = p[:, :, None] + (x @ state.signal.T).reshape(n, b, 2, k)
            alpha = np.stack(self._problem.alpha(h[:, :, 0], h[:, :, 1]), axis=2)
            rest = (h - u @ state.R.T) @ state.whiten
            by_signal = np.einsum("nbvj,nbvk->njk", alpha, u)
            by_h = np.einsum("nbvj,nbvk->njk", alpha, h)
            by_rest = np.einsum("nbvj,nbvk->njk", alpha, rest)
            noise = np.einsum("nbvj,vw,nbwl->njl", alpha, self._total, alpha)
            change = -tau * (by_h + by_h.mT) + tau**2 * self._average * noise
            delta = self.entries.pack(change, -tau * by_signal)
            flat = alpha.reshape(n * b, 2 * m)
            squares = by_signal @ by_signal.mT + by_rest @ by_rest.mT
            parts.append(
                _Moments(
                    increment=w @ delta,
                    products=np.stack([(delta * row[:, None]).T @ delta for row in w]),
                    slopes=np.stack([(flat * np.repeat(row, b)[:, None]).T @ flat for row in w]),
                    signal=(w @ by_signal.reshape(n, -1)).reshape(-1, m, k),
                    rest=(w @ by_rest.reshape(n, -1)).reshape(-1, m, m),
                    squares=(w @ squares.reshape(n, -1)).reshape(-1, m, m),
                )
            )
        result = parts[0]
        for part in parts[1:]:
            result = result.plus(part, 1.0)
        assert result.increment.shape[1] == d
        return result

    def _assemble(self, state: _State, moments: _Moments, tau: float, rows: slice) -> tuple[Array, Array, Array]:
        """Return mean, covariance and finite-size correction of the increments from averages of some rules."""
        m, k = self._problem.outputs, self._problem.n_features
        kappa = self._problem.regularizer.linear_strength
        assert kappa is not None
        average = {name: getattr(moments, name)[rows].mean(axis=0) for name in _Moments.__dataclass_fields__}
        slopes = average["slopes"].reshape(2, m, 2, m)
        spread = state.spread.reshape(2, k, 2, k)
        hidden = tau**2 * np.einsum("vjwl,vkwi->jkli", slopes, spread).reshape(m * k, m * k)
        covariance = average["products"] - np.outer(average["increment"], average["increment"])
        covariance[: m * k, : m * k] += hidden
        covariance *= self._average
        mean = average["increment"] - tau * kappa * self.entries.pack(2.0 * state.Q, state.R)
        seen = np.einsum("vkwk->vw", spread) - (k + state.dimension) * self._total
        seen = seen + np.einsum("vkwi,kj,ij->vw", spread, state.R.T @ state.whiten, state.R.T @ state.whiten)
        own = np.einsum("vjwl,vw->jl", slopes, seen) + average["squares"]
        pairs = average["signal"] @ average["signal"].T + average["rest"] @ average["rest"].T
        gram = self._average * own + (1.0 - self._average) * pairs
        diffusion = self._average * np.einsum("vjwl,vw->jl", slopes, self._total)
        drift = self.entries.unpack(average["increment"])[0] - tau**2 * diffusion
        return self._constrained(state, mean, covariance, self._correction(state, gram, drift, tau))

    def _correction(self, state: _State, gram: Array, drift: Array, tau: float) -> Array:
        """Return the finite-size correction of the unconstrained mean increment.

        `gram` is the 1/N part of alpha X^T X alpha^T / N, `drift` the mean of -tau (h alpha^T + alpha h^T); weight
        decay acts before the gradient is added, which gives tau^2 kappa^2 Q and a factor 1 - tau kappa / N.
        """
        kappa = self._problem.regularizer.linear_strength
        assert kappa is not None
        if not self._problem.augmentation.is_gaussian:
            return np.full(self.entries.size, np.nan)
        change = tau**2 * gram + (tau * kappa) ** 2 * state.Q - tau * kappa * drift
        return self.entries.pack(change, np.zeros_like(state.R))

    def _constrained(self, state: _State, mean: Array, covariance: Array, finite: Array) -> tuple[Array, Array, Array]:
        if self._problem.constraint != "sphere":
            return mean, covariance, finite
        linear, second = sphere_projection(self.entries, state.Q, state.R, covariance + np.outer(mean, mean))
        return linear @ mean, linear @ covariance @ linear.T, linear @ finite + second

    def _gradient_flow(self, Q: Array, R: Array, tau: float) -> tuple[Array, Array, Array, float]:
        """Infinite batch: steps are not random, and the gradient W G + U H enters X alpha in full."""
        c = LimitCoefficients(self._problem, min(self._rtol, 1e-8))(Q, R)
        kappa = self._problem.regularizer.linear_strength
        assert kappa is not None
        state = _State.of(self._problem, Q, R, self._problem.hidden.nodes(1), self._noise)
        half = c.G @ Q + c.H @ R.T
        drift = -tau * (half + half.T)
        signal = c.G @ R + c.H
        gram = signal @ signal.T + c.G @ (Q - R @ R.T) @ c.G.T
        mean = self.entries.pack(drift - 2.0 * tau * kappa * Q, -tau * (signal + kappa * R))
        nothing = np.zeros((len(mean), len(mean)))
        return *self._constrained(state, mean, nothing, self._correction(state, gram, drift, tau)), 0.0


@dataclass(frozen=True)
class _State:
    """What the averages need to know about (Q, R): h = R c_p + factor xi, u . x = c_p + signal xi + a remainder."""

    Q: Array
    R: Array
    nodes: HiddenNodes
    factor: Array  # (2m, n), n the rank of Cov(h) if that is at most 2, else 2m
    signal: Array  # (2K, n)
    spread: Array  # (2K, 2K): covariance of the remainder
    whiten: Array  # (m, m): root of the pseudo-inverse of P
    dimension: int  # rank of P

    @property
    def normals(self) -> int:
        """Number n of standard normals xi."""
        return self.factor.shape[1]

    @classmethod
    def of(cls, problem: Problem, Q: Array, R: Array, nodes: HiddenNodes, noise: Array) -> _State:
        k = R.shape[1]
        law, _ = view_law(Q[None], R[None], nodes, noise, problem.background_variance)
        cross = law.cross[0]
        values, vectors = np.linalg.eigh(np.block([[law.own[0][0], cross], [cross.T, law.own[1][0]]]))
        kept = values > 1e-12 * max(float(values[-1]), 1e-300)
        vectors, roots = vectors[:, kept], np.sqrt(values[kept])
        # The symmetric root is smooth in the state, even where eigenvalues cross: sampled averages then are as well.
        turn = vectors.T if kept.all() or kept.sum() > 2 else np.diag(np.where(vectors.sum(axis=0) < 0.0, -1.0, 1.0))
        factor = vectors * roots @ turn
        # Cov(u . x^(v), h^(v')) = Cov(c) R^T + S_vv' R^T, without the points of the hidden law.
        joint = np.kron(np.ones((2, 2)), nodes.covariance @ R.T) + np.kron(noise, R.T)
        signal = joint @ (vectors / roots) @ turn
        full = np.kron(np.ones((2, 2)), nodes.covariance) + np.kron(noise, np.eye(k))
        strengths, axes = np.linalg.eigh(Q - R @ R.T)
        there = strengths > 1e-12 * np.abs(Q).max()
        inverse = np.where(there, 1.0 / np.sqrt(np.where(there, strengths, 1.0)), 0.0)
        whiten = (axes * inverse) @ axes.T
        return cls(Q, R, nodes, factor, signal, full - signal @ signal.T, whiten, int(there.sum()))


def sphere_projection(entries: Entries, Q: Array, R: Array, moments: Array) -> tuple[Array, Array]:
    """Return how rescaling every w_j to Q_jj = 1 maps small changes of the entries, to second order.

    Parameters
    ----------
    entries : Entries
    Q : ndarray, shape (m, m)
        With unit diagonal.
    R : ndarray, shape (m, K)
    moments : ndarray, shape (d, d)
        E[x x^T] of the changes x before rescaling.

    Returns
    -------
    linear : ndarray, shape (d, d)
        Changes after rescaling are linear x, to first order.
    second : ndarray, shape (d,)
        Mean of the terms of second order: R -> R (1 + x_jj)^(-1/2), Q_jl -> Q_jl ((1 + x_jj) (1 + x_ll))^(-1/2).
    """
    m, k = R.shape
    d, n = entries.size, entries.overlaps
    index = {(j, other): n + i for i, (j, other) in enumerate(zip(*entries.triangle, strict=True))}
    linear, second = np.eye(d), np.zeros(d)
    for j in range(m):
        norm = index[j, j]
        for i in range(j * k, (j + 1) * k):
            r = R.flat[i]
            linear[i, norm] -= 0.5 * r
            second[i] = -0.5 * moments[i, norm] + 0.375 * r * moments[norm, norm]
    for (j, other), i in index.items():
        a, b = index[j, j], index[other, other]
        if j == other:
            linear[i] = 0.0
            continue
        linear[i, a] -= 0.5 * Q[j, other]
        linear[i, b] -= 0.5 * Q[j, other]
        square = 0.375 * (moments[a, a] + moments[b, b]) + 0.25 * moments[a, b]
        second[i] = -0.5 * (moments[i, a] + moments[i, b]) + Q[j, other] * square
    return linear, second


def _relative(covariance: Array, difference: Array) -> float:
    """Return the largest entry of a difference relative to sqrt(V_ii V_jj)."""
    root = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
    size = np.outer(root, root)
    return float((np.abs(difference) / np.where(size > 0.0, size, 1.0)).max())
