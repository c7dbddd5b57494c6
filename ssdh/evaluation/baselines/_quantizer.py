"""Codes of a faiss index as a baseline: faiss encodes, and compares a float query with a code by an estimated distance.

Features are brought to length 1, so that the smallest distance is the largest cosine.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32, Packed
from ssdh.evaluation.baselines._base import CHUNK_BYTES, CannotFitError, Quantizer, chunks
from ssdh.evaluation.baselines._linear import unit_rows

CENTRES = 256  # of a part of a product quantiser: a byte


@dataclass(frozen=True)
class FaissQuantizer(Quantizer):
    """A trained index without vectors, and the directions (d, D) that unit rows are projected on before it, if any."""

    index: Any
    directions: Float32 | None = None

    @classmethod
    def trained(cls, index: Any, train: Float32, directions: Float32 | None = None) -> "FaissQuantizer":
        """Train `index` on the train features (n, D)."""
        quantizer = cls(index, directions)
        index.train(quantizer.prepared(train))
        return quantizer

    def prepared(self, features: NDArray[Any]) -> Float32:
        """Features (n, D) as the index takes them: unit rows, projected, zeros up to its dimension."""
        rows = unit_rows(features)
        if self.directions is not None:
            rows = rows @ self.directions.T
        return np.ascontiguousarray(np.pad(rows, [(0, 0), (0, self.index.d - rows.shape[1])]))

    def encode(self, features: NDArray[Any]) -> Packed:
        """The index's own codes of all features (N, D), uint8 (N, bytes an image)."""
        return np.concatenate([self.index.sa_encode(self.prepared(part)) for part in chunks(features)])

    def scores(self, queries: NDArray[Any], codes: Packed) -> Float32:
        """The negative estimated squared distance |q − x|² plus |q|², which orders alike; float32 (q, n).

        Estimates are linear in the query: 2·q·x̂ − d(0, x), x̂ being the decoded vector and d(0, x) what faiss estimates
        from a query of zeros. A product instead of faiss's search, which sorts all the database.
        """
        doubled = 2 * self.prepared(queries)  # (q, d)
        scores = np.empty((len(doubled), len(codes)), np.float32)
        step = max(1, CHUNK_BYTES // (4 * self.index.d))
        for start in range(0, len(codes), step):
            part = slice(start, start + step)
            np.matmul(doubled, self.index.sa_decode(codes[part]).T, out=scores[:, part])
        return np.subtract(scores, self._from_zero(codes), out=scores)

    def _from_zero(self, codes: Packed) -> Float32:
        """The estimated squared distance of each code (n, bytes) from a query of zeros, (n,)."""
        index = faiss.clone_index(self.index)
        index.add_sa_codes(codes)
        distances, places = index.search(np.zeros((1, index.d), np.float32), len(codes))
        ordered = np.empty(len(codes), np.float32)
        ordered[places[0]] = distances[0]
        return ordered


def num_bytes(train: Float32, bits: int) -> int:
    """The parts of a product quantiser of `bits` bits, a byte each; raises CannotFitError where there can be none."""
    if bits % 8:
        raise CannotFitError(f"its codes are whole bytes, {bits} bits are not")
    if len(train) < CENTRES:
        raise CannotFitError(f"{len(train)} train images are fewer than its {CENTRES} centres")
    return bits // 8


def product_quantizer(dim: int, parts: int) -> Any:
    """An index of `parts` bytes for vectors of `dim` dimensions, rounded up to a multiple of the parts."""
    index = faiss.IndexPQ(-(-dim // parts) * parts, parts, 8)
    index.pq.cp.min_points_per_centroid = 1  # no word about few train images
    return index
