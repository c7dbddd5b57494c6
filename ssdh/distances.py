"""Cosine distances between all pairs of n vectors, streamed in blocks: no n×n float matrix, half the products.

d_ij = 1 − cos(f_i, f_j) = ½‖x_i − x_j‖² with x_i = f_i/‖f_i‖ − mean. Deep ReLU features share a large mean, so that all
distances may lie below 0.05; on the shifted unit vectors the float32 product keeps its relative precision there.
"""

import functools
import itertools
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ssdh.errors import DataError
from ssdh.runs import num_cores

KEEP_BYTES = 60_000_000  # distances up to this size are kept: every later pass reads instead of multiplying
# of a block of pairs: 2 MB of distances, near enough to the core from the product to the last use, and so many that
# threads do not wait for the interpreter lock
BLOCK_ROWS, BLOCK_COLUMNS = 512, 1024
EXACT = 256  # pairs that a core decides in float64 at a time
TILE = 256  # vectors a side of a sampled block of pairs
CHUNK = 1 << 16  # elements that stay in a core's cache between two operations

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Indices = NDArray[np.int64]
Range = Indices | slice  # numbers of vectors; a slice where they are consecutive
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Block:
    """Distances of the pairs between two sets of vectors, or (columns: None) of the pairs inside one.

    number: counts the blocks from 0. values: len(rows) · len(columns) float32, row by row; or the strict upper triangle
    of the rows, row by row.
    """

    number: int
    values: Float32
    rows: Indices
    columns: Indices | None
    _buffers: dict[np.dtype[Any], NDArray[Any]] = field(default_factory=dict)

    def buffer(self, dtype: Any) -> NDArray[Any]:
        """An array of the length of `values`; this thread's next block gets the same memory again.

        Pages of fresh memory would cost more than the arithmetic on them.
        """
        buffer = self._buffers.get(np.dtype(dtype))
        if buffer is None or buffer.size < self.values.size:
            size = max(self.values.size, BLOCK_ROWS * BLOCK_COLUMNS)
            buffer = self._buffers[np.dtype(dtype)] = np.empty(size, dtype)
        return buffer[: self.values.size]

    def pairs(self, positions: Indices) -> tuple[Indices, Indices]:
        """Return the vector numbers (i, j) of the distances at `positions` of `values`."""
        if self.columns is None:
            upper_i, upper_j = upper_triangle(len(self.rows))
            return self.rows[upper_i[positions]], self.rows[upper_j[positions]]
        i, j = np.divmod(positions, len(self.columns))
        return self.rows[i], self.columns[j]


class Vectors(Protocol):
    """Shifted unit vectors on a device."""

    def distances(self, i: Range, j: Range, out: Float32) -> None:
        """Write the distances between the vectors i and j to `out`, (len(i), len(j))."""


