"""The lowest and the highest average precision over all orders of ties, from the counts that `ranking` uses.

Inside a group of equal distance the lowest puts relevant items last, the highest first. A cut-off that divides a group
also chooses how many of its relevant items are kept: since AP is a mean over the relevant items found, one more at a
late rank may lower it, so every possible number is tried.
"""

import numpy as np
from scipy.special import digamma

from ssdh.core.arrays import Counts, Float64

_CELLS = 4_000_000  # numbers of kept items tried at once


def average_precision_range(total: Counts, relevant: Counts, topk: int | None = None) -> tuple[Float64, Float64]:
    """(lowest, highest) average precision at `topk` of each query over all orders inside ties; two float64 (q,).

    total, relevant: (q, G) counts by ascending distance; topk: None for all items.

    One of two tied items is relevant, so it stands second or first:

    >>> [found.tolist() for found in average_precision_range(np.array([[2]]), np.array([[1]]))]
    [[0.5], [1.0]]
    """
    items = total.sum(axis=1)
    kept = items if topk is None else np.minimum(items, topk)
    ends, hits = np.cumsum(total, axis=1), np.cumsum(relevant, axis=1)
    before, hits_before = ends - total, hits - relevant
    whole = ends <= kept[:, None]
    last = np.where(whole, _precisions(hits_before, before + total - relevant, relevant), 0).sum(axis=1)
    first = np.where(whole, _precisions(hits_before, before, relevant), 0).sum(axis=1)
    result = np.where(whole, relevant, 0).sum(axis=1)
    lowest, highest = (np.divide(sums, result, out=np.zeros(len(sums)), where=result > 0) for sums in (last, first))
    divided = np.flatnonzero(((before < kept[:, None]) & ~whole).any(axis=1))
    step = max(1, _CELLS // max(int(total.max(initial=1)), 1))
    for start in range(0, len(divided), step):
        q = divided[start : start + step]
        g = np.argmax(ends[q] > kept[q, None], axis=1)
        group = (q, g)
        lowest[q], highest[q] = _divided(
            last[q], first[q], total[group], relevant[group], before[group], hits_before[group], kept[q] - before[group]
        )
    return lowest, highest


def _precisions(hits_before: Counts, before: Counts, count: Counts) -> Float64:
    """Σ (P + i)/(N + i) over i = 1..count: precisions at `count` relevant items that follow each other after N items.

    Each term is 1 + (P − N)/(N + i), so the sum is count + (P − N)·[ψ(N + count + 1) − ψ(N + 1)].
    """
    harmonic = digamma(before + count + 1.0) - digamma(before + 1.0)
    sums: Float64 = count + (hits_before - before) * harmonic
    return sums


def _divided(
    last: Float64, first: Float64, size: Counts, relevant: Counts, before: Counts, hits_before: Counts, kept: Counts
) -> tuple[Float64, Float64]:
    """The extremes where the cut-off keeps `kept` of a group's `size` items; all arguments (q,)."""
    fewest, most = np.maximum(0, kept - (size - relevant)), np.minimum(relevant, kept)
    number = fewest[:, None] + np.arange(int((most - fewest).max()) + 1)  # (q, w) relevant items kept
    possible = number <= most[:, None]
    number = np.minimum(number, most[:, None])
    result = hits_before[:, None] + number
    at_end = _precisions(hits_before[:, None], before[:, None] + kept[:, None] - number, number)
    at_start = _precisions(hits_before[:, None], np.broadcast_to(before[:, None], number.shape), number)
    low, high = (
        np.divide(sums[:, None] + inner, result, out=np.zeros(number.shape), where=result > 0)
        for sums, inner in ((last, at_end), (first, at_start))
    )
    return np.where(possible, low, np.inf).min(axis=1), np.where(possible, high, -np.inf).max(axis=1)
