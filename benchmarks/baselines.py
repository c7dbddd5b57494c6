"""Why Hamming at all: codes beside product quantisers: recall, mAP, bytes and queries a second, in one run.

    python -m benchmarks.baselines [--features FILE.npz] [--bits 64] [--images 1000000] [--queries 50] [--publish]

Quality is of the pipeline's protocol on FILE.npz (`features` (N, D), `labels` (N,)): queries and train rows that the
seed draws, all others the database. A query is timed from its features to its hundred nearest, one at a time, on one
thread and in turn: codes by `Index.search`, the others by faiss's own search over their codes, both over the database's
codes repeated up to --images. --publish also writes the speeds for the report, `ssdh/report/search_speed.csv`.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import best_seconds, table, write_results
from ssdh.core.files import write_csv
from ssdh.core.runtime import one_blas_thread
from ssdh.core.split import Split
from ssdh.evaluation import comparison
from ssdh.evaluation.baselines._base import Codes
from ssdh.evaluation.baselines._linear import unit_rows
from ssdh.evaluation.metrics import evaluate
from ssdh.evaluation.params import EvaluateParams
from ssdh.hasher import Hasher
from ssdh.report.why_hamming import SPEED
from ssdh.search.index import Index

METHODS = ("lsh", "itq", "pq", "opq", "rabitq")
HAMMING = ("ssdh", "lsh", "itq")
NUM_QUERY, NUM_TRAIN, TOPK, TOP = 1000, 5000, 5000, 100
PARAMS = EvaluateParams(precision_at=[10], radius=2, neighbors=[10, 100], rerank=[], baselines=list(METHODS))
Search = Callable[[NDArray[np.float32]], Any]  # of one query (1, D)


def draw(count: int, seed: int) -> Split:
    """A tenth of the rows, at most NUM_QUERY, as queries; up to NUM_TRAIN of the others train."""
    order = np.random.default_rng(seed).permutation(count)
    num_query = min(NUM_QUERY, count // 10)
    database = order[num_query:]
    return Split(order[:num_query], database[:NUM_TRAIN], database)


def hamming_search(encode: Callable[[Any], NDArray[np.uint8]], packed: NDArray[np.uint8], bits: int) -> Search:
    """From a query's features to its nearest codes."""
    index = Index(packed, bits=bits)
    return lambda query: index.search(encode(query), TOP)


def faiss_search(prepare: Callable[[Any], Any], index: Any) -> Search:
    """From a query's features to what a faiss index finds."""
    return lambda query: index.search(prepare(query), TOP)


def searches(features: NDArray[Any], split: Split, bits: int, images: int, hasher: Hasher) -> dict[str, Search]:
    """A search over `images` codes for each method, and the exact scan of float rows."""
    train = np.asarray(features[split.train], np.float32)
    rows = np.resize(split.database, images)
    result: dict[str, Search] = {"ssdh": hamming_search(hasher.transform, hasher.transform(features)[rows], bits)}
    for name in METHODS:
        fitted = comparison.fit(name, train, bits, 0)
        packed = comparison.encode(fitted, features)[rows]
        if isinstance(fitted, Codes):
            result[name] = hamming_search(fitted.encode, packed, bits)
        else:
            index: Any = faiss.clone_index(fitted.index)  # type: ignore[attr-defined]
            index.add_sa_codes(packed)
            if name == "rabitq":
                index.qb = 8  # bits of a query's values, faiss's quick way; the quality is of float queries
            result[name] = faiss_search(fitted.prepared, index)  # type: ignore[attr-defined]
    scan = faiss.IndexFlatIP(features.shape[1])
    for part in np.array_split(rows, -(-images // 50_000)):
        scan.add(unit_rows(features[part]))
    return result | {"float": faiss_search(unit_rows, scan)}


def queries_a_second(found: dict[str, Search], queries: NDArray[np.float32], repeats: int) -> dict[str, float]:
    """Queries a second of each search, one query at a time, the best of several rounds."""

    def all_of(search: Search) -> None:
        for query in queries:
            search(query[None])

    seconds = best_seconds({name: partial(all_of, search) for name, search in found.items()}, repeats)
    return {name: len(queries) / value for name, value in seconds.items()}


def quality(
    features: NDArray[Any], labels: NDArray[np.uint8], split: Split, bits: int, hasher: Hasher
) -> dict[str, dict[str, Any]]:
    """Metrics of every method, the float features and `manifold`'s codes among them."""
    metrics, _ = comparison.evaluate_baselines(features, labels, split, bits=bits, topk=TOPK, seed=0, params=PARAMS)
    packed = hasher.transform(features)
    own = evaluate(packed, labels, features, split, bits=bits, topk=TOPK, params=PARAMS).metrics
    return metrics | {"ssdh": own | {"bytes_per_image": packed.shape[1]}}


def publish(path: Path, speed: dict[str, float], images: int, bits: int, dim: int) -> None:
    """Write queries a second as multiples of the float scan's, which carry over to other machines better."""
    rows = (
        (name, f"{speed[name] / speed['float']:.3g}", int(name in HAMMING), images, bits, dim)
        for name in ("float", "ssdh", *METHODS)
    )
    write_csv(path, ("method", "times_float", "hamming", "codes", "bits", "dim"), rows)


def main() -> None:
    """Measure, print the table and write `benchmarks/results/baselines.json`."""
    from benchmarks.__main__ import make_features

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, help="an .npz file with `features` and `labels` instead of made ones")
    for name, default in (("bits", 64), ("images", 1_000_000), ("queries", 50), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--publish", action="store_true", help="also write the table that the report shows")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, one_blas_thread():
        path = chosen.features or Path(folder) / "features.npz"
        if chosen.features is None:
            make_features(path, 10_000)
        stored = np.load(path)
        features, classes = stored["features"], stored["labels"].astype(int)
    labels = np.eye(classes.max() + 1, dtype=np.uint8)[classes]
    split = draw(len(features), 0)
    hasher = Hasher(bits=chosen.bits, recipe="manifold").fit(np.asarray(features[split.train], np.float32))
    faiss.omp_set_num_threads(1)
    with one_blas_thread():
        measured = quality(features, labels, split, chosen.bits, hasher)
        result = searches(features, split, chosen.bits, chosen.images, hasher)
        asked = np.asarray(features[split.query[: chosen.queries]], np.float32)
        speed = queries_a_second(result, asked, chosen.repeats)
    rows = [
        {
            "method": name,
            "bytes an image": one.get("bytes_per_image", 4 * features.shape[1]),
            "mAP": one["map"],
            "recall@10": one["neighbor_recall_at"]["10"],
            "recall@100": one["neighbor_recall_at"]["100"],
            "queries a second": speed[name],
            "times float": speed[name] / speed["float"],
        }
        for name, one in ((name, measured[name]) for name in ("float", "ssdh", *METHODS))
    ]
    print(f"{len(features):,} rows for quality, {chosen.images:,} codes for speed, {chosen.bits} bits, one thread\n")
    print(table(rows))
    settings = {name: value.name if isinstance(value, Path) else value for name, value in vars(chosen).items()}
    settings.pop("publish")
    write_results("baselines", settings | {"rows": rows})
    if chosen.publish:
        publish(SPEED, speed, chosen.images, chosen.bits, features.shape[1])


if __name__ == "__main__":
    main()
