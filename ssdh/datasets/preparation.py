"""From a raw data set to `data/images/`, `data/labels.npy`, `data/split/` and the counts of `metrics/data.json`.

Images, labels and their order never depend on the seed: only the split does.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from ssdh.datasets.base import RawDataset
from ssdh.datasets.splits import Protocol, Rows, Split, draw_split, write_split
from ssdh.datasets.verification import inspect_files, refuse_bad
from ssdh.errors import DataError
from ssdh.files import write_array, write_csv


@dataclass(frozen=True)
class Prepared:
    """A data set whose every image is known to decode, and who does what in it."""

    raw: RawDataset
    digests: list[str]
    split: Split

    @property
    def duplicates(self) -> int:
        """How many queries have an exact copy (same SHA-256) in the database."""
        database = {self.digests[row] for row in self.split.database}
        return sum(self.digests[row] in database for row in self.split.query)


def prepare(
    raw: RawDataset, *, root: Path | None, seed: int, workers: int | None, name: str, on_bad_image: str = "fail"
) -> Prepared:
    """Verify every image, drop or refuse the bad ones, draw the split; `name` is the set's name in `params.yaml`.

    Raises DataError that lists all bad files with their reasons where `on_bad_image` is "fail".
    """
    if raw.images is not None:
        digests = [hashlib.sha256(image).hexdigest() for image in np.ascontiguousarray(raw.images)]
    else:
        assert root is not None
        raw, digests = _verified(raw, root, workers, name, on_bad_image)
    split = draw_split(raw.protocol, raw.labels, seed=seed, name=f"datasets.{name}.data")
    prepared = Prepared(raw, digests, split)
    if prepared.duplicates:
        logger.warning(
            "{} of {} queries have an exact copy in the database, which is too easy to find: see docs/datasets.md",
            prepared.duplicates,
            len(split.query),
        )
    return prepared


def write_images(folder: Path, prepared: Prepared) -> None:
    """Write `manifest.csv` (row, path, sha256) and, of array sets, `images.npy` (N, H, W, 3) uint8."""
    rows = zip(range(len(prepared.digests)), prepared.raw.names, prepared.digests, strict=True)
    write_csv(folder / "manifest.csv", ("row", "path", "sha256"), rows)
    if prepared.raw.images is not None:
        write_array(folder / "images.npy", prepared.raw.images)


def write_roles(folder: Path, prepared: Prepared) -> None:
    """Write `data/split/`."""
    write_split(folder, prepared.split, len(prepared.digests), prepared.raw.skipped)


def counts(prepared: Prepared, *, name: str) -> dict[str, Any]:
    """The content of `metrics/data.json`; `classes` holds the names, in the order of the columns of the labels."""
    raw, split = prepared.raw, prepared.split
    return {
        "dataset": name,
        "images": len(raw.names),
        "num_classes": len(raw.classes),
        "query": len(split.query),
        "train": len(split.train),
        "database": len(split.database),
        "skipped": len(raw.skipped),
        "unlabelled": int((raw.labels.sum(axis=1) == 0).sum()),
        "duplicate_queries": prepared.duplicates,
        **raw.counts,
        "classes": list(raw.classes),
    }


def _verified(
    raw: RawDataset, root: Path, workers: int | None, name: str, on_bad_image: str
) -> tuple[RawDataset, list[str]]:
    """The set without its bad files, and the SHA-256 of each that stays."""
    inspections = inspect_files(root, raw.names, workers)
    if on_bad_image == "fail":
        refuse_bad(root, raw.names, inspections, f"datasets.{name}.data.on_bad_image")
    keep = np.array([not item.reason for item in inspections])
    bad = [(path, item.reason) for path, item in zip(raw.names, inspections, strict=True) if item.reason]
    if not keep.any():
        raise DataError(f"{root} has no image that can be decoded ({len(bad)} bad files)")
    if bad:
        logger.warning("{} of {} files are bad and left out: see data/split/skipped.csv", len(bad), len(keep))
        raw = _without(raw, keep, bad)
    return raw, [item.digest for item in inspections if not item.reason]


def _without(raw: RawDataset, keep: NDArray[np.bool_], bad: list[tuple[str, str]]) -> RawDataset:
    """The set without the rows that `keep` denies; pools of the protocol are renumbered."""
    new_row = np.cumsum(keep) - 1

    def renumbered(pool: Rows | None) -> Rows | None:
        return None if pool is None else new_row[pool[keep[pool]]].astype(np.int64)

    protocol: Protocol = replace(
        raw.protocol,
        query_pool=renumbered(raw.protocol.query_pool),
        database_pool=renumbered(raw.protocol.database_pool),
    )
    return replace(
        raw,
        names=[name for name, kept in zip(raw.names, keep, strict=True) if kept],
        labels=raw.labels[keep],
        protocol=protocol,
        skipped=[*raw.skipped, *bad],
    )
