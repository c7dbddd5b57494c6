"""Codes handed to other engines: one module each, found by its name, with a function `write`.

    from ssdh.search.engines import CodeTable, load
    load("lancedb").write(folder, CodeTable(packed, bits=32, ids=range(len(packed)), metadata={"name": names}))

`write(folder, table, uri)` returns the file or folder that it made below `folder`; where `uri` is given, and the engine
is a server, it loads the codes there and returns None. The queries that go with them are in docs/engines.md, and the
tests execute them. What all have in common: a row has the columns `id`, `code` and those of the metadata, the table is
called `codes`, and the distance is the number of bits that differ.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import SSDHError

# engine: (its extra in pyproject.toml, "" where nothing is to be installed; what it writes)
ENGINES = {
    "faiss": ("", "codes.faiss"),
    "lancedb": ("lancedb", "lancedb"),
    "milvus": ("milvus", "milvus.db"),
    "parquet": ("duckdb", "codes.parquet"),
    "pgvector": ("", "codes.sql"),
    "qdrant": ("qdrant", "qdrant"),
    "sqlite-vec": ("sqlite-vec", "codes.sqlite3"),
    "usearch": ("usearch", "codes.usearch"),
}

SERVERS = ("milvus", "qdrant")  # those that `write` can reach by a URI

METADATA = "codes.csv"  # id and metadata beside an index that holds ids alone (faiss, usearch)

BLOCK = 1000  # rows handed over at once


@dataclass(frozen=True)
class CodeTable:
    """packed: uint8 (n, ⌈bits/8⌉). ids: n whole numbers, each once. metadata: columns of n texts, by name."""

    packed: NDArray[np.uint8]
    bits: int
    ids: Sequence[int]
    metadata: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, column in {"ids": self.ids, **self.metadata}.items():
            if len(column) != len(self.packed):
                raise ValueError(f"{name} must have {len(self.packed)} values, one a code, got {len(column)}")

    def __len__(self) -> int:
        return len(self.packed)

    def blocks(self, size: int = BLOCK) -> Iterator["CodeTable"]:
        """The table cut into blocks of `size` rows, the last one shorter."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            columns = {name: column[part] for name, column in self.metadata.items()}
            yield CodeTable(self.packed[part], self.bits, self.ids[part], columns)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """(id, packed code as bytes, *metadata) of each row."""
        codes = (code.tobytes() for code in self.packed)
        return zip(map(int, self.ids), codes, *self.metadata.values(), strict=True)

    def zeros_and_ones(self) -> NDArray[np.uint8]:
        """The bits as numbers, uint8 (n, bits): for engines without bit vectors."""
        return np.unpackbits(self.packed, axis=1, count=self.bits)


def load(name: str) -> ModuleType:
    """The module of an engine; raises SSDHError where a package that it needs is not installed."""
    extra, _ = ENGINES[name]
    try:
        return importlib.import_module(f"ssdh.search.engines.{name.replace('-', '_')}")
    except ImportError as error:
        raise SSDHError(f"{error.name} is not installed: pip install -e '.[{extra}]'") from None
