"""Binary codes: sign, pack, unpack and Hamming distance. Numpy only.

A code of K bits is a row of −1 and +1; packed, it is ⌈K/8⌉ bytes, the first bit in the highest place of the first byte,
+1 written as 1, unused low bits 0.
"""

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssdh.core.arrays import from_tensor


def sign_codes(outputs: ArrayLike) -> NDArray[np.int8]:
    """The codes of real outputs: b = sign(z), with sign(0) = +1.

    outputs: any shape, real numbers; returns int8 of the same shape, −1 or +1.
    Raises ValueError where an output is NaN: it has no sign.

    >>> sign_codes([[-0.2, 0.0, 0.7]]).tolist()
    [[-1, 1, 1]]
    """
    values = np.asarray(outputs)
    if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
        raise ValueError(f"outputs must be numbers, got {int(np.isnan(values).sum())} NaN of {values.size}")
    return np.where(values >= 0, 1, -1).astype(np.int8)


def pack(codes: ArrayLike) -> NDArray[np.uint8]:
    """Pack codes into bytes.

    codes: (n, K) of −1 and +1; returns uint8 (n, ⌈K/8⌉), unused low bits of the last byte 0.
    Raises ValueError for another shape or any other value.

    >>> pack([[1, -1, 1, -1, -1, -1, -1, -1, 1]]).tolist()
    [[160, 128]]
    """
    values = np.asarray(from_tensor(codes))
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"codes must be (n, K) with K of at least 1, got shape {values.shape}")
    positive = values == 1
    if not np.array_equal(positive, values != -1):
        raise ValueError(f"codes must hold only -1 and +1, got {np.unique(values[(values != 1) & (values != -1)])[:3]}")
    return np.packbits(positive, axis=1)


def unpack(packed: ArrayLike, bits: int) -> NDArray[np.int8]:
    """The inverse of `pack`.

    packed: uint8 (n, ⌈bits/8⌉); returns int8 (n, bits) of −1 and +1. Raises ValueError where the width does not fit.

    >>> unpack(pack([[1, -1, 1]]), 3).tolist()
    [[1, -1, 1]]
    """
    values = check_packed(packed, bits)
    ones = np.unpackbits(values, axis=1, count=bits)
    return ones.view(np.int8) * np.int8(2) - np.int8(1)


def first_bits(packed: ArrayLike, bits: int, count: int) -> NDArray[np.uint8]:
    """The first `count` bits of each code, packed.

    packed: uint8 (n, ⌈bits/8⌉); returns uint8 (n, ⌈count/8⌉). Raises ValueError where a width does not fit.

    >>> unpack(first_bits(pack([[1, -1, 1, 1]]), 4, 3), 3).tolist()
    [[1, -1, 1]]
    """
    values = check_packed(packed, bits)
    if not 1 <= count <= bits:
        raise ValueError(f"a code of {bits} bits has no first {count}")
    kept = np.array(values[:, : width(count)])
    kept[:, -1] &= 256 - 2 ** (8 * width(count) - count)  # unused low bits 0
    return kept


def check_packed(packed: ArrayLike, bits: int, name: str = "packed") -> NDArray[np.uint8]:
    """Return `packed` as an array; raises ValueError unless it is uint8 of shape (n, ⌈bits/8⌉)."""
    values: NDArray[Any] = np.asarray(from_tensor(packed))
    if bits < 1:
        raise ValueError(f"bits must be at least 1, got {bits}")
    if values.dtype != np.uint8 or values.ndim != 2 or values.shape[1] != width(bits):
        raise ValueError(
            f"{name} must be uint8 of shape (n, {width(bits)}) for {bits} bits, got {values.dtype} {values.shape}"
        )
    return values


def width(bits: int) -> int:
    """Bytes of one packed code: ⌈bits/8⌉.

    >>> width(12)
    2
    """
    return (operator.index(bits) + 7) // 8  # a NumPy integer of 8 bits would overflow


def words(packed: NDArray[np.uint8]) -> NDArray[Any]:
    """The same bits as machine words, one row a word, so that a distance is a few xor and popcount instructions.

    packed: uint8 (n, B); returns (⌈B/w⌉, n) of the unsigned type of w bytes, w = 1, 2, 4 or 8 (the least that holds B,
    at most 8), zero-padded. The order of bits inside a word is the machine's: compare words, never print them.
    """
    size = next((w for w in (1, 2, 4) if packed.shape[1] <= w), 8)
    count = -(-packed.shape[1] // size)
    padded = np.zeros((len(packed), count * size), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return np.ascontiguousarray(padded.view(f"u{size}").T)


def hamming(a: ArrayLike, b: ArrayLike) -> NDArray[np.uint16]:
    """Hamming distances between two sets of packed codes.

    a: uint8 (n, B), b: uint8 (m, B); returns uint16 (n, m), bits that differ. Raises ValueError where widths differ.

    >>> hamming(pack([[1, 1, 1]]), pack([[1, 1, 1], [-1, 1, -1]])).tolist()
    [[0, 2]]
    """
    left, right = np.asarray(a), np.asarray(b)
    if left.dtype != np.uint8 or right.dtype != np.uint8 or left.ndim != 2 or right.ndim != 2:
        raise ValueError(
            f"packed codes must be uint8 (n, B), got {left.dtype} {left.shape}, {right.dtype} {right.shape}"
        )
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"packed codes must have the same width, got {left.shape[1]} and {right.shape[1]} bytes")
    distances = np.zeros((len(left), len(right)), np.uint16)
    for word_a, word_b in zip(words(left), words(right), strict=True):
        distances += np.bitwise_count(word_a[:, None] ^ word_b[None, :])
    return distances
