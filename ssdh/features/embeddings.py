"""Embeddings that are the features themselves: opened, looked at row by row, and passed on to `features/features.npy`.

    found = open_embeddings(Path("clip.npy"))
    for block in found.blocks():
        block.values[block.good]   # (b, D), as it stands in the file

Understood are .npy, .npz (array `features`), .safetensors, .parquet (a column of lists, or numbered columns), .csv and
.tsv (numbered columns), .h5 and .hdf5 (`train` and `test`, or `features`), and a folder of `img_emb_*.npy`, `*.npy` or
`*.parquet`. No format is ever in memory as a whole.

A row is bad that holds NaN or infinity, zeros alone (it has no direction, so no cosine), or another number of values.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.core.files import write_parts
from ssdh.features.embedding_numpy import open_npy, open_npz
from ssdh.features.embedding_part import Part, reading
from ssdh.features.embedding_tables import open_hdf5, open_parquet, open_safetensors
from ssdh.features.embedding_text import open_text

REASONS = ("", "holds NaN or infinity", "is all zero", "has another length or a null")  # by `Block.fault`
NOT_FINITE, ZERO, ODD = 1, 2, 3

FORMATS: dict[str, Callable[[Path, str | None], list[Part]]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".parquet": open_parquet,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
    ".csv": open_text,
    ".tsv": open_text,
}


@dataclass(frozen=True)
class Block:
    """values: (b, D) rows as they stand in the file; fault: (b,) uint8, 0 for a good row, else a place in REASONS."""

    values: NDArray[Any]
    fault: NDArray[np.uint8]

    @property
    def good(self) -> NDArray[np.bool_]:
        """(b,): the rows that can be used."""
        good: NDArray[np.bool_] = self.fault == 0
        return good

    def digests(self) -> NDArray[np.uint8]:
        """(b, 32): the SHA-256 of each row's bytes (little-endian, as `features.npy` holds them)."""
        data, width = self.values.data.cast("B"), self.values.strides[0]
        digests = b"".join(hashlib.sha256(data[i : i + width]).digest() for i in range(0, len(data), width))
        return np.frombuffer(digests, np.uint8).reshape(-1, 32)


@dataclass(frozen=True)
class Embeddings:
    """Rows of one or several parts, of one length D and one type; rows of parts with another length are bad."""

    parts: list[Part]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D), bad rows included."""
        return sum(part.num_rows for part in self.parts), self.parts[0].dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """What every row is kept as: the type of the first part."""
        return self.parts[0].dtype

    def blocks(self) -> Iterator[Block]:
        """All rows in order."""
        dim = self.shape[1]
        for part in self.parts:
            for values, odd in part.blocks():
                if part.dim != dim:
                    yield Block(np.zeros((len(values), dim), self.dtype), np.full(len(values), ODD, np.uint8))
                else:
                    yield Block(values, _faults(values, odd))


def _faults(values: NDArray[Any], odd: NDArray[np.bool_]) -> NDArray[np.uint8]:
    fault = np.where(values.any(axis=1), 0, ZERO).astype(np.uint8)
    if values.dtype.kind == "f":
        fault[~np.isfinite(values).all(axis=1)] = NOT_FINITE
    fault[odd] = ODD
    return fault


def open_embeddings(path: Path, key: str | None = None) -> Embeddings:
    """Open a file or a folder of shards; `key` names the array, column or prefix of shards where it is no usual one.

    Raises DataError with one line for what cannot be read, and where parts are of different types.
    """
    parts = [part for file, own_key in _files(path, key) for part in _open_file(file, own_key)]
    for part in parts:
        if part.dtype != parts[0].dtype:
            raise DataError(
                f"{part.path} holds {part.dtype}, {parts[0].path} {parts[0].dtype}: convert them to one type"
            )
    return Embeddings(parts)


def _files(path: Path, key: str | None) -> list[tuple[Path, str | None]]:
    """(file, key inside it): a .npy has none, there `key` is the prefix of the shards."""
    if not path.is_dir():
        return [(path, key)]
    return [(file, None if file.suffix == ".npy" else key) for file in shards(path, key)]


def shards(folder: Path, prefix: str | None = None) -> list[Path]:
    """The files of a folder, by number: `img_emb_*.npy`, there or in `img_emb/`; else all .npy; else all .parquet.

    prefix: of other shards than `img_emb`, such as `text_emb`. `metadata_*.parquet` holds names, not embeddings.
    """
    name = prefix or "img_emb"
    patterns = ((folder, f"{name}_*.npy"), (folder / name, "*.npy"), (folder, "*.npy"), (folder, "*.parquet"))
    for place, pattern in patterns:
        if files := [file for file in place.glob(pattern) if not file.name.startswith("metadata_")]:
            return sorted(files, key=natural_order)
    raise DataError(f"{folder} holds no {name}_*.npy, other .npy or .parquet: name the folder of the shards")


def natural_order(path: Path) -> tuple[list[int], str]:
    """A sort key by which shard 10 comes after shard 9."""
    return [int(digits) for digits in re.findall(r"\d+", path.stem)], path.name


def _open_file(path: Path, key: str | None) -> list[Part]:
    if not path.is_file():
        raise DataError(f"{path} does not exist: name a file or folder of embeddings")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: name a file of embeddings")
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"{path} is no file of embeddings: known are {', '.join(FORMATS)} and a folder of shards")
    with reading(path):
        return FORMATS[path.suffix.lower()](path, key)


def pass_on(out: Path, embeddings: Embeddings, digests: NDArray[np.uint8]) -> None:
    """Write the good rows to `out` (a .npy), block by block, in the type of the file.

    digests: (N, 32) of the rows that the manifest lists. Raises DataError where the rows are no longer those.
    """
    changed = DataError(f"{embeddings.parts[0].path} has changed since it was prepared: run `dvc repro`")

    def good_rows() -> Iterator[NDArray[Any]]:
        done = 0
        for block in embeddings.blocks():
            good = block if block.good.all() else Block(block.values[block.good], block.fault[block.good])
            if not np.array_equal(good.digests(), digests[done : done + len(good.values)]):
                raise changed
            yield good.values
            done += len(good.values)
        if done != len(digests):
            raise changed

    write_parts(out, good_rows(), (len(digests), embeddings.shape[1]), embeddings.dtype)
