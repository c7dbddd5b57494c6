"""Speed, memory and ties of the evaluator beside the usual ways: `python -m benchmarks.retrieval`.

Peers, written here in their common form: a product and an argsort a query (numpy), a batched top-k (torch), and faiss's
IndexBinaryFlat, which only searches. Codes are random hyperplanes of clustered features, or of real ones:

    python -m benchmarks.retrieval --features FILE.npz     # `features` (N, D), `labels` (N,) class numbers
    python -m benchmarks.retrieval --small                 # seconds instead of minutes
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import best_seconds, peak_mib, table, write_results
from ssdh.hashing.codes import pack, unpack
from ssdh.hashing.retrieval import average_precisions, count_distances

Codes = dict[str, Any]
TOPK = 5000


def clustered(queries: int, items: int, bits: int, num_labels: int, features: Path | None = None) -> Codes:
    """Packed codes and labels of a seeded draw; one class of ten, or about three of `num_labels` labels, an image."""
    rng = np.random.default_rng(0)
    if features is not None:
        stored = np.load(features)
        order = rng.permutation(len(stored["labels"]))[: queries + items]
        vectors = stored["features"][order].astype(np.float32)
        labels = np.eye(int(stored["labels"].max()) + 1, dtype=np.uint8)[stored["labels"][order]]
    else:
        count = queries + items
        if num_labels <= 10:
            labels = np.eye(num_labels, dtype=np.uint8)[rng.integers(0, num_labels, count)]
        else:
            labels = (rng.random((count, num_labels), np.float32) < 3 / num_labels).astype(np.uint8)
        centres = rng.standard_normal((num_labels, 32), np.float32)
        vectors = labels.astype(np.float32) @ centres + 2 * rng.standard_normal((count, 32), np.float32)
    vectors -= vectors.mean(axis=0)
    packed = pack(np.where(vectors @ rng.standard_normal((vectors.shape[1], bits), np.float32) >= 0, 1, -1))
    return {
        "query_packed": packed[:queries],
        "database_packed": packed[queries:],
        "query_labels": labels[:queries],
        "database_labels": labels[queries:],
        "bits": bits,
    }


def ours(codes: Codes) -> NDArray[np.float64]:
    """The expectation under ties, from counts."""
    return average_precisions(**codes, topk=TOPK)


def ours_stable(codes: Codes) -> NDArray[np.float64]:
    """Ties in the database's order."""
    return average_precisions(**codes, topk=TOPK, ties="stable")


def usual_loop(codes: Codes) -> NDArray[np.float64]:
    """A float product and an argsort for each query, as in most hashing repositories."""
    bits = codes["bits"]
    query, database = (unpack(codes[f"{part}_packed"], bits).astype(np.float32) for part in ("query", "database"))
    query_labels, labels = (codes[f"{part}_labels"].astype(np.float32) for part in ("query", "database"))
    result = np.zeros(len(query))
    for i in range(len(query)):
        relevant = query_labels[i] @ labels.T > 0
        distance = 0.5 * (bits - query[i] @ database.T)
        ranks = np.flatnonzero(relevant[np.argsort(distance)][:TOPK]) + 1
        if len(ranks):
            result[i] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
    return result


def torch_topk(codes: Codes, batch: int = 100) -> NDArray[np.float64]:
    """Batches of queries, a product and a top-k, as in metric-learning libraries."""
    import torch

    bits = codes["bits"]
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in codes.items() if name != "bits"}
    query, database = (
        torch.from_numpy(unpack(codes[f"{part}_packed"], bits)).float() for part in ("query", "database")
    )
    labels = tensors["database_labels"].float()
    ranks = torch.arange(1, min(TOPK, len(database)) + 1)
    result = []
    for start in range(0, len(query), batch):
        part = slice(start, start + batch)
        order = (query[part] @ database.T).topk(len(ranks), dim=1).indices
        relevant = (tensors["query_labels"][part].float() @ labels.T > 0).gather(1, order)
        precision = relevant.cumsum(1) / ranks
        result.append((precision * relevant).sum(1) / relevant.sum(1).clamp(min=1))
    return torch.cat(result).double().numpy()


def faiss_search(codes: Codes) -> None:
    """faiss's exact binary search for the 5000 nearest codes; no metric yet."""
    import faiss

    index = faiss.IndexBinaryFlat(8 * codes["database_packed"].shape[1])
    index.add(np.ascontiguousarray(codes["database_packed"]))
    index.search(np.ascontiguousarray(codes["query_packed"]), min(TOPK, index.ntotal))


CANDIDATES: dict[str, Callable[[Codes], Any]] = {
    "ssdh, expected": ours,
    "ssdh, stable": ours_stable,
    "usual loop (numpy argsort)": usual_loop,
    "batched top-k (torch)": torch_topk,
    "faiss IndexBinaryFlat (search only)": faiss_search,
}


