"""The folder that `python -m ssdh encode` writes: codes, features where they are asked for, a manifest, a summary."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError, one_line
from ssdh.core.files import file_sha256, read_array, write_csv, write_json, write_parts
from ssdh.features.image_files import is_text
from ssdh.hashing.codes import width
from ssdh.search.layout import Layout

ABOUT, MANIFEST = "encode.json", "manifest.csv"

COPY_ROWS = 1 << 16  # rows in memory at once where finished arrays are copied


def open_out(out: Path) -> None:
    """Make the folder; DataError where it is none or holds other things than an `encode` wrote."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: name a new or empty folder (--out)")
    if out.is_dir():
        own = {MANIFEST, ABOUT, "codes.npy", "features.npy", "skipped.csv"}
        others = [path.name for path in out.iterdir() if path.name not in own and ".tmp" not in path.name]
        if others:
            raise DataError(f"{out} holds other things ({others[0]}): name a new or empty folder (--out)")
    (out / ABOUT).unlink(missing_ok=True)


def finish(out: Path, about: dict[str, Any], layout: Layout, model_path: Path) -> dict[str, Any]:
    """Write the summary, which says that all is there; returns it."""
    if layout.kind == "none":
        (out / "features.npy").unlink(missing_ok=True)
    about = {
        "bits": layout.bits,
        "images": len(read_array(out / "codes.npy")),
        "features": layout.kind,
        "model_sha256": file_sha256(model_path),
        **about,
    }
    write_json(out / ABOUT, about)
    return about


def write_skipped(out: Path, skipped: Sequence[tuple[str, str]]) -> None:
    """Write (path, reason) of what was left out, if anything was; a path that is no text with escapes."""
    if skipped:
        rows = ((path if is_text(path) else one_line(path), reason) for path, reason in skipped)
        write_csv(out / "skipped.csv", ("path", "reason"), rows)
    else:
        (out / "skipped.csv").unlink(missing_ok=True)


def take_apart(path: Path, out: Path, layout: Layout) -> None:
    """Rows of bytes (N, R) at `path` as `codes.npy` and, where they are kept, `features.npy`."""
    rows = read_array(path)
    write_parts(out / "codes.npy", map(layout.codes, _parts(rows)), (len(rows), width(layout.bits)), np.dtype(np.uint8))
    if layout.dtype is not None:
        write_parts(out / "features.npy", map(layout.features, _parts(rows)), (len(rows), layout.dim), layout.dtype)


def _parts(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (np.asarray(array[start : start + COPY_ROWS]) for start in range(0, len(array), COPY_ROWS))
