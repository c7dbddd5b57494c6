"""Images on their way to a network: `data/images/` opened as a source, deterministic preprocessing, batches.

    source = open_images(Path("data/images"), root)
    for block in eval_loader(source, preprocessing, batch_size=64, workers=2):   # (B, 3, size, size) uint8
        features = network(normalise(block.to(device), preprocessing))

A block's pixels do not depend on the number of workers nor on what else is in the block. Memory does not grow with the
number of images. Augmentation for training is in `ssdh.augmentation`.
"""

import csv
import functools
import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from ssdh.decoding import BadImageError, decode_image
from ssdh.errors import DataError, SSDHError
from ssdh.image_params import ImageParams as ImageParams
from ssdh.image_params import Preprocessing as Preprocessing

Rows = NDArray[np.int64]
PREPARE_ANEW = "run `dvc repro` (of a set other than folder: `dvc repro --force prepare` first)"  # DVC watches one root
PREFETCH = 2  # blocks that a worker makes ahead


class ArrayImages:
    """Images of one shape in `images.npy`. Opened anew for each block: a standing map would count all it ever read."""

    is_array = True

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
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{self.path} cannot be opened ({error}): run `dvc repro`") from None
        return images


class FileImages:
    """Image files that `manifest.csv` lists by path under `root`, each with the SHA-256 of its bytes.

    A file that is gone or is no longer the one of the manifest raises DataError: nothing stale is ever read. Paths
    are kept in one array of bytes, so that worker processes share them.
    """

    is_array = False

    def __init__(self, manifest: Path, root: Path) -> None:
        self.root = root
        paths, digests = bytearray(), bytearray()
        ends = [0]
        for _, path, digest in _manifest_rows(manifest):
            paths += path.encode()
            digests += bytes.fromhex(digest)
            ends.append(len(paths))
        self._paths = np.frombuffer(bytes(paths), np.uint8)
        self._digests = np.frombuffer(bytes(digests), np.uint8).reshape(-1, 32)
        self._ends = np.asarray(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._digests)

    def path(self, row: int) -> Path:
        """The file of a row."""
        return self.root / self._paths[self._ends[row] : self._ends[row + 1]].tobytes().decode()

    def read_bytes(self, row: int) -> bytes:
        """The file's bytes; raises DataError where they are gone, or not those that the manifest was written for."""
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
    return FileImages(folder / "manifest.csv", root)


def read_manifest(folder: Path) -> tuple[list[str], list[str]]:
    """Paths (or names) and SHA-256 digests of `manifest.csv`, by row."""
    rows = list(_manifest_rows(folder / "manifest.csv"))
    return [path for _, path, _ in rows], [digest for _, _, digest in rows]


def resized(images: Tensor, resize: int) -> Tensor:
    """(B, 3, H, W) uint8 to short side `resize`, bicubic and antialiased; the long side rounds down (torchvision's)."""
    height, width = images.shape[-2:]
    short = min(height, width)
    target = (max(1, int(resize * height / short)), max(1, int(resize * width / short)))
    if target == (height, width):
        return images
    return functional.interpolate(images, target, mode="bicubic", antialias=True)


