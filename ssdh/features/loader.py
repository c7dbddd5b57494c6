"""Images on their way to a network: `data/images/` opened as a source, deterministic preprocessing, batches.

    source = open_images(Path("data/images"), root)
    for block in eval_loader(source, preprocessing, batch_size=64, workers=2):   # (B, 3, size, size) uint8
        features = network(normalise(block.to(device), preprocessing))

A block's pixels do not depend on the number of workers nor on what else is in the block. Memory does not grow with the
number of images. Random crops are in `ssdh.features.augment`.
"""

import functools
import shutil
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from ssdh.core.arrays import Rows
from ssdh.core.errors import DataError, SSDHError
from ssdh.features.decode import BadImageError, decode_image
from ssdh.features.images import ArrayImages, FileImages, ImageSource
from ssdh.features.params import Preprocessing

PREFETCH = 2  # blocks that a worker makes ahead


def resized(images: Tensor, resize: int, interpolation: str = "bicubic") -> Tensor:
    """(B, 3, H, W) uint8 to short side `resize`, antialiased; the long side rounds down (torchvision's)."""
    height, width = images.shape[-2:]
    short = min(height, width)
    target = (max(1, int(resize * height / short)), max(1, int(resize * width / short)))
    if target == (height, width):
        return images
    return functional.interpolate(images, target, mode=interpolation, antialias=True)


def preprocess(images: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """(B, H, W, 3) uint8 pixels to (B, 3, size, size) uint8: resized, then the centre (padded black if too small)."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)  # (B, 3, H, W), channels last in memory: torch's fast path
    batch = resized(batch, preprocessing.resize, preprocessing.interpolation)
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
    pinned: bool = False,
) -> Iterator[Tensor]:
    """Yield (B, 3, size, size) uint8 blocks of the rows (None: all) in their order; the last one may be smaller.

    Files are decoded and resized in `workers` processes, arrays resized in as many threads, ahead of the consumer; with
    `pinned` these leave their blocks in the memory that a GPU copies from. Raises DataError where a file is gone,
    changed or bad.
    """
    count = len(source) if rows is None else len(rows)
    blocks = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    workers = min(workers, len(blocks))
    dataset = _EvalBlocks(source, preprocessing, rows)
    if workers and isinstance(source, ArrayImages):
        return _by_threads(dataset, blocks, workers, pinned)
    return BlockLoader(dataset, workers, _bytes(batch_size, preprocessing)).load(blocks)


def _by_threads(dataset: "_EvalBlocks", blocks: list[tuple[int, int]], workers: int, pinned: bool) -> Iterator[Tensor]:
    """The blocks, in their order, made by threads.

    Resizing leaves the interpreter to others; taking a block from another process would cost the consumer 5 to 10 ms.
    """

    def make(block: tuple[int, int]) -> Tensor | str:
        pixels = dataset[block]
        return pixels.pin_memory() if pinned and isinstance(pixels, Tensor) else pixels

    waiting: deque[Future[Tensor | str]] = deque()
    with ThreadPoolExecutor(workers, "resize", torch.set_num_threads, (1,)) as pool:
        try:
            for block in blocks:
                waiting.append(pool.submit(make, block))
                if len(waiting) > PREFETCH * workers:
                    yield _checked(waiting.popleft().result())
            while waiting:
                yield _checked(waiting.popleft().result())
        finally:  # of a consumer that has enough
            for future in waiting:
                future.cancel()


def _checked(block: Tensor | str) -> Tensor:
    if isinstance(block, str):
        raise DataError(block)
    return block


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
            with _handler_kept():
                blocks = iter(self.loader)  # starts the workers
            for block in blocks:
                yield _checked(block)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise SSDHError(
                f"one of {self.workers} worker processes was killed, most likely for lack of memory: fewer workers "
                "need less (params.yaml: runtime.workers)"
            ) from None


@contextmanager
def _handler_kept() -> Iterator[None]:
    """Undo PyTorch's handler of ended child processes, which raises wherever the main thread happens to be.

    Without it a killed worker is noticed, within 5 seconds, by the consumer that waits for a block.
    """
    child = getattr(signal, "SIGCHLD", None)  # None: Windows
    before = child and signal.getsignal(child)
    yield
    if child and signal.getsignal(child) != before:
        signal.signal(child, before or signal.SIG_DFL)


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
