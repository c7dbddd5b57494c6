"""Embeddings in memory, an array, a memory map or a tensor, looked at and encoded as those in files are."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import from_tensor
from ssdh.core.errors import DataError
from ssdh.datasets.embeddings import scan
from ssdh.features.embedding_part import KEPT, Part, Values
from ssdh.features.embeddings import REASONS, Embeddings
from ssdh.search.encode_embeddings import Take


@dataclass(frozen=True)
class EmbeddingArray:
    """values: (n, D) of any number type, of which every row can be used; digests: SHA-256 by row, as a file's."""

    values: NDArray[Any]
    digests: list[str]

    def taking(self, work: Path) -> Take:
        """What gives rows by their numbers; nothing is written to the folder `work`."""
        return self.values.__getitem__


def open_array(features: Any, dim: int) -> EmbeddingArray:
    """Look at every row of `features` (n, dim); DataError where one is bad, or they are no numbers of this shape."""
    try:
        values: NDArray[Any] = np.asarray(from_tensor(features))
    except ValueError:
        raise DataError(f"features must be (n, {dim}), one row an embedding, got rows of different lengths") from None
    if values.ndim != 2 or values.shape[1] != dim or not len(values):
        raise DataError(f"features must be (n, {dim}), one row an embedding, got shape {values.shape}")
    if values.dtype.kind not in "biuf":
        raise DataError(f"features must be numbers, got {values.dtype}")
    result = scan(_embeddings(values))
    if result.fault.any():
        row = int(np.flatnonzero(result.fault)[0])
        raise DataError(f"features: row {row} {REASONS[result.fault[row]]}: repair it or leave it out")
    return EmbeddingArray(values, result.digests)


def _embeddings(values: NDArray[Any]) -> Embeddings:
    """The rows in the type in which a file's are kept, so that digests are the same wherever a row comes from."""
    count, dim = values.shape
    name = values.dtype.newbyteorder("=").name
    dtype = np.dtype(name if name in KEPT else np.float32)

    def read(step: int) -> Iterator[Values]:
        for start in range(0, count, step):
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity: a bad row
                block = np.ascontiguousarray(values[start : start + step], dtype)
            yield block, np.zeros(len(block), np.bool_)

    return Embeddings([Part(Path("features"), count, dim, dtype, read)])
