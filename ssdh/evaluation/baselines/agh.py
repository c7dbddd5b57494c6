"""Anchor graph hashing, one layer: eigenvectors of the graph that joins images through anchors.

Liu, Wang, Kumar, Chang, *Hashing with graphs*, ICML 2011. Z (n, m) holds each image's affinity to its nearest anchors
and Λ its column sums; M = Λ^−½ ZᵀZ Λ^−½ has the graph's spectrum; with V, Σ its largest eigenpairs but for the trivial
one (value 1, vector √Λ: the same for every image) the bits are the signs of Z·Λ^−½ V Σ^−½.
"""

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32
from ssdh.evaluation.baselines._anchors import AnchorCodes, anchor_graph
from ssdh.evaluation.baselines._base import CannotFitError, Codes

TITLE, ABOUT = "AGH", "eigenvectors of a graph through anchors"
ANCHORS, NEAREST = 300, 2  # of the paper


def fit(train: Float32, bits: int, seed: int) -> Codes:
    """Fit to train (n, D); the seed starts k-means. Raises CannotFitError where the graph has fewer eigenvectors."""
    graph = anchor_graph(train, ANCHORS, NEAREST, seed)
    return AnchorCodes(graph, graph_weights(graph.affinities(train), bits))


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
