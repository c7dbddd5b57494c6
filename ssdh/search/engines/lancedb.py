"""LanceDB: a table with codes as lists of bytes, which its distance type `hamming` compares bit by bit."""

from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa

from ssdh.core.errors import DataError
from ssdh.search.engines import ENGINES, CodeTable

GROUP = 100_000  # rows a batch


def write(folder: Path, table: CodeTable, uri: str | None = None) -> Path:
    """Write the database `lancedb` with the table `codes`; a code's bytes are those of `codes.npy`."""
    width = table.packed.shape[1]
    types = [("id", pa.int64()), ("code", pa.list_(pa.uint8(), width))]
    schema = pa.schema([*types, *((name, pa.string()) for name in table.metadata)])

    def batch(block: CodeTable) -> pa.RecordBatch:
        codes = pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(block.packed)), width)
        columns = [pa.array(list(map(int, block.ids)), pa.int64()), codes, *map(pa.array, block.metadata.values())]
        return pa.record_batch(columns, schema=schema)

    path = folder / ENGINES["lancedb"][1]
    batches = pa.RecordBatchReader.from_batches(schema, map(batch, table.blocks(GROUP)))
    try:
        lancedb.connect(path).create_table("codes", batches, schema=schema)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} could not be written: {' '.join(str(error).split())}") from error
    return path
