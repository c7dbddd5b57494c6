"""What the evaluate stage reports: retrieval metrics where there are labels, and what the codes tell without any.

dvc repro evaluate          # or: python -m stages.evaluate
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh import ranking
from ssdh.codes import check_packed, hamming, unpack
from ssdh.datasets.splits import Split
from ssdh.errors import DataError
from ssdh.float_search import nearest
from ssdh.pair_labels import PairLabels
from ssdh.retrieval import DistanceCounts, EvaluateParams, count_distances, stable_average_precisions

PAIR_ROWS = 20_000  # train images whose pairs are compared with the labels: at most 200 million pairs
BLOCK_PAIRS = 4_000_000

PER_QUERY = ("row", "ap", "ap_without_train", "num_relevant", "class")
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
) -> Evaluation:
    """Evaluate the codes of all images; a metric that does not exist is left out.

    packed: (N, ⌈bits/8⌉) uint8; labels: (N, C) multi-hot, C = 0 for none; features: (N, D); rows are the manifest's.
    topk: of every mAP; None or more than the database for all of it. Raises DataError where the arrays do not belong
    together.
    """
    if not len(packed) == len(labels) == len(features):
        raise DataError(
            f"models/codes.npy has {len(packed)} rows, data/labels.npy {len(labels)} and features/features.npy "
            f"{len(features)}: they are of different runs, run `dvc repro`"
        )
    check_packed(packed, bits, "models/codes.npy")
    database = packed[split.database]
    kept = min(topk or len(database), len(database))
    in_train = np.isin(split.database, split.train)
    with_train, without_train = (
        _count(packed, labels, split.query, split.database[part], bits) for part in (in_train, ~in_train)
    )
    counts = with_train + without_train
    result = Evaluation({"bits": bits, "topk": kept})
    if labels.shape[1] and len(split.query):
        _add_label_metrics(result, labels, split, counts, without_train, kept, params)
        stable = stable_average_precisions(
            packed[split.query], database, labels[split.query], labels[split.database], bits=bits, topk=kept,
            counts=counts,
        )  # fmt: skip
        result.metrics["map_stable"] = float(stable.mean())
    result.metrics |= code_statistics(database, bits)
    if recall := neighbor_recall(packed, features, split, counts, params.neighbors):
        result.metrics["neighbor_recall_at"] = recall
    return result


def _count(
    packed: NDArray[np.uint8], labels: NDArray[np.uint8], query: NDArray[np.int64], rows: NDArray[np.int64], bits: int
) -> DistanceCounts:
    return count_distances(packed[query], packed[rows], labels[query], labels[rows], bits=bits)


def _add_label_metrics(
    result: Evaluation,
    labels: NDArray[np.uint8],
    split: Split,
    counts: DistanceCounts,
    without_train: DistanceCounts,
    kept: int,
    params: EvaluateParams,
) -> None:
    """Everything that follows from the counts of relevant items."""
    total, relevant = counts.total, counts.relevant
    precisions = ranking.average_precision(total, relevant, kept)
    held_out = ranking.average_precision(without_train.total, without_train.relevant, kept)
    num_relevant = relevant.sum(axis=1)
    result.metrics["map"] = float(precisions.mean())
    if len(split.train) < len(split.database):
        result.metrics["map_without_train"] = float(held_out.mean())
    size = len(split.database)
    result.metrics["precision_at"] = {
        str(n): float(ranking.precision_at(total, relevant, n).mean()) for n in params.precision_at if n <= size
    }
    within = ranking.precision_within(total, relevant, params.radius)
    result.metrics[f"precision_radius_{params.radius}"] = float(within.mean())
    result.metrics["queries_without_relevant"] = int(np.count_nonzero(num_relevant == 0))

    classes = [_single_class(row) for row in labels[split.query]]
    columns = (split.query, precisions, held_out, num_relevant)
    result.per_query += zip(*(column.tolist() for column in columns), classes, strict=True)
    result.pr_curve += precision_recall_rows(total, relevant)
    result.precision_at_n += precision_rows(total, relevant, kept, params.curve_points)


def precision_recall_rows(total: NDArray[np.int64], relevant: NDArray[np.int64]) -> Table:
    """Rows (radius, recall, precision, pairs retrieved) of `pr_curve.csv`; radii that retrieve nothing are left out."""
    precision, recall, retrieved = ranking.precision_recall(total, relevant)
    rows = zip(range(len(recall)), recall.tolist(), precision.tolist(), retrieved.tolist(), strict=True)
    return [row for row in rows if row[3] > 0 and not np.isnan(row[1])]


def precision_rows(total: NDArray[np.int64], relevant: NDArray[np.int64], limit: int, points: int) -> Table:
    """Rows (n, mean precision@n) of `precision_at_n.csv`, n from 1 to `limit` in `points` even steps."""
    cutoffs = np.unique(np.linspace(1, limit, points).round().astype(np.int64))
    return [(int(n), float(ranking.precision_at(total, relevant, int(n)).mean())) for n in cutoffs]


def _single_class(label: NDArray[np.uint8]) -> int | str:
    """The class of a row with exactly one label, else an empty cell."""
    present = np.flatnonzero(label)
    return int(present[0]) if len(present) == 1 else ""


def code_statistics(packed: NDArray[np.uint8], bits: int) -> dict[str, Any]:
    """How well the codes use their bits: the two conditions of spectral hashing, and the number of distinct codes.

    bit_balance: mean over bits of |mean of the bit|, 0 when each is +1 for half of the items and 1 when each is
    constant. bit_correlation: mean of |(BᵀB)/n| off the diagonal, B (n, bits) in {−1, +1}: 0 for uncorrelated, balanced
    bits and 1 for equal or constant ones; not there for a single bit. (Weiss, Torralba, Fergus, NIPS 2008, eq. 2.)
    """
    second = np.zeros((bits, bits))
    first = np.zeros(bits)
    step = max(1, BLOCK_PAIRS // bits)
    for start in range(0, len(packed), step):
        codes = unpack(packed[start : start + step], bits).astype(np.float32)
        first += codes.sum(axis=0, dtype=np.float64)
        second += codes.T @ codes  # sums of ±1 over at most BLOCK_PAIRS items: exact in float32
    statistics: dict[str, Any] = {"bit_balance": float(np.abs(first / len(packed)).mean())}
    if bits > 1:
        off_diagonal = ~np.eye(bits, dtype=np.bool_)
        statistics["bit_correlation"] = float(np.abs(second / len(packed))[off_diagonal].mean())
    statistics["unique_codes"] = len(np.unique(packed, axis=0))
    return statistics


def neighbor_recall(
    packed: NDArray[np.uint8],
    features: NDArray[Any],
    split: Split,
    counts: DistanceCounts,
    neighbors: Sequence[int],
) -> dict[str, float]:
    """{k: share of each query's k nearest images by cosine of the features that are among its k nearest by code}.

    Needs no labels. The expectation over the order of ties: a neighbour at a distance where n items stand, N before,
    is among the first k with probability min(1, max(0, (k − N)/n)). A k of more than the database is left out.
    """
    wanted = sorted(k for k in set(neighbors) if k <= len(split.database))
    if not wanted or not len(split.query):
        return {}
    ends = np.cumsum(counts.total, axis=1)
    found = {}
    for k in wanted:
        true = nearest(features, split.query, split.database, k)  # (q, k)
        shares = np.empty(len(true))
        for i, row in enumerate(split.query):
            distance = hamming(packed[row, None], packed[split.database[true[i]]])[0]
            size = counts.total[i, distance]
            shares[i] = np.clip((k - (ends[i, distance] - size)) / size, 0, 1).mean()
        found[str(k)] = float(shares.mean())
    return found


def pair_precision(pairs: PairLabels, labels: NDArray[np.uint8]) -> dict[str, float]:
    """How often the pseudo-labels are right, over the pairs i < j of (the first 20,000) train images.

    labels: (n, C) of the train images, in the order of `pairs`. similar_precision: share of the pairs labelled similar
    that share a label; dissimilar_precision: share of those labelled dissimilar that share none. Without such pairs,
    or without labels, the key is left out.
    """
    n = min(len(pairs), PAIR_ROWS)
    present = (labels[:n] != 0).astype(np.float32)
    right, all_pairs = {1: 0, -1: 0}, {1: 0, -1: 0}
    step = max(1, BLOCK_PAIRS // max(n, 1))
    for start in range(0, n if labels.shape[1] else 0, step):
        rows, others = np.arange(start, min(start + step, n)), np.arange(start, n)
        later = rows[:, None] < others  # each pair once
        pseudo = pairs.block(rows, others)
        share = present[rows] @ present[others].T > 0
        for sign in (1, -1):
            chosen = (pseudo == sign) & later
            all_pairs[sign] += int(np.count_nonzero(chosen))
            right[sign] += int(np.count_nonzero(chosen & (share if sign == 1 else ~share)))
    names = {1: "similar_precision", -1: "dissimilar_precision"}
    return {names[sign]: right[sign] / count for sign, count in all_pairs.items() if count}
