"""Unfinished work that is worth keeping, under a fingerprint and a lock that dies with the process."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from loguru import logger

from ssdh.core.cache_dir import ssdh_home
from ssdh.core.files import file_lock, file_sha256

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
    result: dict[str, Path] = {}
    for name, module in list(sys.modules.items()):
        spec, source = getattr(module, "__spec__", None), getattr(module, "__file__", None)
        own_name = spec.name if name == "__main__" and spec is not None else name
        if own_name.split(".")[0] in ("ssdh", "stages") and source:
            result[own_name] = Path(source)
    return result


@contextmanager
def work_folder(key: str) -> Iterator[Path]:
    """Give the folder `$SSDH_HOME/work/<key>` for resumable work, under an exclusive lock that dies with the process.

    A second process with the same key, in another workspace say, waits and then goes on from what the first one left.
    The folder is removed when the body succeeds and kept when it fails; folders that nobody touched for 14 days are
    removed first.
    """
    root = ssdh_home() / "work"
    folder = root / key
    _remove_old_work(root)
    with file_lock(root / f"{key}.lock", waiting_for=f"another process is at the same work ({folder}): waiting for it"):
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def _remove_old_work(root: Path) -> None:
    oldest = time.time() - KEEP_WORK_DAYS * 86_400
    try:
        folders = list(root.iterdir())
    except OSError:  # there is none, or it is not ours to look into: the lock will say so
        return
    for folder in folders:
        with suppress(OSError):  # its own run has ended meanwhile, or it is somebody else's
            if folder.stat().st_mtime >= oldest:
                continue
            if folder.is_dir():
                logger.info("removing unfinished work older than {} days: {}", KEEP_WORK_DAYS, folder)
                shutil.rmtree(folder, ignore_errors=True)
            elif folder.suffix == ".lock":
                folder.unlink()
