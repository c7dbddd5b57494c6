"""Search in two stages against the exact scan of float features: time of a query, one core each, and their ratio.

    python -m benchmarks.rerank [--images 1000000] [--dim 512] [--bits 64] [--rerank 500] [--queries 50]

Features are normal around 10,000 centres, codes the signs of random projections: recall, of the scan's first ten, says
little here (`metrics.json` has it for real data). The scan is faiss's exact inner product over float32 unit rows in
memory; the two stages are `Index.search` with a memory map of the same rows in float16, in the page cache.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.common import table, write_results
from ssdh.core.runtime import one_blas_thread
from ssdh.hashing.codes import width
from ssdh.search.index import Index

CENTRES, SPREAD, TOP = 10_000, 0.7, 10
BLOCK = 20_000


def write_set(folder: Path, count: int, dim: int, bits: int, scan: Any) -> None:
    """Write codes and float16 features in blocks, and put the same features into the faiss index `scan`."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CENTRES, dim), np.float32)
    projection = rng.standard_normal((dim, bits), np.float32)
    features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, (count, dim))
    codes = np.lib.format.open_memmap(folder / "codes.npy", "w+", np.uint8, (count, width(bits)))
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        rows = centres[rng.integers(0, CENTRES, n)] + SPREAD * rng.standard_normal((n, dim), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        features[start : start + n] = rows
        codes[start : start + n] = np.packbits(rows @ projection >= 0, axis=1)
        scan.add(features[start : start + n].astype(np.float32))
    features.flush()
    codes.flush()


def milliseconds(ask: Callable[[int], Any], queries: int) -> tuple[float, list[Any]]:
    """The median time of `ask(i)` for i below `queries`, after one to warm up, and the answers."""
    ask(0)
    times, answers = [], []
    for i in range(queries):
        started = time.perf_counter()
        answers.append(ask(i))
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times)), answers


def main() -> None:
    """Print the table and write `benchmarks/results/rerank.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("images", 1_000_000), ("dim", 512), ("bits", 64), ("rerank", 500), ("queries", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    scan = faiss.IndexFlatIP(chosen.dim)
    with tempfile.TemporaryDirectory() as folder, one_blas_thread():
        write_set(Path(folder), chosen.images, chosen.dim, chosen.bits, scan)
        features = np.load(Path(folder) / "features.npy", mmap_mode="r")
        codes = np.load(Path(folder) / "codes.npy")
        index = Index(codes, bits=chosen.bits, features=features)
        asked = np.random.default_rng(1).integers(0, chosen.images, chosen.queries)
        queries = features[asked].astype(np.float32)
        faiss.omp_set_num_threads(1)

        def two_stages(i: int) -> Any:
            return index.search(
                codes[asked[i] : asked[i] + 1], TOP, rerank=chosen.rerank, query_features=queries[i : i + 1]
            ).rows[0]

        exact_ms, exact = milliseconds(lambda i: scan.search(queries[i : i + 1], TOP)[1][0], chosen.queries)
        two_ms, result = milliseconds(two_stages, chosen.queries)
        code_ms, _ = milliseconds(lambda i: index.search(codes[asked[i] : asked[i] + 1], TOP), chosen.queries)
    recall = np.mean([len(set(a) & set(b)) / TOP for a, b in zip(exact, result, strict=True)])
    rows = [
        {"search": "exact scan, float32", "query_ms": exact_ms, "of the scan": 1.0, "recall@10": 1.0},
        {"search": f"codes, then {chosen.rerank} by float16", "query_ms": two_ms, "of the scan": two_ms / exact_ms,
         "recall@10": float(recall)},
        {"search": "codes alone", "query_ms": code_ms, "of the scan": code_ms / exact_ms},
    ]  # fmt: skip
    print(
        f"{chosen.images:,} images, {chosen.dim} dimensions, {chosen.bits} bits, {chosen.queries} queries, one core\n"
    )
    print(table(rows))
    write_results("rerank", vars(chosen) | {"rows": rows})


if __name__ == "__main__":
    main()
