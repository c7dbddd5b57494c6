"""Which engine stores a collection: SQLite or LanceDB, by what a collection does.

    python -m benchmarks.studies.collection_store --images 100000

Each row has an id, a path, a SHA-256, a code of 64 bits and 512 features as float16, as `ssdh.search.collection` keeps
them. Writes `benchmarks/studies/collection_store.json`.
"""

import argparse
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa

from benchmarks.common import STUDIES, write_results

DIM, CODE = 512, 8
FEW = 10  # images of a small addition
SHORTLIST = 500  # features that a re-ranked query reads
REPEATS = 20

Rows = list[tuple[int, str, bytes, bytes, bytes]]


def rows(start: int, count: int) -> Rows:
    """Random rows (id, path, sha256, code, features)."""
    rng = np.random.default_rng(start)
    codes = rng.integers(0, 256, (count, CODE), dtype=np.uint8)
    digests = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    features = rng.standard_normal((count, DIM)).astype(np.float16)
    return [
        (start + i, f"/photos/{start + i:09d}.jpg", digests[i].tobytes(), codes[i].tobytes(), features[i].tobytes())
        for i in range(count)
    ]


class SQLite:
    """One table of a database in WAL mode."""

    def __init__(self, folder: Path) -> None:
        self.database = sqlite3.connect(folder / "a.sqlite3")
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("CREATE TABLE images (id INTEGER PRIMARY KEY, path, sha256 UNIQUE, code, features)")

    def add(self, new: Rows) -> None:
        """One transaction."""
        with self.database:
            self.database.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?)", new)

    def remove(self, ids: Sequence[int]) -> None:
        """One transaction."""
        with self.database:
            self.database.executemany("DELETE FROM images WHERE id = ?", ((number,) for number in ids))

    def codes(self) -> int:
        """Read every id and code, as a search does when it opens."""
        result = self.database.execute("SELECT id, code FROM images ORDER BY id").fetchall()
        return len(np.frombuffer(b"".join(code for _, code in result), np.uint8).reshape(-1, CODE))

    def features(self, ids: Sequence[int]) -> int:
        """Read the features of some ids."""
        ask = "SELECT features FROM images WHERE id = ?"
        return len([self.database.execute(ask, (number,)).fetchone() for number in ids])

    def known(self, digest: bytes) -> bool:
        """Whether an image with this SHA-256 is there."""
        return self.database.execute("SELECT id FROM images WHERE sha256 = ?", (digest,)).fetchone() is not None


class Lance:
    """One table of LanceDB, with a scalar index on what is looked up."""

    def __init__(self, folder: Path) -> None:
        names = ("id", "path", "sha256", "code", "features")
        types = (pa.int64(), pa.string(), pa.binary(32), pa.binary(CODE), pa.binary(2 * DIM))
        self.schema = pa.schema(list(zip(names, types, strict=True)))
        self.table = lancedb.connect(folder).create_table("images", schema=self.schema)

    def add(self, new: Rows) -> None:
        """One version."""
        columns = zip(*new, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        self.table.add(pa.table(arrays, schema=self.schema))

    def remove(self, ids: Sequence[int]) -> None:
        """One version."""
        self.table.delete(f"id IN ({', '.join(map(str, ids))})")

    def codes(self) -> int:
        """Read every id and code, as a search does when it opens."""
        result = self.table.search().select(["id", "code"]).limit(10**9).to_arrow()
        return len(np.frombuffer(b"".join(result["code"].to_pylist()), np.uint8).reshape(-1, CODE))

    def features(self, ids: Sequence[int]) -> int:
        """Read the features of some ids."""
        expected = f"id IN ({', '.join(map(str, ids))})"
        return len(self.table.search().where(expected).select(["features"]).limit(len(ids)).to_arrow())

    def known(self, digest: bytes) -> bool:
        """Whether an image with this SHA-256 is there."""
        return len(self.table.search().where(f"sha256 = X'{digest.hex()}'").limit(1).to_arrow()) > 0

    def index(self) -> None:
        """B-trees on ids and digests."""
        for column in ("id", "sha256"):
            self.table.create_scalar_index(column)


def measure(kind: type[SQLite] | type[Lance], count: int) -> dict[str, float]:
    """Seconds of each operation, medians of REPEATS where it is repeated, and megabytes on disk."""
    folder = Path(tempfile.mkdtemp())
    store = kind(folder)
    result: dict[str, float] = {}

    def timed(name: str, work: Callable[[int], object], repeats: int = REPEATS) -> None:
        seconds = []
        for number in range(repeats):
            started = time.perf_counter()
            work(number)
            seconds.append(time.perf_counter() - started)
        result[name] = float(f"{np.median(seconds):.3g}")

    first = rows(0, count)
    timed("add all", lambda _: store.add(first), 1)
    if isinstance(store, Lance):
        timed("build indexes", lambda _: store.index(), 1)
    few = [rows(count + FEW * number, FEW) for number in range(REPEATS)]
    timed("add ten", lambda number: store.add(few[number]))
    timed("look up a digest", lambda number: store.known(first[number * 7][2]))
    timed("remove ten", lambda number: store.remove(range(FEW * number, FEW * number + FEW)))
    timed("read all codes", lambda _: store.codes(), 3)
    expected = np.random.default_rng(1).integers(count // 2, count, (REPEATS, SHORTLIST))
    timed("read 500 features", lambda number: store.features(expected[number].tolist()))
    result["megabytes"] = round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6, 1)
    shutil.rmtree(folder)
    return result


def main() -> None:
    """Measure both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000, help="images in the collection")
    count = parser.parse_args().images
    result = {"images": count, "sqlite": measure(SQLite, count), "lancedb": measure(Lance, count)}
    write_results("collection_store", result, STUDIES / "collection_store.json")


if __name__ == "__main__":
    main()
