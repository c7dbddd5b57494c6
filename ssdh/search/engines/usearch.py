"""USearch: a graph of packed codes under the metric `hamming`; metadata in `codes.csv`."""

from pathlib import Path

import numpy as np
from usearch.index import Index

from ssdh.core.files import atomic_path, write_csv
from ssdh.search.engines import ENGINES, METADATA, CodeTable


def write(folder: Path, table: CodeTable, uri: str | None = None) -> Path:
    """Write `codes.usearch`; its keys are the ids, its vectors the bytes of `codes.npy`, padded with zeros."""
    index = Index(ndim=8 * table.packed.shape[1], metric="hamming", dtype="b1")
    index.add(np.asarray(table.ids, np.uint64), np.ascontiguousarray(table.packed))
    path = folder / ENGINES["usearch"][1]
    with atomic_path(path) as temporary:
        index.save(str(temporary))
    write_csv(folder / METADATA, ("id", *table.metadata), zip(table.ids, *table.metadata.values(), strict=True))
    return path