class PairDistances:
    """All pairs i < j of the rows of `features` (n, d), any float type, memory maps too.

    Above the features it needs (n, d) float32 for the shifted unit vectors, and in a pass a few arrays of a block's
    length a core, some 10 MB. When all n(n−1)/2 distances fit in `keep_bytes` they are kept after the first pass, and
    the vectors are dropped.

    Raises DataError for fewer than two rows, NaN or infinite values, and rows that are all zero.
    """

    def __init__(self, features: NDArray[Any], *, keep_bytes: int = KEEP_BYTES, device: str = "cpu") -> None:
        if features.ndim != 2 or min(features.shape) < 1:
            raise DataError(f"features must be (images, dimensions), got an array of shape {features.shape}")
        if len(features) < 2:
            raise DataError("the structure needs at least two training images, got 1: raise num_train")
        self.features = features
        self.num_vectors = len(features)
        self.num_pairs = self._num_all
        self._device = device
        self._probe = self._probed(features)
        self._keep = 4 * self.num_pairs <= keep_bytes
        self._vectors: Vectors | None = None
        self._kept: Float32 | None = None

    @property
    def _num_all(self) -> int:
        return self.num_vectors * (self.num_vectors - 1) // 2

    @property
    def complete(self) -> bool:
        """Whether these are all pairs, not a sample of them."""
        return self.num_pairs == self._num_all

    def each(self, work: Callable[[Block], T]) -> list[T]:
        """The results of `work` on every block, in their order, shared out over the cores.

        Every pair is in one block. Its values must not be written, and hold until `work` returns.
        """
        blocks = list(self._layout())
        sizes = [num_pairs(*block) for block in blocks]
        starts = list(itertools.accumulate(sizes, initial=0))
        kept = self._kept
        if kept is None and self._vectors is None:
            self._vectors = vectors_on(self._device, *shifted_unit_vectors(self.features))
        new = np.empty(self.num_pairs, np.float32) if self._keep and kept is None else None
        space: defaultdict[int, Float32] = defaultdict(lambda: np.empty(max(sizes), np.float32))  # of each worker
        buffers: defaultdict[int, dict[np.dtype[Any], NDArray[Any]]] = defaultdict(dict)

        def on(number: int, worker: int) -> T:
            rows, columns = blocks[number]
            if kept is not None:
                values = kept[starts[number] : starts[number + 1]]
            else:
                values = space[worker][: sizes[number]] if new is None else new[starts[number] : starts[number + 1]]
                self._multiply(rows, columns, values)
            return work(Block(number, values, rows, columns, buffers[worker]))

        results = on_cores(on, range(len(blocks)))
        if new is not None:
            self._kept, self._vectors = new, None
        return results

    def are_of(self, features: NDArray[Any]) -> bool:
        """Whether these are the distances of this very array and it still holds the same rows."""
        return features is self.features and np.array_equal(self._probed(features), self._probe)

    @staticmethod
    def _probed(features: NDArray[Any]) -> NDArray[Any]:
        """A number for each row that changes when the row does, (n,)."""
        with one_blas_thread():
            probe: NDArray[Any] = features @ np.cos(np.arange(features.shape[1])).astype(features.dtype)
        return probe

    def sample(self, max_pairs: int, seed: int) -> "PairDistances":
        """About `max_pairs` of these pairs; all of them where there are no more, or for 0."""
        if max_pairs == 0 or max_pairs >= self.num_pairs:
            return self
        return SampledDistances(self.features, max_pairs, seed, device=self._device)

    def exact(self, i: Indices, j: Indices) -> Float64:
        """Return the distances of the pairs (i, j) in float64, each computed from its two rows alone."""

        def part(start: int, _: int) -> Float64:
            return exact_distances(self.features, i[start : start + EXACT], j[start : start + EXACT])

        return np.concatenate(on_cores(part, range(0, max(len(i), 1), EXACT)))

    def _layout(self) -> Iterator[tuple[Indices, Indices | None]]:
        """Yield the (rows, columns) of every block: pairs inside a range of vectors, and with later ranges."""
        numbers = np.arange(self.num_vectors)
        for start in range(0, self.num_vectors, BLOCK_ROWS):
            rows, later = numbers[start : start + BLOCK_ROWS], numbers[start + BLOCK_ROWS :]
            yield rows, None
            if len(later):
                for columns in np.array_split(later, math.ceil(len(later) / BLOCK_COLUMNS)):
                    yield rows, columns

    def _multiply(self, rows: Indices, columns: Indices | None, values: Float32) -> None:
        """Compute the distances of a block."""
        assert self._vectors is not None
        if columns is None:
            square = np.empty((len(rows), len(rows)), np.float32)
            self._vectors.distances(_range_of(rows), _range_of(rows), square)
            values[:] = square[upper_triangle(len(rows))]
        else:
            out = values.reshape(len(rows), len(columns))
            self._vectors.distances(_range_of(rows), _range_of(columns), out)


class SampledDistances(PairDistances):
    """About `max_pairs` pairs, drawn with `seed`: tiles of up to 256 × 256 disjoint vectors of seeded permutations.

    Every vector is in as many tiles as any other, give or take one.
    """

    def __init__(self, features: NDArray[Any], max_pairs: int, seed: int, *, device: str = "cpu") -> None:
        super().__init__(features, device=device)
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


@functools.cache
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")  # looking for the libraries takes longer than a pass


def one_blas_thread() -> AbstractContextManager[Any]:
    """Meanwhile each matrix product runs in the thread that asks for it.

    So no digit depends on the number of cores, and BLAS's own threads, which wait for more work by spinning, take no
    core from the threads of `on_cores`. It holds for the whole process: for one caller at a time.
    """
    limit: AbstractContextManager[Any] = _blas().limit(limits=1)
    return limit


