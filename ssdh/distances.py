"""Cosine distances between all pairs of n vectors, streamed in blocks: no n×n float matrix, half the products.

d_ij = 1 − cos(f_i, f_j) = ½‖x_i − x_j‖² with x_i = f_i/‖f_i‖ − mean. Deep ReLU features share a large mean, so that all
distances may lie below 0.05; on the shifted unit vectors the float32 product keeps its relative precision there.
"""

import functools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssdh.errors import DataError

KEEP_BYTES = 60_000_000  # distances up to this size are kept: every later pass reads instead of multiplying
BLOCK_ELEMENTS = 8_000_000  # of a block of distances, 32 MB
PARTS = 8  # of a block that threads share; no matter how many there are, sums are taken in the same order
TILE = 256  # vectors a side of a sampled tile of pairs
CHUNK = 1 << 16  # elements that stay in a core's cache between two operations

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Indices = NDArray[np.int64]
T = TypeVar("T")
Multiply = Callable[..., Any]  # (a, b, out=None) as np.matmul


@dataclass(frozen=True)
class Block:
    """Distances of the pairs between two sets of vectors, or (columns: None) of the pairs inside one.

    values: len(rows) · len(columns) float32, row by row; or the strict upper triangle of the rows, row by row.
    """

    values: Float32
    rows: Indices
    columns: Indices | None

    def pairs(self, positions: Indices) -> tuple[Indices, Indices]:
        """Return the vector numbers (i, j) of the distances at `positions` of `values`."""
        if self.columns is None:
            upper_i, upper_j = upper_triangle(len(self.rows))
            return self.rows[upper_i[positions]], self.rows[upper_j[positions]]
        i, j = np.divmod(positions, len(self.columns))
        return self.rows[i], self.columns[j]

    def split(self, parts: int) -> Iterator["Block"]:
        """Yield about `parts` blocks of neighbouring rows that make up this one; pairs inside a set stay together."""
        if self.columns is None:
            yield self
            return
        width, step = len(self.columns), math.ceil(len(self.rows) / parts)
        for start in range(0, len(self.rows), step):
            rows = self.rows[start : start + step]
            yield Block(self.values[start * width : (start + len(rows)) * width], rows, self.columns)


