"""sqlite-vec: a table of SQLite with bit vectors. By `apsw`: many builds of Python's own sqlite3 load no extension."""

from contextlib import closing
from pathlib import Path

import apsw
import sqlite_vec

from ssdh.core.errors import DataError
from ssdh.core.files import atomic_path
from ssdh.search.engines import ENGINES, CodeTable


def write(folder: Path, table: CodeTable, uri: str | None = None) -> Path:
    """Write `codes.sqlite3` with the `vec0` table `codes`; a code's bytes are those of `codes.npy`."""
    path = folder / ENGINES["sqlite-vec"][1]
    columns = "".join(f", +{name} text" for name in table.metadata)
    places = ", ?" * len(table.metadata)
    with atomic_path(path) as temporary, closing(apsw.Connection(str(temporary))) as database:
        database.enable_load_extension(True)
        database.load_extension(sqlite_vec.loadable_path())
        width = 8 * table.packed.shape[1]
        try:
            database.execute(
                f"CREATE VIRTUAL TABLE codes USING vec0 (id integer primary key, code bit[{width}]{columns})"
            )
            with database:
                database.executemany(f"INSERT INTO codes VALUES (?, vec_bit(?){places})", table.rows())
        except apsw.Error as error:
            raise DataError(f"{path} could not be written: {error}: is the disk full?") from error
    return path
