"""Cosine distances of vectors: of shifted unit vectors by float32 products; or in float64, pair by pair.

d_ij = 1 − cos(f_i, f_j) = ½‖x_i − x_j‖² with x_i = f_i/‖f_i‖ − mean. Deep ReLU features share a large mean, so that all
distances may lie below 0.05; on the shifted unit vectors the float32 product keeps its relative precision there.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32, Float64, Rows, row_lengths
from ssdh.core.errors import DataError
from ssdh.core.runtime import on_cores

CHUNK = 1 << 16  # elements that stay in a core's cache between two operations
ERROR = 5e-7  # bound of a float32 distance's error, relative to the largest distance: several times what is seen


def shifted_unit_vectors(features: NDArray[Any]) -> tuple[Float32, Float32]:
    """Return x (n, d) float32, the unit vectors less their mean, and ½‖x‖² (n,) float32; computed in float64.

    Raises DataError naming the first row that holds NaN or infinity, or only zeros.
    """
    n, dim = features.shape
    rows = max(1, CHUNK // dim)
    starts = range(0, n, rows)
    inverse = np.empty(n)
    x = np.empty((n, dim), np.float32)
    half = np.empty(n, np.float32)

    def sum_units(start: int) -> Float64:
        block = np.asarray(features[start : start + rows], dtype=np.float64)
        squares = np.einsum("ij,ij->i", block, block)
        if not np.isfinite(squares).all():
            bad = start + int(np.flatnonzero(~np.isfinite(squares))[0])
            raise DataError(f"features of train image {bad} hold NaN or infinity: extract them again (features.npy)")
        if not squares.all():
            bad = start + int(np.flatnonzero(squares == 0)[0])
            raise DataError(
                f"features of train image {bad} are all zero, so that it has no cosine distance: "
                "remove the image or choose another backbone.layer"
            )
        inverse[start : start + rows] = 1 / np.sqrt(squares)
        total: Float64 = inverse[start : start + rows] @ block
        return total

    def shift(start: int) -> None:
        block = features[start : start + rows] * inverse[start : start + rows, None]
        block -= mean
        x[start : start + rows] = block
        half[start : start + rows] = 0.5 * np.einsum("ij,ij->i", block, block)

    mean = functools.reduce(np.add, on_cores(sum_units, starts)) / n
    on_cores(shift, starts)
    return x, half


def distances(x: Float32, y: Float32, half_x: Float32, half_y: Float32, out: Float32 | None = None) -> Float32:
    """Return ½‖x_i‖² + ½‖y_j‖² − x_i·y_j for shifted unit vectors: x (a, d), y (b, d) → (a, b) float32."""
    product: Float32 = np.matmul(x, y.T, out=out)
    np.subtract(half_x[:, None], product, out=product)
    product += half_y
    return product


def exact_distances(features: NDArray[Any], i: Rows, j: Rows) -> Float64:
    """Return 1 − cos(f_i, f_j) in float64, (m,) for m pairs of row numbers, each from its two rows alone.

    So a pair's value never depends on the block it was asked for in.
    """
    exact = np.empty(len(i))
    step = max(1, 2 * CHUNK // features.shape[1])
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        a = features[i[part]].astype(np.float64)
        b = features[j[part]].astype(np.float64)
        norms = np.sqrt(np.einsum("ij,ij->i", a, a)) * np.sqrt(np.einsum("ij,ij->i", b, b))
        exact[part] = 1 - np.einsum("ij,ij->i", a, b) / norms
    return np.maximum(exact, 0, out=exact)


POWER_CHUNK = 1 << 22  # values at a time: temporaries of some 16 MB each


def power_normalise(features: NDArray[Any], power: float) -> NDArray[Any]:
    """Rows of `features` (n, d) as sign(f)·|f|^power at unit length, float32; `power` 0 returns them as they are.

    A row of zeros stays one.

    >>> power_normalise(np.array([[9.0, -16.0]]), 0.5)
    array([[ 0.6, -0.8]], dtype=float32)
    """
    if power == 0:
        return features
    normalised = np.empty(features.shape, np.float32)
    step = max(1, POWER_CHUNK // features.shape[1])
    for start in range(0, len(features), step):
        part = normalised[start : start + step]
        part[:] = features[start : start + step]
        if power != 1:
            np.copysign(np.power(np.abs(part), np.float32(power)), part, out=part)
        part /= row_lengths(part)
    return normalised
