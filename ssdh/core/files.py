"""Files that are written whole or not at all, and read with one line for what is wrong with them."""

import csv
import hashlib
import io
import json
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal, TextIO

import numpy as np
import psutil
from filelock import FileLock, Timeout
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.core.package import no_pipeline

DIGITS = 6  # significant digits of a number in a text file; arrays and weights keep their full precision
NOISE = 1e-12


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is flushed to disk and renamed, on failure removed.

    So `path` is either the whole new file or what stood there before. The temporary name keeps the suffix. Raises
    DataError where the system refuses, for a full disk or an impossible folder say.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_torn(path)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path} could not be written: {error.strerror or f'{error}: is the disk full?'}") from error
    finally:
        with suppress(OSError):  # nothing was written in a folder that cannot be
            temporary.unlink()


def check_writable(path: Path) -> None:
    """Find out before a long computation whether `path` can be written; raises DataError where it cannot."""
    if not path.name or path.is_dir():
        raise DataError(f"{path} could not be written: it is a folder, a file's name is needed")
    try:
        try_folder(path.parent)
    except OSError as error:
        raise DataError(f"{path} could not be written: {error.strerror or error}") from None


def try_folder(folder: Path) -> None:
    """Make the folder where it is not there and write to it, leaving nothing; raises OSError where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _remove_torn(path: Path) -> None:
    """Remove what writers of `path` that were killed left beside it."""
    for left in path.parent.glob(f".{path.stem}.*.tmp{path.suffix}"):
        writer = left.name.removeprefix(f".{path.stem}.").split(".")[0]
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            left.unlink(missing_ok=True)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write `array` as `.npy`, atomically."""
    with atomic_path(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def write_parts(path: Path, parts: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Write one `.npy` of `shape` whose rows come in parts, atomically; a map would hold all of it in memory."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part).data)


def rounded(value: Any) -> Any:
    """`value` with every float in its dicts, lists and tuples at DIGITS significant digits, and no -0.0.

    Runs whose sums differ in a last digit (threads, a patch release of numpy) then write the same text; what is below
    NOISE is such a difference of two equal numbers and becomes 0.

    >>> rounded({"map": 0.8571394754, "worst": [-0.0, 3.1e-17, 123456789.0], "bits": 32})
    {'map': 0.857139, 'worst': [0.0, 0.0, 123457000.0], 'bits': 32}
    """
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        number = float(value)
        return 0.0 if abs(number) < NOISE else float(f"{number:.{DIGITS}g}")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value`, its floats `rounded`, as indented JSON with a final newline, atomically.

    Raises ValueError for NaN and infinity: leave a missing metric out.
    """
    text = json.dumps(rounded(value), indent=2, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def missing_result(path: Path) -> DataError:
    """The error for a result that does not exist: what makes it, or, where there is no pipeline, where to go."""
    if len(path.parts) > 1 and not Path(path.parts[0]).exists() and not Path("dvc.yaml").exists():
        return DataError(f"{path} does not exist: {no_pipeline()}")
    return DataError(f"{path} does not exist: run `dvc repro` (or `dvc checkout` for cached results)")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; raises DataError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing_result(path) from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): run `dvc repro`") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold an object, got {type(value).__name__}: run `dvc repro`")
    return value


class _UnixLines:
    """Writes lines that end in "\\r\\n" with "\\n" alone."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows, their floats `rounded`, as CSV with a header line, atomically; lines end in "\\n".

    Any text comes back as it was, a name with a carriage return too (`csv.reader` on a file opened with newline="").
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(_UnixLines(file))  # whose own "\r\n" makes it quote cells that hold either
        writer.writerow(header)
        writer.writerows(map(rounded, rows))


def read_table(text: str) -> list[dict[str, str]]:
    r"""The lines of CSV text below its header; a quoted cell may hold any line break.

    >>> read_table('name,bits\n"a\nb\u2028c",32\n')
    [{'name': 'a\nb\u2028c', 'bits': '32'}]
    """
    return list(csv.DictReader(io.StringIO(text, newline="")))


NOT_NUMPY = (ValueError, OSError, EOFError, TypeError, OverflowError, MemoryError, SyntaxError, TokenError)
TAKEN = 256  # rows that are read from one map
LONGEST_EMPTY = 1024  # bytes of a .npy file that is a header alone


def read_array(path: Path, *, mode: Literal["r", "c"] = "r") -> NDArray[Any]:
    """Open a `.npy` as a read-only memory map (outs may be links into DVC's cache); "c" is private copy-on-write.

    Raises DataError where it does not exist, is empty or is cut short.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode=mode, allow_pickle=False)
    except FileNotFoundError:
        raise missing_result(path) from None
    except NOT_NUMPY:
        try:  # an array of size 0 cannot be mapped
            if path.stat().st_size > LONGEST_EMPTY:
                raise
            array = np.load(path, allow_pickle=False)
        except NOT_NUMPY as reason:
            said = " ".join(str(reason).split()) or type(reason).__name__
            raise DataError(f"{path} is not a whole .npy file ({said}): remove it and run `dvc repro`") from None
    return array


def take_rows(array: NDArray[Any], rows: NDArray[np.integer[Any]] | slice) -> NDArray[Any]:
    """`array[rows]` as a copy; of a memory map, its pages do not stay in this process's memory.

    A standing map counts all that it ever read, and a row read at random brings its neighbours along: 5000 of a million
    rows were 1 GB. So a few rows at a time are read from maps of their own.
    """
    if not (isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.flags.c_contiguous):
        return np.array(array[rows])
    shape = (array.filename, array.dtype, "r", array.offset, array.shape)
    if isinstance(rows, slice):
        return np.array(np.memmap(*shape)[rows])
    out = np.empty((len(rows), *array.shape[1:]), array.dtype)
    order = np.argsort(rows, kind="stable")
    for start in range(0, len(rows), TAKEN):
        part = order[start : start + TAKEN]
        out[part] = np.memmap(*shape)[rows[part]]
    return out


def is_placeholder(path: Path) -> bool:
    """Whether a file stands for "no weights": no byte at all, or the committed safetensors that holds no tensor."""
    return path.is_file() and path.stat().st_size <= 16  # the format's length field and an empty header


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def file_lock(path: Path, waiting_for: str) -> Iterator[None]:
    """Hold an exclusive file lock, which dies with the process; logs `waiting_for` once where it must wait.

    Raises DataError where the file cannot be made or opened, in a folder of somebody else's say.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        logger.info(waiting_for)
        lock.acquire()
    except OSError as error:
        raise DataError(
            f"{path} cannot be written to ({error.strerror}): give yourself the right, or set SSDH_HOME to a folder of "
            "your own (environment)"
        ) from None
    try:
        yield
    finally:
        lock.release()
