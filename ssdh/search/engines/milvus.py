"""Milvus: BINARY_VECTOR with the metric HAMMING on a server; Milvus Lite, which has none, takes 0 and 1 as floats.

Between vectors of 0 and 1 the metric L2, which Milvus leaves squared, is the Hamming distance.
"""

import logging
from pathlib import Path
from typing import Any

from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from ssdh.core.errors import DataError
from ssdh.search.engines import ENGINES, CodeTable

LONGEST_TEXT = 65_535  # bytes of a VARCHAR


def write(folder: Path, table: CodeTable, uri: str | None = None) -> Path | None:
    """Fill the collection `codes` of the server at `uri`, else of Milvus Lite's database `milvus.db`.

    Raises DataError where the server cannot be reached or refuses.
    """
    path = folder / ENGINES["milvus"][1]
    for name in ("pymilvus", "milvus_lite"):  # both log a traceback beside what they raise
        logging.getLogger(name).setLevel(logging.CRITICAL)
    binary = uri is not None
    try:
        client = MilvusClient(uri or str(path))
        schema = client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        vectors = DataType.BINARY_VECTOR if binary else DataType.FLOAT_VECTOR
        schema.add_field("code", vectors, dim=8 * table.packed.shape[1])
        for name in table.metadata:
            schema.add_field(name, DataType.VARCHAR, max_length=LONGEST_TEXT)
        index = client.prepare_index_params()
        kind, metric = ("BIN_FLAT", "HAMMING") if binary else ("FLAT", "L2")
        index.add_index("code", index_type=kind, metric_type=metric)
        client.create_collection("codes", schema=schema, index_params=index)
        for block in table.blocks():
            client.insert("codes", entities(block, binary=binary))
        client.flush("codes")
        client.close()
    except MilvusException as error:
        raise DataError(f"Milvus at {uri or path} does not take the codes: {error.message}") from error
    return path if uri is None else None


def entities(block: CodeTable, *, binary: bool) -> list[dict[str, Any]]:
    """Rows as Milvus takes them; a code's bytes are those of `codes.npy`, or its padded bits as floats."""
    names = ("id", "code", *block.metadata)
    rows = [dict(zip(names, row, strict=True)) for row in block.rows()]
    if not binary:
        whole = CodeTable(block.packed, 8 * block.packed.shape[1], block.ids)
        for row, bits in zip(rows, whole.zeros_and_ones().astype(float).tolist(), strict=True):
            row["code"] = bits
    return rows
