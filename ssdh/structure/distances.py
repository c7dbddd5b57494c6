"""Cosine distances between all pairs of n vectors, streamed in blocks: no n×n float matrix, half the products."""

import functools
import itertools
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32, Float64, Rows, from_tensor
from ssdh.core.errors import DataError
from ssdh.core.runtime import on_cores
from ssdh.structure.vectors import (
    ERROR,
    distances,
    exact_distances,
    shifted_unit_vectors,
)

KEEP_BYTES = 60_000_000  # distances up to this size are kept: every later pass reads instead of multiplying

# of a block of pairs: 2 MB of distances, near enough to the core from the product to the last use, and so many that
# threads do not wait for the interpreter lock
BLOCK_ROWS, BLOCK_COLUMNS = 512, 1024
EXACT = 256  # pairs that a core decides in float64 at a time
TILE = 256  # vectors a side of a sampled block of pairs
T = TypeVar("T")
Pairs = tuple[Rows, Rows]  # vector numbers (i, j)


@dataclass(frozen=True)
class Block:
    """Distances of the pairs between two sets of vectors, or (columns: None) of the pairs inside one.

    values: len(rows) · len(columns) float32, row by row; or the strict upper triangle of the rows, row by row.
    """

    values: Float32
    rows: Rows
    columns: Rows | None
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

    def pairs(self, positions: Rows) -> Pairs:
        """Return the vector numbers (i, j) of the distances at `positions` of `values`."""
        if self.columns is None:
            upper_i, upper_j = upper_triangle(len(self.rows))
            return self.rows[upper_i[positions]], self.rows[upper_j[positions]]
        i, j = np.divmod(positions, len(self.columns))
        return self.rows[i], self.columns[j]


class PairDistances:
    """All pairs i < j of the rows of `features` (n, d), any float type, memory maps and tensors too.

    Above the features it needs (n, d) float32 for the shifted unit vectors, and in a pass a few arrays of a block's
    length a core, some 10 MB. When all n(n−1)/2 distances fit in KEEP_BYTES they are kept after the first pass, and
    the vectors are dropped; `keep=False`, for one pass alone, keeps none. error: bound of a distance's error, relative
    to the largest distance.

    Raises DataError for fewer than two rows, NaN or infinite values, and rows that are all zero.
    """

    error = ERROR

    def __init__(self, features: NDArray[Any], *, keep: bool = True) -> None:
        features = from_tensor(features)
        if features.ndim != 2 or min(features.shape) < 1:
            raise DataError(f"features must be (images, dimensions), got an array of shape {features.shape}")
        if len(features) < 2:
            raise DataError("the structure needs at least two training images, got 1: raise num_train")
        self.features = features
        self.keep = keep
        self.num_vectors = len(features)
        self.num_pairs = self._num_all
        self._vectors: tuple[Float32, Float32] | None = None
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
            self._vectors = shifted_unit_vectors(self.features)
        keep = self.keep and kept is None and 4 * self.num_pairs <= KEEP_BYTES
        new = np.empty(self.num_pairs, np.float32) if keep else None
        space: defaultdict[int, Float32] = defaultdict(lambda: np.empty(max(sizes), np.float32))  # of each thread
        buffers: defaultdict[int, dict[np.dtype[Any], NDArray[Any]]] = defaultdict(dict)

        def on(number: int) -> T:
            rows, columns = blocks[number]
            thread = threading.get_ident()
            if kept is not None:
                values = kept[starts[number] : starts[number + 1]]
            else:
                values = space[thread][: sizes[number]] if new is None else new[starts[number] : starts[number + 1]]
                self._multiply(rows, columns, values)
            return work(Block(values, rows, columns, buffers[thread]))

        results = on_cores(on, range(len(blocks)))
        if new is not None:
            self._kept, self._vectors = new, None
        return results

    def sample(self, max_pairs: int, seed: int) -> "PairDistances":
        """About `max_pairs` of these pairs; all of them where there are no more, or for 0."""
        if max_pairs == 0 or max_pairs >= self.num_pairs:
            return self
        return SampledDistances(self.features, max_pairs, seed)

    def exact(self, i: Rows, j: Rows) -> Float64:
        """Return the distances of the pairs (i, j) in float64, each computed from its two rows alone."""

        def part(start: int) -> Float64:
            return exact_distances(self.features, i[start : start + EXACT], j[start : start + EXACT])

        return np.concatenate(on_cores(part, range(0, max(len(i), 1), EXACT)))

    def exact_of(self, found: Sequence[Pairs]) -> Float64:
        """Return the distances in float64 of the pairs that were found in the blocks, one after the other."""
        i, j = (np.concatenate(numbers) for numbers in zip(*found, strict=True))
        return self.exact(i, j)

    def _layout(self) -> Iterator[tuple[Rows, Rows | None]]:
        """Yield the (rows, columns) of every block: pairs inside a range of vectors, and with later ranges."""
        numbers = np.arange(self.num_vectors)
        for start in range(0, self.num_vectors, BLOCK_ROWS):
            rows, later = numbers[start : start + BLOCK_ROWS], numbers[start + BLOCK_ROWS :]
            yield rows, None
            if len(later):
                for columns in np.array_split(later, math.ceil(len(later) / BLOCK_COLUMNS)):
                    yield rows, columns

    def _multiply(self, rows: Rows, columns: Rows | None, values: Float32) -> None:
        """Compute the distances of a block."""
        assert self._vectors is not None
        x, half = self._vectors
        i, j = _range_of(rows), _range_of(rows if columns is None else columns)
        if columns is None:
            values[:] = distances(x[i], x[j], half[i], half[j])[upper_triangle(len(rows))]
        else:
            distances(x[i], x[j], half[i], half[j], values.reshape(len(rows), len(columns)))


class SampledDistances(PairDistances):
    """About `max_pairs` pairs, drawn with `seed`: tiles of up to 256 × 256 disjoint vectors of seeded permutations.

    Every vector is in as many tiles as any other, give or take one.
    """

    def __init__(self, features: NDArray[Any], max_pairs: int, seed: int) -> None:
        super().__init__(features)
        self._seed = seed
        self._tile = min(TILE, self.num_vectors // 2)
        self._tiles = math.ceil(max_pairs / self._tile**2)
        self.num_pairs = self._tiles * self._tile**2

    def _layout(self) -> Iterator[tuple[Rows, Rows | None]]:
        rng = np.random.default_rng(self._seed)
        order = np.empty(0, np.int64)
        for _ in range(self._tiles):
            if len(order) < 2 * self._tile:  # what is left of a permutation is too few for a tile
                order = rng.permutation(self.num_vectors)
            yield np.sort(order[: self._tile]), np.sort(order[self._tile : 2 * self._tile])
            order = order[2 * self._tile :]


@functools.lru_cache(maxsize=2)
def upper_triangle(size: int) -> tuple[Rows, Rows]:
    """Row and column of the elements above the diagonal of a (size, size) matrix, row by row."""
    return np.triu_indices(size, 1)


def num_pairs(rows: Rows, columns: Rows | None) -> int:
    """The number of pairs between rows and columns, or inside the rows."""
    return len(rows) * (len(rows) - 1) // 2 if columns is None else len(rows) * len(columns)


def _range_of(rows: Rows) -> Rows | slice:
    """A slice, which copies nothing, where sorted rows are consecutive."""
    consecutive = rows[-1] - rows[0] == len(rows) - 1
    return slice(int(rows[0]), int(rows[-1]) + 1) if consecutive else rows
