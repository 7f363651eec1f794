"""Which products of monomials Lambda needs for more than one output, and with which coefficients.

No monomial contains more than two outputs, however many there are. So every product is an expectation over four
pre-activations: a pair of outputs in view 1 and a pair, perhaps another one, in view 2.
"""

from __future__ import annotations

from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.limit.bounded import coefficient
from mkvlasov.limit.monomials import Group, Monomial, Outputs

_Powers = tuple[tuple[int, int], ...]
"""Powers (of sigma', of sigma) for each of the m outputs."""

_Key = tuple[Outputs, Outputs, int]
_Product = tuple[_Key, Monomial, Monomial]
"""A product: its group (outputs of view 1, of view 2, a number) and its two monomials."""

_MOMENTS, _WITHIN = 3, 4
"""Numbers of the groups that are not one of the blocks E[a^v a^v'^T], vv' = 11, 22, 12."""


class _Sum(NamedTuple):
    """Numbers (3, n) of the two coefficients and the product of every term; the matrix (n, m^2) that sums them."""

    numbers: npt.NDArray[np.int64]
    matrix: Array


class _Products:
    """Collects the products that are wanted, in groups whose tables are worth computing as a whole."""

    def __init__(self, exchangeable: bool) -> None:
        self._exchangeable = exchangeable
        self._wanted: dict[_Product, None] = {}

    def add(self, number: int, first: _Powers, second: _Powers) -> _Product:
        """Ask for a product; where the views are exchangeable, it may come with its monomials exchanged."""
        outputs = _two_outputs(first, second)
        if self._exchangeable and outputs[0] > outputs[1]:
            first, second, outputs = second, first, outputs[::-1]
        wanted = ((*outputs, number), _restricted(first, outputs[0]), _restricted(second, outputs[1]))
        self._wanted[wanted] = None
        return wanted

    def groups(self) -> tuple[tuple[Group, ...], dict[_Product, int]]:
        """Return the groups, and the place of each product in their flattened and concatenated tables."""
        members: dict[_Key, tuple[dict[Monomial, None], dict[Monomial, None]]] = {}
        for key, first, second in self._wanted:
            lists = members.setdefault(key, ({}, {}))
            lists[0][first] = lists[1][second] = None
        groups, offsets, offset = {}, {}, 0
        for key, (left, right) in members.items():
            groups[key], offsets[key] = Group(key[:2], tuple(left), tuple(right)), offset
            offset += len(left) * len(right)
        places = {
            (key, first, second): offsets[key]
            + groups[key].first.index(first) * len(groups[key].second)
            + groups[key].second.index(second)
            for key, first, second in self._wanted
        }
        return tuple(groups.values()), places


