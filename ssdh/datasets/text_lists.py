"""Text lists that image sets are passed around with: names one a line, rows of 0 and 1, and which files exist."""

import os
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError

_SEPARATORS = np.frombuffer(b" \t\r\n,", np.uint8)


def read_names(path: Path) -> list[str]:
    """The file names of a list, one a line, with forward slashes; raises DataError for names that lead elsewhere."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of names ({error})") from None
    names = [clean_name(line, path) for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path} lists no images")
    return names


def clean_name(text: str, source: Path) -> str:
    """A name as a relative path with forward slashes; raises DataError, naming `source`, where it leads elsewhere."""
    name = text.strip().replace("\\", "/").removeprefix("./")
    if not name or name.startswith("/") or name.endswith("/") or (".." in name and ".." in name.split("/")):
        raise DataError(f"{source} lists {text.strip()!r}, which is not a path below the root")
    return name


def spelled_as(names: Sequence[str], there: Collection[str]) -> dict[str, str]:
    """Names of a list to those that are there and differ from them only in how Unicode composes letters (é or e + ´).

    macOS stores decomposed names, most editors write composed ones. A name that is there as it stands, or that fits
    two files, is left out.
    """
    twins: dict[str, list[str]] = {}
    missing = [name for name in names if name not in there]
    if not missing:
        return {}
    for name in there:
        twins.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    found = {name: twins.get(unicodedata.normalize("NFC", name), []) for name in missing}
    return {name: fitting[0] for name, fitting in found.items() if len(fitting) == 1}


def told_apart(names: Sequence[str], there: Collection[str]) -> str:
    """The first missing names for an error line; what is there in other letters' case is said beside each."""
    lower = {name.lower(): name for name in there}
    shown = [f"{name!r}, there is {lower[name.lower()]!r}" if name.lower() in lower else name for name in names[:3]]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


def read_binary_rows(path: Path, num_rows: int) -> NDArray[np.uint8]:
    """(num_rows, C) uint8 of a file with a row of 0s and 1s a line, set apart by blanks, tabs or commas.

    Raises DataError where it holds anything else, or rows of different lengths.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    digit = (data == ord("0")) | (data == ord("1"))
    if not (digit | np.isin(data, _SEPARATORS)).all() or (digit[1:] & digit[:-1]).any():
        raise DataError(f"{path} must hold 0 and 1 only, set apart by blanks")
    values = data[digit] - ord("0")
    per_line = np.diff(np.concatenate([[0], np.cumsum(digit)[data == ord("\n")], [len(values)]]))
    per_line = per_line[per_line > 0]
    if len(per_line) != num_rows or (per_line != per_line[0]).any():
        widths = f"of {per_line.min()} to {per_line.max()} values" if len(per_line) else ""
        raise DataError(f"{path} has {len(per_line)} rows {widths}, expected {num_rows} rows of one length")
    rows: NDArray[np.uint8] = values.reshape(num_rows, -1).astype(np.uint8)
    return rows


def exist(root: Path, names: Sequence[str]) -> NDArray[np.bool_]:
    """Which of the relative paths are there; one listing a folder, not one call a file."""
    listings: dict[str, set[str]] = {}
    found = np.zeros(len(names), dtype=bool)
    for row, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        if folder not in listings:
            try:
                with os.scandir(root / folder) as entries:
                    listings[folder] = {entry.name for entry in entries}
            except OSError:
                listings[folder] = set()
        found[row] = file in listings[folder]
    return found


def locate(root: Path, names: Sequence[str], folders: Sequence[str]) -> tuple[list[str], NDArray[np.bool_]]:
    """Paths relative to the root in that of `folders` ("" is the root) that holds most of the names; which exist."""
    best: tuple[list[str], NDArray[np.bool_]] | None = None
    for folder in folders:
        paths = [f"{folder}/{name}" if folder else name for name in names]
        found = exist(root, paths)
        if best is None or found.sum() > best[1].sum():
            best = paths, found
        if found.all():
            break
    assert best is not None
    return best


def check_listed(name: str, root: Path, paths: Sequence[str], found: NDArray[np.bool_], on_bad_image: str) -> None:
    """A listed photo that is missing is a bad one: raise DataError unless data set `name` skips such.

    found: (N,), which of the paths below `root` exist; none at all is always an error.
    """
    missing = [path for path, there in zip(paths, found, strict=True) if not there]
    if len(missing) == len(paths):
        raise DataError(f"none of the {len(paths):,} images listed for {root} is there: expected {missing[0]} …")
    if missing and on_bad_image == "fail":
        raise DataError(
            f"{len(missing):,} of {len(paths):,} images listed for {root} are missing ({first_few(missing)}): add "
            f"them, or leave them out (params.yaml: datasets.{name}.data.on_bad_image: skip)"
        )


def first_few(names: Sequence[str], count: int = 3) -> str:
    """The first names, for an error line."""
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")
