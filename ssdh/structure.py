"""The semantic structure: distances → two half Gaussians around the mode → thresholds → ternary pseudo-labels.

Yang, Deng, Liu, Liu, Tao: "Semantic Structure-based Unsupervised Deep Hashing", IJCAI 2018, section 3.2.
Nothing here reads a label of an image. Run it alone: `python -m stages.structure`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ssdh.distances import Block, PairDistances, upper_triangle
from ssdh.errors import DataError
from ssdh.params import Params

MARGIN = 1e-5  # pairs this close to a threshold are decided in float64
ERROR = 5e-7  # bound of a float32 distance's error, relative to the largest distance: several times what is seen
# distances a numpy call works on: in the cache, and long enough that two threads do not wait for the interpreter lock
PASS = 1 << 18

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
    # no field: the distances that were fitted, so that labels of the same array cost no second product
    _pairs: ClassVar[PairDistances | None] = None


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
    structure, _, _ = fit_pairs(pairs, alpha=alpha, beta=beta, bins=bins)
    object.__setattr__(structure, "_pairs", pairs)
    return structure


def fit_pairs(
    pairs: PairDistances, *, alpha: float, beta: float, bins: int
) -> tuple[Structure, NDArray[np.int64], NDArray[np.float64]]:
    """Like `fit_structure`, on distances at hand; returns (structure, counts (bins,), bin edges (bins + 1,))."""
    low, high = _range(pairs)
    if high - low <= 1e-12:
        raise DataError(
            f"all {pairs.num_pairs} distances between train features are {low:.3g}: "
            "there is no structure to find; look at the images, the backbone's weights and backbone.layer"
        )
    edges = np.linspace(low, high, bins + 1)
    histogram = _histogram(pairs, edges)
    fullest = _fullest_bin(pairs, histogram, edges)
    mode = float(edges[fullest] + edges[fullest + 1]) / 2
    sigma_left, sigma_right = _half_gaussians(pairs, mode)
    similar, dissimilar = mode - alpha * sigma_left, mode + beta * sigma_right
    below, above = _count_labels(pairs, similar, dissimilar)
    structure = Structure(
        mode=mode,
        sigma_left=sigma_left,
        sigma_right=sigma_right,
        threshold_similar=similar,
        threshold_dissimilar=dissimilar,
        num_pairs=pairs.num_pairs,
        fraction_similar=below / pairs.num_pairs,
        fraction_dissimilar=above / pairs.num_pairs,
    )
    return structure, histogram, edges


def pseudo_labels(
    features: NDArray[Any] | PairDistances, structure: Structure, out: Labels | None = None, device: str = "cpu"
) -> Labels:
    """Return S (n, n) int8: 1 similar (d < threshold_similar), −1 dissimilar (d > threshold_dissimilar), 0 unknown.

    S is symmetric with 1 on its diagonal. `out`, e.g. a memory map, is filled block by block and returned. Pairs within
    1e-5 of a threshold are decided in float64: no label depends on rounding, block sizes or the device.
    """
    if isinstance(features, PairDistances):
        pairs = features
    elif structure._pairs is not None and structure._pairs.are_of(features):
        pairs = structure._pairs
    else:
        pairs = PairDistances(features, device=device)
    n = pairs.num_vectors
    if pairs.num_pairs != n * (n - 1) // 2:
        raise ValueError("labels need the distances of all pairs, not of a sample")
    if out is None:
        out = np.empty((n, n), np.int8)
    if out.shape != (n, n) or out.dtype != np.int8:
        raise DataError(f"out must be int8 of shape ({n}, {n}), got {out.dtype} of shape {out.shape}")
    target = out

    def fill(block: Block) -> None:
        labels = _block_labels(pairs, block, structure.threshold_similar, structure.threshold_dissimilar)
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


def _range(pairs: PairDistances) -> tuple[float, float]:
    """The smallest and largest distance; the extremes of each block are computed again in float64."""
    low, high = math.inf, -math.inf
    for block in pairs.blocks():
        if block.values.size:
            extremes = np.array([block.values.argmin(), block.values.argmax()])
            exact = pairs.exact(*block.pairs(extremes))
            low, high = min(low, float(exact[0])), max(high, float(exact[1]))
    return low, high


def _histogram(pairs: PairDistances, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Counts of the distances in the equal bins between `edges`, (bins,) int64; the last bin is closed."""
    bins = len(edges) - 1
    low, scale = np.float32(edges[0]), np.float32(bins / (edges[-1] - edges[0]))

    def count(block: Block) -> NDArray[np.int64]:
        counts = np.zeros(bins + 1, np.int64)
        for start in range(0, block.values.size, PASS):
            position = block.values[start : start + PASS] - low
            position *= scale
            np.clip(position, 0, bins, out=position)
            counts += np.bincount(position.astype(np.intp), minlength=bins + 1)
        return counts

    counts = np.sum(pairs.each(count), axis=0)
    counts[bins - 1] += counts[bins]
    found: NDArray[np.int64] = counts[:bins]
    return found


