"""A collection: a folder of codes that grows, with the network that makes them.

    collection = create(Path("mine"), model_path, kind="float16")
    with collection.writing() as writer:
        writer.commit(paths, digests, rows)

`collection.sqlite3` holds ids, codes, features and paths; `model.safetensors` is the network, copied once. SQLite's
write-ahead log makes every change whole: a process that is killed has changed all or nothing, and who reads meanwhile
sees the state of before. What cannot be written to can be read. Ids go up and are never given twice. The search index
is built from the codes when the collection is opened, so that nothing beside the database can disagree with it. One
process writes at a time, under a lock that dies with it.
"""

import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ssdh.core.errors import DataError, one_line
from ssdh.core.files import atomic_path, file_sha256
from ssdh.features.image_files import is_text
from ssdh.hashing.codes import width
from ssdh.hashing.model_file import read_metadata, takes_embeddings
from ssdh.search.engines import CodeTable
from ssdh.search.layout import FeatureKind, Layout, layout_of

DATABASE, MODEL, LOCK = "collection.sqlite3", "model.safetensors", "write.lock"

VERSION = 1  # of the tables

TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sha256 BLOB NOT NULL UNIQUE, code BLOB NOT NULL, features BLOB
);
CREATE TABLE paths (path TEXT PRIMARY KEY, id INTEGER NOT NULL REFERENCES images (id)) WITHOUT ROWID;
CREATE INDEX paths_of_an_image ON paths (id);
"""

BELOW = "path = ? OR path >= ? AND path < ?"  # a path, or those in a folder: from FOLDER/ to FOLDER0, as 0 follows /

# FILE:ROW, or CONTENT and its SHA-256, which name a row of embeddings that has no name of its own
CONTENT = "sha256:"
STAND_IN = f"(path GLOB '/*:*[0-9]' OR path GLOB '{CONTENT}*')"
FIRST = f"substr(min({STAND_IN} || path), 2)"  # of an id's paths: 0 or 1 before each, so that given names come first

BLOCK = 4096  # features that are read at once


class BusyError(DataError):
    """Another process is changing the collection."""


@dataclass(frozen=True)
class Item:
    """One image: its id, the SHA-256 of its bytes, and the paths at which it was seen, exact copies among them."""

    id: int
    sha256: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Collection:
    """An opened collection; every call sees the state of that moment, whole.

    settings: what was written when it was made; a call raises DataError where another collection stands there now.
    """

    folder: Path
    layout: Layout
    settings: Mapping[str, str]

    @property
    def model(self) -> Path:
        """The network's file; DataError where the collection is gone."""
        _database(self.folder)
        return self.folder / MODEL

    @property
    def of_embeddings(self) -> bool:
        """Whether it holds rows of embeddings, by name, and no photos."""
        return takes_embeddings(read_metadata(self.model))

    def __len__(self) -> int:
        with self._reading() as database:
            return int(database.execute("SELECT count(*) FROM images").fetchone()[0])

    def items(self) -> list[Item]:
        """Every image, by ascending id."""
        with self._reading() as database:
            return _items(database)

    def id_of(self, path: str) -> int | None:
        """The id of the image that has this path, or name, among its own; None where there is none."""
        with self._reading() as database:
            row = database.execute("SELECT id FROM paths WHERE path = ?", (path,)).fetchone()
        return None if row is None else int(row[0])

    def table(self, *, copies: bool = False) -> CodeTable:
        """Codes, ids, paths (`name`) and SHA-256 by ascending id; with `copies` a row for every path.

        Of several paths the first, a name that was given before one by file and row.
        """
        order = f"id, {STAND_IN}, path" if copies else "id"
        path = "path" if copies else FIRST
        ask = f"SELECT id, sha256, code, {path} FROM images JOIN paths USING (id) {'' if copies else 'GROUP BY id'}"
        with self._reading() as database:
            rows = database.execute(f"{ask} ORDER BY {order}").fetchall()
        packed = np.frombuffer(b"".join(code for _, _, code, _ in rows), np.uint8)
        metadata = {"name": [path for *_, path in rows], "sha256": [digest.hex() for _, digest, _, _ in rows]}
        ids = [number for number, *_ in rows]
        return CodeTable(packed.reshape(len(rows), width(self.layout.bits)), self.layout.bits, ids, metadata)

    def known(self, digests: Iterable[str]) -> dict[str, int]:
        """The ids of those of the SHA-256 that are there."""
        with self._reading() as database:
            return _known(database, digests)

    def names(self, ids: Sequence[int]) -> dict[int, str]:
        """The path, or name, of each of these ids, of several the first, as in `table`; DataError where one is gone."""
        names = {}
        with self._reading() as database:
            for number in ids:
                (names[number],) = database.execute(f"SELECT {FIRST} FROM paths WHERE id = ?", (number,)).fetchone()
                if names[number] is None:
                    raise DataError(f"{self.folder} has no image {number}: `python -m ssdh list` shows what is there")
        return names

    def features(self, ids: Sequence[int]) -> NDArray[Any]:
        """The kept features (n, D) of these ids, in their order; DataError where none are kept or an id is gone."""
        if self.layout.dtype is None:
            raise DataError(f"{self.folder} keeps no features: make it anew with `--features float16`")
        rows: list[bytes] = []
        with self._reading() as database:
            for number in ids:
                row = database.execute("SELECT features FROM images WHERE id = ?", (int(number),)).fetchone()
                if row is None:
                    raise DataError(f"{self.folder} has no image {number} any more: search again")
                rows.append(row[0])
        return np.frombuffer(b"".join(rows), self.layout.dtype).reshape(len(rows), self.layout.dim)

    def version(self) -> str:
        """A text that changes with every change of images and paths, and with another collection in this place."""
        with _opened(self.folder) as database:
            return str(_version(database))

    @contextmanager
    def writing(self, *, wait: bool = False) -> Iterator["Writer"]:
        """The one writer; where another process is writing, waits for it, or raises BusyError at once.

        Raises DataError where no process can write.
        """
        self.check_writable()
        with _locked(self.folder, wait=wait), _opened(self.folder) as database:
            self._check(database)
            yield Writer(self, database)

    def check_writable(self) -> None:
        """Raise DataError where the collection is gone or cannot be changed, on a read-only drive say."""
        if not _writable(_database(self.folder).parent):
            raise DataError(f"{self.folder} cannot be written to: it can be searched, but nothing added or removed")

    def check_name(self, name: str) -> None:
        """Raise DataError for a path or name that no text of the database can be."""
        if not is_text(name):
            raise DataError(f"{one_line(name)} is not in UTF-8, so {self.folder} cannot hold it")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _opened(self.folder) as database:
            database.execute("BEGIN")  # all reads of this block see one state
            self._check(database)
            yield database

    def _check(self, database: sqlite3.Connection) -> None:
        if _settings(database) != self.settings:
            raise DataError(f"{self.folder} is another collection than it was before: start again")


