"""What codes are measured against, on the same features and split: float search, LSH, PCAH and ITQ.

Run it: `dvc repro baselines`, or alone `python -m stages.baselines`. faiss does the algebra.

- float: exact search by cosine, no codes (`map_centred`: of features centred by the train mean).
- lsh: signs of a random rotation of the centred features (Charikar 2002; orthonormal directions: Ji et al. 2012).
- pcah: signs of the first principal components (Wang, Kumar, Chang 2010).
- itq: signs of the first principal components, rotated to lose least (Gong and Lazebnik 2011).

Everything is fitted on the train features alone.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from loguru import logger
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh

from ssdh.core.runtime import one_blas_thread
from ssdh.core.split import Split
from ssdh.evaluation.float_search import cosine_blocks, ranked_counts
from ssdh.evaluation.metrics import Table, count_split, label_metrics, precision_recall_rows, precision_rows
from ssdh.evaluation.params import EvaluateParams
from ssdh.hashing import ranking

CURVES = ("method", "curve", "n", "recall", "precision")


HASHES = ("lsh", "pcah", "itq")


CHUNK_BYTES = 64_000_000  # of features transformed at once


BINS = 4096  # of similarity, for the float features' precision-recall curve


PR_POINTS = 100  # of that curve


FAISS_SEEDS = 2**31 - 1  # faiss takes an int


DENSE_SIDE = 1024  # a symmetric matrix up to this size is solved whole, in float64


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
    """Evaluate every baseline as `ssdh.evaluation.metrics` does the codes.

    features: (N, D) of all images; labels: (N, C) multi-hot. Returns {method: {map, …}} and the rows (method, curve, n,
    recall, precision) of both curves, curve being "pr" or "precision_at_n"; both are empty without labels (C = 0). A
    method that cannot give `bits` bits is left out, and said in the log.
    """
    metrics: dict[str, dict[str, Any]] = {}
    curves: Table = []
    if not labels.shape[1] or not len(split.query):
        logger.info("no labels: there is nothing to measure the baselines by")
        return metrics, curves
    kept = min(topk or len(split.database), len(split.database))
    train = np.array(features[split.train], np.float32)
    metrics["float"], found = _float(features, labels, split, kept, params)
    curves += [("float", *row) for row in found]
    centred = float_average_precisions(features, labels, split, kept, centre=train.mean(axis=0, dtype=np.float64))
    metrics["float"]["map_centred"] = float(centred.mean())
    for method in HASHES:
        fitted = fit(method, train, bits, seed)
        if fitted is None:
            continue
        counts, without_train = count_split(fitted.encode(features), labels, split, bits)
        metrics[method] = label_metrics(counts, without_train, kept, params)
        recall = precision_recall_rows(counts.total, counts.relevant)
        precision = precision_rows(counts.total, counts.relevant, kept, params.curve_points)
        curves += [(method, "pr", "", row[1], row[2]) for row in recall]
        curves += [(method, "precision_at_n", n, "", value) for n, value in precision]
    return metrics, curves


@dataclass(frozen=True)
class Hash:
    """Codes as signs of an affine map: weights (bits, D) and bias (bits,), float32."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    def encode(self, features: NDArray[Any]) -> NDArray[np.uint8]:
        """The packed codes of all features (N, D), uint8 (N, ⌈bits/8⌉); sign(0) = +1."""
        step = max(1, CHUNK_BYTES // (4 * features.shape[1]))
        packed = []
        for start in range(0, len(features), step):
            outputs = np.asarray(features[start : start + step], np.float32) @ self.weights.T + self.bias
            packed.append(np.packbits(outputs >= 0, axis=1))
        return np.concatenate(packed)


def fit(method: str, train: NDArray[np.float32], bits: int, seed: int) -> Hash | None:
    """Fit a hash of `bits` bits to the train features; None where the method cannot give so many.

    method: lsh | pcah | itq; train: (n, D) float32. PCAH and ITQ need bits ≤ D and bits < n: there are no more
    principal components. As in faiss's ITQTransform, ITQ learns from centred rows of length 1, which changes no sign.
    """
    count, dim = train.shape
    if method != "lsh" and (bits > dim or bits >= count):
        reason = f"{dim} dimensions and {count} train images have no {bits} principal components"
        logger.warning("{} is left out at {} bits: {}", method, bits, reason)
        return None
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = train - mean
    with one_blas_thread():
        if method == "lsh":
            rotation = faiss.RandomRotationMatrix(dim, bits)
            rotation.init((seed + 1) & FAISS_SEEDS)
            weights = faiss.vector_to_array(rotation.A).reshape(bits, dim)
        elif method == "pcah":
            weights = principal_components(centred, bits)
        else:
            norms = np.linalg.norm(centred, axis=1, keepdims=True)
            centred /= np.where(norms > 0, norms, 1)
            components = principal_components(centred, bits)
            itq = faiss.ITQMatrix(bits)
            itq.seed = seed & FAISS_SEEDS
            itq.train(centred @ components.T)
            weights = faiss.vector_to_array(itq.A).reshape(bits, bits) @ components
        return Hash(weights, -(weights @ mean))


def principal_components(centred: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The first `count` principal directions of `centred` (n, D), orthonormal float32 (count, D), largest first.

    Through the smaller of both products; by Lanczos iteration where that is large: faiss's PCAMatrix took 90 s for
    5000 × 4096 on two busy cores, this 1 s beside the product.
    """
    n, dim = centred.shape
    square = centred @ centred.T if n < dim else centred.T @ centred
    side = len(square)
    if side <= DENSE_SIDE or 2 * count > side:
        values, vectors = np.linalg.eigh(square.astype(np.float64))
        values, vectors = values[-count:], vectors[:, -count:]
    else:
        values, vectors = eigsh(square, k=count, which="LA", v0=np.ones(side, np.float32))
    directions = vectors.T if n >= dim else vectors.T @ centred / np.sqrt(np.maximum(values, 1e-30))[:, None]
    return np.ascontiguousarray(directions[::-1], np.float32)


def float_average_precisions(
    features: NDArray[Any],
    labels: NDArray[np.uint8],
    split: Split,
    topk: int,
    *,
    centre: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Average precision of each query by cosine of the (centred) features, ties as for codes; float64 (q,)."""
    result = np.empty(len(split.query))
    for block, similarities in cosine_blocks(features, split.query, split.database, centre):
        relevant = _relevant(labels, split, block)
        for i, found in enumerate(similarities):
            result[block.start + i] = ranking.average_precision(*ranked_counts(found, relevant[i], topk), topk)[0]
    return result


def _float(
    features: NDArray[Any], labels: NDArray[np.uint8], split: Split, topk: int, params: EvaluateParams
) -> tuple[dict[str, Any], Table]:
    """Metrics and curves (curve, n, recall, precision) of the float features."""
    size = len(split.database)
    held_out = ~np.isin(split.database, split.train)
    cutoffs = np.array([n for n in params.precision_at if n <= size], np.int64)
    shown = np.unique(np.linspace(1, topk, params.curve_points).round().astype(np.int64))
    depth = max([topk, *cutoffs.tolist()])
    sums = {"map": 0.0, "map_without_train": 0.0}
    precision_at, curve = np.zeros(len(cutoffs)), np.zeros(len(shown))
    pooled = np.zeros((2, BINS), np.int64)  # pairs, and relevant ones, by falling similarity
    scale: tuple[float, float] | None = None
    for block, similarities in cosine_blocks(features, split.query, split.database):
        relevant = _relevant(labels, split, block)
        if scale is None:
            scale = float(similarities.max()), float(similarities.min())
        for found, good in zip(similarities, relevant, strict=True):
            total, hits = ranked_counts(found, good, depth)
            sums["map"] += float(ranking.average_precision(total, hits, topk)[0])
            if held_out.any():
                left = min(topk, int(held_out.sum()))
                others = ranked_counts(found[held_out], good[held_out], left)
                sums["map_without_train"] += float(ranking.average_precision(*others, left)[0])
            ends, cumulated = np.append(0, np.cumsum(total)), np.append(0, np.cumsum(hits))
            precision_at += np.interp(cutoffs, ends, cumulated) / cutoffs  # ties: the expectation is linear in n
            curve += np.interp(shown, ends, cumulated) / shown
            pooled += _binned(found, good, *scale)
    count = len(split.query)
    metrics: dict[str, Any] = {name: value / count for name, value in sums.items() if name == "map" or held_out.any()}
    metrics["precision_at"] = {str(n): float(v / count) for n, v in zip(cutoffs, precision_at, strict=True)}
    recalls = _thin(precision_recall_rows(*pooled[:, None]))
    rows: Table = [("pr", "", recall, precision) for _, recall, precision, _ in recalls]
    rows += [("precision_at_n", int(n), "", float(v / count)) for n, v in zip(shown, curve, strict=True)]
    return metrics, rows


def _binned(
    similarity: NDArray[np.float32], relevant: NDArray[np.bool_], highest: float, lowest: float
) -> NDArray[np.int64]:
    """Items, and relevant ones, in equal bins from the highest to the lowest similarity, (2, BINS); others clipped."""
    width = max((highest - lowest) / BINS, 1e-12)
    key = np.clip((highest - similarity) / np.float32(width), 0, BINS - 1).astype(np.intp)
    return np.stack([np.bincount(key, minlength=BINS), np.bincount(key[relevant], minlength=BINS)])


def _thin(rows: Table) -> Table:
    """At most PR_POINTS rows of a precision-recall curve, evenly spaced in the logarithm of the pairs retrieved."""
    retrieved = np.array([row[3] for row in rows])
    if not len(rows):
        return rows
    wanted = np.geomspace(retrieved[0], retrieved[-1], PR_POINTS)
    return [rows[i] for i in np.unique(np.minimum(np.searchsorted(retrieved, wanted), len(rows) - 1))]


def _relevant(labels: NDArray[np.uint8], split: Split, block: slice) -> NDArray[np.bool_]:
    """Whether each database image shares a label with each query of the block; (b, n)."""
    query, database = (labels[rows].astype(np.float32) for rows in (split.query[block], split.database))
    shared: NDArray[np.bool_] = query @ database.T > 0
    return shared
