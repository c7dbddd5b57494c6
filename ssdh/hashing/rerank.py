"""Two-stage search: a shortlist by Hamming distance, ordered by a finer score.

    near = distances <= edge(counts, 500)                      # a shortlist of 500 and whatever ties with the 500th
    order = best_first(distances[near], cosines(query, features[rows[near]]))

A shortlist of R holds every code that is no farther than the R-th nearest, so all of the tie group at its edge: what is
in follows from the codes alone, never from the order of rows. The score is the exact cosine of float features, kept as
float32, float16 or int8 (4, 2 or 1 bytes a dimension and image; a memory map is read where it is asked for); or, where
none are kept, that of the query's real outputs against the codes (Gordo, Perronnin, Gong, Lazebnik, *Asymmetric
distances for binary embeddings*, TPAMI 2014).
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssdh.hashing.codes import unpack

Scores = NDArray[np.float32]


class Features(Protocol):
    """Features (N, D) by row, such as a memory map."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(n, D) of these rows."""


def edge(total: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The distance of each query's farthest shortlisted code.

    total: (q, K + 1) codes at each distance; size: of the shortlist, at least 1; returns int64 (q,). Where there are
    fewer codes than `size` it is the farthest of all distances.

    >>> edge(np.array([[0, 2, 3, 1]]), 3).tolist()
    [2]
    """
    sums = np.cumsum(total, axis=1)
    farthest: NDArray[np.int64] = np.argmax(sums >= np.minimum(size, sums[:, -1:]), axis=1)
    return farthest


def cosines(query: ArrayLike, features: ArrayLike) -> Scores:
    """The cosine of a query's features (D,) with each row of features (n, D), float32 (n,); 0 where one is 0.

    Any real types; the scale of a row is of no matter, so int8 rows need no factors. Equal rows get equal cosines.

    >>> cosines([3.0, 4.0], np.array([[127, 0], [0, 0]], np.int8)).astype(float).round(4).tolist()
    [0.6, 0.0]
    """
    own, others = np.asarray(query, np.float32), np.asarray(features, np.float32)
    # einsum sums each row alike, wherever it stands; a matrix product does not
    lengths = np.sqrt(np.einsum("nd,nd->n", others, others) * np.einsum("d,d->", own, own))
    products = np.einsum("nd,d->n", others, own)
    result: Scores = np.divide(products, lengths, out=np.zeros(len(others), np.float32), where=lengths > 0)
    return result


def asymmetric_scores(outputs: ArrayLike, packed: NDArray[np.uint8], bits: int) -> Scores:
    """Σ_k z_k·b_k of a query's real outputs z (K,) and codes b of ±1, packed (n, ⌈K/8⌉); float32 (n,).

    A bit of which the network is sure counts more than one near its threshold.

    >>> codes = np.array([[0b10000000], [0b11000000]], np.uint8)
    >>> asymmetric_scores([0.9, -0.1], codes, 2).astype(float).round(4).tolist()
    [1.0, 0.8]
    """
    scores: Scores = np.einsum("nk,k->n", unpack(packed, bits).astype(np.float32), np.asarray(outputs, np.float32))
    return scores


def best_first(distances: NDArray[Any], scores: Scores) -> NDArray[np.intp]:
    """The order of a shortlist: by falling score; equal scores by distance, then as they stand.

    distances, scores: (n,); returns positions (n,).

    >>> best_first(np.array([0, 2, 1]), np.array([0.5, 0.9, 0.9], np.float32)).tolist()
    [2, 1, 0]
    """
    return np.lexsort((distances, -scores))


def nearest_first(distances: NDArray[Any], scores: Scores) -> NDArray[np.intp]:
    """The order by distance with ties by falling score, then as they stand; as `best_first` otherwise.

    >>> nearest_first(np.array([0, 1, 1]), np.array([0.5, 0.2, 0.9], np.float32)).tolist()
    [0, 2, 1]
    """
    return np.lexsort((-scores, distances))
