"""Which products of monomials Lambda needs for more than one output, and with which coefficients."""

from __future__ import annotations

from itertools import product

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.limit.bounded import coefficient
from mkvlasov.limit.monomials import Group, Monomial


def _power(m: int, **factors: tuple[int, ...]) -> Monomial:
    """Return a monomial from the outputs whose sigma' (d) and sigma (y) it contains."""
    d, y = factors.get("d", ()), factors.get("y", ())
    return tuple((d.count(j), y.count(j)) for j in range(m))


class _Block:
    """One of E[a^v a^v'^T]: a list of (two coefficients, monomial of view 1, monomial of view 2, entry)."""

    def __init__(self, m: int) -> None:
        self._m = m
        self._entries: list[tuple[int, int, Monomial, Monomial, int]] = []

    def add(self, a: int, b: int, first: Monomial, second: Monomial, j: int, k: int) -> None:
        self._entries.append((a, b, first, second, j * self._m + k))

    def group(self, extra: tuple[list[Monomial], list[Monomial]] = ([], [])) -> Group:
        """Return the products that the block needs, and prepare `assemble`."""
        first = tuple(dict.fromkeys([e[2] for e in self._entries] + extra[0]))
        second = tuple(dict.fromkeys([e[3] for e in self._entries] + extra[1]))
        index = [(a, b, first.index(x), second.index(y)) for a, b, x, y, _ in self._entries]
        self._index = np.array(index).T
        self._sum = np.zeros((len(index), self._m**2))
        self._sum[range(len(index)), [e[4] for e in self._entries]] = 1.0
        return Group(first, second)

    def assemble(self, coefficients: Array, table: Array) -> Array:
        """Return the bounded block (4, S, m, m) from bounded coefficients (4, S, n) and its group's table."""
        a, b, x, y = self._index
        terms = coefficients[..., a] * coefficients[..., b] * table[..., x, y]
        return (terms @ self._sum).reshape(*terms.shape[:2], self._m, self._m)


class Plan:
    """Which products of monomials Lambda needs for m > 1, and with which coefficients.

    Coefficients are numbered: w_jl, then lambda / B, then 1, then lambda^2 ((B - 1) / B^2) Cov(X_jl, X_ki).
    """

    def __init__(self, m: int, strength: float, centered: bool, spread: float) -> None:
        self._m, self._strength = m, strength
        self._rest = strength**2 * spread
        self.blocks = (_Block(m), _Block(m), _Block(m))
        first, second = self._gradient(0), self._gradient(1)
        for block, (left, right) in zip(self.blocks, ((first, first), (second, second), (first, second)), strict=True):
            for j, k in product(range(m), repeat=2):
                for (a, x1, x2), (b, z1, z2) in product(left[j], right[k]):
                    block.add(a, b, _times(x1, z1), _times(x2, z2), j, k)
        if self._rest:
            self._add_rest_of_batch()
        extra: list[tuple[list[Monomial], list[Monomial]]] = [([], []), ([], []), ([], [])]
        if centered:
            one, outputs, slopes = _power(m), self._products("y"), self._products("d")
            extra = [([one, *slopes], [one, *outputs]), ([one, *outputs], [one, *slopes]), ([], [])]
        self.groups = tuple(block.group(more) for block, more in zip(self.blocks, extra, strict=True))
        if self._rest:
            outputs = list(dict.fromkeys(self._products("y")))
            self.groups += (Group(tuple(outputs), tuple(outputs)),)

    def _products(self, letter: str) -> list[Monomial]:
        return [_power(self._m, **{letter: pair}) for pair in product(range(self._m), repeat=2)]

    def _gradient(self, view: int) -> list[list[tuple[int, Monomial, Monomial]]]:
        """Return a_j of a view as terms (coefficient, monomial of view 1, monomial of view 2)."""
        m = self._m
        result = []
        for j in range(m):
            terms = []
            for other in range(m):
                if other != j and not self._strength:
                    continue
                weight = j * m + other if view == 0 else other * m + j
                terms.append((weight, _power(m, d=(j,)), _power(m, y=(other,))))
                if other != j:
                    terms.append((m * m, _power(m, d=(j,), y=(j,)), _power(m, y=(other, other))))
            result.append(terms if view == 0 else [(c, theirs, mine) for c, mine, theirs in terms])
        return result

    def _add_rest_of_batch(self) -> None:
        """Add the covariance over the rest of the batch of the decorrelation term."""
        m = self._m
        one = m * m + 1
        for j, k, other, i in product(range(m), repeat=4):
            if other == j or i == k:
                continue
            slopes, outputs = _power(m, d=(j, k)), _power(m, y=(other, i))
            self.blocks[0].add(self._covariance(j, other, k, i), one, slopes, outputs, j, k)
            self.blocks[1].add(self._covariance(other, j, i, k), one, outputs, slopes, j, k)
            mixed = (_power(m, d=(j,), y=(i,)), _power(m, d=(k,), y=(other,)))
            self.blocks[2].add(self._covariance(j, other, i, k), one, *mixed, j, k)

    def _covariance(self, j: int, other: int, k: int, i: int) -> int:
        """Return the number of the coefficient Cov(X_jl, X_ki)."""
        m = self._m
        return m * m + 2 + ((j * m + other) * m + k) * m + i

    def coefficients(self, w: Array, mean: Array, own_weight: float, results: list[Array]) -> Array:
        """Return all coefficients, bounded, shape (4, S, n)."""
        m = self._m
        states = results[0].shape[1]
        plain = [np.broadcast_to(w, (4, states, m, m)).reshape(4, states, -1)]
        plain += [np.full((4, states, 1), value) for value in (self._strength * own_weight, 1.0)]
        if self._rest:
            table, outputs = results[3], list(self.groups[3].first)
            index = [
                [outputs.index(_power(m, y=(j, k))), outputs.index(_power(m, y=(other, i)))]
                for j, other, k, i in product(range(m), repeat=4)
            ]
            mean = mean.reshape(4, states, -1)
            first, second = np.array(index).T
            moments = table[..., first, second]
            squared = (mean[..., :, None] * mean[..., None, :]).reshape(4, states, -1)
            plain.append(self._rest * (moments + coefficient(-1.0)[:, None, None] * squared))
        return np.concatenate(plain, axis=-1)

    def own_covariance(self, results: list[Array], view: int) -> Array:
        """Return Cov(y_j, y_k) within a view, bounded, shape (4, S, m, m)."""
        return self._looked_up(results, view, "y")

    def slope_products(self, results: list[Array], view: int) -> Array:
        """Return E[sigma'(h_j) sigma'(h_k)] within a view, bounded, shape (4, S, m, m)."""
        return self._looked_up(results, view, "d")

    def _looked_up(self, results: list[Array], view: int, letter: str) -> Array:
        m = self._m
        block = 0 if (view == 0) == (letter == "d") else 1
        group, table = self.groups[block], results[block]
        one, wanted = _power(m), self._products(letter)
        if view == 0:
            values = table[..., [group.first.index(x) for x in wanted], group.second.index(one)]
        else:
            values = table[..., group.first.index(one), [group.second.index(x) for x in wanted]]
        return values.reshape(*table.shape[:2], m, m)


def _times(a: Monomial, b: Monomial) -> Monomial:
    return tuple((x[0] + z[0], x[1] + z[1]) for x, z in zip(a, b, strict=True))