class PairDistances:
    """All pairs i < j of the rows of `features` (n, d), any float type, memory maps too.

    Above the features it needs (n, d) float32 for the shifted unit vectors, and one block; when all n(n−1)/2 distances
    fit in `keep_bytes` they are kept after the first pass and the vectors are dropped.

    Raises DataError for fewer than two rows, NaN or infinite values, and rows that are all zero.
    """

    def __init__(self, features: NDArray[Any], *, keep_bytes: int = KEEP_BYTES, device: str = "cpu") -> None:
        if features.ndim != 2 or min(features.shape) < 1:
            raise DataError(f"features must be (images, dimensions), got an array of shape {features.shape}")
        if len(features) < 2:
            raise DataError("the structure needs at least two training images, got 1: raise num_train")
        self.features = features
        self.num_vectors = len(features)
        self.num_pairs = self.num_vectors * (self.num_vectors - 1) // 2
        self._multiply = multiplier(device)
        self._probe = self._probed(features)
        self._keep = 4 * self.num_pairs <= keep_bytes
        self._vectors: tuple[Float32, Float32] | None = None
        self._kept: Float32 | None = None

    def blocks(self) -> Iterator[Block]:
        """Yield every pair once; a block's values hold until the next one is asked for, and must not be written."""
        if self._keep and self._kept is None:
            kept = np.empty(self.num_pairs, np.float32)
            for block in self._multiplied(kept):
                del block
            self._kept, self._vectors = kept, None
        if self._kept is None:
            yield from self._multiplied(None)
            return
        at = 0
        for rows, columns in self._layout():
            size = num_pairs(rows, columns)
            yield Block(self._kept[at : at + size], rows, columns)
            at += size

    def each(self, work: Callable[[Block], T]) -> list[T]:
        """The results of `work` on every block or part of one, in their order, shared out over the cores."""
        threads = min(PARTS, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            if self._keep:
                return list(pool.map(work, self.blocks()))
            return [result for block in self.blocks() for result in pool.map(work, block.split(PARTS))]

    def are_of(self, features: NDArray[Any]) -> bool:
        """Whether these are the distances of this very array and it still holds the same rows."""
        return features is self.features and np.array_equal(self._probed(features), self._probe)

    @staticmethod
    def _probed(features: NDArray[Any]) -> NDArray[Any]:
        """A number for each row that changes when the row does, (n,)."""
        probe: NDArray[Any] = features @ np.cos(np.arange(features.shape[1])).astype(features.dtype)
        return probe

    def sample(self, max_pairs: int, seed: int) -> "PairDistances":
        """About `max_pairs` of these pairs; all of them where there are no more, or for 0."""
        if max_pairs == 0 or max_pairs >= self.num_pairs:
            return self
        return SampledDistances(self.features, max_pairs, seed, multiply=self._multiply)

    def exact(self, i: Indices, j: Indices) -> Float64:
        """Return the distances of the pairs (i, j) in float64, each computed from its two rows alone."""
        return exact_distances(self.features, i, j)

    def _layout(self) -> Iterator[tuple[Indices, Indices | None]]:
        """Yield the (rows, columns) of every block: pairs inside a range of vectors, and with all later ones."""
        everything = np.arange(self.num_vectors)
        step = max(1, min(512, BLOCK_ELEMENTS // self.num_vectors))
        for start in range(0, self.num_vectors, step):
            rows, later = everything[start : start + step], everything[start + step :]
            yield rows, None
            if len(later):
                yield rows, later

    def _multiplied(self, out: Float32 | None) -> Iterator[Block]:
        """Compute the blocks, into consecutive parts of `out` where it is given."""
        if self._vectors is None:
            self._vectors = shifted_unit_vectors(self.features)
        x, half = self._vectors
        largest = max(num_pairs(*part) for part in self._layout())
        space = np.empty(max(largest, 1), np.float32) if out is None else out
        at = 0
        for rows, columns in self._layout():
            values = space[at : at + num_pairs(rows, columns)]
            i = _range_of(rows)
            if columns is None:
                square = distances(x[i], x[i], half[i], half[i], self._multiply)
                values[:] = square[upper_triangle(len(rows))]
            else:
                j = _range_of(columns)
                distances(x[i], x[j], half[i], half[j], self._multiply, values.reshape(len(rows), len(columns)))
            yield Block(values, rows, columns)
            at += values.size if out is not None else 0


class SampledDistances(PairDistances):
    """About `max_pairs` pairs, drawn with `seed`: tiles of up to 256 × 256 disjoint vectors of seeded permutations.

    Every vector is in as many tiles as any other, give or take one.
    """

    def __init__(self, features: NDArray[Any], max_pairs: int, seed: int, *, multiply: Multiply = np.matmul) -> None:
        super().__init__(features)
        self._multiply = multiply
        self._seed = seed
        self._tile = min(TILE, self.num_vectors // 2)
        self._tiles = math.ceil(max_pairs / self._tile**2)
        self.num_pairs = self._tiles * self._tile**2
        self._keep = 4 * self.num_pairs <= KEEP_BYTES

    def _layout(self) -> Iterator[tuple[Indices, Indices | None]]:
        rng = np.random.default_rng(self._seed)
        order = np.empty(0, np.int64)
        for _ in range(self._tiles):
            if len(order) < 2 * self._tile:  # what is left of a permutation is too few for a tile
                order = rng.permutation(self.num_vectors)
            yield np.sort(order[: self._tile]), np.sort(order[self._tile : 2 * self._tile])
            order = order[2 * self._tile :]


@functools.lru_cache(maxsize=2)
def upper_triangle(size: int) -> tuple[Indices, Indices]:
    """Row and column of the elements above the diagonal of a (size, size) matrix, row by row."""
    return np.triu_indices(size, 1)


def num_pairs(rows: Indices, columns: Indices | None) -> int:
    """The number of pairs between rows and columns, or inside the rows."""
    return len(rows) * (len(rows) - 1) // 2 if columns is None else len(rows) * len(columns)


def _range_of(rows: Indices) -> Indices | slice:
    """A slice, which copies nothing, where sorted rows are consecutive."""
    consecutive = rows[-1] - rows[0] == len(rows) - 1
    return slice(int(rows[0]), int(rows[-1]) + 1) if consecutive else rows


def shifted_unit_vectors(features: NDArray[Any]) -> tuple[Float32, Float32]:
    """Return x (n, d) float32, the unit vectors less their mean, and ½‖x‖² (n,) float32; computed in float64.

    Raises DataError naming the first row that holds NaN or infinity, or only zeros.
    """
    n, dim = features.shape
    rows = max(1, CHUNK // dim)
    inverse = np.empty(n)
    mean = np.zeros(dim)
    for start in range(0, n, rows):
        block = np.asarray(features[start : start + rows], dtype=np.float64)
        squares = np.einsum("ij,ij->i", block, block)
        if not np.isfinite(squares).all():
            bad = start + int(np.flatnonzero(~np.isfinite(squares))[0])
            raise DataError(f"features of train image {bad} hold NaN or infinity: extract them again (features.npy)")
        if not squares.all():
            bad = start + int(np.flatnonzero(squares == 0)[0])
            raise DataError(
                f"features of train image {bad} are all zero, so that it has no cosine distance: "
                "remove the image or choose another backbone.layer"
            )
        inverse[start : start + rows] = 1 / np.sqrt(squares)
        mean += inverse[start : start + rows] @ block
    mean /= n
    x = np.empty((n, dim), np.float32)
    half = np.empty(n, np.float32)
    for start in range(0, n, rows):
        block = features[start : start + rows] * inverse[start : start + rows, None]
        block -= mean
        x[start : start + rows] = block
        half[start : start + rows] = 0.5 * np.einsum("ij,ij->i", block, block)
    return x, half


def distances(
    x: Float32, y: Float32, half_x: Float32, half_y: Float32, multiply: Multiply = np.matmul, out: Float32 | None = None
) -> Float32:
    """Return ½‖x_i‖² + ½‖y_j‖² − x_i·y_j for shifted unit vectors: x (a, d), y (b, d) → (a, b) float32."""
    product: Float32 = multiply(x, y.T, out=out)
    np.subtract(half_x[:, None], product, out=product)
    product += half_y
    return product


def exact_distances(features: NDArray[Any], i: Indices, j: Indices) -> Float64:
    """Return 1 − cos(f_i, f_j) in float64, (m,) for m pairs of row numbers, each from its two rows alone.

    So a pair's value never depends on the block it was asked for in.
    """
    result = np.empty(len(i))
    step = max(1, 2 * CHUNK // features.shape[1])
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        a = features[i[part]].astype(np.float64)
        b = features[j[part]].astype(np.float64)
        norms = np.sqrt(np.einsum("ij,ij->i", a, a)) * np.sqrt(np.einsum("ij,ij->i", b, b))
        result[part] = 1 - np.einsum("ij,ij->i", a, b) / norms
    return np.maximum(result, 0, out=result)


def multiplier(device: str) -> Multiply:
    """Return a matrix product `(a, b, out=None)` of float32 numpy arrays that runs on `device`.

    "cpu" is numpy's BLAS and imports no torch (torch's start-up takes seconds, its product is no faster); "auto" is the
    GPU where the machine has one.
    """
    if device == "auto":
        device = "cuda" if Path("/dev/nvidiactl").exists() and _cuda_works() else "cpu"
    return np.matmul if device == "cpu" else torch_multiplier(device)


def _cuda_works() -> bool:
    import torch

    return torch.cuda.is_available()


def torch_multiplier(device: str) -> Multiply:
    """Return the product through torch on `device`: float32, never TF32."""
    import torch

    def multiply(a: Float32, b: Float32, out: Float32 | None = None) -> Float32:
        product = (torch.from_numpy(a).to(device) @ torch.from_numpy(b).to(device)).cpu().numpy()
        if out is None:
            return np.asarray(product, np.float32)
        out[:] = product
        return out

    return multiply
