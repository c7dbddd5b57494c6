"""What the evaluate stage reports: retrieval metrics where there are labels, and what the codes tell without any.

mAP and what else ties touch is computed in `ssdh/hashing/ranking.py`, from the counts of `ssdh/hashing/retrieval.py`.
Run it: `dvc repro evaluate`, or alone `python -m stages.evaluate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.core.split import Split
from ssdh.evaluation.float_search import Metric, nearest
from ssdh.evaluation.params import EvaluateParams
from ssdh.evaluation.reranked import rerank_metrics
from ssdh.hashing import ranking
from ssdh.hashing.codes import first_bits, hamming, unpack, width
from ssdh.hashing.retrieval import (
    DistanceCounts,
    average_precisions,
    count_distances,
    stable_average_precisions,
)
from ssdh.hashing.tie_range import average_precision_range

BLOCK_BITS = 4_000_000
MAP_CUTOFFS = (1000, 5000)  # of `map_at`, beside the whole database
PER_QUERY = ("row", "ap", "ap_without_train", "num_relevant", "class", "class_name")
PR_CURVE = ("radius", "recall", "precision", "retrieved")
PRECISION_AT_N = ("n", "precision")
Table = list[tuple[Any, ...]]


@dataclass
class Evaluation:
    """Contents of the stage's files: `metrics.json` and the rows of its three tables (headers: the constants above)."""

    metrics: dict[str, Any]
    per_query: Table = field(default_factory=list)
    pr_curve: Table = field(default_factory=list)
    precision_at_n: Table = field(default_factory=list)


def evaluate(
    packed: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    features: NDArray[Any],
    split: Split,
    *,
    bits: int,
    topk: int | None,
    params: EvaluateParams,
    classes: Sequence[str] = (),
    nested: Sequence[int] = (),
) -> Evaluation:
    """Evaluate the codes of all images; a metric that does not exist is left out.

    packed: (N, ⌈bits/8⌉) uint8; labels: (N, C) multi-hot, C = 0 for none; features: (N, D); rows are the manifest's.
    topk: of every mAP but `map_at`; None or more than the database for all of it; classes: the C names; nested:
    lengths at which the codes' first bits are codes too. Raises
    DataError where the arrays do not belong together.
    """
    if not len(packed) == len(labels) == len(features):
        raise DataError(
            f"models/codes.npy has {len(packed)} rows, data/labels.npy {len(labels)} and features/features.npy "
            f"{len(features)}: they are of different runs, run `dvc repro`"
        )
    if packed.ndim != 2 or packed.dtype != np.uint8 or packed.shape[1] != width(bits):
        raise DataError(
            f"models/codes.npy holds {packed.dtype} {packed.shape}, codes of {bits} bits are uint8 ({len(labels)}, "
            f"{width(bits)}): run `dvc repro`"
        )
    database = packed[split.database]
    kept = min(topk or len(database), len(database))
    counts, without_train = count_split(packed, labels, split, bits)
    result = Evaluation({"bits": bits, "topk": kept})
    if labels.shape[1] and len(split.query):
        stable = stable_average_precisions(
            packed[split.query], database, labels[split.query], labels[split.database],
            bits=bits, topk=kept, counts=counts,
        )  # fmt: skip
        results = label_metrics(counts, without_train, kept, params)
        result.metrics |= {"map": results.pop("map"), "map_stable": float(stable.mean()), **results}
        if nested:
            shorter = {str(k): prefix_map(packed, labels, split, bits, k, kept) for k in nested}
            result.metrics["map_by_bits"] = shorter | {str(bits): result.metrics["map"]}
        result.per_query = _per_query(labels, split, counts, without_train, kept, classes)
        result.pr_curve = precision_recall_rows(counts.total, counts.relevant)
        result.precision_at_n = precision_rows(counts.total, counts.relevant, kept, params.curve_points)
    result.metrics |= code_statistics(database, bits)
    true = nearest_by_features(features, split, params.neighbors, params.metric)
    if recall := neighbor_recall(packed, split, counts, true, params.neighbors):
        result.metrics["neighbor_recall_at"] = recall
    if reranked := rerank_metrics(
        packed, labels, features, split, counts, topk=kept, sizes=params.rerank, metric=params.metric
    ):
        result.metrics["rerank"] = reranked
    return result


