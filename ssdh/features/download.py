"""Verified downloads into the shared cache: resumable, atomic, one at a time a file, and safe unpacking.

`SSDH_OFFLINE=1` never touches the network. Every failure is one line: what to fetch, where to put it, its checksum.
"""

import bz2
import gzip
import hashlib
import http.client
import json
import lzma
import os
import shutil
import sys
import tarfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from loguru import logger
from tqdm import tqdm

from ssdh.core.cache_dir import offline
from ssdh.core.errors import DataError
from ssdh.core.files import file_lock
from ssdh.core.inflation import refuse_inflation

CHUNK = 1 << 20
TIMEOUT_SECONDS = 30.0
ATTEMPTS = 5  # without a new byte; each that brings some starts the count again
LOG_SECONDS = 10.0
MEMBER_BYTES = 2048  # that tarfile holds in memory of each file in an archive
_COMPRESSIONS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}


@dataclass(frozen=True)
class RemoteFile:
    """A file to download: address, checksum as its authors publish it (an MD5, or how the SHA-256 begins), bytes.

    Without a checksum any whole answer is taken: whoever unpacks it checks its content.
    """

    url: str
    md5: str = ""
    size: int | None = None
    sha256: str = ""

    @property
    def name(self) -> str:
        """The file's name, the last part of its address."""
        return self.url.rsplit("/", 1)[-1]

    def by_hand(self, folder: Path) -> str:
        """What to do where the network gives nothing: what to fetch, where to put it, the checksum."""
        checksum = f"md5 {self.md5}" if self.md5 else f"sha256 {self.sha256}…" if self.sha256 else "no checksum known"
        size = f", {self.size:,} bytes" if self.size else ""
        return f"fetch {self.url} by hand and put it at {folder / self.name} ({checksum}{size})"

    def digest(self, path: Path) -> str:
        """Checksum of a file on disk, of the kind that is known of this one."""
        with path.open("rb") as file:
            if self.md5:
                return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            return hashlib.file_digest(file, "sha256").hexdigest()

    def is_it(self, digest: str) -> bool:
        """Whether a file with this `digest` is the one that its authors published."""
        return digest.startswith(self.md5 or self.sha256)


def fetch(remote: RemoteFile, folder: Path) -> Path:
    """Return the verified file `folder/<name>`, downloading it first where it is not there.

    Processes that want the same file take turns under a file lock. A file put there by hand is verified once.
    Raises DataError with what to do where it cannot be had or its checksum is wrong.
    """
    if (folder / remote.name).exists() and _is_verified(remote, folder / remote.name):
        return folder / remote.name  # without a lock: the folder may be somebody else's
    with _turn(folder, remote):
        return _fetch(remote, folder)


def obtain(archive: RemoteFile, folder: Path, target: Path, member: str | None = None) -> Path:
    """Make sure that `target` (a folder) holds the unpacked archive, fetching it into `folder` first if needed.

    `member`: the archive's top folder that becomes `target`; None for the whole. `target` appears whole or not at all.
    """
    if target.exists():
        return target
    with _turn(folder, archive):
        if not target.exists():
            unpack(_fetch(archive, folder), target, member)
    return target


