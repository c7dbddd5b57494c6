"""`data/images/` opened as a source: pixels of an array set, or files that the manifest lists. Numpy only."""

import csv
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Rows
from ssdh.core.errors import DataError
from ssdh.core.files import NOT_NUMPY

PREPARE_ANEW = "run `dvc repro` (of a set other than folder: `dvc repro --force prepare` first)"  # DVC watches one root


class ArrayImages:
    """Images of one shape in `images.npy`. Opened anew for each block: a standing map would count all it ever read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape: tuple[int, ...] = self._open().shape
        if len(self.shape) != 4 or self.shape[3] != 3:
            raise DataError(f"{path} must hold (N, H, W, 3) bytes, got {self.shape}: run `dvc repro`")

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        """(B, H, W, 3) uint8 pixels of the given rows."""
        images = self._open()
        first, count = (int(rows[0]), len(rows)) if len(rows) else (0, 0)
        if np.array_equal(rows, np.arange(first, first + count)):
            return np.array(images[first : first + count])
        return np.asarray(images[rows])

    def _open(self) -> NDArray[np.uint8]:
        try:
            images: NDArray[np.uint8] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except NOT_NUMPY as error:
            raise DataError(f"{self.path} cannot be opened ({error}): run `dvc repro`") from None
        return images


class FileImages:
    """Image files by their paths under `root`, each with the SHA-256 of its bytes.

    A file that is gone or is no longer the one that was listed raises DataError: nothing stale is ever read. Paths
    are kept in one array of bytes, so that worker processes share them.
    """

    def __init__(self, root: Path, files: Iterable[tuple[str, str]]) -> None:
        """files: (path, SHA-256) of each, by row."""
        self.root = root
        paths, digests = bytearray(), bytearray()
        ends = [0]
        for path, digest in files:
            paths += path.encode()
            digests += bytes.fromhex(digest)
            ends.append(len(paths))
        self._paths = np.frombuffer(bytes(paths), np.uint8)
        self._digests = np.frombuffer(bytes(digests), np.uint8).reshape(-1, 32)
        self._ends = np.asarray(ends, dtype=np.int64)

    @classmethod
    def from_manifest(cls, manifest: Path, root: Path) -> "FileImages":
        """The files of a `manifest.csv`."""
        return cls(root, ((path, digest) for _, path, digest in _manifest_rows(manifest)))

    def __len__(self) -> int:
        return len(self._digests)

    def digests(self) -> NDArray[np.uint8]:
        """(N, 32) SHA-256 of the files by row."""
        return self._digests

    def path(self, row: int) -> Path:
        """The file of a row."""
        return self.root / self._paths[self._ends[row] : self._ends[row + 1]].tobytes().decode()

    def read_bytes(self, row: int) -> bytes:
        """The file's bytes; raises DataError where they are gone, or not those that were listed."""
        path = self.path(row)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): {PREPARE_ANEW}") from None
        if hashlib.sha256(data).digest() != self._digests[row].tobytes():
            raise DataError(f"{path} has changed since it was listed: {PREPARE_ANEW}")
        return data


ImageSource = ArrayImages | FileImages


def open_images(folder: Path, root: Path | None = None) -> ImageSource:
    """Open `data/images/`: its `images.npy` where there is one, else the files of its manifest under `root`.

    Raises DataError where it lists files and no `root` is given.
    """
    if (folder / "images.npy").exists():
        return ArrayImages(folder / "images.npy")
    if root is None:
        raise DataError(f"{folder} lists image files: the folder they are relative to must be given")
    return FileImages.from_manifest(folder / "manifest.csv", root)


def read_manifest(folder: Path) -> tuple[list[str], list[str]]:
    """Paths (or names) and SHA-256 digests of `manifest.csv`, by row."""
    rows = list(_manifest_rows(folder / "manifest.csv"))
    return [path for _, path, _ in rows], [digest for _, _, digest in rows]


def read_digests(folder: Path) -> NDArray[np.uint8]:
    """(N, 32) SHA-256 of the images by row, of files' bytes or of pixels, as `manifest.csv` has them."""
    digests = bytearray()
    for _, _, digest in _manifest_rows(folder / "manifest.csv"):
        digests += bytes.fromhex(digest)
    return np.frombuffer(bytes(digests), np.uint8).reshape(-1, 32)


def _manifest_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            next(reader, None)
            yield from ((row, name, digest) for row, name, digest in reader)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): run `dvc repro`") from None
