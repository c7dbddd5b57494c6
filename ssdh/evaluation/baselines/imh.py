"""Inductive manifold hashing with t-SNE: anchors are embedded, an image is the mix of its nearest anchors.

Shen, Shen, Shi, van den Hengel, Tang, *Inductive hashing on manifolds*, CVPR 2013: y(x) = Σ w_j y_j / Σ w_j over the
nearest anchors, w_j = exp(−d_j²/σ²); bits are the signs of y less its mean. scikit-learn embeds the anchors.
"""

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32
from ssdh.evaluation.baselines._anchors import AnchorCodes, anchor_graph
from ssdh.evaluation.baselines._base import CannotFitError, Codes

TITLE, ABOUT = "IMH", "t-SNE of anchors, mixed for other images"
ANCHORS, NEAREST, PERPLEXITY = 400, 5, 30.0


def fit(train: Float32, bits: int, seed: int) -> Codes:
    """Fit to train (n, D); the seed starts k-means and t-SNE. Raises CannotFitError for very few images."""
    graph = anchor_graph(train, ANCHORS, NEAREST, seed)
    if len(graph.anchors) <= NEAREST:
        raise CannotFitError(f"{len(graph.anchors)} anchors are too few to embed")
    embedded = embed(graph.anchors, bits, seed)
    mean = (graph.affinities(train) @ embedded).mean(axis=0)
    return AnchorCodes(graph, embedded - mean)  # affinities sum to 1, so that this centres the outputs


def embed(anchors: Float32, bits: int, seed: int) -> NDArray[np.float64]:
    """The t-SNE of anchors (m, D) in `bits` dimensions, float64 (m, bits)."""
    from sklearn.manifold import TSNE

    tsne = TSNE(
        bits, perplexity=min(PERPLEXITY, (len(anchors) - 1) / 3), init="random", method="exact", random_state=seed
    )
    embedded: NDArray[np.float64] = tsne.fit_transform(anchors).astype(np.float64)
    return embedded