class Writer:
    """Changes a collection; each method is one transaction, on disk when it returns."""

    def __init__(self, collection: Collection, database: sqlite3.Connection) -> None:
        self.collection, self.database = collection, database

    def known(self, digests: Iterable[str]) -> dict[str, int]:
        """The ids of those of the SHA-256 that are there."""
        return _known(self.database, digests)

    def paths_of(self, digests: Iterable[str]) -> list[str]:
        """All paths of those of the SHA-256 that are there."""
        ask = "SELECT path FROM images JOIN paths USING (id) WHERE sha256 = ?"
        return [path for digest in set(digests) for (path,) in self.database.execute(ask, (bytes.fromhex(digest),))]

    def commit(
        self,
        paths: Sequence[tuple[str, str]],
        digests: Sequence[str],
        rows: NDArray[np.uint8],
        gone: Sequence[str] = (),
    ) -> "Added":
        """Add images and note paths, all or nothing.

        paths: (path, SHA-256) of every file seen; the image of each must be there or among the new ones. digests,
        rows: SHA-256 and bytes (n, R), laid out as `collection.layout` says, of the new images. gone: further paths of
        the files seen, to be forgotten. A path that held another image holds the new one; an image without a path left
        is removed.
        """
        layout = self.collection.layout
        with self._transaction():
            self.database.executemany("DELETE FROM paths WHERE path = ?", ((path,) for path in gone))
            ask = "SELECT id FROM paths WHERE path = ?"
            rows_before = ((path, self.database.execute(ask, (path,)).fetchone()) for path, _ in paths)
            before = {path: row[0] for path, row in rows_before if row is not None}
            for start in range(0, len(digests), BLOCK):
                part = rows[start : start + BLOCK]
                codes = layout.codes(part)
                features = [None] * len(part) if layout.dtype is None else [f.tobytes() for f in layout.features(part)]
                values = zip(digests[start : start + BLOCK], codes, features, strict=True)
                self.database.executemany(
                    "INSERT INTO images (sha256, code, features) VALUES (?, ?, ?)",
                    ((bytes.fromhex(digest), code.tobytes(), feature) for digest, code, feature in values),
                )
            ids = self.known(digest for _, digest in paths)
            self.database.executemany(
                "INSERT INTO paths VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET id = excluded.id "
                "WHERE paths.id != excluded.id",
                ((path, ids[digest]) for path, digest in paths),
            )
            removed = self._remove_pathless(before.values())
        unchanged = sum(before.get(path) == ids[digest] for path, digest in paths)
        return Added(len(digests), len(paths) - unchanged - len(digests), unchanged, removed, len(gone))

    def remove(self, wanted: Iterable[int | str]) -> "Removed":
        """Remove images by id, path or folder of paths, all or nothing; one may be named several times.

        A path goes with its image unless the image has other paths. Raises DataError, changing nothing, where one is
        not there.
        """
        with self._transaction():
            found: dict[str, int] = {}
            for one in wanted:
                if isinstance(one, str):
                    self.collection.check_name(one)
                folder = f"{one}".rstrip("/")
                which = ("id = ?", (str(one),)) if isinstance(one, int) else (BELOW, (one, f"{folder}/", f"{folder}0"))
                ids = dict(self.database.execute(f"SELECT path, id FROM paths WHERE {which[0]}", which[1]))
                if not ids or one == "":  # in which everything would lie whose path begins with /
                    raise DataError(
                        f"{self.collection.folder} has no image {one_line(str(one))}: `python -m ssdh list` shows "
                        "what is there"
                    )
                found |= ids
            self.database.executemany("DELETE FROM paths WHERE path = ?", ((path,) for path in found))
            images = {number for number in set(found.values()) if self._remove_pathless([number])}
        return Removed(len(images), sum(number not in images for number in found.values()))

    def _remove_pathless(self, ids: Iterable[int]) -> int:
        """Remove those of the images that have no path left; returns how many."""
        ask = "DELETE FROM images WHERE id = ? AND NOT EXISTS (SELECT 1 FROM paths WHERE paths.id = images.id)"
        return sum(self.database.execute(ask, (number,)).rowcount for number in set(ids))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.database.execute("BEGIN IMMEDIATE")
        before = self.database.total_changes
        try:
            yield
            if self.database.total_changes != before:
                self.database.execute(f"PRAGMA user_version = {_version(self.database) + 1}")
        except BaseException:
            if self.database.in_transaction:  # SQLite itself rolls back where the disk is full
                self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")


