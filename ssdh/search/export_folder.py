"""The folder of an export: what it may hold before, and which files of an earlier export a new one takes away.

`export.json` lists the files that an export made. It is written first, without checksums, and again at the end, so that
an export that was interrupted is known as one too.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ssdh.core.errors import DataError
from ssdh.core.files import write_json
from ssdh.search.engines import ENGINES, METADATA

ABOUT = "export.json"

FILES = (
    *("codes.npy", "names.csv", "index.faiss", "index.json", "model.safetensors", "model.onnx", "model.onnx.data"),
    *(METADATA, *(name for _, name in ENGINES.values())),
)


def open_folder(folder: Path) -> set[str]:
    """Return the names of the files that an earlier export made in `folder`, if any; one that is missing stays so.

    Raises DataError where it is a file, cannot be made, or holds other things than an export: they are left alone.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: name a new or empty folder for the export")
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)  # whether it can be made shows only then
        empty = next(folder.iterdir(), None) is None
        for path in missing:
            path.rmdir()
    except OSError as error:
        raise DataError(f"{folder} cannot be a folder ({error.strerror or error}): name another one") from None
    if empty:
        return set()
    made = _listed(folder / ABOUT)
    if made is None:
        raise DataError(f"{folder} is not empty and holds no {ABOUT} of an earlier export: name a new or empty folder")
    return made & set(FILES)


def announce(folder: Path, names: Iterable[str]) -> None:
    """Note in `folder` that these files are being written; `finish` replaces the note."""
    write_json(folder / ABOUT, {"sha256": dict.fromkeys(sorted(names))})


def finish(folder: Path, about: dict[str, Any], earlier: Iterable[str]) -> None:
    """Write `about`, whose `sha256` names the files of this export; those of the `earlier` one only are removed."""
    for name in set(earlier) - set(about["sha256"]):
        remove(folder / name)
    write_json(folder / ABOUT, about)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, where it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _listed(path: Path) -> set[str] | None:
    """The files that an `export.json` lists; None where there is none, or one of something else."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    files = result.get("sha256") if isinstance(result, dict) else None
    return set(files) if isinstance(files, dict) else None