class Plan:
    """Which products of monomials Lambda needs for m > 1, and with which coefficients.

    Coefficients are numbered: w_jl, then lambda / B, then 1, then lambda^2 ((B - 1) / B^2) Cov(X_jl, X_ki). Without
    decorrelation only the entries off the diagonal are planned: those on it are pairs.

    Parameters
    ----------
    m : int
    strength : float
        lambda.
    centered : bool
    spread : float
        (B - 1) / B^2.
    exchangeable : bool
        Whether the two views have the same law.

    Attributes
    ----------
    groups : tuple of Group
        What has to be evaluated.
    """

    def __init__(self, m: int, strength: float, *, centered: bool, spread: float, exchangeable: bool) -> None:
        self._m, self._strength = m, strength
        self._rest = strength**2 * spread
        self._exchangeable = exchangeable
        self._wanted = _Products(exchangeable)
        self._entries: tuple[list[tuple[int, int, _Product, int]], ...] = ([], [], [])
        self._add_gradients()
        moments = self._rest_of_batch() if self._rest else []
        within = self._within_views() if centered else []
        self.groups, places = self._wanted.groups()
        self._moments = np.array([places[x] for x in moments], dtype=np.int64)
        self._within = np.array([[places[x] for x in row] for row in within], dtype=np.int64)
        self._blocks = [self._sum(entries, places) for entries in self._entries]

    def blocks(self, w: Array, mean: Array, own_weight: float, table: Array) -> tuple[Array, Array, Array]:
        """Return B^2 E[alpha^v alpha^v'^T] for vv' = 11, 22, 12, bounded, shape (4, S, m, m) each.

        Parameters
        ----------
        w : ndarray, shape (4, S or 1, m, m)
            Bounded weights w_jl.
        mean : ndarray, shape (4, S, m, m)
            Bounded mu_jl = E X_jl.
        own_weight : float
            1 / B.
        table : ndarray, shape (4, S, n)
            Tables of all groups, flattened and concatenated.
        """
        coefficients = self._coefficients(w, mean, own_weight, table)
        l11, l22, l12 = (self._assemble(block, coefficients, table) for block in self._blocks)
        return l11, l11 if self._exchangeable else l22, l12

    def within_views(self, table: Array) -> Array:
        """Return E[y_j y_k], E[d_j d_k] of view 1 and of view 2 for j < k, bounded, shape (4, 4, S, m, m).

        Entries that are not off the diagonal are zero.
        """
        rows, columns = np.triu_indices(self._m, 1)
        result = np.zeros((4, 4, table.shape[1], self._m, self._m))
        for values, places in zip(result, self._within, strict=True):
            values[:, :, rows, columns] = values[:, :, columns, rows] = table[..., places]
        return result

    def _power(self, *, d: tuple[int, ...] = (), y: tuple[int, ...] = ()) -> _Powers:
        """Return a monomial from the outputs whose sigma' (d) and sigma (y) it contains."""
        return tuple((d.count(j), y.count(j)) for j in range(self._m))

    def _gradient(self, view: int) -> list[list[tuple[int, _Powers, _Powers]]]:
        """Return a_j of a view as terms (coefficient, monomial of view 1, monomial of view 2)."""
        m = self._m
        result = []
        for j in range(m):
            terms = []
            for other in range(m):
                if other != j and not self._strength:
                    continue
                weight = j * m + other if view == 0 else other * m + j
                terms.append((weight, self._power(d=(j,)), self._power(y=(other,))))
                if other != j:
                    terms.append((m * m, self._power(d=(j,), y=(j,)), self._power(y=(other, other))))
            result.append(terms if view == 0 else [(c, theirs, mine) for c, mine, theirs in terms])
        return result

    def _places(self, block: int) -> list[tuple[int, int]]:
        """Return which entries of a block have to be computed; the rest follow by symmetry."""
        if block == 1 and self._exchangeable:
            return []
        symmetric = block < 2 or self._exchangeable
        every = ((j, k) for j, k in product(range(self._m), repeat=2) if j <= k or not symmetric)
        return [(j, k) for j, k in every if self._strength or j != k]

    def _add_gradients(self) -> None:
        first, second = self._gradient(0), self._gradient(1)
        for block, (left, right) in enumerate(((first, first), (second, second), (first, second))):
            for j, k in self._places(block):
                for (a, x1, x2), (b, z1, z2) in product(left[j], right[k]):
                    self._add(block, (a, b), _times(x1, z1), _times(x2, z2), (j, k))

    def _add(self, block: int, numbers: tuple[int, int], first: _Powers, second: _Powers, at: tuple[int, int]) -> None:
        wanted = self._wanted.add(block, first, second)
        self._entries[block].append((*numbers, wanted, at[0] * self._m + at[1]))

    def _rest_of_batch(self) -> list[_Product]:
        """Add the covariance over the rest of the batch of the decorrelation term, and return E[X_jl X_ki]."""
        m, power = self._m, self._power
        one = m * m + 1
        for block in range(3):
            for (j, k), other, i in product(self._places(block), range(m), range(m)):
                if other == j or i == k:
                    continue
                if block == 2:
                    numbers, first = (j, other, i, k), power(d=(j,), y=(i,))
                    second = power(d=(k,), y=(other,))
                else:
                    slopes, outputs = power(d=(j, k)), power(y=(other, i))
                    numbers = (j, other, k, i) if block == 0 else (other, j, i, k)
                    first, second = (slopes, outputs) if block == 0 else (outputs, slopes)
                number = m * m + 2 + int(np.ravel_multi_index(numbers, (m,) * 4))
                self._add(block, (number, one), first, second, (j, k))
        return [
            self._wanted.add(_MOMENTS, power(y=(j, k)), power(y=(other, i)))
            for j, other, k, i in product(range(m), repeat=4)
        ]

    def _within_views(self) -> list[list[_Product]]:
        """Return what `within_views` needs, in its order."""
        one = self._power()
        pairs = list(combinations(range(self._m), 2))
        monomials = [[self._power(**{letter: pair}) for pair in pairs] for letter in ("y", "d")]
        return [
            [self._wanted.add(_WITHIN, *((x, one) if view == 0 or self._exchangeable else (one, x))) for x in row]
            for view in (0, 1)
            for row in monomials
        ]

    def _sum(self, entries: list[tuple[int, int, _Product, int]], places: dict[_Product, int]) -> _Sum:
        numbers = np.array([(a, b, places[wanted]) for a, b, wanted, _ in entries], dtype=np.int64).reshape(-1, 3).T
        matrix = np.zeros((len(entries), self._m**2))
        matrix[range(len(entries)), [at for *_, at in entries]] = 1.0
        return _Sum(numbers, matrix)

    def _assemble(self, block: _Sum, coefficients: Array, table: Array) -> Array:
        m, (a, b, places) = self._m, block.numbers
        terms = coefficients[..., a] * coefficients[..., b] * table[..., places]
        result = (terms @ block.matrix).reshape(*terms.shape[:2], m, m)
        if block is self._blocks[2] and not self._exchangeable:
            return result
        upper = np.triu(result, 1)
        return upper + upper.mT + result * np.eye(m)

    def _coefficients(self, w: Array, mean: Array, own_weight: float, table: Array) -> Array:
        """Return all coefficients, bounded, shape (4, S, n)."""
        m, states = self._m, table.shape[1]
        plain = [np.broadcast_to(w, (4, states, m, m)).reshape(4, states, -1)]
        plain += [np.full((4, states, 1), value) for value in (self._strength * own_weight, 1.0)]
        if self._rest:
            mean = mean.reshape(4, states, -1)
            squared = (mean[..., :, None] * mean[..., None, :]).reshape(4, states, -1)
            moments = table[..., self._moments]
            plain.append(self._rest * (moments + coefficient(-1.0)[:, None, None] * squared))
        return np.concatenate(plain, axis=-1)


def _two_outputs(first: _Powers, second: _Powers) -> tuple[Outputs, Outputs]:
    """Return pairs of outputs that contain those of two monomials, the same pair for both if there is one."""
    supports = [{j for j, powers in enumerate(x) if powers != (0, 0)} for x in (first, second)]
    together = supports[0] | supports[1]
    spare = sorted(set(range(len(first))) - together)
    pairs = []
    for support in supports:
        # Filled up by outputs of the other monomial, or any other if that has none to offer.
        chosen = [*sorted(support), *sorted(together - support), *spare][:2]
        pairs.append((min(chosen), max(chosen)))
    return pairs[0], pairs[1]


def _restricted(powers: _Powers, outputs: Outputs) -> Monomial:
    return powers[outputs[0]], powers[outputs[1]]


def _times(a: _Powers, b: _Powers) -> _Powers:
    return tuple((x[0] + z[0], x[1] + z[1]) for x, z in zip(a, b, strict=True))
