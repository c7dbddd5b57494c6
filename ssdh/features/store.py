"""Features kept by content under `$SSDH_HOME/features`: rows of a network's outputs by the image's SHA-256.

A folder of the store belongs to one *kind* of features: a digest of everything but the image that their bits depend on.
It holds blocks that never change, each a file of values, `ID.npy` (n, D), and then, once that is whole, one of digests,
`ID.sha256` (n × 32 bytes), which alone makes the block known. So a writer that is killed anywhere leaves whole blocks
or nothing, readers and any number of writers need no lock, and only what removes blocks takes one.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.cache_dir import ssdh_home
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.files import atomic_path, file_lock, read_array, write_array, write_json

Digests = NDArray[np.uint8]  # (n, 32), SHA-256 of images
LIMIT = 20.0  # GiB, where $SSDH_FEATURES_GIB does not say otherwise
ABOUT = "about.json"
ORPHAN_SECONDS = 3600  # after which values without digests were left by a writer that was killed


def store_root() -> Path:
    """`$SSDH_HOME/features`."""
    return ssdh_home() / "features"


def store_limit() -> int:
    """The most bytes that the store keeps, from `$SSDH_FEATURES_GIB`; ParameterError where that is no number ≥ 0."""
    text = os.environ.get("SSDH_FEATURES_GIB", str(LIMIT))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise ParameterError(f"SSDH_FEATURES_GIB must be a number of GiB of at least 0, got {text!r} (environment)")
    return int(min(limit, 2**30) * 2**30)


class BlockGoneError(Exception):
    """A block that was there has been removed meanwhile, or is not whole."""


@dataclass(frozen=True)
class Kept:
    """Where the store holds each of N rows: the row `row[i]` of `blocks[block[i]]`; block −1 where it has none."""

    blocks: list[Path]
    block: NDArray[np.int64]
    row: NDArray[np.int64]

    def read(self, start: int, end: int) -> NDArray[Any]:
        """The rows start…end, (end − start, D); all must be there. Raises BlockGoneError."""
        out: NDArray[Any] | None = None
        for number in np.unique(self.block[start:end]):
            chosen = self.block[start:end] == number
            rows = self.row[start:end][chosen]
            values = _values(self.blocks[number], int(rows.max()) + 1)
            if out is None:
                out = np.empty((end - start, *values.shape[1:]), values.dtype)
            out[chosen] = values[rows]
        assert out is not None
        return out


class FeatureStore:
    """The rows of one kind of features; `kind` is all that their bits depend on beside the image."""

    def __init__(self, kind: dict[str, Any]) -> None:
        self.kind = kind
        self._broken: set[Path] = set()  # blocks that cannot be removed, of somebody else say
        self.folder = store_root() / hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:32]

    def add(self, digests: Digests, values: NDArray[Any]) -> None:
        """Keep values (n, D) of the images with these digests (n, 32)."""
        name = uuid.uuid4().hex
        if not (self.folder / ABOUT).exists():
            write_json(self.folder / ABOUT, self.kind)
        write_array(self.folder / f"{name}.npy", values)
        with atomic_path(self.folder / f"{name}.sha256") as temporary:
            temporary.write_bytes(np.ascontiguousarray(digests).tobytes())

    def find(self, digests: Digests) -> Kept:
        """Look (N, 32) digests up; the blocks that hold them count as used now."""
        blocks, keys = _read_keys(self.folder, self._broken)
        block = np.full(len(digests), -1, np.int64)
        row = np.zeros(len(digests), np.int64)
        if blocks:
            known = _as_text(np.concatenate(keys))
            order = np.argsort(known, kind="stable")
            asked = _as_text(digests)
            place = np.searchsorted(known, asked, sorter=order).clip(max=len(known) - 1)
            position = order[place]
            ends = np.cumsum([len(part) for part in keys])
            of_block = np.searchsorted(ends, position, side="right")
            is_there = known[position] == asked
            block[is_there] = of_block[is_there]
            row[is_there] = (position - (ends - [len(part) for part in keys])[of_block])[is_there]
        for number in np.unique(block[block >= 0]):
            with suppress(OSError):
                os.utime(blocks[number].with_suffix(".sha256"))
        return Kept(blocks, block, row)

    def drop_broken(self) -> None:
        """Remove blocks whose values are gone, not whole, or fewer than their digests."""
        blocks, keys = _read_keys(self.folder, self._broken)
        for path, part in zip(blocks, keys, strict=True):
            try:
                _values(path, len(part))
            except BlockGoneError:
                logger.warning("{} is gone or not whole: computing its rows again", path)
                _remove(path)
                self._broken.add(path)


def _values(block: Path, least: int) -> NDArray[Any]:
    """The values of a block, at least so many rows, as a map; raises BlockGoneError."""
    try:
        values = read_array(block)
    except DataError:
        raise BlockGoneError(block) from None
    if len(values) < least:
        raise BlockGoneError(block)
    return values


def missing(kept: Kept, digests: Digests) -> NDArray[np.int64]:
    """The rows that the store lacks, ascending, each content once."""
    lacking = np.flatnonzero(kept.block < 0)
    _, first = np.unique(_as_text(digests[lacking]), return_index=True)
    return lacking[np.sort(first)]


def _as_text(digests: Digests) -> NDArray[np.bytes_]:
    """(n, 32) bytes as (n,) values that numpy can sort."""
    return np.ascontiguousarray(digests).view("S32").ravel()


def _digest_files(folder: Path) -> list[Path]:
    """The files that make blocks known; what a writer has not renamed yet begins with a dot."""
    return [path for path in folder.glob("*.sha256") if not path.name.startswith(".")]


def _read_keys(folder: Path, without: Container[Path] = ()) -> tuple[list[Path], list[Digests]]:
    """The files of values of every known block that this user may read, and its digests (n, 32)."""
    blocks, keys = [], []
    for path in sorted(_digest_files(folder)):
        with suppress(OSError, ValueError):  # removed meanwhile, or of somebody else's alone; not whole
            block = path.with_suffix(".npy")
            if block in without or (block.exists() and not os.access(block, os.R_OK)):
                continue
            keys.append(np.fromfile(path, np.uint8).reshape(-1, 32))
            blocks.append(block)
    return blocks, keys


# --- the bound, and what `python -m ssdh cache` shows -----------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A block in the store: its file of values, its bytes on the disk, and when it was last used (seconds)."""

    path: Path
    size: int
    used: float


