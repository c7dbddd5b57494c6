"""What a fitted baseline is: an encoder into bits, or into codes that are scored against the float query."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32, Packed
from ssdh.core.files import take_rows

CHUNK_BYTES = 64_000_000  # of features encoded at once
FAISS_SEEDS = 2**31 - 1  # faiss takes an int


class CannotFitError(ValueError):
    """The method cannot give so many bits from what it is given; the message says why."""


class Codes(ABC):
    """A fitted method whose codes are bits, compared by Hamming distance."""

    @abstractmethod
    def outputs(self, features: Float32) -> NDArray[np.floating[Any]]:
        """Real outputs (n, bits) of features (n, D), whose signs are the bits; sign(0) = +1."""

    def encode(self, features: NDArray[Any]) -> Packed:
        """The packed codes of all features (N, D), uint8 (N, ⌈bits/8⌉)."""
        return np.concatenate([np.packbits(self.outputs(part) >= 0, axis=1) for part in chunks(features)])


class Quantizer(ABC):
    """A fitted method whose codes are compared with the float query by a score, not by Hamming distance."""

    @abstractmethod
    def encode(self, features: NDArray[Any]) -> Packed:
        """The codes of all features (N, D), uint8 (N, bytes an image)."""

    @abstractmethod
    def scores(self, queries: NDArray[Any], codes: Packed) -> Float32:
        """How near each code (n, bytes) is to each query (q, D), float32 (q, n): the highest first."""


def chunks(features: NDArray[Any]) -> Iterator[Float32]:
    """The rows of (N, D) as float32, in blocks of bounded size."""
    step = max(1, CHUNK_BYTES // (4 * features.shape[1]))
    for start in range(0, len(features), step):
        yield np.asarray(take_rows(features, slice(start, start + step)), np.float32)
