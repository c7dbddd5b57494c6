"""Anchors: k-means centres that stand for all images, and how near an image is to its nearest ones (AGH, IMH)."""

import faiss
import numpy as np
from numpy.typing import NDArray

from ssdh.evaluation.baseline import FAISS_SEEDS, Float32

ITERATIONS = 25  # of k-means


def find_anchors(rows: Float32, count: int, seed: int) -> Float32:
    """At most `count` k-means centres of rows (n, D), as many as rows if these are fewer; float32 (m, D)."""
    count = min(count, len(rows))
    kmeans = faiss.Kmeans(
        rows.shape[1], count, niter=ITERATIONS, seed=seed & FAISS_SEEDS, min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )  # fmt: skip
    kmeans.train(rows)
    return np.asarray(kmeans.centroids, np.float32)


def squared_distances(rows: Float32, anchors: Float32) -> NDArray[np.float64]:
    """|x − a|² of rows (n, D) and anchors (m, D), at least 0; float64 (n, m)."""
    own, other = (np.square(points, dtype=np.float64).sum(axis=1) for points in (rows, anchors))
    distances: NDArray[np.float64] = own[:, None] - 2.0 * (rows @ anchors.T) + other
    return np.maximum(distances, 0, out=distances)


def near_anchors(rows: Float32, anchors: Float32, count: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The `count` anchors nearest to each row (n, D), nearest first, and their squared distances; two (n, count)."""
    distances = squared_distances(rows, anchors)
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(distances, order, axis=1)


def affinities(squared: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """exp(−d²/width²) of squared distances (n, s), divided by the sum of each row; sums to 1 however far a row is."""
    exponent = -squared / max(width * width, np.finfo(np.float64).tiny)
    weights: NDArray[np.float64] = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def spread(places: NDArray[np.intp], weights: NDArray[np.float64], num_anchors: int) -> NDArray[np.float64]:
    """The weights (n, s) at their anchors' columns, zero elsewhere: Z of the anchor graph, (n, num_anchors)."""
    matrix = np.zeros((len(places), num_anchors))
    np.put_along_axis(matrix, places, weights, axis=1)
    return matrix