@dataclass(frozen=True)
class Shelf:
    """All blocks of one kind, and its description as it was written (empty where that is gone)."""

    kind: dict[str, Any]
    blocks: list[Block]
    rows: int


def shelves() -> Iterator[Shelf]:
    """The kinds of features in the store, in no particular order."""
    for folder in store_root().glob("*/"):
        try:
            kind = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kind = {}
        paths, keys = _read_keys(folder)
        yield Shelf(kind, list(_measured(paths)), sum(map(len, keys)))


def _measured(paths: list[Path]) -> Iterator[Block]:
    for path in paths:
        digests = path.with_suffix(".sha256")
        with suppress(FileNotFoundError):
            yield Block(path, path.stat().st_size + digests.stat().st_size, digests.stat().st_mtime)


def evict(limit: int) -> int:
    """Remove blocks, the longest unused first, until the store holds at most `limit` bytes; returns the bytes freed.

    A store that somebody else tidies is left as it is, with a warning.
    """
    root = store_root()
    if not root.is_dir():
        return 0
    try:
        return _evict(root, limit)
    except DataError as error:
        logger.warning("the store of features is not tidied: {}", error)
        return 0


def _evict(root: Path, limit: int) -> int:
    freed = 0
    with file_lock(root / "evict.lock", "another process is tidying the store of features: waiting for it"):
        for folder in root.glob("*/"):
            _remove_orphans(folder)
        blocks = sorted((block for shelf in shelves() for block in shelf.blocks), key=lambda block: block.used)
        total = sum(block.size for block in blocks)
        for block in blocks:
            if total - freed <= limit:
                break
            _remove(block.path)
            freed += block.size
        for folder in root.glob("*/"):
            if {path.name for path in folder.iterdir()} <= {ABOUT}:
                (folder / ABOUT).unlink(missing_ok=True)
                with suppress(OSError):  # a writer has begun meanwhile
                    folder.rmdir()
    return freed


def _remove(block: Path) -> None:
    """Remove a block: its digests first, so that nobody finds it any more."""
    with suppress(OSError):  # open elsewhere, on Windows
        block.with_suffix(".sha256").unlink(missing_ok=True)
        block.unlink(missing_ok=True)


def _remove_orphans(folder: Path) -> None:
    """Remove what writers that were killed left: values that never became known."""
    known = {path.stem for path in _digest_files(folder)}
    for path in folder.iterdir():
        with suppress(OSError):
            old = time.time() - path.stat().st_mtime > ORPHAN_SECONDS
            if old and path.name != ABOUT and path.stem not in known:
                path.unlink()
