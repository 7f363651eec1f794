"""Limit coefficients of a user's per-sample loss f(y1, y2), averaged over the batch.

Samples do not interact: the drift is that of one sample, Lambda is divided by B. With a^(v) = sigma'(h^(v)) df/dy^(v),
D_vv' = E[d a^(v) / d h^(v')]: from Stein's lemma where the covariance of the pre-activations is far from singular,
otherwise from differences in the pre-activations (in the outputs if the activation has kinks, whose point masses are
then added). One output: two-dimensional quadrature; more: scrambled Sobol points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from mkvlasov import _quadrature
from mkvlasov._typing import Array
from mkvlasov.limit import kinked, mehler
from mkvlasov.limit.bounded import bounded, coefficient
from mkvlasov.limit.covariance import Terms
from mkvlasov.limit.sampled import REPLICATES, joint_covariance, sobol_normal, sobol_size
from mkvlasov.limit.views import ViewLaw
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.losses import Custom


class _Stencil(NamedTuple):
    """Central differences: f'(x) = sum_k weights[k - 1] (f(x + k step) - f(x - k step)) / step."""

    step: float
    weights: tuple[float, ...]


# Truncation step^8 / 630 times the ninth derivative: near 1e-13 for functions that vary on the scale 1.
_FINE = _Stencil(0.02, (4.0 / 5.0, -1.0 / 5.0, 4.0 / 105.0, -1.0 / 280.0))
# Truncation step^2 / 6 times the third derivative: far below the error of the samples that it is used with.
_COARSE = _Stencil(0.001, (0.5,))


_LOG2_POINTS = 13
"""Log2 of the points per scrambling: the drift is sampled too, so more than `sobol_size` takes for Lambda alone."""

_REGULAR = 0.05
"""Smallest conditional standard deviation to divide by in Stein's lemma."""


class _Nodes(NamedTuple):
    """Pre-activations of both views (n, m) with weights of several rules (rules, n).

    `score` (n, 2m) turns averages into averages of derivatives, E[d a / d h_i] = E[a score_i]; None near singularity.
    """

    h1: Array
    h2: Array
    weights: Array
    score: Array | None


class _Moments(NamedTuple):
    """Moments of one sample's gradient for each rule, and of absolute values (in the last row)."""

    loss: Array
    gradient: Array
    square: Array
    curvature: Array


