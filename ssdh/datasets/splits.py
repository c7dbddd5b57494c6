"""Who is a query, who trains, who is searched: seeded, disjoint, shuffled once, and kept in `data/split/`."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.errors import DataError, ParameterError
from ssdh.files import read_array, write_array, write_csv

Rows = NDArray[np.int64]

# one stream of random numbers a purpose: more queries do not change the order of the database's draw
_QUERY_STREAM, _TRAIN_STREAM, _ORDER_STREAM = 1, 2, 3


@dataclass(frozen=True)
class Split:
    """Roles of manifest rows, three int64 arrays.

    query: in seeded order, disjoint from `database`. database: the seeded order in which it is searched, so that no
    class order leaks into ties; holds the training images. train: its training rows, in the database's order.
    """

    query: Rows
    train: Rows
    database: Rows


@dataclass(frozen=True)
class Protocol:
    """How a data set is split.

    num_query: None takes all of `query_pool` if there is one, else a tenth, at most 1000. num_train: None takes 5000,
    or all of a smaller database. stratified: as many queries of each class (as even as the number allows); for sets
    with one label an image. query_pool, database_pool: rows from which queries and database come (None: all rows).
    """

    num_query: int | None
    num_train: int | None
    stratified: bool = False
    query_pool: Rows | None = None
    database_pool: Rows | None = None


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
        num_query = min(max(1, num_rows // 10), 1000)
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
    num_train = min(5000, len(database)) if protocol.num_train is None else protocol.num_train
    if num_train > len(database):
        raise ParameterError(
            f"{name}.num_train asks for {num_train} images, the database has {len(database)} "
            f"(params.yaml: {name}.num_train)"
        )
    is_train = np.zeros(num_rows, dtype=bool)
    is_train[np.random.default_rng([seed, _TRAIN_STREAM]).permutation(database)[:num_train]] = True
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
            pairs: list[Any] = list(csv.reader(file))[1:]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: run `dvc repro`") from None
    database = np.asarray(read_array(folder / "order.npy"), dtype=np.int64)
    rows = {role: [int(row) for row, found in pairs if found == role] for role in ("query", "train", "database")}
    is_train = np.zeros(len(pairs), dtype=bool)
    is_train[rows["train"]] = True
    if sorted(database.tolist()) != sorted(rows["train"] + rows["database"]):
        raise DataError(f"{path} and order.npy beside it are of different runs: run `dvc repro --force prepare`")
    query = np.asarray(rows["query"], dtype=np.int64)
    return Split(query=query, train=database[is_train[database]], database=database)
