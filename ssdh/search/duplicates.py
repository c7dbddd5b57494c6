"""Groups of near-identical images: exact copies by hash, then a shortlist by codes, confirmed by features.

    groups = find_groups(table, features, radius=8, min_similarity=0.95)

Pairs whose codes differ in at most `radius` bits come from `ssdh.search.close_pairs`; of those, pairs whose features
have a cosine of at least `min_similarity` stay, and what they connect is a group. Nothing is deleted here or anywhere.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ssdh.core.errors import ParameterError
from ssdh.hashing.rerank import Features
from ssdh.search.close_pairs import close_pairs
from ssdh.search.engines import CodeTable

SHARE = 8  # of the bits, one in so many may differ by default

SIMILARITY = 0.9  # the least cosine by default

PAIRS = 1 << 16  # pairs whose features are compared at once


@dataclass(frozen=True)
class Member:
    """One image of a group: its row, and how far its code and features are from those of the group's first image.

    similarity: the cosine, 1 for an exact copy; None where there are no features. exact: same SHA-256 as an image of
    the group before it.
    """

    row: int
    distance: int
    similarity: float | None
    exact: bool


def usual_radius(bits: int) -> int:
    """The bits that may differ where nobody says."""
    return max(1, bits // SHARE)


def find_groups(
    table: CodeTable, features: Features | None, *, radius: int, min_similarity: float
) -> list[list[Member]]:
    """Groups of at least two images, the largest first; inside a group, and among equals, by row.

    table: codes and, in `sha256`, digests, by row. features: by the same rows, or None, when codes alone decide.
    Raises ParameterError for a radius outside 0…bits or a similarity outside −1…1.
    """
    if not 0 <= radius <= table.bits:
        raise ParameterError(f"radius must be from 0 to {table.bits} bits, got {radius}")
    if not -1 <= min_similarity <= 1:
        raise ParameterError(f"min-similarity must be from -1 to 1, got {min_similarity}")
    if not len(table):
        return []
    _, first_row, same = np.unique(np.array(table.metadata["sha256"]), return_index=True, return_inverse=True)
    different = np.sort(first_row)  # one row of each content
    groups = _Groups(len(table))
    groups.connect(first_row[same], np.arange(len(table)))
    for left, right in close_pairs(table.packed[different], table.bits, radius):
        left, right = groups.apart(different[left], different[right])
        if features is not None:
            near = similarities(features, left, right) >= min_similarity
            left, right = left[near], right[near]
        groups.connect(left, right)
    return [_members(rows, table, features, same) for rows in _several(groups.labels)]


class _Groups:
    """Rows and what connects them; labels: int32 (n,), equal where rows are connected."""

    def __init__(self, count: int) -> None:
        self.labels: NDArray[np.int32] = np.arange(count, dtype=np.int32)

    def apart(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Those pairs that are not connected yet: among thousands of alike images, few are."""
        differ = self.labels[left] != self.labels[right]
        return left[differ], right[differ]

    def connect(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        """Connect pairs of rows."""
        if len(left):
            ends, count = (self.labels[left], self.labels[right]), len(self.labels)
            graph = coo_array((np.ones(len(left), np.int8), ends), shape=(count, count))
            self.labels = connected_components(graph, directed=False)[1][self.labels]


def _several(labels: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """The rows of every label that has at least two, the most first."""
    order = np.argsort(labels, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: (-len(part), part[0]))


def _members(
    rows: NDArray[np.int64], table: CodeTable, features: Features | None, same: NDArray[np.int64]
) -> list[Member]:
    first = np.full(len(rows), rows[0])
    distances = np.bitwise_count(table.packed[rows] ^ table.packed[rows[0]]).sum(axis=1, dtype=np.int64)
    cosines = [None] * len(rows) if features is None else similarities(features, first, rows).tolist()
    _, shown = np.unique(same[rows], return_index=True)
    exact = np.ones(len(rows), np.bool_)
    exact[shown] = False
    return [
        Member(
            int(row), int(distance), 1.0 if cosine is not None and same[row] == same[rows[0]] else cosine, bool(copy)
        )
        for row, distance, cosine, copy in zip(rows, distances, cosines, exact, strict=True)
    ]


def similarities(features: Features, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float32]:
    """Cosines (n,) of the features of pairs of rows, a block at a time; 0 where a feature is 0."""
    similarity = np.empty(len(left), np.float32)
    for start in range(0, len(left), PAIRS):
        part = slice(start, start + PAIRS)
        a, b = (np.asarray(features[rows[part]], np.float32) for rows in (left, right))
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        similarity[part] = np.einsum("nd,nd->n", a, b) / np.where(lengths > 0, lengths, 1)
    return similarity
