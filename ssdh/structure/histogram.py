"""The histogram of the distances of all pairs and its fullest bin, the same whichever way float32 rounds.

Extremes of the range and bins that are almost equally full are decided in float64.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ssdh.structure.distances import Block, PairDistances, Pairs
from ssdh.structure.vectors import exact_distances

MANY = 10_000  # pairs of one block that float32 cannot tell apart: they are decided there and forgotten


def distance_range(pairs: PairDistances) -> tuple[float, float]:
    """The smallest and largest distance; the extremes of each block are computed again in float64."""

    def extremes(block: Block) -> Pairs:
        values = block.values
        return block.pairs(np.array([values.argmin(), values.argmax()] if values.size else [], np.int64))

    exact = pairs.exact_of(pairs.each(extremes))
    return float(exact.min()), float(exact.max())


def histogram(pairs: PairDistances, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Counts of the distances in the equal bins between `edges`, (bins,) int64; the last bin is closed."""
    bins = len(edges) - 1
    low, scale = np.float32(edges[0]), np.float32(bins / (edges[-1] - edges[0]))

    def count(block: Block) -> NDArray[np.int64]:
        position = np.subtract(block.values, low, out=block.buffer(np.float32))
        position *= scale
        np.clip(position, 0, bins, out=position)
        number = block.buffer(np.intp)
        np.copyto(number, position, casting="unsafe")
        return np.bincount(number, minlength=bins + 1)

    counts = np.sum(pairs.each(count), axis=0)
    counts[bins - 1] += counts[bins]
    result: NDArray[np.int64] = counts[:bins]
    return result


def fullest_bin(pairs: PairDistances, counted: NDArray[np.int64], edges: NDArray[np.float64]) -> int:
    """The first bin with the highest count; bins so close that float32 could swap them are counted exactly.

    A sample's counts are noisy where the distribution is flat: there a bin counts with its neighbours, together about a
    hundredth of the bins.
    """
    reach = 0 if pairs.complete else len(counted) // 200
    window = np.ones(2 * reach + 1, np.int64)
    counts = np.convolve(counted, window, "same")
    highest = int(counts.max())
    error = pairs.error * float(edges[-1])
    doubtful = math.ceil(4 * error / float(edges[1] - edges[0]) * int(counted.max()))
    candidates = np.flatnonzero(counts >= highest - doubtful)
    if len(candidates) == 1 or doubtful >= highest:
        return int(counts.argmax())
    first, end = max(0, candidates[0] - reach), min(len(counted), candidates[-1] + reach + 1)
    around = edges[first : end + 1].copy()
    if end == len(counted):
        around[-1] = np.inf  # the histogram's last bin is closed
    counts = np.convolve(_count_between(pairs, around, error, lowest=float(edges[0])), window, "same")
    return int(candidates[counts[candidates - first].argmax()])


def _count_between(
    pairs: PairDistances, edges: NDArray[np.float64], margin: float, *, lowest: float
) -> NDArray[np.int64]:
    """The numbers of pairs with edges[k] ≤ d < edges[k + 1]; those within `margin` of an edge are decided in float64.

    edges: of two or more equal bins; the last may be infinity. No distance counts as less than `lowest`: of equal
    vectors' distances, rounding decides which is the smallest.
    """
    bins, width = len(edges) - 1, float(edges[1] - edges[0])
    low, high = np.float32(edges[0] - margin), np.float32(edges[-1] + margin)

    def decided(exact: NDArray[np.float64]) -> NDArray[np.int64]:
        number = np.searchsorted(edges, np.maximum(exact, lowest), side="right")
        counted: NDArray[np.int64] = np.bincount(number, minlength=bins + 2)[1:-1]
        return counted

    def count(block: Block) -> tuple[NDArray[np.int64], Pairs]:
        positions = np.flatnonzero((block.values >= low) & (block.values <= high))
        number = block.values[positions].astype(np.float64)
        number -= edges[0]
        number /= width
        near = np.abs(number - np.rint(number)) <= 2 * margin / width  # low and high are rounded
        counts = np.bincount(number[~near].astype(np.intp), minlength=bins)
        doubtful = block.pairs(positions[near])
        if len(doubtful[0]) > MANY:
            return counts + decided(exact_distances(pairs.features, *doubtful)), block.pairs(positions[:0])
        return counts, doubtful

    counts, near = zip(*pairs.each(count), strict=True)
    total: NDArray[np.int64] = np.sum(counts, axis=0) + decided(pairs.exact_of(near))
    return total
