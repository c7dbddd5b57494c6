"""Parquet: one file with codes as binary values of fixed length, which DuckDB, Spark, Polars and others query."""

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from ssdh.core.files import atomic_path
from ssdh.search.engines import ENGINES, CodeTable

GROUP = 100_000  # rows a row group


def write(folder: Path, table: CodeTable, uri: str | None = None) -> Path:
    """Write `codes.parquet`; a code's bytes are those of `codes.npy`. Its length in bits is in the file's metadata."""
    types = [("id", pa.int64()), ("code", pa.binary(table.packed.shape[1]))]
    schema = pa.schema([*types, *((name, pa.string()) for name in table.metadata)], {"bits": str(table.bits)})
    path = folder / ENGINES["parquet"][1]
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as file:
        for block in table.blocks(GROUP):
            columns = [list(map(int, block.ids)), [code.tobytes() for code in block.packed], *block.metadata.values()]
            file.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))
    return path