def on_cores(work: Callable[[U, int], T], items: Sequence[U]) -> list[T]:
    """`work(item, worker)` of every item, in their order; each core's worker, counted from 0, takes the next one.

    The caller waits for the workers, not for each item: waking it takes the interpreter lock from them. Items are taken
    in order; after an error no further one is, and the error of the first item that failed is raised.
    """
    results: list[Any] = [None] * len(items)
    errors: dict[int, Exception] = {}
    numbers = iter(range(len(items)))

    def run(worker: int) -> None:
        for number in numbers:
            try:
                results[number] = work(items[number], worker)
            except Exception as error:
                errors[number] = error
                _exhaust(numbers)

    workers = max(1, min(num_cores(), len(items)))
    with one_blas_thread(), ThreadPoolExecutor(workers) as pool:
        try:
            list(pool.map(run, range(workers)))
        except KeyboardInterrupt:
            _exhaust(numbers)
            raise
    if errors:
        raise errors[min(errors)]
    return results


def _exhaust(numbers: Iterator[int]) -> None:
    for _ in numbers:
        pass


@functools.lru_cache(maxsize=2)
def upper_triangle(size: int) -> tuple[Indices, Indices]:
    """Row and column of the elements above the diagonal of a (size, size) matrix, row by row."""
    return np.triu_indices(size, 1)


def num_pairs(rows: Indices, columns: Indices | None) -> int:
    """The number of pairs between rows and columns, or inside the rows."""
    return len(rows) * (len(rows) - 1) // 2 if columns is None else len(rows) * len(columns)


def _range_of(rows: Indices) -> Range:
    """A slice, which copies nothing, where sorted rows are consecutive."""
    consecutive = rows[-1] - rows[0] == len(rows) - 1
    return slice(int(rows[0]), int(rows[-1]) + 1) if consecutive else rows


def shifted_unit_vectors(features: NDArray[Any]) -> tuple[Float32, Float32]:
    """Return x (n, d) float32, the unit vectors less their mean, and ½‖x‖² (n,) float32; computed in float64.

    Raises DataError naming the first row that holds NaN or infinity, or only zeros.
    """
    n, dim = features.shape
    rows = max(1, CHUNK // dim)
    starts = range(0, n, rows)
    inverse = np.empty(n)
    x = np.empty((n, dim), np.float32)
    half = np.empty(n, np.float32)

    def sum_units(start: int, _: int) -> Float64:
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
        total: Float64 = inverse[start : start + rows] @ block
        return total

    def shift(start: int, _: int) -> None:
        block = features[start : start + rows] * inverse[start : start + rows, None]
        block -= mean
        x[start : start + rows] = block
        half[start : start + rows] = 0.5 * np.einsum("ij,ij->i", block, block)

    mean = functools.reduce(np.add, on_cores(sum_units, starts)) / n
    on_cores(shift, starts)
    return x, half


def distances(x: Float32, y: Float32, half_x: Float32, half_y: Float32, out: Float32 | None = None) -> Float32:
    """Return ½‖x_i‖² + ½‖y_j‖² − x_i·y_j for shifted unit vectors: x (a, d), y (b, d) → (a, b) float32."""
    product: Float32 = np.matmul(x, y.T, out=out)
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


def vectors_on(device: str, x: Float32, half: Float32) -> Vectors:
    """Shifted unit vectors x (n, d) with ½‖x‖² (n,), their products taken on `device`.

    "cpu" is numpy's BLAS and imports no torch (torch's start-up takes seconds, its product is no faster); "auto" is the
    GPU where the machine has one.
    """
    if device == "auto":
        device = "cuda" if Path("/dev/nvidiactl").exists() and _cuda_works() else "cpu"
    return NumpyVectors(x, half) if device == "cpu" else TorchVectors(x, half, device)


def _cuda_works() -> bool:
    import torch

    return torch.cuda.is_available()


class NumpyVectors:
    """Vectors in memory."""

    def __init__(self, x: Float32, half: Float32) -> None:
        self._x, self._half = x, half

    def distances(self, i: Range, j: Range, out: Float32) -> None:
        """See `Vectors`."""
        distances(self._x[i], self._x[j], self._half[i], self._half[j], out)


class TorchVectors:
    """Vectors on one of torch's devices; the product is float32, never TF32."""

    def __init__(self, x: Float32, half: Float32, device: str) -> None:
        import torch

        self._torch = torch
        self._lock = threading.Lock()  # the device works on one block after the other anyway
        self._x, self._half = (torch.from_numpy(array).to(device) for array in (x, half))

    def distances(self, i: Range, j: Range, out: Float32) -> None:
        """See `Vectors`."""
        with self._lock:
            shifts = self._half[i][:, None] + self._half[j]
            self._torch.from_numpy(out).copy_(shifts - self._x[i] @ self._x[j].T)