@dataclass(frozen=True)
class Added:
    """What an addition did: new images, further paths of known ones (copies, renamed), paths as before, images that
    went since all their files hold another one now, and paths forgotten since their files were moved.
    """

    new: int
    copies: int
    unchanged: int
    removed: int
    moved: int


@dataclass(frozen=True)
class Removed:
    """What a removal did: images that went, and paths that went of images that have others."""

    images: int
    paths: int


def create(folder: Path, model_path: Path, kind: FeatureKind) -> Collection:
    """Make an empty collection for the codes of a model; DataError where the folder holds other things.

    The database comes into place last: a folder that was left half made is made anew. BusyError where another process
    is making one there.
    """
    layout = layout_of(model_path, kind)
    _check_new(folder)  # before the lock is put there
    with _locked(folder):
        _check_new(folder)
        _write_empty(folder, model_path, layout)
    return open_collection(folder)


def _check_new(folder: Path) -> None:
    """Raise DataError where there is a file, or a folder with anything but what a half-made collection leaves."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: name a new or empty folder")
    if folder.is_dir() and (
        others := {path.name for path in folder.iterdir() if ".tmp" not in path.name} - {MODEL, LOCK}
    ):
        raise DataError(f"{folder} holds other things ({min(others)}): name a new or empty folder")


def _write_empty(folder: Path, model_path: Path, layout: Layout) -> None:
    with atomic_path(folder / MODEL) as temporary:
        shutil.copyfile(model_path, temporary)
    settings = {
        "version": VERSION,
        "bits": layout.bits,
        "dim": layout.dim,
        "features": layout.kind,
        "model_sha256": file_sha256(folder / MODEL),
    }
    try:
        with atomic_path(folder / DATABASE) as temporary, closing(sqlite3.connect(temporary)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(TABLES)
            database.executemany("INSERT INTO settings VALUES (?, ?)", ((n, str(v)) for n, v in settings.items()))
            database.execute(f"PRAGMA user_version = {secrets.randbelow(1 << 30)}")
            database.commit()
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise DataError(f"{folder / DATABASE} could not be written: {error}: is the disk full?") from error
    finally:
        for left in folder.glob(f"{temporary.name}-*"):  # SQLite's own beside it, where it could not end
            left.unlink()


def open_collection(folder: Path) -> Collection:
    """Open what `create` made; DataError where it is not there, not whole, or of another version."""
    with _opened(folder) as database:
        settings = _settings(database)
    if settings.get("version") != str(VERSION):
        raise DataError(f"{folder} is a collection of version {settings.get('version')}, this program reads {VERSION}")
    if not (folder / MODEL).is_file() or file_sha256(folder / MODEL) != settings["model_sha256"]:
        raise DataError(f"{folder / MODEL} is not the network that made these codes: put it back")
    kind: Any = settings["features"]
    return Collection(folder, Layout(int(settings["bits"]), int(settings["dim"]), kind), settings)


@contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """The lock of the one writer of a folder; where another process has it, waits for it, or raises BusyError."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise BusyError(f"another process is changing {folder}: wait until it has ended") from None
    except OSError as error:
        raise DataError(f"{folder / LOCK} cannot be locked ({error.strerror or error})") from None
    try:
        yield
    finally:
        lock.release()


