"""The semantic structure: distances → two half Gaussians around the mode → thresholds → ternary pseudo-labels.

Yang, Deng, Liu, Liu, Tao: "Semantic Structure-based Unsupervised Deep Hashing", IJCAI 2018, section 3.2.
Nothing here reads a label of an image. Run it alone: `python -m stages.structure`.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ssdh.distance_histogram import MANY, distance_range, fullest_bin, histogram
from ssdh.distances import Block, PairDistances, Pairs, upper_triangle
from ssdh.errors import DataError
from ssdh.params import Params
from ssdh.unit_vectors import exact_distances

MARGIN = 1e-5  # pairs this close to a threshold are decided in float64

Labels = NDArray[np.int8]


class StructureParams(Params):
    """How pairs of train images become similar, dissimilar or unknown."""

    alpha: float = Field(gt=0, le=100)
    beta: float = Field(gt=0, le=100)
    bins: int = Field(ge=2, le=1_000_000)
    max_matrix_gib: float = Field(ge=0)
    max_pairs: int = Field(default=0, ge=0)  # 0: all pairs
    power: float = Field(default=0.0, ge=0, le=4)  # 0: features as they are
    space: Literal["feature", "manifold"] = "feature"
    neighbors: int = Field(default=20, ge=1, le=10_000)
    rank: int = Field(default=128, ge=1, le=10_000)
    steps: int = Field(default=6, ge=0, le=1000)
    decay: float = Field(default=0.9, gt=0, le=1)


@dataclass(frozen=True)
class Structure:
    """Two half Gaussians that meet at the mode of the distance distribution, and the thresholds they give.

    mode: centre of the fullest bin; sigma_left, sigma_right: √mean((d − mode)²) over d ≤ mode and over d > mode;
    threshold_similar = mode − α·sigma_left; threshold_dissimilar = mode + β·sigma_right; num_pairs: pairs i < j that
    were looked at; fraction_similar, fraction_dissimilar: of these pairs, strictly below and above the thresholds.
    """

    mode: float
    sigma_left: float
    sigma_right: float
    threshold_similar: float
    threshold_dissimilar: float
    num_pairs: int
    fraction_similar: float
    fraction_dissimilar: float
    # no field: what was fitted, so that labels of the same array cost no second product
    _fitted: ClassVar["_Decided | None"] = None

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: a copy that is stored or sent carries no distances."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class _Decided:
    """The pairs within 1e-5 of a threshold, decided in float64, and how many of all pairs got which label.

    near: for each block, positions in its values and the labels there; None where they are too many to remember.
    """

    pairs: PairDistances
    near: list[tuple[NDArray[np.int64], Labels] | None]
    num_similar: int
    num_dissimilar: int


def fit_structure(features: NDArray[Any], *, alpha: float, beta: float, bins: int, device: str = "cpu") -> Structure:
    """Fit the distribution of the cosine distances of all pairs of rows of `features` (n, d).

    The histogram has `bins` equal bins over the observed range; σ equals `scipy.stats.halfnorm.fit(|d − m|, floc=0)`.
    The distances live as long as the result where they fit in 60 MB, so that `pseudo_labels` of the same array needs no
    second matrix product. Raises DataError for features without a distribution: fewer than two rows, NaN, rows of
    zeros, all distances equal.

    >>> features = np.random.default_rng(0).standard_normal((100, 8))
    >>> fit_structure(features, alpha=2.0, beta=2.0, bins=50).num_pairs
    4950
    """
    pairs = PairDistances(features, device=device)
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
            "there is no structure to find; look at the images, the backbone's weights and backbone.layer"
        )
    edges = np.linspace(low, high, bins + 1)
    counts = histogram(pairs, edges)
    fullest = fullest_bin(pairs, counts, edges)
    mode = float(edges[fullest] + edges[fullest + 1]) / 2
    sigma_left, sigma_right = _half_gaussians(pairs, mode)
    similar, dissimilar = mode - alpha * sigma_left, mode + beta * sigma_right
    decided = _decide(pairs, similar, dissimilar)
    structure = Structure(
        mode=mode,
        sigma_left=sigma_left,
        sigma_right=sigma_right,
        threshold_similar=similar,
        threshold_dissimilar=dissimilar,
        num_pairs=pairs.num_pairs,
        fraction_similar=decided.num_similar / pairs.num_pairs,
        fraction_dissimilar=decided.num_dissimilar / pairs.num_pairs,
    )
    if pairs.complete:
        object.__setattr__(structure, "_fitted", decided)
    return structure, counts, edges


def pseudo_labels(
    features: NDArray[Any] | PairDistances, structure: Structure, out: Labels | None = None, device: str = "cpu"
) -> Labels:
    """Return S (n, n) int8: 1 similar (d < threshold_similar), −1 dissimilar (d > threshold_dissimilar), 0 unknown.

    S is symmetric with 1 on its diagonal. `out`, e.g. a memory map, is filled block by block and returned. Pairs within
    1e-5 of a threshold are decided in float64: no label depends on rounding, block sizes or the device. Raises
    DataError for features as `fit_structure` and for an `out` of another shape, ValueError for a sample of the pairs.
    """
    fitted = structure._fitted
    if isinstance(features, PairDistances):
        pairs = features
    elif fitted is not None and fitted.pairs.are_of(features):
        pairs = fitted.pairs
    else:
        pairs = PairDistances(features, device=device)
    n = pairs.num_vectors
    if not pairs.complete:
        raise ValueError("labels need the distances of all pairs, not of a sample")
    if out is None:
        out = np.empty((n, n), np.int8)
    if out.shape != (n, n) or out.dtype != np.int8:
        raise DataError(f"out must be int8 of shape ({n}, {n}), got {out.dtype} of shape {out.shape}")
    target = out
    similar, dissimilar = structure.threshold_similar, structure.threshold_dissimilar
    decided = fitted if fitted is not None and fitted.pairs is pairs else _decide(pairs, similar, dissimilar)

    def fill(block: Block) -> None:
        labels = ternary(block.values, similar, dissimilar)
        if (near := decided.near[block.number]) is not None:
            positions, sure = near
        else:
            positions = near_threshold(block.values, similar, dissimilar)
            sure = _sure_labels(pairs, block, positions, similar, dissimilar)
        labels[positions] = sure
        rows = slice(int(block.rows[0]), int(block.rows[-1]) + 1)
        if block.columns is None:
            square = np.zeros((len(block.rows),) * 2, np.int8)
            square[upper_triangle(len(square))] = labels
            square += square.T
            np.fill_diagonal(square, 1)
            target[rows, rows] = square
        else:
            rectangle = labels.reshape(len(block.rows), len(block.columns))
            columns = slice(int(block.columns[0]), int(block.columns[-1]) + 1)
            target[rows, columns] = rectangle
            target[columns, rows] = rectangle.T

    pairs.each(fill)
    return out


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


def _sure_labels(
    pairs: PairDistances, block: Block, positions: NDArray[np.int64], similar: float, dissimilar: float
) -> Labels:
    """Labels of a block's pairs at these positions, by float64."""
    return ternary(exact_distances(pairs.features, *block.pairs(positions)), similar, dissimilar)


