"""Thresholds to ternary pseudo-labels: which pairs are similar, dissimilar, unknown."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.structure.distances import Block, PairDistances, Pairs, upper_triangle
from ssdh.structure.histogram import MANY
from ssdh.structure.vectors import exact_distances

MARGIN = 1e-5  # pairs this close to a threshold are decided in float64


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
