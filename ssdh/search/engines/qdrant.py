"""Qdrant, which has no bit vectors: bits as numbers 0 and 1 of a byte; their Manhattan distance is the Hamming one.

It wants `bits` bytes a code in place of bits/8, and its graph is built for it as for any vector.
"""

from pathlib import Path

from qdrant_client import QdrantClient, models

from ssdh.core.errors import DataError
from ssdh.search.engines import ENGINES, CodeTable

LOCAL_LIMIT = 20_000  # points, above which Qdrant's local mode, which scans in Python, itself advises against it


def write(folder: Path, table: CodeTable, uri: str | None = None) -> Path | None:
    """Fill the collection `codes` of the server at `uri`, else of the local mode's folder `qdrant`.

    Raises DataError where there are too many for the local mode, where the server cannot be reached or refuses.
    """
    path = folder / ENGINES["qdrant"][1]
    if uri is None and len(table) > LOCAL_LIMIT:
        raise DataError(
            f"Qdrant's local mode takes {LOCAL_LIMIT:,} codes, these are {len(table):,}: name a server with --uri"
        )
    vectors = models.VectorParams(
        size=table.bits, distance=models.Distance.MANHATTAN, datatype=models.Datatype.UINT8, on_disk=False
    )
    client = None
    try:
        client = QdrantClient(path=str(path)) if uri is None else QdrantClient(url=uri, check_compatibility=False)
        client.create_collection("codes", vectors_config=vectors)
        for block in table.blocks():
            points = [
                models.PointStruct(id=int(number), vector=bits, payload=dict(zip(block.metadata, values, strict=True)))
                for bits, (number, _, *values) in zip(
                    block.zeros_and_ones().astype(float).tolist(), block.rows(), strict=True
                )
            ]
            client.upsert("codes", points)
    except Exception as error:  # the client's own, httpx' and grpc's errors have no common base
        raise DataError(f"Qdrant at {uri or path} does not take the codes: {str(error).splitlines()[0]}") from error
    finally:
        if client is not None:
            client.close()
    return path if uri is None else None
