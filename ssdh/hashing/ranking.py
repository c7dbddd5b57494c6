"""mAP and other ranking metrics from counts alone: how many items, and how many relevant ones, stand at each distance.

Hamming distances are small integers, so hundreds of items share one and their order is arbitrary. Every metric here is
the exact expectation over all orders inside the ties; no sort is involved, and permuting the database changes nothing.

Arrays: `total` and `relevant` are (q, G) integers, one row a query, one column a distance in ascending order.

McSherry and Najork, *Computing information retrieval performance measures efficiently in the presence of tied scores*,
ECIR 2008.
"""

from typing import Any

import numpy as np
from scipy.special import digamma

from ssdh.core.arrays import Counts, Float64

_CUT_ROWS = 512  # queries whose cut-off groups are averaged at once: bounds the memory of the hypergeometric table


def average_precision(total: Counts, relevant: Counts, topk: int | None = None) -> Float64:
    """Expected average precision at `topk` of each query.

    AP = mean of the precision at each relevant rank over the relevant items inside the top-k; 0 where there is none.
    For whole tie groups of n items with r relevant, N items and P relevant before them, the sum of precisions is
    (r/n) Σ_{j=1..n} [P + 1 + (j−1)(r−1)/(n−1)] / (N + j); a group that the cut-off divides is averaged over the
    hypergeometric number of its relevant items that are kept.

    total, relevant: (q, G) counts by ascending distance; topk: None for all items. Returns float64 (q,).

    Two items tie and one is relevant, so the precision at its rank is 1 or 1/2:

    >>> average_precision(np.array([[2]]), np.array([[1]])).tolist()
    [0.75]
    """
    total, relevant = _checked(total, relevant)
    items = total.sum(axis=1)
    kept = items if topk is None else np.minimum(items, topk)  # (q,)
    ends = np.cumsum(total, axis=1)
    before, hits_before = ends - total, np.cumsum(relevant, axis=1) - relevant
    whole = (ends <= kept[:, None]) & (relevant > 0)
    sums = np.zeros(len(total))
    hits = np.where(ends <= kept[:, None], relevant, 0).sum(axis=1)
    rows, columns = np.nonzero(whole)
    parts = _precision_sum(
        hits_before[rows, columns], before[rows, columns], total[rows, columns], relevant[rows, columns]
    )
    np.add.at(sums, rows, parts)
    result: Float64 = np.divide(sums, hits, out=np.zeros(len(total)), where=hits > 0)
    divided = np.flatnonzero(((before < kept[:, None]) & (ends > kept[:, None])).any(axis=1))
    for start in range(0, len(divided), _CUT_ROWS):
        q = divided[start : start + _CUT_ROWS]
        g = np.argmax(ends[q] > kept[q, None], axis=1)
        result[q] = _divided_group(sums[q], hits[q], before[q, g], total[q, g], relevant[q, g], kept[q] - before[q, g])
    return result


def _precision_sum(hits_before: Any, before: Any, size: Any, hits: Any) -> Float64:
    """Σ over a group's relevant ranks of the expected precision there: the inner sum of `average_precision`.

    With s = (r−1)/(n−1) each term is [(P + 1 − s(N+1)) / (N+j)] + s, so the sum over j needs only a difference of
    harmonic numbers, H(N+n) − H(N) = ψ(N+n+1) − ψ(N+1).
    """
    slope = np.divide(hits - 1, size - 1, out=np.zeros(np.broadcast(hits, size).shape), where=size > 1)
    slope = np.maximum(slope, 0.0)  # no relevant item: the factor r/n is 0
    harmonic = digamma(before + size + 1.0) - digamma(before + 1.0)
    result: Float64 = hits / size * ((hits_before + 1.0 - slope * (before + 1.0)) * harmonic + slope * size)
    return result


