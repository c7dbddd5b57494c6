"""Exact search by float features, by cosine, inner product or distance: what codes are compared with. Numpy only.

Similarities stream through in blocks of queries; the features (a memory map, say) are read in file order and never
copied whole.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32, Rows
from ssdh.core.files import take_rows
from ssdh.core.split import Split

Flags = NDArray[np.bool_]
Metric = Literal["cosine", "dot", "l2"]
BLOCK_BYTES = 128_000_000  # of a block of similarities
CHUNK_BYTES = 64_000_000  # of features read at once


def similarity_blocks(
    features: NDArray[Any],
    query: Rows,
    database: Rows,
    centre: NDArray[np.floating[Any]] | None = None,
    *,
    metric: Metric = "cosine",
) -> Iterator[tuple[slice, Float32]]:
    """Yield (queries, similarities): a slice of `query`'s positions and their similarity, float32 (b, len(database)).

    features: (N, D) of all images, of any number type; query (q,), database (n,): row numbers; centre: (D,) subtracted
    from every feature first. metric: "cosine", cos(f_q, f_x), 0 for a row of zeros; "dot", f_q·f_x; "l2",
    −‖f_q − f_x‖². The yielded array is the caller's to change.
    """
    num_rows, dim = features.shape
    step = max(1, BLOCK_BYTES // (4 * num_rows))
    chunk = max(1, CHUNK_BYTES // (4 * dim))
    for start in range(0, len(query), step):
        block = slice(start, min(start + step, len(query)))
        vectors = _vectors(take_rows(features, query[block]), centre, metric)
        similarities = np.empty((len(vectors), num_rows), np.float32)
        for first in range(0, num_rows, chunk):
            rows = slice(first, first + chunk)
            others = _vectors(take_rows(features, rows), centre, metric)
            np.matmul(vectors, others.T, out=similarities[:, rows])
            if metric == "l2":
                similarities[:, rows] *= 2
                similarities[:, rows] -= np.einsum("ij,ij->i", others, others)
                similarities[:, rows] -= np.einsum("ij,ij->i", vectors, vectors)[:, None]
        yield block, similarities[:, database]


def nearest(features: NDArray[Any], query: Rows, database: Rows, k: int, *, metric: Metric = "cosine") -> Rows:
    """The `k` database positions most similar to each query, nearest first, equal ones in the database's order.

    Returns int64 (q, k). Raises ValueError where k is not between 1 and len(database).
    """
    n = len(database)
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the {n} database items, got {k}")
    positions = np.empty((len(query), k), np.int64)
    for block, similarities in similarity_blocks(features, query, database, metric=metric):
        for row, own in zip(positions[block], similarities, strict=True):
            near = np.flatnonzero(own >= np.partition(own, n - k)[n - k])  # far faster than argpartition
            row[:] = near[np.argsort(-own[near], kind="stable")[:k]]
    return positions


def sharing(labels: NDArray[np.uint8], split: Split, block: slice) -> Flags:
    """Whether each database image shares a label with each query of the block; (b, n)."""
    query, database = (labels[rows].astype(np.float32) for rows in (split.query[block], split.database))
    shared: Flags = query @ database.T > 0
    return shared


def ranked_counts(
    similarity: NDArray[np.floating[Any]], relevant: NDArray[np.bool_], kept: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Items and relevant ones at each of the highest similarities, descending; for `ssdh.hashing.ranking`.

    similarity, relevant: (n,) of one query; whole tie groups are returned until `kept` items are covered. Two (1, G).

    >>> ranked_counts(np.array([0.1, 0.9, 0.5, 0.5]), np.array([True, True, False, True]), 2)
    (array([[1, 2]]), array([[1, 1]]))
    """
    n = len(similarity)
    near = np.flatnonzero(similarity >= np.partition(similarity, n - kept)[n - kept]) if kept < n else np.arange(n)
    _, group = np.unique(-similarity[near], return_inverse=True)
    total = np.bincount(group)
    hits = np.bincount(group[relevant[near]], minlength=len(total))
    return total[None], hits[None]


def _vectors(features: NDArray[Any], centre: NDArray[np.floating[Any]] | None, metric: Metric) -> Float32:
    """Rows as float32, centred first where `centre` is given, then of length 1 where the metric is cosine."""
    vectors = np.array(features, np.float32)
    if centre is not None:
        vectors -= centre.astype(np.float32)
    if metric != "cosine":
        return vectors
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    vectors /= np.where(norms > 0, norms, 1)[:, None]
    return vectors
