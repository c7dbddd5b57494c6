"""faiss: `IndexBinaryFlat` behind an `IndexBinaryIDMap2`, so that it answers with ids; metadata in `codes.csv`."""

from pathlib import Path

import faiss
import numpy as np

from ssdh.core.files import write_csv
from ssdh.search.engines import ENGINES, METADATA, CodeTable
from ssdh.search.index import write_faiss


def write(folder: Path, table: CodeTable, uri: str | None = None) -> Path:
    """Write `codes.faiss`, whose bits are in the order of `codes.npy`, padded with zeros to whole bytes."""
    index = faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(8 * table.packed.shape[1]))
    index.add_with_ids(np.ascontiguousarray(table.packed), np.asarray(table.ids, np.int64))
    path = folder / ENGINES["faiss"][1]
    write_faiss(path, index)
    write_csv(folder / METADATA, ("id", *table.metadata), zip(table.ids, *table.metadata.values(), strict=True))
    return path
