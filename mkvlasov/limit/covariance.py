"""Limit coefficients of the covariance loss, from expectations of pairs and of monomials.

With X_jl = y_j^(1) y_l^(2) and mu = E X: given its own sample, the mean over the rest of the batch of B alpha is the
gradient a of an effective per-sample loss,

    l = - sum_j X_jj + lambda sum_{j != l} [ X_jl^2 / (2 B) + (1 - 1/B) mu_jl X_jl ],

    a_j^(1) = sigma'(h_j^(1)) { sum_l w_jl y_l^(2) + (lambda / B) y_j^(1) sum_{l != j} y_l^(2)^2 },

with w_jj = -1 and w_jl = lambda (1 - 1/B) mu_jl otherwise. So the drift is that of l. Lambda also has the covariance
over the rest of the batch: for B alpha_j^(1) / sigma' it is that of lambda sum_{l != j} y_l^(2) C_jl, with
Cov(C_jl, C_ki) = ((B - 1) / B^2) Cov(X_jl, X_ki). For the centred loss (lambda = 0) y stands for y - E y,
w_jj = -(1 - 1/B), and that covariance is ((B - 1) / B^2) Cov(y_j^(2), y_k^(2)), and so on for the other views.
docs/theory.md, sections 1 and 3.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.errors import UnsupportedError
from mkvlasov.limit import kinked, monomials, pairs, piecewise_linear, sampled
from mkvlasov.limit.bounded import coefficient
from mkvlasov.limit.pairs import Pair, PairList, PairTable
from mkvlasov.limit.plan import Plan
from mkvlasov.limit.views import ViewLaw
from mkvlasov.problem.activations import Activation
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.losses import Covariance

_MINUS = coefficient(-1.0)[:, None, None, None]


class Terms(NamedTuple):
    """Bounded limit quantities without tau: G, Gbar (4, S, m, m), H (4, S, m, K), Lambda / tau^2, loss (4, S, 1, 1)."""

    G: Array
    Gbar: Array
    H: Array
    Lambda: Array
    loss: Array


class CovarianceLimit:
    """Evaluates the limit coefficients of a problem with the covariance loss.

    Parameters
    ----------
    problem : Problem
        With a `Covariance` loss; centred only with decorrelation 0 (or m = 1).
    """

    def __init__(self, problem: Problem) -> None:
        loss = problem.loss
        assert isinstance(loss, Covariance)
        m = problem.outputs
        if loss.stop_gradient or (loss.g is not None and loss.decorrelation and m > 1):
            part = "stop_gradient=True" if loss.stop_gradient else "a g of one's own"
            raise UnsupportedError(f"loss: no limit is known for {part} in a covariance; use simulate_sgd alone")
        if loss.centered and loss.decorrelation and m > 1:
            raise UnsupportedError(
                "loss: no limit is known for a centered covariance with decorrelation > 0; "
                "use centered=False or decorrelation=0, or simulate_sgd alone"
            )
        self._activation = problem.activation
        self._m = m
        self._centered = loss.centered
        self._strength = loss.decorrelation if m > 1 else 0.0
        self._own_weight = 0.0 if math.isinf(problem.batch_size) else 1.0 / problem.batch_size
        self._rest = 1.0 - self._own_weight
        self._spread = self._rest * self._own_weight
        self._total_noise = problem.noise_covariance + problem.background_variance
        self._background = problem.background_variance
        self._wanted = PairList(self._pair_names(), ["yy", "dd"] if self._centered else [])
        self._t = coefficient(self._total_noise)[..., None, None, None]
        self._diagonal = coefficient(-self._rest if self._centered else -1.0)[:, None, None, None] * np.eye(m)
        self._straight = piecewise_linear.is_piecewise_linear(self._activation)
        self._sampled = bool(m > 1 and self._own_weight and self._activation.kinks and not self._straight)
        self._linear = self._combinations() if m == 1 else np.empty(0)
        if m > 1 and self._own_weight:
            noise = problem.noise_covariance
            self._plan = Plan(
                m,
                self._strength,
                centered=self._centered,
                spread=self._spread,
                exchangeable=bool(noise[0, 0] == noise[1, 1]),
            )

    @property
    def is_even(self) -> bool:
        """Whether a sample and its negative contribute the same: for odd activations without centring."""
        return not self._centered and _is_odd(self._activation)

    @property
    def max_effort(self) -> int:
        """How often it makes sense to ask for more effort."""
        return 0 if self._sampled else 4

    def _pair_names(self) -> list[Pair]:
        names: list[Pair] = [("y", "y"), ("d", "y"), ("y", "d"), ("s", "y"), ("y", "s"), ("d", "d")]
        if not self._strength and self._own_weight:
            names += [("dd", "yy"), ("yy", "dd"), ("dy", "dy")]
        if self._strength and self._own_weight:
            names += [("yy", "yy"), ("dy", "yy"), ("yy", "dy"), ("e", "yy"), ("yy", "e"), ("dy", "dy")]
        return names

    def __call__(self, law: ViewLaw, R: Array, hidden_covariance: Array, *, rtol: float, effort: int) -> Terms:
        """Return the bounded coefficients for S states.

        Parameters
        ----------
        law : ViewLaw
        R : ndarray, shape (S, m, K)
        hidden_covariance : ndarray, shape (K, K)
            Covariance of the Gaussian part of the hidden law.
        rtol : float
        effort : int
        """
        evaluate = kinked.kinked_pairs if self._activation.kinks else pairs.smooth_pairs
        # Products with decorrelation are harder, and pairs are cheap: they should not be what Lambda is repeated for.
        more = effort + bool(self._strength and self._own_weight)
        table = evaluate(self._activation, law, self._wanted, centered=self._centered, rtol=rtol, effort=more)
        inner = R @ (hidden_covariance - self._background * np.eye(R.shape[-1]))
        if self._m == 1:
            return self._single(table, inner)
        w = self._weights(table)
        d11, d22, d12 = self._curvature(table, w)
        d21 = np.swapaxes(d12, -1, -2)
        t = self._t
        G = t[:, 0, 0] * d11 + t[:, 1, 1] * d22 + t[:, 0, 1] * (d12 + d21)
        Gbar = d11 + d22 + d12 + d21
        H = self._signal(table, w) + Gbar @ coefficient(inner)
        Lambda = np.zeros_like(G)
        if self._own_weight:
            l11, l22, l12 = self._fluctuation(law, table, w, rtol, effort)
            total = t[:, 0, 0] * l11 + t[:, 1, 1] * l22 + t[:, 0, 1] * (l12 + np.swapaxes(l12, -1, -2))
            Lambda = self._own_weight * 0.5 * (total + np.swapaxes(total, -1, -2))
        return Terms(G, Gbar, H, Lambda, self._loss(table))

    def _combinations(self) -> Array:
        """Return G, Gbar, loss, Lambda / tau^2 and E[sum_v a^(v)] for m = 1 as combinations of pairs, (5, pairs)."""
        w = -self._rest if self._centered else -1.0
        t11, t22, t12 = self._total_noise[0, 0], self._total_noise[1, 1], self._total_noise[0, 1]
        rows: list[dict[Pair, float]] = [
            {("s", "y"): t11 * w, ("y", "s"): t22 * w, ("d", "d"): 2.0 * t12 * w},
            {("s", "y"): w, ("y", "s"): w, ("d", "d"): 2.0 * w},
            {("y", "y"): w},
            {("dd", "yy"): t11 * w * w, ("yy", "dd"): t22 * w * w, ("dy", "dy"): 2.0 * t12 * w * w},
            {("d", "y"): w, ("y", "d"): w},
        ]
        result = np.array([[row.get(name, 0.0) for name in self._wanted.names] for row in rows])
        result[3] *= self._own_weight
        return result

    def _single(self, table: PairTable, inner: Array) -> Terms:
        """Return the coefficients for one output, where all but a part of the centred Lambda is linear in the pairs."""
        values = table.values
        shape = (4, 5, values.shape[2], 1, 1, values.shape[-1])
        results = np.empty(shape)
        flat = values.reshape(4, values.shape[1], -1)
        np.matmul(self._linear, flat[0], out=results.reshape(4, 5, -1)[0])
        np.matmul(np.abs(self._linear), flat[1:], out=results.reshape(4, 5, -1)[1:])
        G, Gbar, loss, Lambda = np.moveaxis(results[:, :4, ..., 0], 1, 0)
        H = results[:, 4, :, 0, :, 1:]
        H[0] += Gbar[0] * inner
        H[1:] += Gbar[1:] * np.abs(inner)
        if self._centered and self._own_weight:
            own = {key: value[..., None] for key, value in table.own.items()}
            t, factor = self._t, self._own_weight * self._spread
            rest = t[:, 0, 0] * own[0, "dd"] * own[1, "yy"] + t[:, 1, 1] * own[1, "dd"] * own[0, "yy"]
            rest = rest + 2.0 * t[:, 0, 1] * table["d", "d"] * table["y", "y"]
            Lambda = Lambda + factor * rest
        return Terms(G, Gbar, H, Lambda, loss)

    def _weights(self, table: PairTable) -> Array:
        """Return w_jl, bounded, shape (4, S, m, m)."""
        if not self._strength:
            return self._diagonal
        return self._diagonal + self._strength * self._rest * _off(table["y", "y"])

    def _signal(self, table: PairTable, w: Array) -> Array:
        """Return sum_v E[a^(v) c_point^T], bounded, shape (4, S, m, K)."""
        H = np.einsum("bsjl,bsjlk->bsjk", w, table.times_c(("d", "y")))
        H += np.einsum("bsjl,bsjlk->bslk", w, table.times_c(("y", "d")))
        own = self._strength * self._own_weight
        if own:
            H += own * _off(table.times_c(("dy", "yy"))).sum(axis=3)
            H += own * _off(table.times_c(("yy", "dy"))).sum(axis=2)
        return H

    def _curvature(self, table: PairTable, w: Array) -> tuple[Array, Array, Array]:
        """Return D_11, D_22, D_12, bounded, shape (4, S, m, m) each."""
        own = self._strength * self._own_weight
        first, second = (w * table["s", "y"]).sum(axis=-1), (w * table["y", "s"]).sum(axis=-2)
        mixed = w * table["d", "d"]
        if own:
            first = first + own * _off(table["e", "yy"]).sum(axis=-1)
            second = second + own * _off(table["yy", "e"]).sum(axis=-2)
            mixed = mixed + 2.0 * own * _off(table["dy", "dy"])
        unit = np.eye(self._m)
        return first[..., None] * unit, second[..., None] * unit, mixed

    def _loss(self, table: PairTable) -> Array:
        """Return E F, bounded, shape (4, S, 1, 1)."""
        mu = table["y", "y"]
        factor = self._rest if self._centered else 1.0
        loss = _MINUS[..., 0] * factor * np.trace(mu, axis1=-2, axis2=-1)[..., None]
        if self._strength:
            square = self._rest * mu * mu
            if self._own_weight:
                square = square + self._own_weight * table["yy", "yy"]
            loss = loss + 0.5 * self._strength * _off(square).sum(axis=(-2, -1))[..., None]
        return loss[..., None]

    def _fluctuation(
        self, law: ViewLaw, table: PairTable, w: Array, rtol: float, effort: int
    ) -> tuple[Array, Array, Array]:
        """Return B^2 E[alpha^v alpha^v'^T] for vv' = 11, 22, 12, bounded, shape (4, S, m, m) each."""
        plan, activation, offsets = self._plan, self._activation, table.offsets
        if self._sampled:
            results = sampled.sampled_groups(activation, law, plan.groups, offsets=offsets, rtol=rtol)
        else:
            evaluate = piecewise_linear.linear_groups if self._straight else monomials.smooth_groups
            results = evaluate(activation, law, plan.groups, offsets=offsets, rtol=rtol, effort=effort)
        products = np.concatenate([x.reshape(*x.shape[:2], -1) for x in results], axis=-1)
        blocks = list(plan.blocks(w, table["y", "y"], self._own_weight, products))
        if self._strength:
            return blocks[0], blocks[1], blocks[2]
        unit = np.eye(self._m)
        for i, pair in enumerate((("dd", "yy"), ("yy", "dd"), ("dy", "dy"))):
            blocks[i] = blocks[i] + w * w * unit * table[pair]
        if self._centered:
            within = plan.within_views(products)
            own1, slopes1, own2, slopes2 = (
                off + table.own[v, name][..., None] * unit
                for off, (v, name) in zip(within, product((0, 1), ("yy", "dd")), strict=True)
            )
            blocks[0] = blocks[0] + self._spread * slopes1 * own2
            blocks[1] = blocks[1] + self._spread * slopes2 * own1
            blocks[2] = blocks[2] + self._spread * table["d", "d"] * np.swapaxes(table["y", "y"], -1, -2)
        return blocks[0], blocks[1], blocks[2]


def _is_odd(activation: Activation) -> bool:
    """Return whether sigma(-h) = -sigma(h), judged to rounding on a set of points."""
    h = np.linspace(0.0, 12.0, 97) ** 1.1
    with np.errstate(all="ignore"):
        y, mirrored = activation.value(h), activation.value(-h)
    return bool((np.abs(y + mirrored) <= 1e-15 * np.maximum(np.abs(y), np.abs(mirrored))).all())


def _off(values: Array) -> Array:
    """Set the diagonal (axes 2 and 3) of bounded matrices (4, S, m, m, ...) to zero."""
    result = values.copy()
    index = np.arange(values.shape[2])
    result[:, :, index, index] = 0.0
    return result
