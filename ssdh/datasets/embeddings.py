"""Anyone's own embeddings: the rows are the features, no network runs; labels, names and roles are optional.

dvc exp run -S dataset=embeddings -S datasets.embeddings.data.features=clip.npy
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.errors import DataError, ParameterError
from ssdh.core.files import file_sha256, is_placeholder
from ssdh.core.params import Params
from ssdh.datasets.base import FEWEST_TRAIN, DataParams, Dataset, Found, Protocol, RawDataset, check_counts
from ssdh.datasets.columns import LABELS, NAMES, Column, labels_of, names_of, read_column, roles_of
from ssdh.features.embeddings import REASONS, Embeddings, open_embeddings
from ssdh.features.params import NoImages

WHERE = "params.yaml: datasets.embeddings.data"
SHOWN = 5  # row numbers in a message


class Keys(Params):
    """Names of arrays or columns inside the files; null: the usual ones. `labels` and `names` may be "none"."""

    features: str | None = None
    labels: str | None = None
    names: str | None = None


class EmbeddingsParams(DataParams):
    """Each path is the empty placeholder file where there is none; labels and names may lie in the features' file.

    num_query: null is a tenth, at most 1000, or all queries that file or `split` names. num_train: null is 5000, or all
    that remain, or all that `split` names.
    """

    root: None = None
    features: str
    labels: str
    names: str
    split: str
    keys: Keys = Keys()
    on_bad_row: Literal["fail", "skip"] = "fail"


@dataclass(frozen=True)
class Scan:
    """One pass over all rows: the digest of each ("" of a bad one), and what is wrong with it (a place in REASONS)."""

    digests: list[str]
    fault: NDArray[np.uint8]


class OwnEmbeddings(Dataset[EmbeddingsParams]):
    """Rows of a file or folder of embeddings, in its order."""

    name = "embeddings"
    title = "your own embeddings"
    unit = "rows"
    about = "labels and names are optional"
    Params = EmbeddingsParams
    Images = NoImages

    def root(self, params: EmbeddingsParams) -> Path:
        """The file or folder of the features: no other place is looked into."""
        return Path(params.features)

    def find(self, params: EmbeddingsParams) -> Found:
        """The features, where they are named."""
        path = _given(params.features)
        if path is None or not path.exists():
            return Found(None, ("a path to the features (datasets.embeddings.data.features)",))
        return Found(path)

    def ensure(self, params: EmbeddingsParams) -> None:
        """Everything is read once, so that nothing is removed for a file that does not fit."""
        self.read(params)

    def read(self, params: EmbeddingsParams) -> RawDataset:
        """Digests of all rows, with labels, names and pools; bad rows are refused, or listed to be left out."""
        path = _given(params.features)
        if path is None:
            raise DataError(f"{params.features} holds no embeddings: name a file or folder of them ({WHERE}.features)")
        embeddings = open_embeddings(path, params.keys.features)
        count, dim = embeddings.shape
        names = _names(params, path, embeddings)
        classes, labels = _labels(params, path, count)
        scanned = scan(embeddings)
        counts = _report(path, scanned, params.on_bad_row)
        check_counts(self.name, params, int((scanned.fault == 0).sum()), unit=self.unit, parameter="features")
        protocol = _protocol(params, embeddings, names)
        _check_roles(params, protocol, scanned.fault == 0)
        files = dict.fromkeys(part.path for part in embeddings.parts)
        logger.info("{}: {:,} rows of {} {} values, {} classes", path, count, dim, embeddings.dtype, len(classes))
        return RawDataset(
            classes=classes,
            labels=labels,
            names=names,
            protocol=protocol,
            digests=scanned.digests,
            bad={int(row): REASONS[scanned.fault[row]] for row in np.flatnonzero(scanned.fault)},
            counts={"dim": dim, "dtype": str(embeddings.dtype), **counts}
            | {"files": [f"{file.name} {file_sha256(file)}" for file in files]},
        )


DATASETS = (OwnEmbeddings(),)


def _given(text: str) -> Path | None:
    """The path; None for the placeholder."""
    path = Path(text)
    return None if path.suffix == ".safetensors" and is_placeholder(path) else path


def scan(embeddings: Embeddings) -> Scan:
    """Look at every row, block by block."""
    digests: list[str] = []
    faults = []
    for block in embeddings.blocks():
        digests_of_block = (bytes(digest).hex() for digest in block.digests())
        digests += [digest if good else "" for digest, good in zip(digests_of_block, block.good, strict=True)]
        faults.append(block.fault)
    return Scan(digests, np.concatenate(faults))


def _report(path: Path, found: Scan, on_bad_row: str) -> dict[str, int]:
    """What `metrics/data.json` says of the rows; a line for each kind of bad ones, raised or logged."""
    lines, counts = [], {}
    for fault, key in enumerate(("nan_rows", "zero_rows", "odd_rows"), 1):
        rows = np.flatnonzero(found.fault == fault)
        counts[key] = len(rows)
        if len(rows):
            shown = ", ".join(map(str, rows[:SHOWN])) + (", …" if len(rows) > SHOWN else "")
            few = f"{len(rows):,} of {len(found.fault):,} rows: a row" if len(rows) > 1 else "a row"
            lines.append(f"{path}: {few} {REASONS[fault]} ({shown})")
    if lines and on_bad_row == "fail":
        raise DataError(
            "\n".join(f"{line}; repair it, or leave such rows out ({WHERE}.on_bad_row: skip)" for line in lines)
        )
    for line in lines:
        logger.warning("{}; left out", line)
    good = [digest for digest in found.digests if digest]
    counts["duplicate_rows"] = len(good) - len(set(good))
    if counts["duplicate_rows"]:
        logger.warning("{}: exact copies of earlier rows: {:,}; they stay", path, counts["duplicate_rows"])
    return counts


def _names(params: EmbeddingsParams, path: Path, embeddings: Embeddings) -> list[str]:
    """Given names, else the row numbers in the file."""
    column, where = _column(_given(params.names), params.keys.names, path, NAMES, "names", embeddings.shape[0])
    if column is None:
        return row_numbers(embeddings)
    try:
        return names_of(column, where)
    except DataError as error:
        raise DataError(f"{error}: choose other names, or `none` for row numbers ({WHERE}.keys.names)") from None


def names_inside(path: Path, embeddings: Embeddings) -> list[str] | None:
    """The names that the file, or the metadata beside its shards, holds itself; None where it has none."""
    column, where = _column(None, None, path, NAMES, "names", embeddings.shape[0])
    return None if column is None else names_of(column, where)


def row_numbers(embeddings: Embeddings) -> list[str]:
    """The numbers of the rows in their file, with the array's name where there are two."""
    if embeddings.parts[0].role:
        return [f"{part.role}/{row}" for part in embeddings.parts for row in range(part.num_rows)]
    return [str(row) for row in range(embeddings.shape[0])]


