"""Text lists that image sets are passed around with: names one a line, rows of 0 and 1, and which files exist."""

import os
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError, one_line
from ssdh.features.image_files import is_text

_BLANKS = " \t\r\n"

_SEPARATORS = np.frombuffer(b" \t\r\n,", np.uint8)


def read_lines(path: Path) -> list[str]:
    """The lines of a text in UTF-8, without their ends; raises DataError where it is none.

    A line ends in LF or CR LF (in CR alone where nothing else does): names may hold what else Unicode calls a line end.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list in UTF-8 ({error})") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")] if "\n" in text else text.split("\r")
    return lines if lines[-1] else lines[:-1]


def read_names(path: Path) -> list[str]:
    """The file names of a list, one a line, with forward slashes; raises DataError for names that lead elsewhere."""
    names = [clean_name(line, path) for line in read_lines(path) if line.strip()]
    if not names:
        raise DataError(f"{path} lists no images")
    return names


def clean_name(text: str, source: Path) -> str:
    """A name as a relative path with forward slashes; raises DataError, naming `source`, where it leads elsewhere."""
    name = text.strip(_BLANKS).replace("\\", "/")
    parts = name.split("/")
    if not name or not parts[0] or not parts[-1] or ".." in parts or "\0" in name or not is_text(name):
        raise DataError(f"{source} lists {text.strip(_BLANKS)!r}, which is not a path below the root")
    return "/".join(part for part in parts if part not in ("", "."))


def spelled_as(names: Sequence[str], there: Collection[str]) -> dict[str, str]:
    """Names of a list to those that are there and differ from them only as `Below.spelled` says.

    A name that is there as it stands, or that fits two files, is left out.
    """
    twins: dict[str, list[str]] = {}
    missing = [name for name in names if name not in there]
    if not missing:
        return {}
    for name in there:
        twins.setdefault(_loose(name), []).append(name)
    candidates = {name: twins.get(_loose(name), []) for name in missing}
    return {name: fitting[0] for name, fitting in candidates.items() if len(fitting) == 1}


def told_apart(names: Sequence[str], there: Collection[str]) -> str:
    """The first missing names for an error line; what is there in other letters' case is said beside each."""
    lower = {name.lower(): name for name in there}
    shown = [
        f"{name!r}, there is {lower[name.lower()]!r}" if name.lower() in lower else one_line(name) for name in names[:3]
    ]
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


class Below:
    """What lies below a root, by one listing a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries: dict[str, set[str]] = {}
        self._twins: dict[str, dict[str, list[str]]] = {}

    def entries(self, folder: str) -> set[str]:
        """The names in a folder, "" being the root; none where there is no such folder."""
        if folder not in self._entries:
            try:
                with os.scandir(self.root / folder) as listing:
                    self._entries[folder] = {entry.name for entry in listing}
            except OSError:
                self._entries[folder] = set()
        return self._entries[folder]

    def spelled(self, path: str) -> str | None:
        """A listed path as it stands on the disk; None where it is not there.

        A name that is not there may differ from the one that is in blanks at its ends, which no list shows, and in how
        Unicode composes letters (é or e + ´): macOS stores decomposed names, most editors write composed ones. One
        that fits two files is none.
        """
        folder, _, name = path.rpartition("/")
        if name in self.entries(folder):
            return path
        place = self.spelled(folder) if folder else ""
        if place is None:
            return None
        if place not in self._twins:
            twins = self._twins[place] = {}
            for entry in self.entries(place):
                twins.setdefault(_loose(entry), []).append(entry)
        fitting = [name] if name in self.entries(place) else self._twins[place].get(_loose(name), [])
        return f"{place}/{fitting[0]}".removeprefix("/") if len(fitting) == 1 else None

    def beside(self, paths: Sequence[str]) -> set[str]:
        """The paths of all that lies in the folders of these paths."""
        folders = {path.rpartition("/")[0] for path in paths}
        return {f"{folder}/{name}".removeprefix("/") for folder in folders for name in self.entries(folder)}


def _loose(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip(_BLANKS))


def locate(root: Path, names: Sequence[str], folders: Sequence[str] = ("",)) -> tuple[list[str], NDArray[np.bool_]]:
    """Paths relative to the root, as they stand on the disk, and which exist.

    They lie in that of `folders` ("" is the root) that holds most of the names.
    """
    best: tuple[list[str], NDArray[np.bool_]] | None = None
    below = Below(root)
    for folder in folders:
        listed = [f"{folder}/{name}" if folder else name for name in names]
        paths = [below.spelled(path) for path in listed]
        exists = np.array([path is not None for path in paths], dtype=bool)
        if best is None or exists.sum() > best[1].sum():
            best = [path or name for path, name in zip(paths, listed, strict=True)], exists
        if exists.all():
            break
    assert best is not None
    return best


def check_listed(name: str, root: Path, paths: Sequence[str], exists: NDArray[np.bool_], on_bad_image: str) -> None:
    """A listed photo that is missing is a bad one: raise DataError unless data set `name` skips such.

    exists: (N,), which of the paths below `root` exist; none at all is always an error.
    """
    missing = [path for path, there in zip(paths, exists, strict=True) if not there]
    if len(missing) == len(paths):
        raise DataError(
            f"none of the {len(paths):,} images listed for {root} is there: expected {one_line(missing[0])} …"
        )
    if missing and on_bad_image == "fail":
        raise DataError(
            f"{len(missing):,} of {len(paths):,} images listed for {root} are missing ({not_there(root, missing)}): "
            f"add them, or leave them out (params.yaml: datasets.{name}.data.on_bad_image: skip)"
        )


def not_there(root: Path, missing: Sequence[str]) -> str:
    """The first missing paths for an error line, as `told_apart`."""
    return told_apart(missing, Below(root).beside(missing[:3]))


def first_few(names: Sequence[str]) -> str:
    """The first three names, for an error line."""
    return ", ".join(map(one_line, names[:3])) + (", …" if len(names) > 3 else "")
