"""Inductive manifold hashing with t-SNE: anchors are embedded, an image is the mix of its nearest anchors.

Shen, Shen, Shi, van den Hengel, Tang, *Inductive hashing on manifolds*, CVPR 2013: y(x) = Σ w_j y_j / Σ w_j over the
nearest anchors, w_j = exp(−d_j²/σ²); bits are the signs of y less its mean. scikit-learn embeds the anchors.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ssdh.evaluation.anchors import affinities, find_anchors, near_anchors, spread
from ssdh.evaluation.baseline import CannotFitError, Codes, Float32
from ssdh.evaluation.linear import mean_of, unit_rows

TITLE, ABOUT, TIER = "IMH", "t-SNE of anchors, mixed for other images", "images only"
ANCHORS, NEAREST, PERPLEXITY = 400, 5, 30.0


@dataclass(frozen=True)
class Mixed(Codes):
    """Anchors (m, D) of centred unit rows, the width of their kernel, and their places in the embedding (m, bits)."""

    mean: Float32
    anchors: Float32
    width: float
    embedded: NDArray[np.float64]

    def outputs(self, features: Float32) -> NDArray[np.float64]:
        """The mix of the nearest anchors' places for features (n, D), float64 (n, bits)."""
        places, squared = near_anchors(unit_rows(features, self.mean), self.anchors, NEAREST)
        return spread(places, affinities(squared, self.width), len(self.anchors)) @ self.embedded


def fit(train: Float32, bits: int, seed: int) -> Codes:
    """Fit to train (n, D); the seed starts k-means and t-SNE. Raises CannotFitError for very few images."""
    mean = mean_of(train)
    rows = unit_rows(train, mean)
    anchors = find_anchors(rows, ANCHORS, seed)
    if len(anchors) <= NEAREST:
        raise CannotFitError(f"{len(anchors)} anchors are too few to embed")
    _, squared = near_anchors(rows, anchors, NEAREST)
    fitted = Mixed(mean, anchors, float(np.sqrt(squared[:, -1]).mean()), embed(anchors, bits, seed))
    return replace(fitted, embedded=fitted.embedded - fitted.outputs(train).mean(axis=0))  # weights sum to 1


def embed(anchors: Float32, bits: int, seed: int) -> NDArray[np.float64]:
    """The t-SNE of anchors (m, D) in `bits` dimensions, float64 (m, bits)."""
    from sklearn.manifold import TSNE

    tsne = TSNE(
        bits, perplexity=min(PERPLEXITY, (len(anchors) - 1) / 3), init="random", method="exact", random_state=seed
    )
    embedded: NDArray[np.float64] = tsne.fit_transform(anchors).astype(np.float64)
    return embedded