def preprocess(images: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """(B, H, W, 3) uint8 pixels to (B, 3, size, size) uint8: resized, then the centre (padded black if too small)."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)  # (B, 3, H, W), channels last in memory: torch's fast path
    batch = resized(batch, preprocessing.resize)
    size = preprocessing.size
    height, width = batch.shape[-2:]
    if height < size or width < size:
        left, top = max(0, (size - width) // 2), max(0, (size - height) // 2)
        right, bottom = max(0, size - width - left), max(0, size - height - top)
        batch = functional.pad(batch, (left, right, top, bottom))
        height, width = batch.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return batch[..., top : top + size, left : left + size].contiguous()


def normalise(batch: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(B, 3, H, W) uint8 to float32 on the batch's device: (x / 255 − mean) / std, channel by channel."""
    mean, std = (_by_channel(values, batch.device) for values in (preprocessing.mean, preprocessing.std))
    return batch.float().div_(255.0).sub_(mean).div_(std)


@functools.cache
def _by_channel(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """(3, 1, 1) on the device, copied there once: a copy for each batch would wait for all kernels before it."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)


def eval_loader(
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    rows: Rows | None = None,
    batch_size: int = 64,
    workers: int = 0,
) -> Iterator[Tensor]:
    """Yield (B, 3, size, size) uint8 blocks of the rows (None: all) in their order; the last one may be smaller.

    Decoding and resizing happen in `workers` processes, ahead of the consumer. Raises DataError where a file is gone,
    changed or bad.
    """
    count = len(source) if rows is None else len(rows)
    blocks = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    workers = min(workers, len(blocks))
    loader = BlockLoader(_EvalBlocks(source, preprocessing, rows), workers, _bytes(batch_size, preprocessing))
    return loader.load(blocks)


class BlockLoader:
    """Items of a dataset of blocks, made by `workers` processes (0: in this one) that live from one `load` to the next.

    dataset[key] is a tensor, or the text of a DataError, which is raised here as one. block_bytes: of the largest.
    """

    def __init__(self, dataset: Dataset[Tensor | str], workers: int, block_bytes: int) -> None:
        self.keys: list[Any] = []  # what the loader's sampler reads at the start of a pass
        self.workers = _affordable(workers, block_bytes)
        self.loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=self.keys,
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            persistent_workers=self.workers > 0,
        )

    def load(self, keys: Iterable[Any]) -> Iterator[Tensor]:
        """Yield dataset[key] for every key, in their order."""
        self.keys[:] = keys
        try:
            for block in self.loader:
                if isinstance(block, str):
                    raise DataError(block)
                yield block
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise SSDHError(
                f"one of {self.workers} worker processes was killed, most likely for lack of memory: fewer workers "
                "need less (params.yaml: runtime.workers)"
            ) from None


def _affordable(workers: int, block_bytes: int) -> int:
    """As many of the workers as have room in /dev/shm for the blocks that they hand over."""
    shared = _shared_memory()
    if shared is None or shared >= workers * PREFETCH * block_bytes:
        return workers
    fewer = shared // (PREFETCH * block_bytes)
    logger.warning(
        "/dev/shm has {} MiB free, {} workers need {}: working with {} (docker run --shm-size=1g helps)",
        *(shared >> 20, workers, workers * PREFETCH * block_bytes >> 20, fewer),
    )
    return fewer


class _EvalBlocks(Dataset["Tensor | str"]):
    """Item (start, end) holds these of the rows, preprocessed; a picklable dataset for DataLoader workers."""

    def __init__(self, source: ImageSource, preprocessing: Preprocessing, rows: Rows | None) -> None:
        self.source, self.preprocessing, self.rows = source, preprocessing, rows

    def __getitem__(self, block: tuple[int, int]) -> Tensor | str:
        start, end = block
        rows = np.arange(start, end) if self.rows is None else self.rows[start:end]
        try:
            if isinstance(self.source, ArrayImages):
                return preprocess(self.source.read(rows), self.preprocessing)
            return torch.cat([self._file(self.source, int(row)) for row in rows])
        except DataError as error:  # as a text: a worker's exception would come with its whole traceback
            return str(error)

    def _file(self, source: FileImages, row: int) -> Tensor:
        data = source.read_bytes(row)
        try:
            pixels = decode_image(data, self.preprocessing.resize)
        except BadImageError as error:
            raise DataError(f"{source.path(row)}: {error}") from None
        return preprocess(pixels[None], self.preprocessing)  # (1, 3, size, size)


def _bytes(batch_size: int, preprocessing: Preprocessing) -> int:
    return batch_size * 3 * preprocessing.size**2


def _shared_memory() -> int | None:
    """Free bytes of /dev/shm, through which workers hand over blocks; None where there is no such thing."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return None


def _manifest_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            next(reader, None)
            yield from ((row, name, digest) for row, name, digest in reader)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): run `dvc repro`") from None
