"""An array computed in blocks of rows: resumable, shared out over ranks.

Finished blocks lie in the work folder until the whole array is put together.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.arrays import Array
from ssdh.core.distributed import Rank, barrier
from ssdh.core.errors import DataError
from ssdh.core.files import read_array, write_array, write_parts
from ssdh.features.forward import BLOCK

FLUSH_SECONDS = 1.0  # finished blocks are written at least this often …
FLUSH_BYTES = 8 * 2**20  # … and before they take more memory than this


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
        write_beside(mine, blocks_of(rows), partial(_write_part, folder))
    barrier(rank)
    if rank.first:
        _assemble(path, folder, num_rows, count)


def write_beside(blocks: Sequence[int], values: Iterable[Array], write: Callable[[int, list[Array]], None]) -> None:
    """Hand runs of neighbouring blocks to `write(first block, values)`, one a second or sooner.

    A run is written beside the computing of the next one.
    """
    waiting: list[Array] = []
    first, written = blocks[0], time.monotonic()
    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(lambda: None)

        def flush() -> None:
            nonlocal waiting, written, writing
            writing.result()  # raises the error of the part before
            writing = writer.submit(write, first, waiting)
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
    named = [(path.stem.split("-"), path) for path in folder.glob("part-*.npy")]
    return sorted((int(name[1]), int(name[2]), path) for name, path in named)


def _finished_blocks(folder: Path, num_rows: int) -> set[int]:
    """Blocks whose values are on disk; a part that is not whole is removed."""
    done: set[int] = set()
    for first, count, path in _parts(folder):
        num_held = min(num_rows, (first + count) * BLOCK) - first * BLOCK
        try:
            whole = len(read_array(path)) == num_held
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
    joined: list[tuple[Path, int]] = []  # (part, its rows that parts before it hold)
    covered = 0
    for first, count, part in _parts(folder):
        if first <= covered < first + count:
            joined.append((part, (covered - first) * BLOCK))
            covered = first + count
    if covered != num_blocks:
        raise DataError(f"{folder} does not hold all {num_blocks} blocks: remove it and run `dvc repro`")
    sample = read_array(joined[0][0])
    parts = (read_array(part)[skipped:] for part, skipped in joined)
    write_parts(path, parts, (num_rows, *sample.shape[1:]), sample.dtype)
