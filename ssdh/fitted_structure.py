"""The structure of the train images as a recipe learns it: features → embedding → distances → thresholds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssdh.distances import PairDistances
from ssdh.manifold import embed
from ssdh.normalisation import power_normalise
from ssdh.structure import Structure, StructureParams, fit_pairs


@dataclass(frozen=True)
class FittedStructure:
    """Thresholds and what they were fitted on.

    pairs: the distances of all n(n − 1)/2 pairs of train images. embedding: (n, r) float32 along the manifold, whose
    distances they are; None where the recipe takes the features themselves. histogram: (bins,) pairs a bin, of all or
    of the `max_pairs` that were sampled; edges: (bins + 1,).
    """

    structure: Structure
    pairs: PairDistances
    embedding: NDArray[np.float32] | None
    histogram: NDArray[np.int64]
    edges: NDArray[np.float64]


def fit_recipe(
    features: NDArray[np.float32], params: StructureParams, *, seed: int, device: str = "cpu"
) -> FittedStructure:
    """Fit the two half Gaussians on the train features (n, D); `seed` draws the pairs where `max_pairs` are fewer.

    Raises DataError where features cannot be normalised or all distances are equal.
    """
    features = power_normalise(features, params.power)
    embedding = embed(features, params, seed=seed)
    pairs = PairDistances(features if embedding is None else embedding, device=device)
    sample = pairs.sample(params.max_pairs, seed)
    structure, histogram, edges = fit_pairs(sample, alpha=params.alpha, beta=params.beta, bins=params.bins)
    return FittedStructure(structure, pairs, embedding, histogram, edges)
