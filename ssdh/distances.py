"""Cosine distances between all pairs of n vectors, streamed in blocks: no n×n float matrix, half the products.

d_ij = 1 − cos(f_i, f_j) = ½‖x_i − x_j‖² with x_i = f_i/‖f_i‖ − mean. Deep ReLU features share a large mean, so that all
distances may lie below 0.05; on the shifted unit vectors the float32 product keeps its relative precision there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.errors import DataError

KEEP_BYTES = 60_000_000  # distances up to this size are kept: every later pass reads instead of multiplying
BLOCK_ELEMENTS = 8_000_000  # of a block of distances, 32 MB
CHUNK = 1 << 16  # elements that stay in a core's cache between two operations

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Distances of the pairs between the rows start:stop and either all later rows, or each other (`inner`).

    values: (stop − start) · (n − stop) float32, row by row; inner: the strict upper triangle, row by row.
    """

    values: Float32
    start: int
    stop: int
    num_vectors: int
    inner: bool

    def pairs(self, positions: Indices) -> tuple[Indices, Indices]:
        """Return the vector numbers (i, j), i < j, of the distances at `positions` of `values`."""
        if self.inner:
            upper_i, upper_j = np.triu_indices(self.stop - self.start, 1)
            return self.start + upper_i[positions], self.start + upper_j[positions]
        i, j = np.divmod(positions, self.num_vectors - self.stop)
        return self.start + i, self.stop + j


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
        self._vectors: Float32 | None = None
        self._half_norms: Float32 | None = None
        self._kept: Float32 | None = None

    def blocks(self) -> Iterator[Block]:
        """Yield every pair once; a block's values hold until the next one is asked for, and must not be written."""
        n = self.num_vectors
        if self._keep and self._kept is None:
            kept = np.empty(self.num_pairs, np.float32)
            for block in self._multiplied(kept):
                del block
            self._kept, self._vectors, self._half_norms = kept, None, None
        if self._kept is None:
            yield from self._multiplied(None)
            return
        at = 0
        for start, stop, inner, size in self._layout():
            yield Block(self._kept[at : at + size], start, stop, n, inner)
            at += size

    def are_of(self, features: NDArray[Any]) -> bool:
        """Whether these are the distances of this very array and it still holds the same rows."""
        return features is self.features and np.array_equal(self._probed(features), self._probe)

    @staticmethod
    def _probed(features: NDArray[Any]) -> NDArray[Any]:
        """A number for each row that changes when the row does, (n,)."""
        probe: NDArray[Any] = features @ np.cos(np.arange(features.shape[1])).astype(features.dtype)
        return probe

    def exact(self, i: Indices, j: Indices) -> Float64:
        """Return the distances of the pairs (i, j) in float64, each computed from its two rows alone."""
        return exact_distances(self.features, i, j)

    def _layout(self) -> Iterator[tuple[int, int, bool, int]]:
        """Yield (start, stop, inner, number of pairs) of every block."""
        n = self.num_vectors
        step = max(1, min(256 if self._keep else 512, BLOCK_ELEMENTS // n))
        for start in range(0, n, step):
            stop = min(start + step, n)
            rows = stop - start
            yield start, stop, True, rows * (rows - 1) // 2
            if stop < n:
                yield start, stop, False, rows * (n - stop)

    def _multiplied(self, out: Float32 | None) -> Iterator[Block]:
        """Compute the blocks, into consecutive parts of `out` where it is given."""
        if self._vectors is None or self._half_norms is None:
            self._vectors, self._half_norms = shifted_unit_vectors(self.features)
        x, half = self._vectors, self._half_norms
        space = np.empty(max(size for *_, size in self._layout()) or 1, np.float32) if out is None else out
        at = 0
        for start, stop, inner, size in self._layout():
            values = space[at : at + size]
            if inner:
                square = distances(x[start:stop], x[start:stop], half[start:stop], half[start:stop], self._multiply)
                values[:] = square[np.triu_indices(stop - start, 1)]
            else:
                target = values.reshape(stop - start, self.num_vectors - stop)
                distances(x[start:stop], x[stop:], half[start:stop], half[stop:], self._multiply, target)
            yield Block(values, start, stop, self.num_vectors, inner)
            at += size if out is not None else 0


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
    x: Float32, y: Float32, half_x: Float32, half_y: Float32, multiply: Any = np.matmul, out: Float32 | None = None
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


def multiplier(device: str) -> Any:
    """Return a matrix product `(a, b, out=None)` of float32 numpy arrays that runs on `device`.

    "cpu" is numpy's BLAS and imports no torch (torch's start-up takes seconds, its product is no faster); "auto" is the
    GPU where the machine has one.
    """
    if device == "auto":
        device = "cuda" if Path("/dev/nvidiactl").exists() else "cpu"
    return np.matmul if device == "cpu" else torch_multiplier(device)


def torch_multiplier(device: str) -> Any:
    """Return the product through torch on `device`: float32, never TF32."""
    import torch

    def multiply(a: Float32, b: Float32, out: Float32 | None = None) -> Float32:
        product = (torch.from_numpy(a).to(device) @ torch.from_numpy(b).to(device)).cpu().numpy()
        if out is None:
            return np.asarray(product, np.float32)
        out[:] = product
        return out

    return multiply