class CustomLimit:
    """Evaluates the limit coefficients of a problem with a `Custom` loss.

    Parameters
    ----------
    problem : Problem
    """

    def __init__(self, problem: Problem) -> None:
        assert isinstance(problem.loss, Custom)
        self._loss = problem.loss
        self._activation = problem.activation
        self._m = problem.outputs
        self._own_weight = 0.0 if math.isinf(problem.batch_size) else 1.0 / problem.batch_size
        self._background = problem.background_variance
        self._total_noise = problem.noise_covariance + problem.background_variance

    @property
    def is_even(self) -> bool:
        """Whether a sample and its negative contribute the same: not known for a user's loss."""
        return False

    @property
    def max_effort(self) -> int:
        """How often it makes sense to ask for more effort."""
        return 3 if self._m == 1 else 0

    def __call__(self, law: ViewLaw, R: Array, hidden_covariance: Array, *, rtol: float, effort: int) -> Terms:
        """Return the bounded coefficients for S states; parameters as for `CovarianceLimit`."""
        if self._activation.kinks:
            kinked.check_not_on_kink(self._activation, law)
        states, points, m = law.mean.shape
        loss = np.zeros((4, states, 1, 1))
        signal = np.zeros((4, states, 2 * m, law.points.shape[1]))
        square, curvature = np.zeros((4, states, 2 * m, 2 * m)), np.zeros((4, states, 2 * m, 2 * m))
        for s in range(states):
            for p in range(points):
                part = law.take(slice(s, s + 1), slice(p, p + 1))
                value, gradient, outer, hessian = self._at_point(part, rtol, effort)
                weight = law.weights[p]
                loss[:, s, 0, 0] += weight * value
                signal[:, s] += weight * gradient[..., None] * coefficient(law.points[p])[:, None]
                square[:, s] += weight * outer
                curvature[:, s] += weight * hessian
        t = coefficient(self._total_noise)
        G, Gbar = _sum_blocks(curvature, t), _sum_blocks(curvature, np.ones((4, 2, 2)))
        inner = coefficient(R @ (hidden_covariance - self._background * np.eye(R.shape[-1])))
        H = signal[:, :, :m] + signal[:, :, m:] + Gbar @ inner
        return Terms(G, Gbar, H, self._own_weight * _sum_blocks(square, t), loss)

    def _at_point(self, law: ViewLaw, rtol: float, effort: int) -> tuple[Array, ...]:
        """Return bounded moments for one state and one point of the hidden law."""
        if self._m > 1:
            return self._sampled(law, rtol)
        if not self._activation.kinks:
            nodes = _tensor_nodes(law, rtol, effort)
            fields = self._moments(nodes)
            return tuple(_from_nested(x) for x in fields)
        fine, coarse = (self._piecewise(law, n) for n in kinked.orders(rtol, effort))
        return tuple(
            bounded(a[0], kinked.GAIN * np.abs(a[0] - b[0]) + 1e-14 * a[-1], a[-1])
            for a, b in zip(fine, coarse, strict=True)
        )

    def _piecewise(self, law: ViewLaw, order: int) -> _Moments:
        nodes = _panel_nodes(law, self._activation.kinks, order)
        fields = self._moments(nodes)
        if nodes.score is not None:
            return fields
        deviations = [s[0, 0] for s in law.deviations()]
        mean, r = law.mean[0, 0, 0], law.correlations()[0, 0, 0]
        positions = np.array([position for position, _ in self._activation.kinks])
        for view, other in ((0, 1), (1, 0)):
            if deviations[view] == 0.0:
                continue
            for position, jump in self._activation.kinks:
                a = (position - mean) / deviations[view]
                sigma = deviations[other] * math.sqrt(max(1.0 - r * r, 0.0))
                centre = np.array(mean + deviations[other] * r * np.clip(a, -100.0, 100.0))
                z, weights = kinked.line_rule(centre, np.array(sigma), positions, order)
                h = [np.full((len(z), 1), position), (centre + sigma * z)[:, None]]
                gradient = self._gradient(h[view], h[other])[view][:, 0]
                mass = jump * kinked.density(a) / deviations[view]
                fields.curvature[:-1, view, view] += mass * (weights @ gradient)
                fields.curvature[-1, view, view] += abs(mass) * (weights @ np.abs(gradient))
        return fields

    def _sampled(self, law: ViewLaw, rtol: float) -> tuple[Array, ...]:
        rules = list(_sobol_nodes(law, rtol))
        sums = [self._moments(nodes, _COARSE) for nodes in rules]
        if self._activation.kinks and rules[0].score is None:
            for moments, nodes in zip(sums, rules, strict=True):
                self._add_point_masses(moments, nodes, law)
        result = []
        for x in zip(*sums, strict=True):
            values, size = np.array([v[0] for v in x]), np.mean([v[-1] for v in x], axis=0)
            error = 3.0 * values.std(axis=0, ddof=1) / math.sqrt(REPLICATES)
            result.append(_in_samples(values.mean(axis=0), error, size))
        return tuple(result)

    def _add_point_masses(self, moments: _Moments, nodes: _Nodes, law: ViewLaw) -> None:
        """Add the point masses of sigma'' to the curvature, from samples conditioned on a pre-activation at a kink."""
        m = self._m
        joint = joint_covariance(law)[0]
        h = np.hstack([nodes.h1, nodes.h2])
        for i in range(2 * m):
            sigma = math.sqrt(max(joint[i, i], 0.0))
            if sigma == 0.0:
                continue
            for position, jump in self._activation.kinks:
                # Gaussian conditioning: moving h_i to the kink moves the rest along the regression on it.
                moved = h + (position - h[:, i : i + 1]) * (joint[i] / joint[i, i])
                gradient = np.hstack(self._gradient(moved[:, :m], moved[:, m:]))[:, i]
                mass = jump * kinked.density((position - law.mean[0, 0, i % m]) / sigma) / sigma
                moments.curvature[:-1, i, i] += mass * (nodes.weights @ gradient)
                moments.curvature[-1, i, i] += abs(mass) * (nodes.weights[0] @ np.abs(gradient))

    def _gradient(self, h1: Array, h2: Array) -> tuple[Array, Array]:
        """Return the gradient of the loss of samples in their outputs, at given pre-activations (n, m)."""
        return self._loss.sample_gradient(self._activation.value(h1), self._activation.value(h2))

    def _slope(self, h1: Array, h2: Array) -> Array:
        """Return the gradient in the pre-activations of both views, (n, 2m)."""
        g1, g2 = self._gradient(h1, h2)
        return np.hstack([self._activation.derivative(h1) * g1, self._activation.derivative(h2) * g2])

    def _moments(self, nodes: _Nodes, stencil: _Stencil = _FINE) -> _Moments:
        h1, h2, weights, score = nodes
        y1, y2 = self._activation.value(h1), self._activation.value(h2)
        loss = np.asarray(self._loss.function(y1, y2), dtype=np.float64)
        slope = self._slope(h1, h2)
        square = slope[:, :, None] * slope[:, None, :]
        if score is not None:
            curvature = slope[:, :, None] * score[:, None, :]
        elif self._activation.kinks:
            curvature = self._curvature_in_outputs(h1, h2, stencil)
        else:
            m = self._m
            curvature = _differences(lambda x: self._slope(x[:, :m], x[:, m:]), np.hstack([h1, h2]), stencil)
        return _Moments(*(_weighted(weights, x) for x in (loss, slope, square, curvature)))

    def _curvature_in_outputs(self, h1: Array, h2: Array, stencil: _Stencil) -> Array:
        """Return the regular part of d a / d h by differences in the outputs, (n, 2m, 2m)."""
        m = self._m
        y = np.hstack([self._activation.value(h) for h in (h1, h2)])
        d = np.hstack([self._activation.derivative(h) for h in (h1, h2)])
        second = np.hstack([self._activation.second_derivative(h) for h in (h1, h2)])
        hessian = _differences(lambda x: np.hstack(self._loss.sample_gradient(x[:, :m], x[:, m:])), y, stencil)
        result = hessian * d[:, :, None] * d[:, None, :]
        result[:, range(2 * m), range(2 * m)] += second * np.hstack(self._gradient(h1, h2))
        return result