def unpack(path: Path, target: Path, member: str | None = None) -> None:
    """Unpack a tar or zip file so that `target` is its `member` (None: its whole content).

    Names that lead outside the folder, links that do, device files, and more than a file of this size may unpack to are
    refused (DataError): nothing is written then. Unpacked beside `target` first and renamed, so that `target` is whole
    or absent.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.unpacking")
    plain = temporary.with_suffix(".tar")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    logger.info("unpacking {}", path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                refuse_inflation(path, sum(member.file_size for member in archive.infolist()), "its files")
                _refuse_escapes(path, archive.namelist())
                archive.extractall(temporary)
        else:
            with tarfile.open(_without_compression(path, plain), "r:") as bundle:
                _refuse_escapes(path, _names_in(path, bundle))
                bundle.extractall(temporary, filter="data")
        inside = temporary / member if member else temporary
        if not inside.is_dir():
            raise DataError(f"{path} does not hold the folder {member}: remove it and fetch it again")
        inside.replace(target)
    except DataError:
        raise
    except Exception as error:  # of a broken archive zlib's and lzma's own, IndexError, NotImplementedError …
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} could not be unpacked: {said}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        plain.unlink(missing_ok=True)


def _without_compression(path: Path, plain: Path) -> Path:
    """The tar file itself, or `plain`, to which a compressed one is written: its headers then claim no more than that.

    tarfile reads what a header claims at once, gigabytes where the compressed file has megabytes of it.
    """
    with path.open("rb") as file:
        head = file.read(6)
    opened = next((opened for magic, opened in _COMPRESSIONS.items() if head.startswith(magic)), None)
    if opened is None:
        return path
    written = 0
    with opened(path) as packed, plain.open("wb") as out:
        while chunk := packed.read(CHUNK):
            refuse_inflation(path, written := written + len(chunk), "what it unpacks to, so far,")
            out.write(chunk)
    return plain


def _names_in(path: Path, bundle: tarfile.TarFile) -> list[str]:
    names: list[str] = []
    size = 0
    for member in bundle:
        names.append(member.name)
        size += member.size + MEMBER_BYTES
        refuse_inflation(path, size, "its files")
    return names


def _refuse_escapes(path: Path, names: list[str]) -> None:
    for name in names:
        pure = PurePosixPath(name.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or ":" in name.split("/")[0]:
            raise DataError(f"{path} holds the unsafe path {name!r}: nothing was unpacked; remove the file")


@contextmanager
def _turn(folder: Path, remote: RemoteFile) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error.strerror}): set SSDH_HOME to a folder to write in") from None
    waiting = f"another process is fetching {remote.name}: waiting for it"
    with file_lock(folder / f".{remote.name}.lock", waiting_for=waiting):
        yield


def _fetch(remote: RemoteFile, folder: Path) -> Path:
    target, partial = folder / remote.name, folder / f"{remote.name}.part"
    if target.exists():
        if not _is_verified(remote, target):
            checksum = remote.digest(target)
            if not remote.is_it(checksum):
                raise DataError(
                    f"{target} is not the official file (checksum {checksum}): remove it, or {remote.by_hand(folder)}"
                )
            _mark_verified(remote, target)
        return target
    if offline():
        raise DataError(f"SSDH_OFFLINE=1 forbids the download of {remote.name}: {remote.by_hand(folder)}")
    # bytes of an earlier, different file are found out by the checksum: then once more from the start
    resumed = partial.exists()
    for _ in range(2):
        _download(remote, partial, folder)
        checksum = remote.digest(partial)
        if remote.is_it(checksum):
            partial.replace(target)
            _mark_verified(remote, target)
            return target
        partial.unlink()
        if not resumed:
            break
        resumed = False
        logger.warning("{} has the wrong checksum after resuming: downloading it again", remote.name)
    raise DataError(
        f"{remote.url} sent a file with the checksum {checksum}: try again later, or {remote.by_hand(folder)}"
    )


def _download(remote: RemoteFile, partial: Path, folder: Path) -> None:
    """Append to `partial` until the whole file is there, resuming after dropped connections."""
    failures = 0
    while True:
        have = partial.stat().st_size if partial.exists() else 0
        try:
            _transfer(remote, partial, have)
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # nothing beyond what we have: the checksum decides
                return
            reason = f"HTTP {error.code} {error.reason}"
            temporary = error.code in (408, 429) or error.code >= 500
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
            temporary = not isinstance(getattr(error, "reason", None), OSError)  # no route, no name, refused: final
        else:
            return
        gained = (partial.stat().st_size if partial.exists() else 0) > have
        failures = 1 if gained else failures + 1
        if not (temporary or gained) or failures >= ATTEMPTS:
            raise DataError(f"{remote.name} could not be downloaded ({reason}): {remote.by_hand(folder)}") from None
        logger.warning("{}: {}; trying again", remote.name, reason)
        time.sleep(min(2.0 ** (failures - 1), 10.0))


def _transfer(remote: RemoteFile, partial: Path, have: int) -> None:
    """One request: from byte `have` on where the server can (206), else from the start (200)."""
    headers = {"User-Agent": "ssdh"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(remote.url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        resuming = response.status == 206
        length = response.headers.get("Content-Length")
        start = have if resuming else 0
        total = start + int(length) if length else remote.size
        with partial.open("ab" if resuming else "wb") as file, _progress(remote.name, start, total) as advance:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                advance(len(chunk))
        if total is not None and partial.stat().st_size < total:
            raise http.client.IncompleteRead(b"", total - partial.stat().st_size)


class _Advance:
    """Counts bytes: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, name: str, start: int, total: int | None) -> None:
        self.name, self.done, self.total = name, start, total
        self.said = time.monotonic()
        self.bar = (
            tqdm(total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024, desc=name)
            if sys.stderr.isatty()
            else None
        )
        if self.bar is None:
            self._say()

    def __call__(self, count: int) -> None:
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif time.monotonic() - self.said > LOG_SECONDS:
            self.said = time.monotonic()
            self._say()

    def _say(self) -> None:
        of = f" of {self.total / 2**20:.0f} MiB ({100 * self.done / self.total:.0f} %)" if self.total else " MiB"
        logger.info("downloading {}: {:.0f}{}", self.name, self.done / 2**20, of)


@contextmanager
def _progress(name: str, start: int, total: int | None) -> Iterator[_Advance]:
    advance = _Advance(name, start, total)
    try:
        yield advance
    finally:
        if advance.bar is not None:
            advance.bar.close()


def _marker(target: Path) -> Path:
    return target.with_name(f".{target.name}.verified")


def _stamp(remote: RemoteFile, target: Path) -> dict[str, str | int]:
    stat = target.stat()
    return {"checksum": remote.md5 or remote.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _is_verified(remote: RemoteFile, target: Path) -> bool:
    """Whether this very file (size, time of change) was verified before: 3 GB are not hashed at every start."""
    try:
        marked: object = json.loads(_marker(target).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return marked == _stamp(remote, target)


def _mark_verified(remote: RemoteFile, target: Path) -> None:
    _marker(target).write_text(json.dumps(_stamp(remote, target)), encoding="utf-8")