def _decide(pairs: PairDistances, similar: float, dissimilar: float) -> _Decided:
    """Count the labels of all pairs and decide those near a threshold: over all blocks at once where they are few."""

    def look(block: Block) -> tuple[int, int, NDArray[np.int64] | None, Pairs]:
        labels = ternary(block.values, similar, dissimilar)
        positions = near_threshold(block.values, similar, dissimilar)
        few = len(positions) <= MANY
        labels[positions] = 0 if few else _sure_labels(pairs, block, positions, similar, dissimilar)
        counts = int(np.count_nonzero(labels > 0)), int(np.count_nonzero(labels < 0))
        return *counts, positions if few else None, block.pairs(positions if few else positions[:0])

    num_similar, num_dissimilar, positions, near = zip(*pairs.each(look), strict=True)
    sure = ternary(pairs.exact_of(near), similar, dissimilar)
    ends = np.cumsum([0 if part is None else len(part) for part in positions])
    parts = zip(positions, np.split(sure, ends[:-1]), strict=True)
    return _Decided(
        pairs=pairs,
        near=[None if part is None else (part, labels) for part, labels in parts],
        num_similar=sum(num_similar) + int(np.count_nonzero(sure > 0)),
        num_dissimilar=sum(num_dissimilar) + int(np.count_nonzero(sure < 0)),
    )


def ternary(distances: NDArray[np.floating[Any]], similar: float, dissimilar: float) -> Labels:
    """1 where d < similar, −1 where d > dissimilar, 0 elsewhere; int8 of the same shape."""
    kind = distances.dtype.type
    below: Labels = (distances < kind(similar)).view(np.int8)
    return below - (distances > kind(dissimilar)).view(np.int8)


def near_threshold(distances: NDArray[np.float32], similar: float, dissimilar: float) -> NDArray[np.int64]:
    """Flat positions of the distances within 1e-5 of a threshold."""
    near = np.zeros(distances.shape, np.bool_)
    for threshold in (similar, dissimilar):
        near |= (distances <= np.float32(threshold + MARGIN)) ^ (distances < np.float32(threshold - MARGIN))
    return np.flatnonzero(near)


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
