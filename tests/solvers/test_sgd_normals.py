"""Normals by counter: the bits of Philox, their transform, and the law of what comes out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mkvlasov.solvers.sgd.normal_kernels import TILE, fill_normals, random_words, room

SCRATCH = np.empty((4, TILE), np.uint32)


def draw(count: int, dtype: str, key: tuple[int, int] = (3, 4), stream: int = 0, step: int = 0) -> np.ndarray:
    out = np.zeros(room(count), dtype)
    fill_normals(np.array(key, np.uint32), stream, step, SCRATCH, out)
    return out[:count]


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> list[int]:
    """Philox4x32-10 of Salmon et al. (2011), in Python integers."""
    x, k = list(counter), list(key)
    for _ in range(10):
        p, q = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [(q >> 32) ^ x[1] ^ k[0], q % 2**32, (p >> 32) ^ x[3] ^ k[1], p % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return x


def test_bits_are_those_of_philox() -> None:
    # The first answer is published with the generator (Random123, kat_vectors).
    assert philox((0, 0, 0, 0), (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    words = np.zeros((4, 3), np.uint32)
    random_words(np.array([7, 2**32 - 1], np.uint32), 5, 2**40 + 9, 12, 3, words)
    for i in range(3):
        assert words[:, i].tolist() == philox((12 + i, 5, 9, 2**8), (7, 2**32 - 1))


def test_transform_of_the_bits_is_that_of_box_and_muller() -> None:
    count = 1000
    normals = draw(count, "float64")
    for tile in range(0, count, TILE):
        half = (min(TILE, count - tile) + 31) // 32 * 16
        w = np.array([philox((tile + i, 0, 0, 0), (3, 4)) for i in range(half)])
        radius = np.sqrt(-2.0 * np.log(1.0 - (w[:, 0] * 2**20 + w[:, 1] // 2**12) / 2**52))
        angle = 0.5 * np.pi * (w[:, 2] * 2**20 + w[:, 3] // 2**12) / 2**52
        expected = np.concatenate(
            [radius * np.cos(angle) * (1 - 2 * (w[:, 1] % 2)), radius * np.sin(angle) * (1 - 2 * (w[:, 3] % 2))]
        )
        np.testing.assert_allclose(normals[tile : tile + TILE], expected[: min(TILE, count - tile)], atol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_normals_are_normal_and_independent(dtype: str) -> None:
    n = 2_000_000
    x = draw(n, dtype).astype(float)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170), (8, 105, 2016000)):
        assert abs((x**power).mean() - mean) < 4.0 * np.sqrt(variance / n), power
    assert stats.kstest(x, "norm").pvalue > 1e-4
    for size in (4.0, 4.75):
        expected = 2 * n * stats.norm.sf(size)
        assert abs((np.abs(x) > size).sum() - expected) < 4.5 * np.sqrt(expected)
    # Neighbours, partners of one transform (half and quarter a tile apart), streams, steps and keys.
    others = [np.roll(x, shift) for shift in (1, 16, TILE // 4, TILE // 2, TILE)]
    others += [draw(n, dtype, stream=1), draw(n, dtype, step=1), draw(n, dtype, step=2**32), draw(n, dtype, key=(3, 5))]
    for other in others:
        for a, b in ((x, other), (x**2 - 1, other**2 - 1), (np.abs(x), other)):
            assert abs((a * b).mean() - a.mean() * b.mean()) < 4.5 * a.std() * b.std() / np.sqrt(n)


def test_a_shorter_vector_of_whole_tiles_is_the_beginning_of_a_longer_one() -> None:
    np.testing.assert_array_equal(draw(2 * TILE, "float64"), draw(5 * TILE, "float64")[: 2 * TILE])