def _known(database: sqlite3.Connection, digests: Iterable[str]) -> dict[str, int]:
    ask = "SELECT id FROM images WHERE sha256 = ?"
    result = ((digest, database.execute(ask, (bytes.fromhex(digest),)).fetchone()) for digest in set(digests))
    return {digest: row[0] for digest, row in result if row is not None}


@contextmanager
def _opened(folder: Path) -> Iterator[sqlite3.Connection]:
    """A connection in autocommit mode; DataError where there is no database, and in place of sqlite's errors."""
    path = _database(folder)
    try:
        with closing(sqlite3.connect(_uri(path), uri=True, timeout=60, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA foreign_keys = ON")
            yield database
    except sqlite3.Error as error:
        raise DataError(f"{path} cannot be used: {error}") from error


def _database(folder: Path) -> Path:
    """The file behind all links; DataError where there is none."""
    path = folder / DATABASE
    if not path.is_file():
        raise DataError(f"{folder} is no collection: make one with `python -m ssdh add {folder} PHOTOS --model FILE`")
    return path.resolve()


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _uri(path: Path) -> str:
    """What SQLite opens: never a new file and, in a folder that cannot be written to, one that nobody changes.

    For otherwise it makes two files beside it. Where a writer has made them already, they are what it needs.
    """
    beside = [path.with_name(f"{path.name}-{kind}") for kind in ("wal", "shm")]
    still = not _writable(path.parent) and not any(file.exists() and file.stat().st_size for file in beside)
    return f"{path.as_uri()}?{'mode=ro&immutable=1' if still else 'mode=rw'}"


def _settings(database: sqlite3.Connection) -> dict[str, str]:
    return dict(database.execute("SELECT name, value FROM settings"))


def _version(database: sqlite3.Connection) -> int:
    """A number of SQLite's own that each change counts up from a random one, so that asking reads no table."""
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _items(database: sqlite3.Connection) -> list[Item]:
    paths: dict[int, list[str]] = {}
    for number, path in database.execute(f"SELECT id, path FROM paths ORDER BY id, {STAND_IN}, path"):
        paths.setdefault(number, []).append(path)
    return [
        Item(number, digest.hex(), tuple(paths[number]))
        for number, digest in database.execute("SELECT id, sha256 FROM images ORDER BY id")
    ]
