"""What every stage needs around its work: atomic files, resumable work folders, timings and the stage's shell.

Nothing here imports torch; devices and ranks are in `ssdh.devices`.
"""

import csv
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from loguru import logger
from numpy.typing import NDArray
from pydantic import Field, field_validator

from ssdh.errors import DataError, ParameterError, SSDHError
from ssdh.params import Params, read_params

RESTORE = "git checkout HEAD -- params.yaml dvc.lock metrics && dvc checkout --force --allow-missing"
KEEP_WORK_DAYS = 14
LAUNCH_ID = "ssdh-"  # begins the run id of ranks that a stage started itself: that stage notes the seconds


class RuntimeParams(Params):
    """How the work is done, never what comes out: results are the same for any number of workers."""

    device: str
    workers: int | None = Field(ge=0, le=256)
    processes: int | None = Field(ge=1, le=4096)
    deterministic: bool
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", device):
            raise ValueError("must be auto, cpu, cuda, cuda:N (a card's number) or mps")
        return device

    @property
    def num_workers(self) -> int:
        """`workers`; null: one for each CPU core, shared out over the ranks of this machine; 0 works in the process."""
        if self.workers is not None:
            return self.workers
        return max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def num_cores() -> int:
    """CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def ssdh_home() -> Path:
    """The folder of downloads, unfinished work and timings: `$SSDH_HOME`, by default in the user's cache directory."""
    if home := os.environ.get("SSDH_HOME"):
        return Path(home).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ssdh"


def check_home() -> None:
    """Raise DataError where `$SSDH_HOME` cannot be made or written to."""
    home = ssdh_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise DataError(
            f"{home}, where downloads and unfinished work go, cannot be written to ({error.strerror}): set SSDH_HOME "
            "to a folder that can (environment)"
        ) from None


# --- files ---------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is flushed to disk and renamed, on failure removed.

    So `path` is either the whole new file or what stood there before. The temporary name keeps the suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_torn(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _remove_torn(path: Path) -> None:
    """Remove what writers of `path` that were killed left beside it."""
    for left in path.parent.glob(f".{path.stem}.*.tmp{path.suffix}"):
        writer = left.name.removeprefix(f".{path.stem}.").split(".")[0]
        if writer.isdecimal() and not _alive(int(writer)):
            left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write `array` as `.npy`, atomically."""
    with atomic_path(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as indented JSON with a final newline, atomically; NaN is refused: leave a missing metric out."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterator[Sequence[Any]] | Sequence[Sequence[Any]]) -> None:
    """Write rows as CSV with a header line, atomically; floats keep every digit."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_array(path: Path, *, mode: Literal["r", "c"] = "r") -> NDArray[Any]:
    """Open a `.npy` as a read-only memory map (outs may be links into DVC's cache); "c" is private copy-on-write."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode=mode, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: run `dvc repro` (or `dvc checkout` for cached results)") from None
    except (ValueError, OSError):
        try:  # an array of size 0 cannot be mapped
            array = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{path} is not a whole .npy file ({error}): remove it and run `dvc repro`") from None
    return array


def is_placeholder(path: Path) -> bool:
    """Whether a file stands for "no weights": no byte at all, or the committed safetensors that holds no tensor."""
    return path.is_file() and path.stat().st_size <= 16  # the format's length field and an empty header


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- unfinished work ------------------------------------------------------------------------------------------------


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


@contextmanager
def file_lock(path: Path, waiting_for: str) -> Iterator[None]:
    """Hold an exclusive file lock, which dies with the process; logs `waiting_for` once where it must wait."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info(waiting_for)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


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


# --- the stage's shell ----------------------------------------------------------------------------------------------


def configure_logging(level: str = "INFO") -> None:
    """Log to stderr, short lines, without locals or tracebacks of expected errors."""
    logger.remove()
    logger.add(sys.stderr, level=level, format="{time:HH:mm:ss} {level: <7} {message}", diagnose=False)


def stage(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Decorate a stage's `main`: logging, one line for an expected error (exit code 1), and the seconds it took."""

    def decorate(main: Callable[[], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def run() -> None:
            first = os.environ.get("RANK", "0") == "0"  # of several processes, one speaks
            configure_logging(_log_level() if first else "WARNING")
            started = time.perf_counter()
            try:
                main()
            except SSDHError as error:
                for line in str(error).splitlines():
                    print(f"{name}: {line}", file=sys.stderr)
                print(f"{name}: {_way_back(name)}", file=sys.stderr)
                raise SystemExit(1) from None
            if first and not os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(LAUNCH_ID):
                record_seconds(name, time.perf_counter() - started)

        return run

    return decorate


def _way_back(name: str) -> str:
    """What to say of earlier results after a mistake: `check` runs before DVC removes anything."""
    if name == "check":
        return "earlier results are as they were: correct it and run again"
    with suppress(OSError):
        os.utime("params.yaml")  # DVC may rewrite it within git's clock, and `git checkout` would take it for unchanged
    return f"correct it and run again; earlier results, without what was not committed: {RESTORE}"


def record_seconds(name: str, seconds: float) -> None:
    """Append a line (stage, seconds, time, commit) to `$SSDH_HOME/timings.csv`; never fails the stage."""
    path = ssdh_home() / "timings.csv"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", newline="", encoding="utf-8") as file:
            if file.tell() == 0:
                file.write("stage,seconds,time,commit\n")
            stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
            file.write(f"{name},{seconds:.3f},{stamp},{_commit()}\n")
    except OSError as error:
        logger.warning("{} could not be written: {}", path, error)


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


def _log_level() -> str:
    """The level of `runtime.log_level` where it can be read; the stage itself reports what is wrong with it."""
    try:
        level = read_params().get("runtime", {}).get("log_level", "INFO")
    except (ParameterError, AttributeError):
        return "INFO"
    return level if level in ("DEBUG", "INFO", "WARNING", "ERROR") else "INFO"
