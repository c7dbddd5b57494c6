"""All pairs of codes within a radius, by multi-index hashing (Norouzi, Punjani & Fleet, CVPR 2012).

Codes are cut into m parts. Of two codes that differ in at most r bits, at least one part differs in at most ⌊r/m⌋ bits:
so it is enough to compare, for each part, the codes of every bucket (equal in that part) with those of the buckets
whose key differs in at most so many bits. m is chosen by the number of comparisons, counted from the buckets' sizes.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Rows
from ssdh.hashing.codes import unpack, words

KEY_BITS = 16  # of a part, at most: so that buckets can be counted in a table

FLIPS = 3  # bits in which keys that are compared may differ, at most

STEP_COST = 20_000  # comparisons that take as long as going to the next pair of buckets

BLOCK = 1 << 20  # comparisons at once

YIELDED = 1 << 16  # pairs handed over at once, at least


def close_pairs(packed: NDArray[np.uint8], bits: int, radius: int) -> Iterator[tuple[Rows, Rows]]:
    """Yield (i, j), i < j, of all pairs of codes that differ in at most `radius` bits, each pair once.

    packed: uint8 (n, ⌈bits/8⌉).
    """
    candidates = [parts for parts in range(2, min(radius + 1, bits) + 1) if radius // parts <= FLIPS]
    keys = min((_keys(packed, bits, parts) for parts in [1, *candidates]), key=lambda keys: cost(keys, radius))
    flips = radius // len(keys)
    code_words = words(packed)
    pairs: list[tuple[Rows, Rows]] = []
    waiting = 0  # pairs in them
    for number, part in enumerate(keys):
        for a, b in _bucket_pairs(part, flips):
            for left, right in _compare(code_words, a, b, radius):
                earlier = [np.bitwise_count(key[left] ^ key[right]) <= flips for key in keys[:number]]
                fresh = ~np.any(earlier, axis=0) if earlier else np.ones(len(left), np.bool_)
                if fresh.any():
                    pairs.append((np.minimum(left, right)[fresh], np.maximum(left, right)[fresh]))
                    waiting += len(pairs[-1][0])
            if waiting >= YIELDED:
                yield _joined(pairs)
                pairs, waiting = [], 0
    if pairs:
        yield _joined(pairs)


def cost(keys: list[NDArray[np.uint16]], radius: int) -> float:
    """Comparisons, and steps from bucket to bucket in their currency, that these keys need."""
    flips, total = radius // len(keys), 0.0
    for key in keys:
        sizes = np.bincount(key).astype(float)
        sizes = np.pad(sizes, (0, (1 << KEY_BITS) - len(sizes)))
        for turned in _masks(_width(key), flips):
            others = sizes[np.arange(len(sizes)) ^ turned]
            total += float((sizes * others).sum() / 2 + STEP_COST * np.count_nonzero(sizes * others) / 2)
    return total


def _keys(packed: NDArray[np.uint8], bits: int, parts: int) -> list[NDArray[np.uint16]]:
    """The key of every code (n,) in each of the parts: its first KEY_BITS bits; 0 of a whole code."""
    if parts == 1:  # one bucket: every code is compared with every other
        return [np.zeros(len(packed), np.uint16)]
    ends = [bits * number // parts for number in range(parts + 1)]
    ones = unpack(packed, bits) > 0  # (n, bits)
    keys = []
    for start, end in pairwise(ends):
        own = ones[:, start : min(end, start + KEY_BITS)]
        places = (1 << np.arange(own.shape[1])).astype(np.uint16)
        keys.append((own @ places).astype(np.uint16))
    return keys


def _width(key: NDArray[np.uint16]) -> int:
    """Bits that the keys use."""
    return int(key.max(initial=0)).bit_length()


def _masks(width: int, flips: int) -> Iterator[int]:
    """All numbers of `width` bits of which at most `flips` are 1."""
    for count in range(min(flips, width) + 1):
        for places in combinations(range(width), count):
            yield sum(1 << place for place in places)


def _bucket_pairs(key: NDArray[np.uint16], flips: int) -> Iterator[tuple[Rows, Rows]]:
    """Rows of every two buckets whose keys differ in at most `flips` bits, each two once; a bucket with itself too."""
    order = np.argsort(key, kind="stable")
    present, starts = np.unique(key[order], return_index=True)
    buckets = dict(zip(present.tolist(), np.split(order, starts[1:]), strict=True))
    for turned in _masks(_width(key), flips):
        for number, rows in buckets.items():
            if number <= number ^ turned and (other := buckets.get(number ^ turned)) is not None:
                yield rows, other


def _compare(code_words: NDArray[np.unsignedinteger], a: Rows, b: Rows, radius: int) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of a row of a and one of b within the radius; of a bucket with itself, each pair once."""
    own = a is b
    step = max(1, BLOCK // len(b))
    for start in range(0, len(a), step):
        rows = a[start : start + step]
        others = b[start:] if own else b
        distances = np.zeros((len(rows), len(others)), np.uint16)
        for word in code_words:
            distances += np.bitwise_count(word[rows][:, None] ^ word[others][None, :])
        i, j = np.nonzero(distances <= radius)
        if own:
            i, j = i[i < j], j[i < j]
        if len(i):
            yield rows[i], others[j]


def _joined(parts: list[tuple[Rows, Rows]]) -> tuple[Rows, Rows]:
    left, right = zip(*parts, strict=True)
    return np.concatenate(left), np.concatenate(right)
