"""What codes are measured against, on the same features and split: float search, and the baselines that are asked for.

Run it: `dvc repro baselines`, or alone `python -m stages.baselines`. Each file of `ssdh/evaluation/baselines/` is a
method; `float` is exact search by `evaluate.metric`, no codes (`map_centred`: of features centred by the train mean).
All are fitted on the train features alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.arrays import Float32, Packed
from ssdh.core.files import take_rows
from ssdh.core.runtime import one_blas_thread
from ssdh.core.split import Split
from ssdh.evaluation.baselines import registry
from ssdh.evaluation.baselines._base import CannotFitError, Codes, Quantizer
from ssdh.evaluation.float_search import BLOCK_BYTES, Metric, similarity_blocks
from ssdh.evaluation.metrics import (
    Table,
    count_split,
    label_metrics,
    nearest_by_features,
    neighbor_recall,
    precision_recall_rows,
    precision_rows,
)
from ssdh.evaluation.params import EvaluateParams
from ssdh.evaluation.reranked import rerank_metrics
from ssdh.evaluation.scored import Blocks, float_average_precisions, score_metrics

METRICS: dict[Metric, str] = {"cosine": "cosine", "dot": "inner product", "l2": "Euclidean distance"}
CURVES = ("method", "curve", "n", "recall", "precision")


def evaluate_baselines(
    features: NDArray[Any],
    labels: NDArray[np.uint8],
    split: Split,
    *,
    bits: int,
    topk: int | None,
    seed: int,
    params: EvaluateParams,
) -> tuple[dict[str, dict[str, Any]], Table]:
    """Evaluate float search and each of `params.baselines` as `ssdh.evaluation.metrics` does the codes.

    features: (N, D) of all images; labels: (N, C) multi-hot, C = 0 for none. Returns {method: {map, …}} and the rows
    (method, curve, n, recall, precision) of both curves, curve being "pr" or "precision_at_n"; without labels only what
    needs none. A method that cannot give `bits` bits is left out, and said in the log.
    """
    if not len(split.query):
        return {}, []
    topk = min(topk or len(split.database), len(split.database))
    train = np.asarray(take_rows(features, split.train), np.float32)
    true = nearest_by_features(features, split, params.neighbors, params.metric)
    compare = _Comparison(features, labels, split, true, topk, params)
    blocks = partial(similarity_blocks, features, split.query, split.database, metric=params.metric)
    result, rows = compare.scores(blocks)
    if labels.shape[1]:
        mean = train.mean(axis=0, dtype=np.float64)
        centred = float_average_precisions(features, labels, split, topk, centre=mean, metric=params.metric)
        result["map_centred"] = float(centred.mean())
    about = {"title": "Float", "about": f"{METRICS[params.metric]} of the features, no codes"}
    metrics: dict[str, dict[str, Any]] = {"float": about | result}
    curves: Table = [("float", *row) for row in rows]
    for name in params.baselines:
        try:
            fitted = fit(name, train, bits, seed)
        except CannotFitError as error:
            logger.warning("{} is left out at {} bits: {}", name, bits, error)
            continue
        packed = encode(fitted, features)
        result, rows = compare.codes(packed, bits) if isinstance(fitted, Codes) else compare.quantizer(fitted, packed)
        method = registry.get(name)
        unique = len(np.unique(packed[split.database], axis=0))
        about = {"title": method.TITLE, "about": method.ABOUT}
        metrics[name] = about | {"bytes_per_image": packed.shape[1]} | result | {"unique_codes": unique}
        curves += [(name, *row) for row in rows]
    return metrics, curves


def fit(name: str, train: Float32, bits: int, seed: int) -> Codes | Quantizer:
    """Fit the baseline `name` to train features (n, D), on one BLAS thread: on two, some directions come out otherwise.

    Raises CannotFitError where it cannot give so many bits.
    """
    with one_blas_thread():
        return registry.get(name).fit(train, bits, seed)


def encode(fitted: Codes | Quantizer, features: NDArray[Any]) -> Packed:
    """The codes of all features (N, D), uint8 (N, bytes an image), likewise on one thread."""
    with one_blas_thread():
        return fitted.encode(features)


@dataclass(frozen=True)
class _Comparison:
    """What each method is measured on; `true`: the database positions of each query's nearest features (q, k)."""

    features: NDArray[Any]
    labels: NDArray[np.uint8]
    split: Split
    true: NDArray[np.int64]
    topk: int
    params: EvaluateParams

    def codes(self, packed: Packed, bits: int) -> tuple[dict[str, Any], Table]:
        """Metrics and curve rows of packed codes (N, ⌈bits/8⌉) by Hamming distance."""
        counts, without_train = count_split(packed, self.labels, self.split, bits)
        metrics: dict[str, Any] = {}
        rows: Table = []
        if self.labels.shape[1]:
            metrics = label_metrics(counts, without_train, self.topk, self.params)
            recalls = precision_recall_rows(counts.total, counts.relevant)
            rows = [("pr", "", recall, precision) for _, recall, precision, _ in recalls]
            precisions = precision_rows(counts.total, counts.relevant, self.topk, self.params.curve_points)
            rows += [("precision_at_n", n, "", precision) for n, precision in precisions]
        recall = neighbor_recall(packed, self.split, counts, self.true, self.params.neighbors)
        reranked = rerank_metrics(
            packed, self.labels, self.features, self.split, counts,
            topk=self.topk, sizes=self.params.rerank, metric=self.params.metric,
        )  # fmt: skip
        more = {"neighbor_recall_at": recall, "rerank": reranked}
        return metrics | {name: value for name, value in more.items() if value}, rows

    def quantizer(self, fitted: Quantizer, packed: Packed) -> tuple[dict[str, Any], Table]:
        """Metrics and curve rows of codes (N, bytes) that are scored against the float queries."""
        query, database = self.split.query, packed[self.split.database]
        step = max(1, BLOCK_BYTES // (4 * len(database)))

        def blocks() -> Iterator[tuple[slice, Float32]]:
            for start in range(0, len(query), step):
                block = slice(start, min(start + step, len(query)))
                yield block, fitted.scores(take_rows(self.features, query[block]), database)

        return self.scores(blocks)

    def scores(self, blocks: Blocks) -> tuple[dict[str, Any], Table]:
        """Metrics and curve rows of scores."""
        return score_metrics(blocks, self.labels, self.split, self.true, topk=self.topk, params=self.params)
