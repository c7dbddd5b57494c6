"""What a shortlist by codes is worth once it is ordered by the float features; no sort of the database.

A shortlist of R holds all codes that are no farther than the R-th nearest (`ssdh.hashing.rerank`). It is ordered by the
features' similarity, equal ones being a tie group; the rest of the database follows by Hamming distance. Metrics are
expectations over the order inside ties, as everywhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.split import Split
from ssdh.evaluation.float_search import Metric, sharing, similarity_blocks
from ssdh.hashing import ranking
from ssdh.hashing.codes import hamming
from ssdh.hashing.rerank import edge
from ssdh.hashing.retrieval import DistanceCounts

FIRST = 10  # images that a person looks at: of the recall and the precision


def rerank_metrics(
    packed: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    features: NDArray[Any],
    split: Split,
    counts: DistanceCounts,
    *,
    topk: int,
    sizes: Sequence[int],
    metric: Metric = "cosine",
) -> dict[str, dict[str, float]]:
    """{R: metrics of the ranking after a shortlist of R}, for those of `sizes` from 10 to the size of the database.

    packed: (N, ⌈bits/8⌉) uint8; labels: (N, C) multi-hot, C = 0 for none; features: (N, D); counts: of the queries
    against all of the database. float_recall_at_10: share of a query's ten nearest by features that the shortlist
    holds, images as near as the tenth being equals. shortlist: its mean length, with the ties at its edge. With labels,
    map (at `topk`) and precision_at_10.
    """
    size = len(split.database)
    lengths = [r for r in sorted(set(sizes)) if FIRST <= r <= size]
    if not lengths or not len(split.query):
        return {}
    edges = np.stack([edge(counts.total, r) for r in lengths], axis=1)  # (q, R)
    names = ["float_recall_at_10", "shortlist", *(["map", "precision_at_10"] if labels.shape[1] else [])]
    sums = np.zeros((len(lengths), len(names)))
    database = packed[split.database]
    for block, similarities in similarity_blocks(features, split.query, split.database, metric=metric):
        relevant = sharing(labels, split, block)
        for i, similarity in enumerate(similarities):
            row = block.start + i
            distances = hamming(packed[split.query[row], None], database)[0]
            tenth = np.partition(similarity, size - FIRST)[size - FIRST]
            for r, farthest in enumerate(edges[row]):
                near = distances <= farthest
                recall = min(FIRST, int((similarity[near] >= tenth).sum())) / FIRST
                values = [recall, float(near.sum())]
                if labels.shape[1]:
                    total, hits = reranked_counts(similarity, distances, near, relevant[i])
                    values.append(float(ranking.average_precision(total, hits, topk)[0]))
                    values.append(float(ranking.precision_at(total, hits, FIRST)[0]))
                sums[r] += values
    means = sums / len(split.query)
    return {str(r): dict(zip(names, row.tolist(), strict=True)) for r, row in zip(lengths, means, strict=True)}


def reranked_counts(
    similarity: NDArray[np.floating[Any]],
    distances: NDArray[np.integer[Any]],
    near: NDArray[np.bool_],
    relevant: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Items and relevant ones of each tie group of one query's ranking; for `ssdh.hashing.ranking`. Two (1, G).

    All (n,): those `near` come first, by falling similarity; the others follow by ascending distance.

    >>> near = np.array([True, True, False, True, False])
    >>> values = np.array([0.5, 0.9, 0.99, 0.5, 0.1]), np.array([0, 1, 2, 1, 2])
    >>> reranked_counts(*values, near, np.array([True, True, True, False, False]))
    (array([[1, 2, 2]]), array([[1, 1, 1]]))
    """
    _, first = np.unique(-similarity[near], return_inverse=True)
    _, rest = np.unique(distances[~near], return_inverse=True)
    groups = int(first.max(initial=-1)) + 1
    group = np.empty(len(near), np.intp)
    group[near], group[~near] = first, groups + rest
    total = np.bincount(group)
    return total[None], np.bincount(group[relevant], minlength=len(total))[None]
