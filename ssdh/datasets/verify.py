"""Which image files decode whole: every one is decoded once, and remembered until it changes.

What is known stands in `$SSDH_HOME/verified/`, one table a root, so that a new seed or a new photo does not decode
100,000 others again. A file counts as unchanged while its size, inode and both times are the same (no program can set
the time of its last change of status); a change of the decoding rules forgets everything.
"""

import csv
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from loguru import logger
from tqdm import tqdm

from ssdh.core.cache_dir import ssdh_home
from ssdh.core.errors import DataError, one_line
from ssdh.core.files import file_sha256, write_csv
from ssdh.core.runtime import num_cores
from ssdh.features import decode as decoding
from ssdh.features.decode import BadImageError, decode_image
from ssdh.features.image_files import SPECIAL, is_special, is_text

VERIFY_SIDE = 32  # every byte is decoded, but a JPEG at the smallest scale
BLOCK = 2048  # files between two looks at the clock
SAVE_SECONDS = 30.0
RACY_NS = 2 * 10**9  # a file younger than this could change again within the same tick of the file system's clock
State = tuple[int, int, int, int]


@dataclass(frozen=True)
class Inspection:
    """One file: the SHA-256 of its bytes, and why it is bad ("" if it is not)."""

    digest: str
    reason: str


def inspect_files(root: Path, names: list[str], workers: int | None = None) -> list[Inspection]:
    """Inspect the files `root/name`, in order, decoding those that are new or changed in `workers` threads.

    What is no file, or has a name that no list can hold, is bad, and not opened.
    workers: None is one for each core; 0 and 1 work without threads. Decoding and hashing release Python's lock.
    """
    path = ssdh_home() / "verified" / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]}.csv"
    version = file_sha256(Path(decoding.__file__))
    known = _load(path, version)
    states = [_state(root / name) for name in names]
    fresh = {name: Inspection("", "its name is not in UTF-8: rename it") for name in names if not is_text(name)}
    todo = [
        row
        for row, (name, state) in enumerate(zip(names, states, strict=True))
        if name not in fresh and (state is None or name not in known or known[name][0] != state)
    ]
    saved = time.monotonic()
    for row, inspection in _run(root, names, todo, workers):
        state = states[row]
        fresh[names[row]] = inspection
        if state is not None and time.time_ns() - _changed(state) > RACY_NS:
            known[names[row]] = state, inspection
        if time.monotonic() - saved > SAVE_SECONDS:
            _save(path, version, known)
            saved = time.monotonic()
    if todo:
        _save(path, version, known)
    return [fresh[name] if name in fresh else known[name][1] for name in names]


def refuse_bad(root: Path, names: list[str], inspections: list[Inspection], parameter: str) -> None:
    """Raise DataError that lists every bad file with its reason; `parameter` names what leaves them out instead."""
    bad = [(name, item.reason) for name, item in zip(names, inspections, strict=True) if item.reason]
    if bad:
        listed = "\n".join(f"  {one_line(name)}: {reason}" for name, reason in bad)
        raise DataError(
            f"{len(bad)} of {len(names)} files under {root} are not whole images: repair or remove them, or leave them "
            f"out (params.yaml: {parameter}: skip)\n{listed}"
        )


def _run(root: Path, names: list[str], rows: list[int], workers: int | None) -> Iterator[tuple[int, Inspection]]:
    """(row, inspection) of each of the rows, in order, with a bar on a terminal."""
    workers = workers if workers is not None else num_cores()
    if len(rows) > BLOCK:
        logger.info("decoding {:,} files under {} once, to find broken ones", len(rows), root)
    with (
        ThreadPoolExecutor(max(1, workers)) as pool,
        tqdm(total=len(rows), unit="file", desc="verify", disable=not sys.stderr.isatty()) as bar,
    ):
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            paths = [root / names[row] for row in block]
            yield from zip(block, map(_inspect, paths) if workers < 2 else pool.map(_inspect, paths), strict=True)
            bar.update(len(block))


def _inspect(path: Path) -> Inspection:
    if is_special(path):
        return Inspection("", SPECIAL)
    try:
        data = path.read_bytes()
        decode_image(data, VERIFY_SIDE)
    except OSError as error:
        return Inspection("", f"cannot be read ({error.strerror})")
    except BadImageError as error:
        return Inspection("", str(error))
    return Inspection(hashlib.sha256(data).hexdigest(), "")


def _state(path: Path) -> State | None:
    """(size, inode, time of change of the content, of the status), in bytes and nanoseconds; None if unreadable."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


def _changed(state: State) -> int:
    """When a file last changed, content or status: no program sets the latter, as many do the former, even ahead."""
    return max(state[2:]) if os.name == "nt" else state[3]  # Windows' is the time of its creation


def _load(path: Path, version: str) -> dict[str, tuple[State, Inspection]]:
    """What is known of a root; nothing where the table is missing, torn or of other decoding rules."""
    known: dict[str, tuple[State, Inspection]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            if next(reader, [])[-1:] != [version]:
                return {}
            for name, size, inode, changed, status, digest, reason in reader:
                known[name] = (int(size), int(inode), int(changed), int(status)), Inspection(digest, reason)
    except (OSError, ValueError, csv.Error):
        return {}
    return known


def _save(path: Path, version: str, known: dict[str, tuple[State, Inspection]]) -> None:
    header = ("path", "size", "inode", "mtime_ns", "ctime_ns", "sha256", version)
    rows = ((name, *state, item.digest, item.reason) for name, (state, item) in known.items())
    try:
        write_csv(path, header, rows)
    except DataError as error:  # only costs time
        logger.warning("{}", error)
