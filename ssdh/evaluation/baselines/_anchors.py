"""Anchors: k-means centres that stand for all images, and how near an image is to its nearest ones (AGH, IMH)."""

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32
from ssdh.evaluation.baselines._base import FAISS_SEEDS, Codes
from ssdh.evaluation.baselines._linear import mean_of, unit_rows

ITERATIONS = 25  # of k-means


@dataclass(frozen=True)
class AnchorGraph:
    """Anchors (m, D) of rows less their mean at length 1, the width of the kernel, and the anchors that a row joins."""

    mean: Float32
    anchors: Float32
    width: float
    nearest: int

    def affinities(self, features: Float32) -> NDArray[np.float64]:
        """Z (n, m) of features (n, D): the weights of the nearest anchors, which sum to 1; zero elsewhere."""
        places, squared = near_anchors(unit_rows(features, self.mean), self.anchors, self.nearest)
        return spread(places, affinities(squared, self.width), len(self.anchors))


@dataclass(frozen=True)
class AnchorCodes(Codes):
    """Codes as signs of Z·W: an anchor graph and weights (m, bits)."""

    graph: AnchorGraph
    weights: NDArray[np.float64]

    def outputs(self, features: Float32) -> NDArray[np.float64]:
        """Z·W of features (n, D), float64 (n, bits)."""
        return self.graph.affinities(features) @ self.weights


def anchor_graph(train: Float32, count: int, nearest: int, seed: int) -> AnchorGraph:
    """The graph of at most `count` anchors of train (n, D), as wide as rows are from their last of the nearest ones."""
    mean = mean_of(train)
    rows = unit_rows(train, mean)
    anchors = find_anchors(rows, count, seed)
    _, squared = near_anchors(rows, anchors, nearest)
    return AnchorGraph(mean, anchors, float(np.sqrt(squared[:, -1]).mean()), nearest)


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
