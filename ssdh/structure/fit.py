"""The semantic structure: distances → two half Gaussians around the mode → thresholds → ternary pseudo-labels.

Yang, Deng, Liu, Liu, Tao: "Semantic Structure-based Unsupervised Deep Hashing", IJCAI 2018, section 3.2.
Nothing here reads a label of an image. Run it alone: `python -m stages.structure`.
"""

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.arrays import Float32
from ssdh.core.errors import DataError
from ssdh.structure.distances import Block, PairDistances
from ssdh.structure.histogram import distance_range, fullest_bin, histogram
from ssdh.structure.manifold import diffusion_embedding
from ssdh.structure.params import StructureParams
from ssdh.structure.thresholds import Structure, apply_thresholds, reach_pairs
from ssdh.structure.vectors import power_normalise
from ssdh.structure.whitening import Views, view_factor, whiten


def fit_structure(features: NDArray[Any] | PairDistances, *, alpha: float, beta: float, bins: int) -> Structure:
    """Fit the distribution of the cosine distances of all pairs of rows of `features` (n, d).

    The histogram has `bins` equal bins over the observed range; σ equals `scipy.stats.halfnorm.fit(|d − m|, floc=0)`.
    `PairDistances(features)` instead of features keeps the distances, where they fit in 60 MB, for `pseudo_labels`
    of the same object. Raises DataError for features without a distribution: fewer than two rows, NaN, rows of zeros,
    all distances equal.

    >>> pairs = PairDistances(np.random.default_rng(0).standard_normal((100, 8)))
    >>> fit_structure(pairs, alpha=2.0, beta=2.0, bins=50).num_pairs
    4950
    """
    pairs = features if isinstance(features, PairDistances) else PairDistances(features)
    return fit_pairs(pairs, alpha=alpha, beta=beta, bins=bins)[0]


def fit_pairs(
    pairs: PairDistances, *, alpha: float, beta: float, bins: int
) -> tuple[Structure, NDArray[np.int64], NDArray[np.float64]]:
    """Like `fit_structure`, on distances at hand; returns (structure, counts (bins,), bin edges (bins + 1,)).

    Raises DataError where all distances are equal.
    """
    low, high = distance_range(pairs)
    if high - low <= max(1e-12, 2 * pairs.error * high):
        raise DataError(
            f"all {pairs.num_pairs} distances between train features are {low:.3g}: "
            "there is no structure to find; look at the features, or at images, weights and backbone.layer"
        )
    edges = np.linspace(low, high, operator.index(bins) + 1)
    counts = histogram(pairs, edges)
    fullest = fullest_bin(pairs, counts, edges)
    mode = float(edges[fullest] + edges[fullest + 1]) / 2
    sigma_left, sigma_right = _half_gaussians(pairs, mode)
    return apply_thresholds(pairs, mode, sigma_left, sigma_right, alpha, beta), counts, edges


def _half_gaussians(pairs: PairDistances, mode: float) -> tuple[float, float]:
    """σ of the two half Gaussians that meet at `mode`; 0 for a side that holds no pair."""

    def sums(block: Block) -> tuple[float, float, int]:
        deviation = block.buffer(np.float64)
        np.copyto(deviation, block.values)
        deviation -= mode
        count_left = int(np.count_nonzero(deviation <= 0))
        total = float(deviation @ deviation)
        np.minimum(deviation, 0, out=deviation)
        return total, float(deviation @ deviation), count_left

    total, left, count_left = (sum(parts) for parts in zip(*pairs.each(sums), strict=True))
    count_right = pairs.num_pairs - count_left
    right = max(0.0, total - left)
    return math.sqrt(left / count_left) if count_left else 0.0, math.sqrt(right / count_right) if count_right else 0.0


