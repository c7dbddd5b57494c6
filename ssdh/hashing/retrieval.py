"""Hamming retrieval: one pass counts items and relevant items at each distance; every metric follows from the counts.

No sort and no matrix of distances: codes and labels are compared as machine words (xor, popcount, and), the key
distance + (K + 1)·relevant of each pair is counted by `np.bincount`, and the database streams through in blocks that
stay in the processor's cache, on one thread a core. Formulas: `ssdh.hashing.ranking`. Numpy only, no torch.

    from ssdh.hashing.retrieval import mean_average_precision
    mean_average_precision(query_codes, database_codes, query_labels, database_labels, topk=5000)
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssdh.core.arrays import from_tensor
from ssdh.core.runtime import num_cores, on_cores
from ssdh.hashing import ranking
from ssdh.hashing.codes import check_packed, pack, words

Ties = Literal["expected", "stable"]
BLOCK = 65_536  # database rows a step: the buffers of one step (1.5 MB) stay in a core's cache


@dataclass(frozen=True)
class DistanceCounts:
    """Database items, and relevant ones, at each Hamming distance from each query.

    total, relevant: int64 (q, K + 1), column = distance.
    """

    total: NDArray[np.int64]
    relevant: NDArray[np.int64]

    def __add__(self, other: "DistanceCounts") -> "DistanceCounts":
        """The counts of both parts of a database together."""
        return DistanceCounts(self.total + other.total, self.relevant + other.relevant)


def mean_average_precision(
    query_codes: ArrayLike,
    database_codes: ArrayLike,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    topk: int | None = None,
    ties: Ties = "expected",
) -> float:
    """Mean over queries of the average precision at `topk` of the ranking by Hamming distance.

    query_codes (q, K), database_codes (n, K): −1 or +1; query_labels (q, C), database_labels (n, C): multi-hot;
    relevant = shares a label. topk: None or more than n for the whole database. AP = mean of the precision at each
    relevant rank over the relevant items inside the top-k; a query with none counts 0.
    ties: "expected" is the exact mean over all orders of items at equal distance; "stable" keeps the database's order.
    Raises ValueError where shapes or values do not fit.

    >>> codes, labels = [[1, 1], [1, -1], [-1, -1]], [[1, 0], [0, 1], [1, 0]]
    >>> round(mean_average_precision(codes[:1], codes, labels[:1], labels), 4)
    0.8333
    """
    query, database = np.asarray(from_tensor(query_codes)), np.asarray(from_tensor(database_codes))
    if query.ndim != 2 or database.ndim != 2 or query.shape[1] != database.shape[1]:
        raise ValueError(f"codes must be (q, K) and (n, K), got {query.shape} and {database.shape}")
    bits = query.shape[1]
    result = average_precisions(
        pack(query), pack(database), query_labels, database_labels, bits=bits, topk=topk, ties=ties
    )
    return float(result.mean()) if len(result) else 0.0


def average_precisions(
    query_packed: ArrayLike,
    database_packed: ArrayLike,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    *,
    bits: int,
    topk: int | None = None,
    ties: Ties = "expected",
) -> NDArray[np.float64]:
    """Average precision of each query, from packed codes; float64 (q,). As `mean_average_precision` otherwise.

    query_packed (q, ⌈bits/8⌉), database_packed (n, ⌈bits/8⌉): uint8 as `pack` makes them. Raises ValueError for
    another `ties` or a `topk` below 1.
    """
    if ties not in ("expected", "stable"):
        raise ValueError(f'ties must be "expected" or "stable", got {ties!r}')
    if topk is not None and topk < 1:
        raise ValueError(f"topk must be at least 1 or None, got {topk}")
    counts = count_distances(query_packed, database_packed, query_labels, database_labels, bits=bits)
    if ties == "expected":
        return ranking.average_precision(counts.total, counts.relevant, topk)
    return stable_average_precisions(
        query_packed, database_packed, query_labels, database_labels, bits=bits, topk=topk, counts=counts
    )


def count_distances(
    query_packed: ArrayLike,
    database_packed: ArrayLike,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    *,
    bits: int,
) -> DistanceCounts:
    """Count database items and relevant ones at each Hamming distance from each query.

    query_packed (q, ⌈bits/8⌉), database_packed (n, ⌈bits/8⌉): uint8; query_labels (q, C), database_labels (n, C):
    multi-hot (C = 0: nothing is relevant). Beside the inputs, their bits as words and the result it needs a few MB a
    core, whatever n. Raises ValueError where shapes do not fit.
    """
    pairs = _Pairs.make(query_packed, database_packed, query_labels, database_labels, bits)
    counts = np.zeros((pairs.num_queries, 2 * (bits + 1)), np.int64)

    def count(rows: NDArray[np.int64]) -> None:
        for start in range(0, pairs.num_items, BLOCK):
            block = _Block(pairs, slice(start, min(start + BLOCK, pairs.num_items)))
            for row in rows:
                counts[row] += block.count(row)

    in_turn = np.lexsort(pairs.query_labels)  # queries with the same labels follow each other
    on_cores(count, np.array_split(in_turn, num_cores()))
    relevant = counts[:, bits + 1 :].copy()
    return DistanceCounts(total=counts[:, : bits + 1] + relevant, relevant=relevant)


def stable_average_precisions(
    query_packed: ArrayLike,
    database_packed: ArrayLike,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    *,
    bits: int,
    topk: int | None = None,
    counts: DistanceCounts | None = None,
) -> NDArray[np.float64]:
    """Average precision where items at equal distance keep the database's order; float64 (q,).

    Equal to a stable argsort of each query's distances; only the items that can be in the top-k are sorted.
    counts: those of the same arguments, if at hand.
    """
    pairs = _Pairs.make(query_packed, database_packed, query_labels, database_labels, bits)
    if counts is None:
        counts = count_distances(query_packed, database_packed, query_labels, database_labels, bits=bits)
    kept = min(topk or pairs.num_items, pairs.num_items)
    farthest = np.argmax(np.cumsum(counts.total, axis=1) >= kept, axis=1)  # (q,) distance of the last item inside
    result = np.zeros(pairs.num_queries)

    def rank(rows: NDArray[np.int64]) -> None:
        block = _Block(pairs, slice(0, pairs.num_items))
        for row in rows:
            distance = block.distances(row)
            near = np.flatnonzero(distance <= farthest[row])
            near = near[np.argsort(distance[near], kind="stable")[:kept]]
            shared = pairs.database_labels[:, near] & pairs.query_labels[:, row, None]
            ranks = np.flatnonzero(shared.any(axis=0)) + 1
            if len(ranks):
                result[row] = np.mean(np.arange(1, len(ranks) + 1) / ranks)

    on_cores(rank, np.array_split(np.arange(pairs.num_queries), num_cores()))
    return result


# --- the inner loop -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pairs:
    """Codes and labels as machine words, one row a word: (words, q) and (words, n)."""

    query: NDArray[Any]
    database: NDArray[Any]
    query_labels: NDArray[Any]
    database_labels: NDArray[Any]
    bits: int

    @classmethod
    def make(cls, query: Any, database: Any, query_labels: Any, database_labels: Any, bits: int) -> "_Pairs":
        query = check_packed(query, bits, "query codes")
        database = check_packed(database, bits, "database codes")
        query_labels = np.asarray(from_tensor(query_labels))
        database_labels = np.asarray(from_tensor(database_labels))
        for name, labels, codes in (("query", query_labels, query), ("database", database_labels, database)):
            if labels.ndim != 2 or len(labels) != len(codes):
                raise ValueError(f"{name} labels must be ({len(codes)}, C), got shape {labels.shape}")
        if query_labels.shape[1] != database_labels.shape[1]:
            raise ValueError(
                f"labels must have the same C, got {query_labels.shape[1]} for queries and "
                f"{database_labels.shape[1]} for the database"
            )
        return cls(words(query), words(database), _label_words(query_labels), _label_words(database_labels), bits)

    @property
    def num_queries(self) -> int:
        return int(self.query.shape[1])

    @property
    def num_items(self) -> int:
        return int(self.database.shape[1])


def _label_words(labels: NDArray[Any]) -> NDArray[Any]:
    """Multi-hot (n, C) as bit words (⌈C/w⌉, n); without labels one word of zeros, which shares nothing."""
    present = labels != 0
    if labels.shape[1] == 0:
        present = np.zeros((len(labels), 1), np.bool_)
    return words(np.packbits(present, axis=1))


class _Block:
    """Some rows of the database, with one thread's buffers: every step writes in place, since fresh memory costs more.

    An item's key is distance + (K + 1)·relevant, one of 2(K + 1) values.
    """

    def __init__(self, pairs: _Pairs, items: slice) -> None:
        n = items.stop - items.start
        self.pairs = pairs
        self.codes, self.labels = pairs.database[:, items], pairs.database_labels[:, items]
        self.different, self.ones = np.empty(n, self.codes.dtype), np.empty(n, np.uint8)
        self.shared, self.also_shared = np.empty(n, self.labels.dtype), np.empty(n, self.labels.dtype)
        self.flags = np.empty(n, np.bool_)
        self.distance, self.key = np.empty(n, np.uint16), np.empty(n, np.intp)
        self._same_labels, self._relevant = b"", np.zeros(n, np.uint16)

    def distances(self, row: int) -> NDArray[Any]:
        """Hamming distances of the block's items from query `row`; (n,), overwritten by the next call."""
        for word, code in enumerate(self.codes):
            np.bitwise_xor(code, self.pairs.query[word, row], out=self.different)
            np.bitwise_count(self.different, out=self.ones)
            if len(self.codes) == 1:
                return self.ones
            if word == 0:
                np.copyto(self.distance, self.ones)
            else:
                np.add(self.distance, self.ones, out=self.distance)
        return self.distance

    def relevant(self, row: int) -> NDArray[np.uint16]:
        """What relevance adds to the keys of query `row`; (n,), kept while the next query has the same labels."""
        labels = self.pairs.query_labels[:, row]
        if labels.tobytes() == self._same_labels:
            return self._relevant
        self._same_labels = labels.tobytes()
        self.shared.fill(0)
        for word in np.flatnonzero(labels):
            np.bitwise_and(self.labels[word], labels[word], out=self.also_shared)
            np.bitwise_or(self.shared, self.also_shared, out=self.shared)
        np.not_equal(self.shared, 0, out=self.flags)
        np.multiply(self.flags, np.uint16(self.pairs.bits + 1), out=self._relevant)
        return self._relevant

    def count(self, row: int) -> NDArray[np.int64]:
        """Items at each key of query `row`; (2(K + 1),)."""
        np.add(self.distances(row), self.relevant(row), out=self.key)
        return np.bincount(self.key, minlength=2 * (self.pairs.bits + 1))
