"""Features or codes of every image, in fixed blocks of rows: resumable, shared out over ranks, the same bits always.

A block always holds BLOCK rows when it is computed (the last one is padded), so neither the number of processes nor an
interruption changes a value. Finished blocks lie in the work folder until the whole array is put together.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor, nn

from ssdh.core.device import autocast, memory_for, to_device, to_host
from ssdh.core.distributed import Rank, barrier
from ssdh.core.errors import DataError
from ssdh.core.files import atomic_path, read_array, write_array
from ssdh.features.images import ImageSource
from ssdh.features.loader import eval_loader, normalise
from ssdh.features.params import Preprocessing

AHEAD = 2  # blocks on their way through the device while one is fetched


BLOCK = 64  # rows; part of the result's definition: another size may round differently


FLUSH_SECONDS = 1.0  # finished blocks are written at least this often …


FLUSH_BYTES = 8 * 2**20  # … and before they take more memory than this


LESS_MEMORY = "set backbone.precision to bf16, a smaller images.size, or runtime.device to cpu"


Array = NDArray[Any]


def compute_rows(
    path: Path,
    folder: Path,
    num_rows: int,
    blocks_of: Callable[[NDArray[np.int64]], Iterator[Array]],
    rank: Rank,
) -> None:
    """Compute `num_rows` rows block by block and put them together at `path`, continuing what `folder` holds.

    blocks_of(rows) yields arrays (≤ BLOCK, …) that cover the rows asked for, in order. Memory does not grow with
    num_rows. Only rank 0 writes `path`.
    """
    count = -(-num_rows // BLOCK)
    done = _finished_blocks(folder, num_rows)
    missing = [block for block in range(count) if block not in done]
    if done:
        logger.info("continuing: {} of {} blocks are there", len(done), count)
    barrier(rank)  # every rank has looked before any writes
    mine = missing[len(missing) * rank.index // rank.count : len(missing) * (rank.index + 1) // rank.count]
    if mine:
        rows = np.concatenate([np.arange(b * BLOCK, min((b + 1) * BLOCK, num_rows)) for b in mine])
        _write_parts(folder, mine, blocks_of(rows))
    barrier(rank)
    if rank.first:
        _assemble(path, folder, num_rows, count)


def _write_parts(folder: Path, blocks: Sequence[int], values: Iterable[Array]) -> None:
    """Write runs of neighbouring blocks as `part-<first>-<count>.npy`, a file a second or sooner.

    A part is written beside the computing of the next one.
    """
    waiting: list[Array] = []
    first, written = blocks[0], time.monotonic()
    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(lambda: None)

        def flush() -> None:
            nonlocal waiting, written, writing
            writing.result()  # raises the error of the part before
            writing = writer.submit(_write_part, folder, first, waiting)
            waiting, written = [], time.monotonic()

        for block, value in zip(blocks, values, strict=True):
            if waiting and block != first + len(waiting):
                flush()
            if not waiting:
                first = block
            waiting.append(value)
            if time.monotonic() - written > FLUSH_SECONDS or len(waiting) * value.nbytes > FLUSH_BYTES:
                flush()
        if waiting:
            flush()
        writing.result()


def _write_part(folder: Path, first: int, values: list[Array]) -> None:
    write_array(folder / f"part-{first:08d}-{len(values):06d}.npy", np.concatenate(values))


def _parts(folder: Path) -> list[tuple[int, int, Path]]:
    """(first block, number of blocks, file) of every part, in order."""
    found = [(path.stem.split("-"), path) for path in folder.glob("part-*.npy")]
    return sorted((int(name[1]), int(name[2]), path) for name, path in found)


def _finished_blocks(folder: Path, num_rows: int) -> set[int]:
    """Blocks whose values are on disk; a part that is not whole is removed."""
    done: set[int] = set()
    for first, count, path in _parts(folder):
        expected = min(num_rows, (first + count) * BLOCK) - first * BLOCK
        try:
            whole = len(read_array(path)) == expected
        except DataError:
            whole = False
        if whole:
            done.update(range(first, first + count))
        else:
            logger.warning("{} is not whole: computing it again", path)
            path.unlink(missing_ok=True)
    return done


def _assemble(path: Path, folder: Path, num_rows: int, num_blocks: int) -> None:
    """Copy the parts, in order, into one array at `path`.

    Parts may overlap: a rank whose launcher was killed may have written on while the next run looked.
    """
    wanted: list[tuple[Path, int]] = []  # (part, its rows that parts before it hold)
    covered = 0
    for first, count, part in _parts(folder):
        if first <= covered < first + count:
            wanted.append((part, (covered - first) * BLOCK))
            covered = first + count
    if covered != num_blocks:
        raise DataError(f"{folder} does not hold all {num_blocks} blocks: remove it and run `dvc repro`")
    sample = read_array(wanted[0][0])
    header = {
        "descr": np.lib.format.dtype_to_descr(sample.dtype),
        "fortran_order": False,
        "shape": (num_rows, *sample.shape[1:]),
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:  # a map would hold all of it in memory
        np.lib.format.write_array_header_1_0(file, header)
        for part, skipped in wanted:
            file.write(np.ascontiguousarray(read_array(part)[skipped:]).data)


# --- a network over blocks ------------------------------------------------------------------------------------------


def image_blocks(
    network: nn.Module,
    preprocessing: Preprocessing,
    source: ImageSource,
    device: torch.device,
    precision: str = "fp32",
    workers: int = 0,
) -> Callable[[NDArray[np.int64]], Iterator[NDArray[np.float32]]]:
    """What `compute_rows` asks for: the network's outputs of image rows, decoded by `workers` processes."""

    def blocks_of(rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        pixels = eval_loader(source, preprocessing, rows=rows, batch_size=BLOCK, workers=workers)
        return run_network(network, pixels, device, precision, prepare=lambda batch: normalise(batch, preprocessing))

    return blocks_of


def run_network(
    network: nn.Module,
    batches: Iterable[Tensor],
    device: torch.device,
    precision: str = "fp32",
    prepare: Callable[[Tensor], Tensor] = lambda batch: batch,
) -> Iterator[NDArray[np.float32]]:
    """Outputs (n, D) float32 of each batch (n, …), n ≤ BLOCK; computed on BLOCK rows, in evaluation mode.

    `prepare` runs on the device. Batches are started AHEAD of the one that is fetched, so that a GPU waits neither for
    copies nor for what the caller does with an output.
    """
    with memory_for(f"blocks of {BLOCK} images", device, LESS_MEMORY):
        network = network.to(device).to(memory_format=torch.channels_last).eval()
    started: deque[Callable[[], NDArray[np.float32]]] = deque()
    for batch in batches:
        with memory_for(f"blocks of {BLOCK} images", device, LESS_MEMORY):
            output = _outputs(network, prepare(_moved(_padded(batch), device)), precision)
            started.append(_fetching(output, len(batch)))
        if len(started) > AHEAD:
            yield _fetched(started)
    while started:
        yield _fetched(started)


def _outputs(network: nn.Module, batch: Tensor, precision: str) -> Tensor:
    with torch.inference_mode(), autocast(batch.device, precision):
        outputs: Tensor = network(batch)
        return outputs.float()


def _padded(batch: Tensor) -> Tensor:
    """`batch` with zeros appended to BLOCK rows."""
    return batch if len(batch) == BLOCK else torch.cat([batch, batch.new_zeros(BLOCK - len(batch), *batch.shape[1:])])


def _moved(batch: Tensor, device: torch.device) -> Tensor:
    batch = to_device(batch, device)
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def _fetching(output: Tensor, rows: int) -> Callable[[], NDArray[np.float32]]:
    """Start the copy of the first `rows` to memory; returns what waits for it."""
    host, done = to_host(output)

    def finish() -> NDArray[np.float32]:
        done()
        values: NDArray[np.float32] = host[:rows].numpy()
        return values

    return finish


def _fetched(started: deque[Callable[[], NDArray[np.float32]]]) -> NDArray[np.float32]:
    return started.popleft()()
