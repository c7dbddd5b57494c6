"""One array of embeddings in a file, read block by block: what all formats have in common."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError, SSDHError, one_line
from ssdh.core.inflation import ROW_BYTES, refuse_inflation

BLOCK_BYTES = 32 * 2**20  # of values that are in memory at once
USUAL = ("features", "embeddings", "embedding", "vectors", "vector", "emb")  # names of arrays and columns, best first
KEPT = ("float16", "float32", "int8", "uint8")  # types that stay as they are; of others float32 is made
CONVERTED = ("float64", "bfloat16")
SEPARATORS = " _.-[("  # between a column's name and its number
NUMBERED = re.compile(rf"(.*?)[{re.escape(SEPARATORS)}]*(\d+)[\])]?")
Values = tuple[NDArray[Any], NDArray[np.bool_]]  # (b, D) of a kept type; (b,) whether the file's row has another length


@dataclass(frozen=True)
class Part:
    """Rows of one array: `read(step)` yields blocks of at most `step` rows, in order.

    role: "train" or "test" where the file says who is searched and who asks, else "".
    """

    path: Path
    num_rows: int
    dim: int
    dtype: np.dtype[Any]
    read: Callable[[int], Iterator[Values]]
    role: str = ""

    def blocks(self) -> Iterator[Values]:
        """Blocks of about BLOCK_BYTES."""
        return self.read(max(1, BLOCK_BYTES // (self.dim * self.dtype.itemsize)))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a format's library raises of a broken file into one line (DataError).

    Of mutated files h5py raised OSError, KeyError and RuntimeError, pyarrow OSError and ArrowInvalid, zipfile
    NotImplementedError and zlib.error. A file that is missing stays FileNotFoundError.
    """
    try:
        yield
    except (SSDHError, FileNotFoundError):
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is not a whole {path.suffix.lower()} file ({said}): write it again") from None


def part(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any] | str,
    rows: Callable[[int], Iterator[NDArray[Any]]],
    role: str = "",
) -> Part:
    """A part whose rows have one length, checked by `kept_type`. rows(step) yields (≤ step, D) of `dtype`."""
    kept_dtype = kept_type(path, shape, dtype)

    def read(step: int) -> Iterator[Values]:
        with reading(path):
            for block in rows(step):
                with np.errstate(over="ignore"):  # a float64 that float32 cannot hold becomes infinity: a bad row
                    values = np.ascontiguousarray(block, kept_dtype)
                yield values, np.zeros(len(values), np.bool_)

    return Part(path, shape[0], shape[1], kept_dtype, read, role)


def kept_type(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any] | str) -> np.dtype[Any]:
    """The type that values of a file's `dtype` are kept in, by its name where NumPy has none.

    Raises DataError where shape or type are not those of embeddings, or memory would not do: it holds the names and
    digests of all rows, of the values a block, which is one row at least.
    """
    name = dtype if isinstance(dtype, str) else dtype.newbyteorder("=").name
    kept_dtype = np.dtype(name if name in KEPT else np.float32) if name in (*KEPT, *CONVERTED) else None
    if kept_dtype is None:
        raise DataError(
            f"{path} holds {_words(name)}, embeddings are {', '.join(KEPT)} or float64: convert it with "
            "`.astype(numpy.float32)`"
        )
    if len(shape) != 2:
        raise DataError(f"{path} must hold a matrix, one row an embedding, got shape {shape}: reshape it to (N, D)")
    if min(shape) < 1:
        raise DataError(f"{path} holds no value, its shape is {shape}: write at least 4 rows")
    refuse_inflation(path, shape[0] * ROW_BYTES, f"names and digests of {shape[0]:,} rows")
    refuse_inflation(path, shape[1] * kept_dtype.itemsize, f"a row of {shape[1]:,} values")
    refuse_inflation(path, math.prod(shape) * kept_dtype.itemsize, f"{shape[0]:,} rows of {shape[1]:,}", streamed=True)
    return kept_dtype


def _words(name: str) -> str:
    return "Python objects" if name == "object" else "text" if name.startswith(("str", "bytes")) else name


def choose(path: Path, names: list[str], key: str | None, usual: tuple[str, ...] = USUAL) -> str:
    """The array or column to take: `key`, else the first usual name, else the only one there is."""
    if key is not None:
        if key not in names:
            there = ", ".join(map(one_line, names))
            raise DataError(f"{path} has no {key!r}, it has {there} (params.yaml: datasets.embeddings.data.keys)")
        return key
    chosen = next((name for name in usual if name in names), names[0] if len(names) == 1 else None)
    if chosen is None:
        raise DataError(
            f"{path} has {', '.join(map(one_line, names)) or 'nothing'}: say which holds the embeddings "
            "(params.yaml: datasets.embeddings.data.keys.features)"
        )
    return chosen


def numbered(path: Path, names: list[str], key: str | None) -> list[int]:
    """Places of the columns of a wide table that hold its values, by their numbers; none where no two are numbered.

    They are named alike but for a number at the end: `f0`, `f1`, …; `emb_1`, `emb_2`, …; `0`, `1`, …. Of several kinds
    that which is called `key`, else the first usual name, without the number. Raises DataError where a number is
    missing or there twice.
    """
    kinds: dict[str, list[tuple[int, int]]] = {}
    for place, name in enumerate(names):
        if match := NUMBERED.fullmatch(name):
            kinds.setdefault(match[1], []).append((int(match[2]), place))
    kinds = {kind: columns for kind, columns in kinds.items() if len(columns) > 1}
    if not kinds:
        return []
    columns = sorted(kinds[choose(path, list(kinds), None if key is None else key.rstrip(SEPARATORS))])
    for (number, place), (next_number, next_place) in pairwise(columns):
        if next_number != number + 1:
            raise DataError(
                f"{path}: after column {names[place]!r} comes {names[next_place]!r}: number the columns of values one "
                "after the other, f0, f1, …"
            )
    return [place for _, place in columns]


def missing_package(name: str, path: Path) -> DataError:
    """What to say where an optional package is not installed."""
    return DataError(f"{path} needs {name}, which is not installed: pip install 'ssdh[embeddings]'")