def _fullest_bin(pairs: PairDistances, histogram: NDArray[np.int64], edges: NDArray[np.float64]) -> int:
    """The first bin with the highest count; bins so close that float32 could swap them are counted exactly."""
    highest = int(histogram.max())
    error = ERROR * float(edges[-1])
    doubtful = math.ceil(4 * error / float(edges[1] - edges[0]) * highest)
    candidates = np.flatnonzero(histogram >= highest - doubtful)
    if len(candidates) == 1 or doubtful >= highest:
        return int(histogram.argmax())
    inner = np.setdiff1d(np.union1d(candidates, candidates + 1), [0, len(histogram)])
    (found,) = _count_below(pairs, [edges[inner]], error)
    below = dict(zip(inner.tolist(), found, strict=True))
    below |= {0: 0, len(histogram): pairs.num_pairs}
    return int(candidates[np.argmax([below[k + 1] - below[k] for k in candidates.tolist()])])


def _count_below(pairs: PairDistances, windows: Sequence[NDArray[np.float64]], margin: float) -> list[list[int]]:
    """The number of pairs with d < edge for each edge; those within `margin` of it are decided in float64.

    windows: groups of neighbouring edges, ascending; only what lies between the first and last of a group is compared
    with each of its edges.
    """
    bounds = [[(edge, np.float32(edge - margin), np.float32(edge + margin)) for edge in w.tolist()] for w in windows]

    def count(block: Block) -> list[NDArray[np.int64]]:
        counts = [np.zeros(len(window), np.int64) for window in bounds]
        doubtful = [[[np.empty(0, np.int64)] for _ in window] for window in bounds]
        for start in range(0, block.values.size, PASS):
            values = block.values[start : start + PASS]
            for found, near, window in zip(counts, doubtful, bounds, strict=True):
                below = values < window[0][1]
                found += np.count_nonzero(below)
                between = np.flatnonzero((values <= window[-1][2]) ^ below)
                inside = values[between]
                for index, (_, low, high) in enumerate(window):
                    surely = inside < low
                    found[index] += np.count_nonzero(surely)
                    near[index].append(start + between[(inside <= high) ^ surely])
        for found, near, window in zip(counts, doubtful, bounds, strict=True):
            for index, (edge, _, _) in enumerate(window):
                exact = pairs.exact(*block.pairs(np.concatenate(near[index])))
                found[index] += np.count_nonzero(exact < edge)
        return counts

    totals = [np.sum(parts, axis=0) for parts in zip(*pairs.each(count), strict=True)]
    return [total.tolist() for total in totals]


def _half_gaussians(pairs: PairDistances, mode: float) -> tuple[float, float]:
    """σ of the two half Gaussians that meet at `mode`; 0 for a side that holds no pair."""

    def sums(block: Block) -> tuple[float, float, int]:
        total = left = 0.0
        count_left = 0
        for start in range(0, block.values.size, PASS):
            deviation = block.values[start : start + PASS].astype(np.float64)
            deviation -= mode
            # einsum, not BLAS, whose threads would get in the way of these
            total += float(np.einsum("i,i->", deviation, deviation))
            count_left += int(np.count_nonzero(deviation <= 0))
            np.minimum(deviation, 0, out=deviation)
            left += float(np.einsum("i,i->", deviation, deviation))
        return total, left, count_left

    total, left, count_left = (sum(parts) for parts in zip(*pairs.each(sums), strict=True))
    count_right = pairs.num_pairs - count_left
    right = max(0.0, total - left)
    return math.sqrt(left / count_left) if count_left else 0.0, math.sqrt(right / count_right) if count_right else 0.0


def _block_labels(pairs: PairDistances, block: Block, similar: float, dissimilar: float) -> Labels:
    """The labels of a block's pairs, in the order of its values; those near a threshold are decided in float64."""
    labels = np.empty(block.values.size, np.int8)
    near = []
    for start in range(0, labels.size, PASS):
        values = block.values[start : start + PASS]
        labels[start : start + PASS] = ternary(values, similar, dissimilar)
        near.append(start + near_threshold(values, similar, dissimilar))
    doubtful = np.concatenate(near) if near else np.empty(0, np.int64)
    labels[doubtful] = ternary(pairs.exact(*block.pairs(doubtful)), similar, dissimilar)
    return labels


def _count_labels(pairs: PairDistances, similar: float, dissimilar: float) -> tuple[int, int]:
    """The numbers of similar and of dissimilar pairs."""
    windows = [np.array([edge]) for edge in (similar, np.nextafter(dissimilar, np.inf))]
    (below,), (not_above,) = _count_below(pairs, windows, MARGIN)
    return below, pairs.num_pairs - not_above


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