def warmed(make: Callable[[], Codes]) -> Codes:
    """Codes, with the libraries loaded, so that only the work itself is measured."""
    import faiss  # noqa: F401
    import torch  # noqa: F401

    for work in CANDIDATES.values():
        work(clustered(2, 100, 64, 10))
    return make()


def compare_peers(queries: int, items: int, features: Path | None, repeats: int) -> list[dict[str, Any]]:
    """Seconds, ratios and memory of every candidate at 64 bits."""
    make = partial(clustered, queries, items, 64, 10, features)
    codes = make()
    seconds = best_seconds({name: partial(work, codes) for name, work in CANDIDATES.items()}, repeats)
    return [
        {
            "candidate": name,
            "seconds": seconds[name],
            "times ssdh": seconds[name] / seconds["ssdh, expected"],
            "MiB above the codes": peak_mib(partial(warmed, make), work),
        }
        for name, work in CANDIDATES.items()
    ]


def compare_labels(queries: int, items: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds at 16 to 128 bits with one label of 10, and about three of 80 and 81."""
    rows = []
    for bits in (16, 32, 64, 128):
        sets = {count: clustered(queries, items, bits, count) for count in (10, 80, 81)}
        seconds = best_seconds({str(count): partial(ours, codes) for count, codes in sets.items()}, repeats)
        ratios = {f"{count} labels, times 10": seconds[str(count)] / seconds["10"] for count in (80, 81)}
        rows.append({"bits": bits, "10 labels, seconds": seconds["10"], **ratios})
    return rows


def stream(queries: int, items: int) -> dict[str, Any]:
    """Seconds and memory of one large evaluation."""
    make = partial(clustered, queries, items, 64, 10)
    codes = make()
    seconds = best_seconds({"": partial(ours, codes)}, 1)[""]
    del codes
    used = peak_mib(partial(warmed, make), ours)
    return {
        "queries": queries,
        "items": items,
        "seconds": seconds,
        "pairs a second": queries * items / seconds,
        "MiB above the codes": used,
    }


def ties(queries: int, items: int, features: Path | None, orders: int = 5) -> list[dict[str, Any]]:
    """mAP@5000 by each way, on the same codes in a shuffled database and in one sorted by class."""
    rows = []
    for bits in (16, 32, 64):
        codes = clustered(queries, items, bits, 10, features)
        by_class = np.lexsort(codes["database_labels"].T)
        arranged = codes | {name: codes[name][by_class] for name in ("database_packed", "database_labels")}
        row: dict[str, Any] = {"bits": bits, "expected": ours(codes).mean()}
        for name, work in (("stable", ours_stable), ("argsort", usual_loop), ("torch top-k", torch_topk)):
            row[name] = work(codes).mean()
            row[f"{name}, sorted by class"] = work(arranged).mean()
        shuffled = []
        for seed in range(orders):
            order = np.random.default_rng(seed).permutation(items)
            other = codes | {name: codes[name][order] for name in ("database_packed", "database_labels")}
            shuffled.append(ours_stable(other).mean())
        row["stable, over orders ±"] = float(np.std(shuffled, ddof=1))
        counts = count_distances(**codes)
        row["items at a distance"] = float((counts.total**2).sum() / counts.total.sum())
        rows.append({name: float(value) if name != "bits" else value for name, value in row.items()})
    return rows


def main() -> None:
    """Measure, print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, help="an .npz file with `features` and `labels` instead of made ones")
    parser.add_argument("--small", action="store_true", help="a tenth of every size")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each timing; the best counts")
    parser.add_argument("--json", type=Path, help="where to write; by default benchmarks/results/retrieval.json")
    arguments = parser.parse_args()
    part = 10 if arguments.small else 1
    sizes = 1000 // part, 59_000 // part
    sizes_of = {"queries": sizes[0], "items": sizes[1], "bits": 64, "topk": TOPK}
    results: dict[str, list[dict[str, Any]]] = {
        "peers": compare_peers(*sizes, arguments.features, arguments.repeats),
        "labels": compare_labels(*sizes, arguments.repeats),
        "stream": [stream(5000 // part, 1_000_000 // part)],
        "ties": ties(sizes[0] // 5, sizes[1], arguments.features),
    }
    print(f"{sizes[0]} queries, {sizes[1]} items, 64 bits, top {TOPK}")
    for name, rows in results.items():
        print(f"\n{name}\n{table(rows)}")
    print(f"\nwritten: {write_results('retrieval', {'sizes': sizes_of} | results, arguments.json)}")


if __name__ == "__main__":
    main()
