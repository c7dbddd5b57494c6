"""A million codes: time of a query, memory above the codes, time to build, and recall@20 of the approximate kinds.

    python -m benchmarks.search [--images 1000000] [--bits 64] [--queries 200] [--kinds flat,hash,hnsw]

Codes lie around 10,000 centres, each bit turned with probability 0.1, as codes of real images crowd together; queries
are drawn alike and are not among them. `uniform` codes, without any crowd, are the worst case for what is approximate.
Memory is the peak of a fresh process that holds the codes already, so it counts the index' own copy of them.
"""

import argparse
import functools
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import peak_mib, table, write_results
from ssdh.hashing.codes import width
from ssdh.search.index import Index, Kind, recall

CENTRES, FLIPS = 10_000, 0.1
TOP = 20


def codes(count: int, bits: int, crowd: bool, seed: int = 1) -> NDArray[np.uint8]:
    """Packed codes (count, ⌈bits/8⌉), made in blocks so that little memory is used on the way."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).integers(0, 2, (CENTRES, bits), dtype=np.uint8)
    out = np.empty((count, width(bits)), np.uint8)
    for start in range(0, count, 50_000):
        stop = min(start + 50_000, count)
        if crowd:
            values = centres[rng.integers(0, CENTRES, stop - start)] ^ (rng.random((stop - start, bits)) < FLIPS)
        else:
            values = rng.integers(0, 2, (stop - start, bits), dtype=np.uint8)
        out[start:stop] = np.packbits(values, axis=1)
    return out


def build_and_ask(packed: NDArray[np.uint8], bits: int, kind: Kind) -> Any:
    """What the memory of a kind is measured on: the index, and one query."""
    index = Index(packed, bits=bits, kind=kind)
    return index, index.search(packed[:1], TOP)


def measure(
    kind: Kind, packed: NDArray[np.uint8], queries: NDArray[np.uint8], exact: Index, crowd: bool
) -> dict[str, Any]:
    """One row of the table."""
    started = time.perf_counter()
    index = Index(packed, bits=exact.bits, kind=kind)
    build = time.perf_counter() - started
    index.search(queries[:1], TOP)
    milliseconds = []
    for query in queries:
        started = time.perf_counter()
        index.search(query[None], TOP)
        milliseconds.append(1000 * (time.perf_counter() - started))
    started = time.perf_counter()
    result = index.search(queries, TOP)
    together = 1000 * (time.perf_counter() - started) / len(queries)
    with tempfile.TemporaryDirectory() as folder:  # read, not made, there: making leaves freed memory to be used again
        np.save(Path(folder) / "codes.npy", packed)
        read = functools.partial(np.load, Path(folder) / "codes.npy")
        memory = peak_mib(read, functools.partial(build_and_ask, bits=exact.bits, kind=kind))
    return {
        "codes": "crowded" if crowd else "uniform",
        "index": kind,
        "build_s": build,
        "query_ms": float(np.median(milliseconds)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
        "batch_ms": together,
        "mib_above_codes": memory,
        "recall@20": recall(result, exact.search(queries, TOP)),
    }


def main() -> None:
    """Print the table and write `benchmarks/results/search.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--kinds", default=",".join(get_args(Kind)))
    chosen = parser.parse_args()
    rows = []
    for crowd in (True, False):
        packed = codes(chosen.images, chosen.bits, crowd)
        queries = codes(chosen.queries, chosen.bits, crowd, seed=2)
        exact = Index(packed, bits=chosen.bits)
        rows += [
            measure(kind, packed, queries, exact, crowd) for kind in get_args(Kind) if kind in chosen.kinds.split(",")
        ]
    print(f"{chosen.images:,} codes of {chosen.bits} bits, {packed.nbytes / 2**20:.1f} MiB; {chosen.queries} queries\n")
    print(table(rows))
    write_results("search", {"images": chosen.images, "bits": chosen.bits, "queries": chosen.queries, "rows": rows})


if __name__ == "__main__":
    main()