def _differences(f: Callable[[Array], Array], x: Array, stencil: _Stencil) -> Array:
    """Return df_i / dx_j, shape (n, d, d), of a function from (n, d) to (n, d)."""
    result = np.zeros((*x.shape, x.shape[1]))
    for i in range(x.shape[1]):
        for k, weight in enumerate(stencil.weights, start=1):
            shift = np.zeros(x.shape[1])
            shift[i] = k * stencil.step
            result[:, :, i] += weight / stencil.step * (f(x + shift) - f(x - shift))
    return result


def _in_samples(value: Array, error: Array, size: Array) -> Array:
    """Return a bounded array whose terms are the samples: their absolute values sum to the mean of the magnitude."""
    return np.stack([value, size, size + error + 1e-14 * size, size])


def _from_nested(moments: Array) -> Array:
    """Return bounded moments from the rules of `_tensor_nodes`."""
    size = np.maximum(moments[-1], 1e-300)
    flat, sizes = moments[:-1].reshape(5, -1), size.reshape(-1)
    error = sum(mehler.nodal_error(flat[list(rules)].T, sizes) for rules in ((0, 1, 2), (0, 3, 4)))
    return bounded(moments[0], (error + 1e-14) * size, moments[-1])


def _weighted(weights: Array, values: Array) -> Array:
    """Return sums of values (n, ...) by every rule, and in a last row the sum of absolute values."""
    sums = np.tensordot(weights, values, axes=1)
    return np.concatenate([sums, np.tensordot(weights[:1], np.abs(values), axes=1)])


def _sum_blocks(blocks: Array, t: Array) -> Array:
    """Return sum_vv' t_vv' block_vv' of bounded (4, S, 2m, 2m) matrices, symmetrized."""
    m = blocks.shape[-1] // 2
    split = blocks.reshape(*blocks.shape[:2], 2, m, 2, m)
    total = np.einsum("bvw,bsvjwk->bsjk", t, split)
    return np.asarray(0.5 * (total + np.swapaxes(total, -1, -2)))


