"""Embeddings in NumPy's files: .npy of C or Fortran order and either byte order, .npz compressed or not.

The header is read first: objects and pickles are refused unread.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.core.files import NOT_NUMPY
from ssdh.core.inflation import refuse_inflation
from ssdh.features.embedding_part import Part, choose, part


def read_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, type) of a .npy; the file is then at its first value. DataError where it is none."""
    try:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return reader(file)
    except NOT_NUMPY as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{path} is not a NumPy array ({said}); pickles are not read: save it with "
            "`numpy.save(…, allow_pickle=False)`"
        ) from None


def open_npy(path: Path, key: str | None) -> list[Part]:
    """Mapped anew for each block: a standing map would count all that it ever read."""
    with path.open("rb") as file:
        shape, _, dtype = read_header(file, path)

    def rows(step: int) -> Iterator[NDArray[Any]]:
        for start in range(0, shape[0], step):
            yield np.array(np.load(path, mmap_mode="r", allow_pickle=False)[start : start + step])

    opened = part(path, shape, dtype, rows)
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except NOT_NUMPY as error:
        raise DataError(f"{path} is cut short ({error}): write it again") from None
    return [opened]


def open_npz(path: Path, key: str | None) -> list[Part]:
    """Read as a stream, so that a compressed array is never whole in memory; in Fortran order it must be."""
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        member = f"{choose(path, names, key)}.npy"
        with archive.open(member) as file:
            shape, fortran, dtype = read_header(file, path)
        if fortran:
            refuse_inflation(path, archive.getinfo(member).file_size, "an array in Fortran order")

    def rows(step: int) -> Iterator[NDArray[Any]]:
        if fortran:
            with np.load(path, allow_pickle=False) as loaded:
                whole = loaded[member.removesuffix(".npy")]
            yield from (whole[start : start + step] for start in range(0, shape[0], step))
            return
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            read_header(file, path)
            for start in range(0, shape[0], step):
                count = min(step, shape[0] - start) * shape[1]
                data = file.read(count * dtype.itemsize)
                if len(data) != count * dtype.itemsize:
                    raise DataError(f"{path} is cut short: write it again")
                yield np.frombuffer(data, dtype).reshape(-1, shape[1])

    return [part(path, shape, dtype, rows)]