def distance_table(
    structure: Structure, histogram: NDArray[np.int64], edges: NDArray[np.float64]
) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
    """Header and one row a bin of `metrics/distances.csv`: density, the half Gaussians' density, thresholds.

    A half Gaussian is scaled by the share of the pairs on its side of the mode, so that both densities integrate to 1.
    """
    centres, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    share = histogram / histogram.sum()
    left_share = float(
        share[centres < structure.mode].sum() + share[np.abs(centres - structure.mode) < width / 4].sum() / 2
    )
    fit = np.zeros(len(centres))
    for side, sigma, weight in (
        (centres <= structure.mode, structure.sigma_left, left_share),
        (centres > structure.mode, structure.sigma_right, 1 - left_share),
    ):
        if sigma > 0:
            z = (centres[side] - structure.mode) / sigma
            fit[side] = weight * math.sqrt(2 / math.pi) / sigma * np.exp(-0.5 * z * z)
    header = ("distance", "density", "fit", "threshold_similar", "threshold_dissimilar")
    thresholds = (structure.threshold_similar, structure.threshold_dissimilar)
    rows = zip(centres.tolist(), (share / width).tolist(), fit.tolist(), strict=True)
    return header, [(*row, *thresholds) for row in rows]


@dataclass(frozen=True)
class FittedStructure:
    """Thresholds and what they were fitted on.

    pairs: the distances of all n(n − 1)/2 pairs of train images. embedding: (n, r) float32 along the manifold, or
    features whitened by their views, whose distances they are; None where the recipe takes the features themselves.
    histogram: (bins,) pairs a bin, of all or of the `max_pairs` that were sampled; edges: (bins + 1,). alpha, beta: as
    used, halved where a side had no pair.
    """

    structure: Structure
    pairs: PairDistances
    embedding: NDArray[np.float32] | None
    histogram: NDArray[np.int64]
    edges: NDArray[np.float64]
    alpha: float
    beta: float


def fit_recipe(
    features: NDArray[np.float32], params: StructureParams, *, seed: int, views: Views = ()
) -> FittedStructure:
    """Fit the two half Gaussians on the train features (n, D); `seed` draws the pairs where `max_pairs` are fewer.

    views: features (V, n, D) of views of the images, which `view_whitening` reads; without any it does nothing.
    α and β are halved while their side has no pair (`reach_pairs`).

    Raises DataError where features cannot be normalised or all distances are equal.
    """
    features = power_normalise(features, params.power)
    whitened = None
    if params.view_whitening and len(views):
        factor = view_factor(features, views, power=params.power, strength=params.view_whitening)
        whitened = whiten(features, factor)
    embedding = embed(features if whitened is None else whitened, params, seed=seed)
    if embedding is None:
        embedding = whitened
    pairs = PairDistances(features if embedding is None else embedding)
    sample = pairs.sample(params.max_pairs, seed)
    structure, histogram, edges = fit_pairs(sample, alpha=params.alpha, beta=params.beta, bins=params.bins)
    alpha, beta = params.alpha, params.beta
    if not structure.fraction_similar or not structure.fraction_dissimilar:
        structure, alpha, beta = reach_pairs(sample, structure, alpha, beta)
        for name, expected, used in (("alpha", params.alpha, alpha), ("beta", params.beta, beta)):
            if used != expected:
                logger.warning("structure.{} {:g} leaves its side without a pair: {:g} is used", name, expected, used)
    if not structure.fraction_similar or not structure.fraction_dissimilar:
        logger.warning("no pair is similar or none is dissimilar: nothing to learn from; look at metrics/distances.csv")
    return FittedStructure(structure, pairs, embedding, histogram, edges, alpha, beta)


def embed(features: NDArray[Any], params: StructureParams, *, seed: int) -> Float32 | None:
    """The vectors (n, r) whose distances `params.space` asks for; None: the features (n, d) themselves."""
    if params.space == "feature":
        return None
    return diffusion_embedding(
        features, neighbors=params.neighbors, rank=params.rank, steps=params.steps, decay=params.decay, seed=seed
    )
