"""Who is a query, who trains, who is searched: seeded, disjoint, shuffled once, and kept in `data/split/`."""

import csv
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from ssdh.core.arrays import Rows
from ssdh.core.errors import DataError
from ssdh.core.files import missing_result, read_array, write_array, write_csv


@dataclass(frozen=True)
class Split:
    """Roles of manifest rows, three int64 arrays.

    query: in seeded order, disjoint from `database`. database: the seeded order in which it is searched, so that no
    class order leaks into ties; holds the training images. train: its training rows, in the database's order.
    """

    query: Rows
    train: Rows
    database: Rows


def write_split(folder: Path, split: Split, num_rows: int, skipped: list[tuple[str, str]] | None = None) -> None:
    """Write `roles.csv`, `order.npy` and `skipped.csv` (path, reason) into `folder`.

    `roles.csv` (row, role) lists the queries first, in their seeded order, then the other rows ascending; roles are
    query, train, database and unused.
    """
    role = np.full(num_rows, "unused", dtype="<U8")
    role[split.database] = "database"
    role[split.train] = "train"
    role[split.query] = "query"
    others = np.flatnonzero(role != "query")
    write_csv(folder / "roles.csv", ("row", "role"), [(int(row), role[row]) for row in (*split.query, *others)])
    write_array(folder / "order.npy", split.database)
    write_csv(folder / "skipped.csv", ("path", "reason"), skipped or [])


def read_split(folder: Path) -> Split:
    """Read what `write_split` wrote; raises DataError where it is missing or its files do not belong together."""
    path = folder / "roles.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            roles, count = _read_roles(file)
    except FileNotFoundError:
        raise missing_result(path) from None
    database = np.asarray(read_array(folder / "order.npy"), dtype=np.int64)
    is_train = np.zeros(count, dtype=bool)
    is_train[roles["train"]] = True
    if not np.array_equal(np.sort(database), np.sort(np.concatenate([roles["train"], roles["database"]]))):
        raise DataError(f"{path} and order.npy beside it are of different runs: run `dvc repro --force prepare`")
    return Split(query=roles["query"], train=database[is_train[database]], database=database)


def _read_roles(file: TextIO) -> tuple[dict[str, Rows], int]:
    """The rows of each role but unused, in the file's order, and how many rows there are in all."""
    rows_of = {role: array("q") for role in ("query", "train", "database")}
    count = 0
    reader = csv.reader(file)
    next(reader, None)
    for row, role in reader:
        count += 1
        if role in rows_of:
            rows_of[role].append(int(row))
    return {role: np.array(rows, np.int64) for role, rows in rows_of.items()}, count
