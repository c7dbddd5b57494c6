"""Metrics of methods that score each database image for a query: float features, and codes that are not Hamming.

Scores are sorted once a query; equal ones are a tie group, as equal Hamming distances are for codes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32
from ssdh.core.split import Split
from ssdh.evaluation.float_search import Flags, Metric, ranked_counts, sharing, similarity_blocks
from ssdh.evaluation.metrics import MAP_CUTOFFS, Table, neighbors_among_first, precision_recall_rows
from ssdh.evaluation.params import EvaluateParams
from ssdh.hashing import ranking

Blocks = Callable[[], Iterable[tuple[slice, Float32]]]  # gives (queries, scores) by (queries, scores), each time anew
BINS = 4096  # of the score, for the precision-recall curve
PR_POINTS = 100  # of that curve


@dataclass(frozen=True)
class Ranked:
    """One query's database by falling score: the order (n,), the tie group of each image (n,), and their sizes (G,)."""

    order: NDArray[np.intp]
    group: NDArray[np.intp]
    total: NDArray[np.int64]

    @classmethod
    def by(cls, scores: Float32) -> "Ranked":
        """Rank by scores (n,), the highest first."""
        order = np.argsort(-scores)
        new = np.append(True, np.diff(scores[order]) != 0)
        group = np.empty(len(order), np.intp)
        group[order] = np.cumsum(new) - 1
        return cls(order, group, np.diff(np.append(np.flatnonzero(new), len(order))))

    def count(self, flags: Flags) -> NDArray[np.int64]:
        """Images of each tie group for which flags (n,) hold; (G,)."""
        return np.bincount(self.group[flags], minlength=len(self.total))


def score_metrics(
    blocks: Blocks,
    labels: NDArray[np.uint8],
    split: Split,
    true: NDArray[np.int64],
    *,
    topk: int,
    params: EvaluateParams,
) -> tuple[dict[str, Any], Table]:
    """Metrics and curves (curve, n, recall, precision) of scores of each query's database.

    blocks: gives (queries, scores) as `similarity_blocks` yields them; with labels it is called twice, first for the
    range of the scores. labels: (N, C) of all images, C = 0 for none; true: (q, k) database positions of the nearest by
    float features; topk: of the mAP, at most the database.
    """
    size, count = len(split.database), len(split.query)
    held_out = ~np.isin(split.database, split.train)
    left = min(topk, int(held_out.sum()))
    cutoffs = np.array([n for n in params.precision_at if n <= size], np.int64)
    shown = np.unique(np.linspace(1, topk, params.curve_points).round().astype(np.int64))
    depths = {str(n): n for n in MAP_CUTOFFS if n < size} | {"all": size}
    maps = dict.fromkeys(["map", "map_without_train", *depths], 0.0)
    precision_at, curve = np.zeros(len(cutoffs)), np.zeros(len(shown))
    pooled = np.zeros((2, BINS), np.int64)  # pairs, and relevant ones, by falling score
    recall = dict.fromkeys((k for k in sorted(set(params.neighbors)) if k <= true.shape[1]), 0.0)
    highest, lowest = _range(blocks()) if labels.shape[1] else (0.0, 0.0)
    for block, scores in blocks():
        relevant = sharing(labels, split, block)
        for i, (result, good) in enumerate(zip(scores, relevant, strict=True)):
            ranked = Ranked.by(result)
            for k in recall:
                near = ranked.group[true[block.start + i, :k]]
                recall[k] += float(neighbors_among_first(ranked.total[None], near[None], k).mean())
            if not labels.shape[1]:
                continue
            hits = ranked.count(good)
            maps["map"] += _precision(ranked.total, hits, topk)
            for name, n in depths.items():
                maps[name] += _precision(ranked.total, hits, n)
            if left:
                maps["map_without_train"] += _precision(ranked.count(held_out), ranked.count(held_out & good), left)
            ends, cumulated = np.append(0, np.cumsum(ranked.total)), np.append(0, np.cumsum(hits))
            precision_at += np.interp(cutoffs, ends, cumulated) / cutoffs  # ties: the expectation is linear in n
            curve += np.interp(shown, ends, cumulated) / shown
            pooled += _binned(result, good, highest, lowest)
    metrics: dict[str, Any] = {}
    rows: Table = []
    if labels.shape[1]:
        means = {name: value / count for name, value in maps.items() if name != "map_without_train" or left}
        metrics = {"map": means.pop("map"), "map_at": {name: means.pop(name) for name in depths}} | means
        metrics["precision_at"] = {str(n): float(v / count) for n, v in zip(cutoffs, precision_at, strict=True)}
        recalls = _thin(precision_recall_rows(*pooled[:, None]))
        rows += [("pr", "", share, precision) for _, share, precision, _ in recalls]
        rows += [("precision_at_n", int(n), "", float(v / count)) for n, v in zip(shown, curve, strict=True)]
    if recall:
        metrics["neighbor_recall_at"] = {str(k): value / count for k, value in recall.items()}
    return metrics, rows


def float_average_precisions(
    features: NDArray[Any],
    labels: NDArray[np.uint8],
    split: Split,
    topk: int,
    *,
    centre: NDArray[np.float64] | None = None,
    metric: Metric = "cosine",
) -> NDArray[np.float64]:
    """Average precision of each query by `metric` of the (centred) features, ties as for codes; float64 (q,)."""
    precisions = np.empty(len(split.query))
    for block, similarities in similarity_blocks(features, split.query, split.database, centre, metric=metric):
        relevant = sharing(labels, split, block)
        for i, results in enumerate(similarities):
            precisions[block.start + i] = ranking.average_precision(*ranked_counts(results, relevant[i], topk), topk)[0]
    return precisions


def _precision(total: NDArray[np.int64], hits: NDArray[np.int64], topk: int) -> float:
    """The average precision of one query at `topk`, from its tie groups down to the cut-off."""
    needed = int(np.searchsorted(np.cumsum(total), topk)) + 1
    return float(ranking.average_precision(total[None, :needed], hits[None, :needed], topk)[0])


def _range(blocks: Iterable[tuple[slice, Float32]]) -> tuple[float, float]:
    """The highest and the lowest of all scores."""
    highest, lowest = zip(*((float(scores.max()), float(scores.min())) for _, scores in blocks), strict=True)
    return max(highest), min(lowest)


def _binned(score: Float32, relevant: Flags, highest: float, lowest: float) -> NDArray[np.int64]:
    """Items, and relevant ones, in equal bins from the highest to the lowest score, (2, BINS)."""
    width = max((highest - lowest) / BINS, 1e-12)
    key = np.clip((highest - score) / np.float32(width), 0, BINS - 1).astype(np.intp)
    return np.stack([np.bincount(key, minlength=BINS), np.bincount(key[relevant], minlength=BINS)])


def _thin(rows: Table) -> Table:
    """At most PR_POINTS rows of a precision-recall curve, evenly spaced in the logarithm of the pairs retrieved."""
    retrieved = np.array([row[3] for row in rows])
    if not len(rows):
        return rows
    targets = np.geomspace(retrieved[0], retrieved[-1], PR_POINTS)
    return [rows[i] for i in np.unique(np.minimum(np.searchsorted(retrieved, targets), len(rows) - 1))]