def _labels(params: EmbeddingsParams, path: Path, count: int) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    own = _given(params.labels)
    usual = LABELS if own else LABELS[1:]  # a column without a name, beside the features, holds row numbers or names
    column, where = _column(own, params.keys.labels, path, usual, "labels", count)
    return labels_of(column, where) if column is not None else ((), np.zeros((count, 0), np.uint8))


def _column(
    own: Path | None, key: str | None, features: Path, usual: tuple[str, ...], what: str, count: int
) -> tuple[Column | None, str]:
    """(the column, how errors call it), from its own file or the features' one; None where there is none."""
    path = own or features
    where = f"{what} {path}"
    if key == "none" or (own is None and path.suffix.lower() == ".npy"):
        return None, where
    try:
        column = read_column(path, key, usual)
    except FileNotFoundError:
        raise DataError(f"{where} does not exist: name a file ({WHERE}.{what})") from None
    if column is None and own is not None:
        raise DataError(f"{where} has no column of {what}: say which it is ({WHERE}.keys.{what})")
    if column is not None and len(column) != count:
        remedy = f"they must be the same ({WHERE}.{what})" if own else f"say `none` to leave them ({WHERE}.keys.{what})"
        raise DataError(f"{where} has {len(column):,} rows, the features have {count:,}: {remedy}")
    return column, where


def _protocol(params: EmbeddingsParams, embeddings: Embeddings, names: list[str]) -> Protocol:
    """Queries and database as `split` or the file says; drawn at random where neither does."""
    if (path := _given(params.split)) is not None:
        roles: NDArray[Any] = roles_of(path, names)
    elif embeddings.parts[0].role == "train" and len(embeddings.parts) > 1:
        role_of = {"train": "database", "test": "query"}
        roles = np.repeat([role_of[part.role] for part in embeddings.parts], [p.num_rows for p in embeddings.parts])
    else:
        return Protocol(params.num_query, params.num_train)
    query, train = np.flatnonzero(roles == "query"), np.flatnonzero(roles == "train")
    database = np.flatnonzero((roles == "train") | (roles == "database"))
    return Protocol(
        params.num_query,
        params.num_train,
        query_pool=query,
        database_pool=database,
        train_pool=train if len(train) else None,
    )


def _check_roles(params: EmbeddingsParams, protocol: Protocol, good: NDArray[np.bool_]) -> None:
    """Raise ParameterError where the roles that a file gives leave too few rows; drawn ones are counted elsewhere."""
    if protocol.query_pool is None or protocol.database_pool is None:
        return
    train = protocol.database_pool if protocol.train_pool is None else protocol.train_pool
    key = "features" if _given(params.split) is None else "split"
    needed = (("query", protocol.query_pool, params.num_query, 1), ("train", train, params.num_train, FEWEST_TRAIN))
    for role, rows, asked, fewest in needed:
        there, parameter = int(good[rows].sum()), key if asked is None else f"num_{role}"
        if there < (asked or fewest):
            raise ParameterError(
                f"{getattr(params, key)} has {there:,} rows for the role {role}, {asked or fewest:,} are needed "
                f"({WHERE}.{parameter})"
            )
