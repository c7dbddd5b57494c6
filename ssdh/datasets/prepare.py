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

from ssdh.core.arrays import Rows
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.files import write_array, write_csv
from ssdh.core.split import Split, write_split
from ssdh.datasets.base import Protocol, RawDataset, default_num_query, default_num_train
from ssdh.datasets.verify import inspect_files, refuse_bad


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
    raw: RawDataset, *, root: Path, seed: int, workers: int | None, name: str, on_bad_image: str = "fail"
) -> Prepared:
    """Verify every image, drop or refuse the bad ones, draw the split; `name` is the set's name in `params.yaml`.

    Raises DataError that lists all bad files with their reasons where `on_bad_image` is "fail".
    """
    if raw.images is not None:
        digests = [hashlib.sha256(image).hexdigest() for image in np.ascontiguousarray(raw.images)]
    elif raw.digests is not None:
        keep = np.array([bool(digest) for digest in raw.digests])
        raw = _without(raw, keep, [(raw.names[row], reason) for row, reason in raw.bad.items()]) if raw.bad else raw
        digests = [digest for digest in raw.digests or () if digest]
    else:
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
        train_pool=renumbered(raw.protocol.train_pool),
    )
    return replace(
        raw,
        names=[name for name, kept in zip(raw.names, keep, strict=True) if kept],
        labels=raw.labels[keep],
        protocol=protocol,
        skipped=[*raw.skipped, *bad],
    )


# one stream of random numbers a purpose: more queries do not change the order of the database's draw
_QUERY_STREAM, _TRAIN_STREAM, _ORDER_STREAM = 1, 2, 3


def draw_split(protocol: Protocol, labels: NDArray[np.uint8], *, seed: int, name: str) -> Split:
    """Draw queries, then train rows and the database's order from the rest, each from its own stream of `seed`.

    labels: (N, C) multi-hot, read only where the protocol is stratified; `name` is the block that errors name
    (`datasets.digits.data`). Train rows are drawn uniformly: an unsupervised method has no classes to draw from.
    Raises ParameterError with both numbers where more images are asked for than there are.
    """
    num_rows = len(labels)
    everything = np.arange(num_rows, dtype=np.int64)
    pool = everything if protocol.query_pool is None else protocol.query_pool
    if protocol.num_query is not None:
        num_query = protocol.num_query
    elif protocol.query_pool is not None:
        num_query = len(pool)
    else:
        num_query = default_num_query(num_rows)
    available = len(pool) - (protocol.query_pool is None)  # the database needs one at least
    if num_query > available:
        raise ParameterError(
            f"{name}.num_query asks for {num_query} queries, only {max(available, 0)} of {len(pool)} images can be one "
            f"(params.yaml: {name}.num_query)"
        )
    rng = np.random.default_rng([seed, _QUERY_STREAM])
    query = (
        _stratified(pool, labels, num_query, rng, name) if protocol.stratified else rng.permutation(pool)[:num_query]
    )

    candidates = everything if protocol.database_pool is None else protocol.database_pool
    database = np.setdiff1d(candidates, query)
    trainable = database if protocol.train_pool is None else np.intersect1d(database, protocol.train_pool)
    if protocol.num_train is not None:
        num_train = protocol.num_train
    else:
        num_train = len(trainable) if protocol.train_pool is not None else default_num_train(len(trainable))
    if num_train > len(trainable):
        raise ParameterError(
            f"{name}.num_train asks for {num_train} images, the database has {len(trainable)} "
            f"(params.yaml: {name}.num_train)"
        )
    is_train = np.zeros(num_rows, dtype=bool)
    is_train[np.random.default_rng([seed, _TRAIN_STREAM]).permutation(trainable)[:num_train]] = True
    database = np.random.default_rng([seed, _ORDER_STREAM]).permutation(database)
    return Split(query=query, train=database[is_train[database]], database=database)


def _stratified(pool: Rows, labels: NDArray[np.uint8], count: int, rng: np.random.Generator, name: str) -> Rows:
    """Draw `count` rows of the pool, equally many a class; classes drawn at random give the remainder."""
    num_classes = labels.shape[1]
    quota = np.full(num_classes, count // num_classes)
    quota[rng.permutation(num_classes)[: count % num_classes]] += 1
    drawn = []
    for column, wanted in enumerate(quota):
        members = pool[labels[pool, column] > 0]
        if wanted > len(members):
            raise ParameterError(
                f"{name}.num_query: {count} queries need {wanted} of class {column}, which has {len(members)} images "
                f"(params.yaml: {name}.num_query)"
            )
        drawn.append(rng.permutation(members)[:wanted])
    return rng.permutation(np.concatenate(drawn))