def _divided_group(
    sums: Float64, hits: Counts, before: Counts, size: Counts, relevant: Counts, kept: Counts
) -> Float64:
    """Expected AP where the cut-off keeps `kept` of a group's `size` items: the mean over h ~ Hypergeometric.

    All arguments (q,); h of the kept items are relevant. Only values of h that matter are summed: Bernstein's
    inequality, which holds for draws without replacement (Hoeffding 1963), puts less than 1e-16 of the mass outside
    mean ± t.
    """
    share = relevant / size
    mean, variance = kept * share, kept * share * (1 - share)
    reach = 13 + np.sqrt(169 + 78 * variance)
    low = np.maximum(np.maximum(0, kept - (size - relevant)), np.floor(mean - reach).astype(np.int64))
    high = np.minimum(np.minimum(relevant, kept), np.ceil(mean + reach).astype(np.int64))
    h = low[:, None] + np.arange(int((high - low).max()) + 1)  # (q, w)
    inside = h <= high[:, None]
    h = np.where(inside, h, high[:, None])
    n, r, c = size[:, None], relevant[:, None], kept[:, None]
    with np.errstate(divide="ignore"):  # the last step of a row may reach log 0, and is masked
        steps = np.log((r - h) * (c - h) / ((h + 1.0) * (n - r - c + h + 1.0)))
    logs = np.zeros(h.shape)
    logs[:, 1:] = np.cumsum(np.where(inside[:, 1:], steps[:, :-1], 0.0), axis=1)
    weights = np.where(inside, np.exp(logs - logs.max(axis=1, keepdims=True)), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    result = hits[:, None] + h
    inner = sums[:, None] + _precision_sum(hits[:, None], before[:, None], c, h)
    values = np.divide(inner, result, out=np.zeros(h.shape), where=result > 0)
    expected: Float64 = (weights * values).sum(axis=1)
    return expected


def precision_at(total: Counts, relevant: Counts, n: int) -> Float64:
    """Expected share of relevant items among each query's first `n`; float64 (q,).

    total, relevant: (q, G). Raises ValueError where n is not between 1 and the number of items.

    >>> precision_at(np.array([[1, 4]]), np.array([[1, 1]]), 3).tolist()
    [0.5]
    """
    total, relevant = _checked(total, relevant)
    if not 1 <= n <= int(total.sum(axis=1).min(initial=np.iinfo(np.int64).max)):
        raise ValueError(f"n must be between 1 and the number of database items, got {n}")
    before = np.cumsum(total, axis=1) - total
    kept = np.clip(n - before, 0, total)  # items of each group inside the first n
    result: Float64 = (kept * relevant / np.maximum(total, 1)).sum(axis=1) / n
    return result


def precision_within(total: Counts, relevant: Counts, radius: int) -> Float64:
    """Share of relevant items among those within Hamming distance `radius`; 0 where none is; float64 (q,).

    total, relevant: (q, K + 1), column = distance.

    >>> precision_within(np.array([[0, 1, 3, 9]]), np.array([[0, 1, 1, 0]]), 2).tolist()
    [0.5]
    """
    total, relevant = _checked(total, relevant)
    retrieved = total[:, : radius + 1].sum(axis=1)
    hits = relevant[:, : radius + 1].sum(axis=1)
    precision: Float64 = np.divide(hits, retrieved, out=np.zeros(len(total)), where=retrieved > 0)
    return precision


def precision_recall(total: Counts, relevant: Counts) -> tuple[Float64, Float64, Counts]:
    """Precision, recall and number of pairs retrieved within each distance, pooled over all queries.

    total, relevant: (q, G). Returns three arrays (G,); precision is NaN where nothing is retrieved (leave those points
    out) and recall is NaN where no pair is relevant at all.

    >>> [x.tolist() for x in precision_recall(np.array([[1, 3]]), np.array([[1, 1]]))]
    [[1.0, 0.5], [0.5, 1.0], [1, 4]]
    """
    total, relevant = _checked(total, relevant)
    retrieved, hits = np.cumsum(total.sum(axis=0)), np.cumsum(relevant.sum(axis=0))
    nan = np.full(len(hits), np.nan)
    precision = np.divide(hits, retrieved, out=nan.copy(), where=retrieved > 0)
    recall = hits / hits[-1] if len(hits) and hits[-1] else nan
    return precision, recall, retrieved


def _checked(total: Any, relevant: Any) -> tuple[Counts, Counts]:
    all_items, good_items = np.asarray(total, np.int64), np.asarray(relevant, np.int64)
    if all_items.ndim != 2 or all_items.shape != good_items.shape:
        raise ValueError(f"total and relevant must both be (q, G), got {all_items.shape} and {good_items.shape}")
    return all_items, good_items
