"""Thresholds to ternary pseudo-labels: which pairs are similar, dissimilar, unknown."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.structure.distances import Block, PairDistances, upper_triangle
from ssdh.structure.vectors import exact_distances

MARGIN = 1e-5  # pairs this close to a threshold are decided in float64
HALVINGS = 6  # of α or β, at most, where a side has no pair
Labels = NDArray[np.int8]


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


def pseudo_labels(features: NDArray[Any] | PairDistances, structure: Structure, out: Labels | None = None) -> Labels:
    """Return S (n, n) int8: 1 similar (d < threshold_similar), −1 dissimilar (d > threshold_dissimilar), 0 unknown.

    features: (n, d), or the `PairDistances` that were fitted, whose distances are not computed a second time.
    S is symmetric with 1 on its diagonal. `out`, e.g. a memory map, is filled block by block and returned. Pairs within
    1e-5 of a threshold are decided in float64: no label depends on rounding or block sizes. Raises
    DataError for features as `fit_structure` and for an `out` of another shape, ValueError for a sample of the pairs.
    """
    pairs = features if isinstance(features, PairDistances) else PairDistances(features, keep=False)
    n = pairs.num_vectors
    if not pairs.complete:
        raise ValueError("labels need the distances of all pairs, not of a sample")
    if out is None:
        out = np.empty((n, n), np.int8)
    if out.shape != (n, n) or out.dtype != np.int8:
        raise DataError(f"out must be int8 of shape ({n}, {n}), got {out.dtype} of shape {out.shape}")
    target = out
    similar, dissimilar = structure.threshold_similar, structure.threshold_dissimilar

    def fill(block: Block) -> None:
        labels = _labels(pairs, block, similar, dissimilar)
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


def apply_thresholds(
    pairs: PairDistances, mode: float, sigma_left: float, sigma_right: float, alpha: float, beta: float
) -> Structure:
    """The structure whose pairs are similar below m − α·σ_left and dissimilar above m + β·σ_right, and how many are."""
    similar, dissimilar = mode - alpha * sigma_left, mode + beta * sigma_right
    num_similar, num_dissimilar = count_labels(pairs, similar, dissimilar)
    return Structure(
        mode=mode,
        sigma_left=sigma_left,
        sigma_right=sigma_right,
        threshold_similar=similar,
        threshold_dissimilar=dissimilar,
        num_pairs=pairs.num_pairs,
        fraction_similar=num_similar / pairs.num_pairs,
        fraction_dissimilar=num_dissimilar / pairs.num_pairs,
    )


def count_labels(pairs: PairDistances, similar: float, dissimilar: float) -> tuple[int, int]:
    """The numbers of similar and of dissimilar pairs by these thresholds."""

    def count(block: Block) -> tuple[int, int]:
        labels = _labels(pairs, block, similar, dissimilar)
        return int(np.count_nonzero(labels > 0)), int(np.count_nonzero(labels < 0))

    num_similar, num_dissimilar = zip(*pairs.each(count), strict=True)
    return sum(num_similar), sum(num_dissimilar)


def reach_pairs(
    pairs: PairDistances, structure: Structure, alpha: float, beta: float
) -> tuple[Structure, float, float]:
    """Halve α while no pair is similar, and β while none is dissimilar; returns (structure, α, β) as they are then.

    On well-separated clusters σ of a side holds the distance to the other mode, and no pair lies beyond m − ασ. A side
    that has pairs stays as it is; so does one that `HALVINGS` leave without any.
    """

    def with_factors(alpha: float, beta: float) -> Structure:
        return apply_thresholds(pairs, structure.mode, structure.sigma_left, structure.sigma_right, alpha, beta)

    halves = [2.0**-n for n in range(1, HALVINGS + 1)]
    if not structure.fraction_similar:
        alpha *= next((half for half in halves if with_factors(half * alpha, beta).fraction_similar), 1.0)
    if not structure.fraction_dissimilar:
        beta *= next((half for half in halves if with_factors(alpha, half * beta).fraction_dissimilar), 1.0)
    return with_factors(alpha, beta), alpha, beta


def _labels(pairs: PairDistances, block: Block, similar: float, dissimilar: float) -> Labels:
    """Labels of a block's pairs, in the order of its values; those near a threshold are decided in float64."""
    labels = ternary(block.values, similar, dissimilar)
    near = near_threshold(block.values, similar, dissimilar)
    labels[near] = ternary(exact_distances(pairs.features, *block.pairs(near)), similar, dissimilar)
    return labels


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