def _tensor_nodes(law: ViewLaw, rtol: float, effort: int) -> _Nodes:
    """Return the product of two trapezoidal rules, with coarser rules along each variable in turn."""
    (s1, s2), mean = (s[0, 0] for s in law.deviations()), law.mean[0, 0, 0]
    r = law.correlations()[0, 0, 0]
    q = math.sqrt(max(1.0 - r * r, 0.0))
    spreads = np.array([max(s1, s2 * abs(r)), s2 * q])
    keys = [mehler.level(float(spread), 1.0, rtol, effort) for spread in spreads]
    rules = [_quadrature.trapezoidal_rule(*mehler.spacing_and_reach(key, rtol)) for key in keys]
    if spreads[1] == 0.0:
        rules[1] = _quadrature.TrapezoidalRule(np.zeros(1), np.ones((3, 1)))
    u, z = (rule.points for rule in rules)
    h1 = np.broadcast_to((mean + s1 * u)[:, None], (len(u), len(z)))
    h2 = mean + s2 * (r * u[:, None] + q * z)
    pairs = ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2))
    weights = np.stack([np.outer(rules[0].weights[a], rules[1].weights[b]).ravel() for a, b in pairs])
    score = _score(np.broadcast_to(u[:, None], h2.shape), np.broadcast_to(z, h2.shape), float(s1), float(s2), float(r))
    return _Nodes(h1.reshape(-1, 1), h2.reshape(-1, 1), weights, score)


def _panel_nodes(law: ViewLaw, kinks: tuple[tuple[float, float], ...], order: int) -> _Nodes:
    """Return the piecewise rule of `mkvlasov.limit.kinked` as nodes in the plane."""
    positions = np.array([position for position, _ in kinks])
    s1, s2 = (s[:, 0] for s in law.deviations())
    mean, r = law.mean[0, :, 0], law.correlations()[:, 0, 0]
    q = np.sqrt(np.maximum(1.0 - r * r, 0.0))
    u, wu = kinked.outer_rule(mean, s1, mean, s2, r, positions, order)
    centre = mean[:, None] + (s2 * r)[:, None] * u
    sigma = np.broadcast_to((s2 * q)[:, None], u.shape)
    z, wz = kinked.line_rule(centre, sigma, positions, order)
    h2 = centre[..., None] + sigma[..., None] * z
    h1 = np.broadcast_to((mean[:, None] + s1[:, None] * u)[..., None], h2.shape)
    weights = wu[..., None] * wz
    score = _score(np.broadcast_to(u[..., None], h2.shape), z, float(s1[0]), float(s2[0]), float(r[0]))
    return _Nodes(h1.reshape(-1, 1), h2.reshape(-1, 1), weights.reshape(1, -1), score)


def _score(u: Array, z: Array, s1: float, s2: float, r: float) -> Array | None:
    """Return Cov^-1 (h - mean), (n, 2), for h1 = mean + s1 u, h2 = mean + s2 (r u + q z); None near singularity."""
    q = math.sqrt(max(1.0 - r * r, 0.0))
    if min(s1, s2) * q < _REGULAR:
        return None
    return np.stack([(u.ravel() - r / q * z.ravel()) / s1, z.ravel() / (s2 * q)], axis=1)


def _sobol_nodes(law: ViewLaw, rtol: float) -> Iterator[_Nodes]:
    """Yield independent scramblings of a Sobol rule for the pre-activations of both views."""
    joint = joint_covariance(law)[0]
    root = square_root(joint)
    m, mean = law.mean.shape[-1], law.mean[0, 0]
    inverse = np.linalg.inv(joint) if np.linalg.eigvalsh(joint)[0] > _REGULAR else None
    for replicate in range(REPLICATES):
        g = sobol_normal(2 * m, sobol_size(rtol, _LOG2_POINTS), replicate) @ root
        weights = np.full((1, len(g)), 1.0 / len(g))
        yield _Nodes(mean + g[:, :m], mean + g[:, m:], weights, None if inverse is None else g @ inverse)
