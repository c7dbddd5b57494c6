"""Anchor graph hashing, one layer: eigenvectors of the graph that joins images through anchors.

Liu, Wang, Kumar, Chang, *Hashing with graphs*, ICML 2011. Z (n, m) holds each image's affinity to its nearest anchors
and Λ its column sums; M = Λ^−½ ZᵀZ Λ^−½ has the graph's spectrum; with V, Σ its largest eigenpairs but for the trivial
one (value 1, vector √Λ: the same for every image) the bits are the signs of Z·Λ^−½ V Σ^−½.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssdh.evaluation.anchors import affinities, find_anchors, near_anchors, spread
from ssdh.evaluation.baseline import CannotFitError, Codes, Float32
from ssdh.evaluation.linear import mean_of, unit_rows

TITLE, ABOUT, TIER = "AGH", "eigenvectors of a graph through anchors", "images only"
ANCHORS, NEAREST = 300, 2  # of the paper


@dataclass(frozen=True)
class AnchorGraph(Codes):
    """Anchors (m, D) of centred unit rows, the width of their kernel, and the map W (m, bits)."""

    mean: Float32
    anchors: Float32
    width: float
    weights: NDArray[np.float64]

    def outputs(self, features: Float32) -> NDArray[np.float64]:
        """Z·W of features (n, D), float64 (n, bits)."""
        places, squared = near_anchors(unit_rows(features, self.mean), self.anchors, NEAREST)
        return spread(places, affinities(squared, self.width), len(self.anchors)) @ self.weights


def fit(train: Float32, bits: int, seed: int) -> Codes:
    """Fit to train (n, D); the seed starts k-means. Raises CannotFitError where the graph has fewer eigenvectors."""
    mean = mean_of(train)
    rows = unit_rows(train, mean)
    anchors = find_anchors(rows, ANCHORS, seed)
    places, squared = near_anchors(rows, anchors, NEAREST)
    width = float(np.sqrt(squared[:, -1]).mean())  # mean distance to the last of the nearest anchors
    weights = graph_weights(spread(places, affinities(squared, width), len(anchors)), bits)
    return AnchorGraph(mean, anchors, width, weights)


def graph_weights(graph: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """W = Λ^−½ V Σ^−½ (m, bits) of Z (n, m); raises CannotFitError where there are not so many eigenvectors."""
    mass = graph.sum(axis=0)
    scale = np.divide(1, np.sqrt(mass), out=np.zeros_like(mass), where=mass > 0)  # an anchor that no image is near
    trivial = np.sqrt(mass / mass.sum())
    values, vectors = np.linalg.eigh(scale[:, None] * (graph.T @ graph) * scale - np.outer(trivial, trivial))
    chosen = np.flatnonzero(values > 1e-9)[::-1][:bits]
    if len(chosen) < bits:
        raise CannotFitError(f"the graph of {graph.shape[1]} anchors has {len(chosen)} eigenvectors, fewer than {bits}")
    weights: NDArray[np.float64] = scale[:, None] * vectors[:, chosen] / np.sqrt(values[chosen])
    return weights
