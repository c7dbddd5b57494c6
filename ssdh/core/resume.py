"""Unfinished work that is worth keeping, under a fingerprint and a lock that dies with the process."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loguru import logger

from ssdh.core.cache_dir import ssdh_home
from ssdh.core.files import file_lock, file_sha256, write_json

KEEP_WORK_DAYS = 14


def fingerprint(inputs: Sequence[Path], parameters: dict[str, Any]) -> str:
    """A hexadecimal digest of the input files' bytes, the parameters and the code that is loaded.

    The code is every loaded module of `ssdh` and `stages`: call it when the stage has imported all it uses.
    """
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True, default=str).encode())
    for path in inputs:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(f"{file.name}:{file_sha256(file)};".encode())
    for name, source in sorted(_own_sources().items()):
        digest.update(f"{name}:{file_sha256(source)};".encode())
    return digest.hexdigest()[:32]


def _own_sources() -> dict[str, Path]:
    """The files of the project's loaded modules; the one that `python -m` runs goes by its own name."""
    found: dict[str, Path] = {}
    for name, module in list(sys.modules.items()):
        spec, source = getattr(module, "__spec__", None), getattr(module, "__file__", None)
        own_name = spec.name if name == "__main__" and spec is not None else name
        if own_name.split(".")[0] in ("ssdh", "stages") and source:
            found[own_name] = Path(source)
    return found


@contextmanager
def work_folder(key: str) -> Iterator[Path]:
    """Give the folder `$SSDH_HOME/work/<key>` for resumable work, under an exclusive lock that dies with the process.

    A second process with the same key waits (a killed `dvc` may leave its stage running) and then finds the first
    one's work. The folder is removed when the body succeeds and kept when it fails; folders that nobody touched for
    14 days are removed first.
    """
    root = ssdh_home() / "work"
    folder = root / key
    root.mkdir(parents=True, exist_ok=True)
    _remove_old_work(root)
    with file_lock(root / f"{key}.lock", waiting_for=f"another process is at the same work ({folder}): waiting for it"):
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def outs_lock(outs: Sequence[Path]) -> Iterator[None]:
    """Let one process at a time write these files: a stage whose `dvc` was killed, with other parameters, may still.

    The lock dies with the process. A link to DVC's cache is another file each time, its place is the same.
    """
    places = sorted(str(path.parent.resolve() / path.name) for path in outs)
    name = hashlib.sha256("\n".join(places).encode()).hexdigest()[:32]
    root = ssdh_home() / "work"
    root.mkdir(parents=True, exist_ok=True)
    told = f"another process, with other parameters, is still to write {', '.join(map(str, outs))}: waiting for it"
    with file_lock(root / f"outs-{name}.lock", waiting_for=told):
        yield


def mark_finished(key: str, outs: Sequence[Path]) -> None:
    """Note that the work `key` put `outs` in place: for a run that waited for this one and need not do it again."""
    write_json(ssdh_home() / "work" / f"{key}.done", {str(path.resolve()): file_sha256(path) for path in outs})


def finished_before(key: str, outs: Sequence[Path]) -> bool:
    """Whether the same work was finished by another process and all its outs stand in place, byte for byte."""
    note = ssdh_home() / "work" / f"{key}.done"
    if not note.is_file() or not all(path.is_file() for path in outs):
        return False
    known = json.loads(note.read_text(encoding="utf-8"))
    return all(known.get(str(path.resolve())) == file_sha256(path) for path in outs)


def _remove_old_work(root: Path) -> None:
    oldest = time.time() - KEEP_WORK_DAYS * 86_400
    for folder in root.iterdir():
        try:
            young = folder.stat().st_mtime >= oldest
        except FileNotFoundError:  # its own run has ended meanwhile
            continue
        if young:
            continue
        if folder.is_dir():
            logger.info("removing unfinished work older than {} days: {}", KEEP_WORK_DAYS, folder)
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.suffix in (".lock", ".done"):
            folder.unlink(missing_ok=True)
