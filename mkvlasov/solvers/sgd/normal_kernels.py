"""Standard normals by counter: the number at (run, step, position) is a function of these, drawn in any order.

Random bits come from Philox4x32-10 [1]_, a keyed bijection of counters: key = the run, counter = (block of positions,
stream, step). Box and Muller's transform makes two normals of two uniform numbers, by polynomials instead of library
calls, so that the compiler turns the loops into vector instructions. In double precision a normal is good to 1e-13 and
at most 8.5 in size (uniform numbers have 52 bits), in single precision 1e-6 and 6.7 (32 bits).

References
----------
.. [1] Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3. SC 2011.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, njit, types, uint32, uint64
from numba.extending import intrinsic, overload

from mkvlasov._typing import Array

Words = np.ndarray[tuple[Any, ...], np.dtype[np.uint32]]

TILE = 256
"""Positions drawn together; everything that a tile needs stays in the fastest cache."""

_PAD = 16
# Loops over a multiple of the vector length have no scalar remainder.

_MULTIPLIER_0, _MULTIPLIER_1 = uint64(0xD2511F53), uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = uint64(0x9E3779B9), uint64(0xBB67AE85)
_LOW, _HALF = uint64(0xFFFFFFFF), uint64(32)
_ROUNDS = 10

# The bits of 1.0; and of sqrt(1/2), from which on the mantissa of a number counts as its own.
_ONE, _ROOT_HALF = uint64(0x3FF0000000000000), uint64(0x3FE6A09E667F3BCD)
_ROOT_HALF_SINGLE = uint32(0x3F3504F3)
_SIGN_SINGLE, _ANGLE_SINGLE = uint32(0x80000000), uint32(0x3FFFFFFF)

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
"""Sums may be reordered; infinities and NaN keep their meaning."""


def room(count: int) -> int:
    """Return the length of a buffer for `count` normals: whole vectors are written."""
    return count + 4 * _PAD


def _bitcast(result: Any, argument: Any, kind: Any) -> Any:
    """Return an intrinsic that reads the bits of a number as a number of another type."""

    @intrinsic
    def cast(typing_context: Any, x: Any) -> Any:
        return result(argument), lambda context, builder, signature, args: builder.bitcast(args[0], kind)

    return cast


_bits = _bitcast(types.uint64, types.float64, ir.IntType(64))
_double = _bitcast(types.float64, types.uint64, ir.DoubleType())
_bits_single = _bitcast(types.uint32, types.float32, ir.IntType(32))
_single = _bitcast(types.float32, types.uint32, ir.FloatType())


@_jit
def random_words(key: Words, stream: int, step: int, first: int, count: int, words: Words) -> None:
    """Write the 4 words of each of `count` counters, words (4, >= count) of uint32, for a key (2,) of uint32."""
    stream_word, low, high = uint64(stream), uint64(step) & _LOW, uint64(step) >> _HALF
    key_0, key_1 = uint64(key[0]), uint64(key[1])
    for i in range(count):
        x0, x1, x2, x3 = uint64(first + i), stream_word, low, high
        k0, k1 = key_0, key_1
        for _ in range(_ROUNDS):
            p, q = _MULTIPLIER_0 * x0, _MULTIPLIER_1 * x2
            x0, x1 = (q >> _HALF) ^ x1 ^ k0, q & _LOW
            x2, x3 = (p >> _HALF) ^ x3 ^ k1, p & _LOW
            k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
        words[0, i], words[1, i], words[2, i], words[3, i] = x0, x1, x2, x3


@_jit
def _pairs(w0: Words, w1: Words, w2: Words, w3: Words, count: int, first: Array, second: Array) -> None:
    """Write `count` pairs of normals of four words each.

    With u in (0, 1] and an angle in a quarter turn about 45 degrees, cos and sin of which are those of x rotated by 45
    degrees, (cos x - sin x) sqrt(-log u) and (cos x + sin x) sqrt(-log u) get a random sign each.
    """
    for i in range(count):
        u = 2.0 - _double((uint64(w0[i]) << uint64(20)) | (uint64(w1[i]) >> uint64(12)) | _ONE)
        # u = 2^e mantissa, mantissa in [sqrt(1/2), sqrt(2)); its logarithm is that of (1 + s) / (1 - s).
        bits = _bits(u)
        exponent = np.int64(bits - _ROOT_HALF) >> np.int64(52)
        mantissa = _double(bits - uint64(exponent << np.int64(52)))
        s = (mantissa - 1.0) / (mantissa + 1.0)
        z = s * s
        series = 2 / 9 + z * (2 / 11 + z * (2 / 13 + z * (2 / 15 + z * (2 / 17))))
        series = 2.0 + z * (2 / 3 + z * (2 / 5 + z * (2 / 7 + z * series)))
        radius = math.sqrt(-(s * series + np.float64(exponent) * 0.6931471805599453))
        turn = _double((uint64(w2[i]) << uint64(20)) | (uint64(w3[i]) >> uint64(12)) | _ONE) - 1.5
        x = turn * 1.5707963267948966
        z = x * x
        sine = 1 / 362880 + z * (-1 / 39916800 + z * (1 / 6227020800))
        sine = x * (1.0 + z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * sine))))
        cosine = 1 / 40320 + z * (-1 / 3628800 + z * (1 / 479001600 + z * (-1 / 87178291200)))
        cosine = 1.0 + z * (-1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * cosine)))
        first[i] = _double(_bits(radius * (cosine - sine)) ^ (uint64(w1[i]) << uint64(63)))
        second[i] = _double(_bits(radius * (cosine + sine)) ^ (uint64(w3[i]) << uint64(63)))


@_jit
def _pairs_single(w0: Words, w1: Words, count: int, first: Array, second: Array) -> None:
    """Write `count` pairs of normals of two words each, in single precision; see `_pairs`."""
    for i in range(count):
        u = float32(w0[i]) * float32(2.0**-32) + float32(2.0**-33)
        bits = _bits_single(u)
        exponent = np.int32(bits - _ROOT_HALF_SINGLE) >> np.int32(23)
        mantissa = _single(uint32(bits - uint32(exponent << np.int32(23))))
        s = (mantissa - float32(1.0)) / (mantissa + float32(1.0))
        z = s * s
        series = float32(2 / 5) + z * (float32(2 / 7) + z * float32(2 / 9))
        series = s * (float32(2.0) + z * (float32(2 / 3) + z * series))
        radius = math.sqrt(-(series + float32(exponent) * float32(0.6931471805599453)))
        turn = float32(np.int32(w1[i] & _ANGLE_SINGLE)) * float32(2.0**-30) - float32(0.5)
        x = turn * float32(1.5707963267948966)
        z = x * x
        sine = x * (float32(1.0) + z * (float32(-1 / 6) + z * (float32(1 / 120) - z * float32(1 / 5040))))
        cosine = float32(1 / 24) + z * (float32(-1 / 720) + z * float32(1 / 40320))
        cosine = float32(1.0) + z * (float32(-1 / 2) + z * cosine)
        signs = w1[i]
        first[i] = _single(uint32(_bits_single(float32(radius * (cosine - sine))) ^ (signs & _SIGN_SINGLE)))
        second[i] = _single(
            uint32(_bits_single(float32(radius * (cosine + sine))) ^ ((signs << uint32(1)) & _SIGN_SINGLE))
        )


@_jit
def _fill_double(key: Words, stream: int, step: int, tile: int, count: int, words: Words, out: Array) -> None:
    half = (count + 2 * _PAD - 1) // (2 * _PAD) * _PAD
    random_words(key, stream, step, tile * TILE, half, words)
    _pairs(words[0], words[1], words[2], words[3], half, out, out[half:])


@_jit
def _fill_single(key: Words, stream: int, step: int, tile: int, count: int, words: Words, out: Array) -> None:
    quarter = (count + 4 * _PAD - 1) // (4 * _PAD) * _PAD
    random_words(key, stream, step, tile * TILE, quarter, words)
    _pairs_single(words[0], words[1], quarter, out, out[quarter:])
    _pairs_single(words[2], words[3], quarter, out[2 * quarter :], out[3 * quarter :])


def fill_tile(key: Words, stream: int, step: int, tile: int, count: int, words: Words, out: Array) -> None:
    """Write the first `count` <= TILE normals of a tile to `out`, which has `room(count)`, in its precision.

    Parameters
    ----------
    key : ndarray of uint32, shape (2,)
    stream, step, tile : int
        Below 2^32, 2^64 and 2^24.
    count : int
    words : ndarray of uint32, shape (4, TILE)
        Scratch.
    out : ndarray of float64 or float32
    """
    raise NotImplementedError("for compiled callers")


@overload(fill_tile)
def _fill_tile(key: Any, stream: Any, step: Any, tile: Any, count: Any, words: Any, out: Any) -> Any:
    draw = _fill_single if out.dtype == float32 else _fill_double

    def fill(key: Any, stream: Any, step: Any, tile: Any, count: Any, words: Any, out: Any) -> None:
        draw(key, stream, step, tile, count, words, out)

    return fill


@_jit
def fill_normals(key: Words, stream: int, step: int, words: Words, out: Array) -> None:
    """Write as many normals of a stream at a step as `out` holds but for its `room`, tile by tile."""
    count = len(out) - 4 * _PAD
    for tile in range((count + TILE - 1) // TILE):
        start = tile * TILE
        fill_tile(key, stream, step, tile, min(TILE, count - start), words, out[start:])