def count_split(
    packed: NDArray[np.uint8], labels: NDArray[np.uint8], split: Split, bits: int
) -> tuple[DistanceCounts, DistanceCounts]:
    """Counts of each query against all of the database, and against its items that did not train; one pass.

    packed: (N, ⌈bits/8⌉) uint8; labels: (N, C) multi-hot; both of all images.
    """
    in_train = np.isin(split.database, split.train)
    query = split.query

    def count(rows: NDArray[np.int64]) -> DistanceCounts:
        return count_distances(packed[query], packed[rows], labels[query], labels[rows], bits=bits)

    held_out = count(split.database[~in_train])
    return count(split.database[in_train]) + held_out, held_out


def prefix_map(
    packed: NDArray[np.uint8], labels: NDArray[np.uint8], split: Split, bits: int, count: int, kept: int
) -> float:
    """The tie-aware mAP@kept of the first `count` bits of packed codes (N, ⌈bits/8⌉)."""
    short = first_bits(packed, bits, count)
    query, database = split.query, split.database
    precisions = average_precisions(
        short[query], short[database], labels[query], labels[database], bits=count, topk=kept
    )
    return float(precisions.mean())


def _per_query(
    labels: NDArray[np.uint8],
    split: Split,
    counts: DistanceCounts,
    without_train: DistanceCounts,
    kept: int,
    classes: Sequence[str],
) -> Table:
    """Rows of `per_query.csv`, one a query.

    Its manifest row, AP, AP without train images, relevant items, its class where it has one, and the names of all of
    its classes, set apart by semicolons.
    """
    precisions = ranking.average_precision(counts.total, counts.relevant, kept).tolist()
    held_out = ranking.average_precision(without_train.total, without_train.relevant, kept).tolist()
    if not without_train.total.any():  # every database image trained
        held_out = [""] * len(held_out)
    num_relevant = counts.relevant.sum(axis=1).tolist()
    own = [np.flatnonzero(row).tolist() for row in labels[split.query]]
    single = [columns[0] if len(columns) == 1 else "" for columns in own]
    names = ["; ".join(classes[column] for column in columns) if classes else "" for columns in own]
    return list(zip(split.query.tolist(), precisions, held_out, num_relevant, single, names, strict=True))


def label_metrics(
    counts: DistanceCounts, without_train: DistanceCounts, kept: int, params: EvaluateParams
) -> dict[str, Any]:
    """The metrics that follow from the counts of relevant items, of all the database and of it without train images."""
    total, relevant = counts.total, counts.relevant
    size, held_out = (int(part.total[0].sum()) for part in (counts, without_train))
    metrics: dict[str, Any] = {"map": float(ranking.average_precision(total, relevant, kept).mean())}
    depths = {str(n): n for n in MAP_CUTOFFS if n < size} | {"all": size}
    metrics["map_at"] = {
        name: float(ranking.average_precision(total, relevant, n).mean()) for name, n in depths.items()
    }
    lowest, highest = average_precision_range(total, relevant, kept)
    metrics |= {"map_lowest": float(lowest.mean()), "map_highest": float(highest.mean())}
    if held_out:
        precisions = ranking.average_precision(without_train.total, without_train.relevant, kept)
        metrics["map_without_train"] = float(precisions.mean())
    metrics["precision_at"] = {
        str(n): float(ranking.precision_at(total, relevant, n).mean()) for n in params.precision_at if n <= size
    }
    within = ranking.precision_within(total, relevant, params.radius)
    metrics[f"precision_radius_{params.radius}"] = float(within.mean())
    metrics["queries_without_relevant"] = int(np.count_nonzero(relevant.sum(axis=1) == 0))
    return metrics


def precision_recall_rows(total: NDArray[np.int64], relevant: NDArray[np.int64]) -> Table:
    """Rows (radius, recall, precision, pairs retrieved) of `pr_curve.csv`; radii that retrieve nothing are left out."""
    precision, recall, retrieved = ranking.precision_recall(total, relevant)
    rows = zip(range(len(recall)), recall.tolist(), precision.tolist(), retrieved.tolist(), strict=True)
    return [row for row in rows if row[3] > 0 and not np.isnan(row[1])]


def precision_rows(total: NDArray[np.int64], relevant: NDArray[np.int64], limit: int, points: int) -> Table:
    """Rows (n, mean precision@n) of `precision_at_n.csv`, n from 1 to `limit` in `points` even steps."""
    cutoffs = np.unique(np.linspace(1, limit, points).round().astype(np.int64))
    return [(int(n), float(ranking.precision_at(total, relevant, int(n)).mean())) for n in cutoffs]


def code_statistics(packed: NDArray[np.uint8], bits: int) -> dict[str, Any]:
    """How well the codes use their bits: the two conditions of spectral hashing, and the number of distinct codes.

    bit_balance: mean over bits of |mean of the bit|, 0 when each is +1 for half of the items and 1 when each is
    constant. bit_correlation: mean of |(BᵀB)/n| off the diagonal, B (n, bits) in {−1, +1}: 0 for uncorrelated, balanced
    bits and 1 for equal or constant ones; not there for a single bit. (Weiss, Torralba, Fergus, NIPS 2008, eq. 2.)
    """
    second = np.zeros((bits, bits))
    first = np.zeros(bits)
    step = max(1, BLOCK_BITS // bits)
    for start in range(0, len(packed), step):
        codes = unpack(packed[start : start + step], bits).astype(np.float32)
        first += codes.sum(axis=0, dtype=np.float64)
        second += codes.T @ codes  # sums of ±1 over at most BLOCK_BITS items: exact in float32
    statistics: dict[str, Any] = {"bit_balance": float(np.abs(first / len(packed)).mean())}
    if bits > 1:
        off_diagonal = ~np.eye(bits, dtype=np.bool_)
        statistics["bit_correlation"] = float(np.abs(second / len(packed))[off_diagonal].mean())
    statistics["unique_codes"] = len(np.unique(packed, axis=0))
    return statistics


def nearest_by_features(
    features: NDArray[Any], split: Split, neighbors: Sequence[int], metric: Metric = "cosine"
) -> NDArray[np.int64]:
    """Database positions of each query's nearest images by `metric` of the features, nearest first, int64 (q, k).

    k is the largest of `neighbors` that the database can give; 0 where there is none.
    """
    k = max((k for k in neighbors if k <= len(split.database)), default=0)
    if not k or not len(split.query):
        return np.empty((len(split.query), 0), np.int64)
    return nearest(features, split.query, split.database, k, metric=metric)


def neighbor_recall(
    packed: NDArray[np.uint8],
    split: Split,
    counts: DistanceCounts,
    true: NDArray[np.int64],
    neighbors: Sequence[int],
) -> dict[str, float]:
    """{k: share of each query's k nearest images by the features that are among its k nearest by code}.

    true: what `nearest_by_features` found. Needs no labels. A k of more than the database is left out.
    """
    cutoffs = sorted(k for k in set(neighbors) if k <= true.shape[1])
    if not cutoffs or not len(split.query):
        return {}
    distance = np.stack(
        [hamming(packed[row, None], packed[split.database[true[i]]])[0] for i, row in enumerate(split.query)]
    )
    return {str(k): float(neighbors_among_first(counts.total, distance[:, :k], k).mean()) for k in cutoffs}


def neighbors_among_first(total: NDArray[np.int64], group: NDArray[np.integer[Any]], k: int) -> NDArray[np.float64]:
    """The probability that each neighbour is among its query's first `k`, over the order of ties; float64 (q, m).

    total: (q, G) items of each tie group, in their order; group: (q, m), the neighbours' own. In a group of n items
    after N others it is min(1, max(0, (k − N)/n)).

    >>> neighbors_among_first(np.array([[1, 4]]), np.array([[0, 1]]), 3).tolist()
    [[1.0, 0.5]]
    """
    columns = group.astype(np.int64)
    at = np.take_along_axis(total, columns, axis=1)
    before = np.take_along_axis(np.cumsum(total, axis=1), columns, axis=1) - at
    share: NDArray[np.float64] = np.clip((k - before) / at, 0, 1)
    return share
