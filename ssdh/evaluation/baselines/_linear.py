"""What several baselines begin with: centred rows of unit length, principal directions, signs of an affine map."""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh

from ssdh.core.arrays import Float32, row_lengths
from ssdh.evaluation.baselines._base import FAISS_SEEDS, CannotFitError, Codes

DENSE_SIDE = 1024  # a symmetric matrix up to this size is solved whole, in float64


@dataclass(frozen=True)
class Affine(Codes):
    """Codes as signs of an affine map: weights (bits, D) and bias (bits,), float32."""

    weights: Float32
    bias: Float32

    @classmethod
    def through(cls, weights: Float32, mean: Float32) -> "Affine":
        """The map W(f − mean) of weights (bits, D) and mean (D,)."""
        return cls(weights, -(weights @ mean))

    def outputs(self, features: Float32) -> Float32:
        """W·f + b of features (n, D), float32 (n, bits)."""
        return features @ self.weights.T + self.bias


def mean_of(train: Float32) -> Float32:
    """The mean of rows (n, D), summed in float64; float32 (D,)."""
    mean: Float32 = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def unit_rows(rows: NDArray[Any], mean: Float32 | float = 0.0) -> Float32:
    """Rows (n, D) less the mean, at length 1, float32; a row equal to the mean stays 0."""
    centred = np.asarray(rows, np.float32) - np.float32(mean)
    centred /= row_lengths(centred)
    return centred


def check_components(train: Float32, bits: int) -> None:
    """Raise CannotFitError where train rows (n, D) have fewer than `bits` principal components."""
    count, dim = train.shape
    if bits > dim or bits >= count:
        raise CannotFitError(f"{dim} dimensions and {count} train images have no {bits} principal components")


def principal_components(centred: Float32, count: int) -> Float32:
    """The first `count` principal directions of `centred` (n, D), orthonormal float32 (count, D), largest first.

    Through the smaller of both products; by Lanczos iteration where that is large: faiss's PCAMatrix took 90 s for
    5000 × 4096 on two busy cores, this 1 s beside the product.
    """
    n, dim = centred.shape
    square = centred @ centred.T if n < dim else centred.T @ centred
    side = len(square)
    if side <= DENSE_SIDE or 2 * count > side:
        values, vectors = np.linalg.eigh(square.astype(np.float64))
        values, vectors = values[-count:], vectors[:, -count:]
    else:
        values, vectors = eigsh(square, k=count, which="LA", v0=np.ones(side, np.float32))
    directions = vectors.T if n >= dim else vectors.T @ centred / np.sqrt(np.maximum(values, 1e-30))[:, None]
    return np.ascontiguousarray(directions[::-1], np.float32)


def random_rotation(dim: int, count: int, seed: int) -> Float32:
    """`count` random directions of `dim` dimensions, float32 (count, dim): orthonormal rows, or columns if more."""
    rotation = faiss.RandomRotationMatrix(dim, count)
    rotation.init((seed + 1) & FAISS_SEEDS)
    directions: Float32 = faiss.vector_to_array(rotation.A).reshape(count, dim)
    return directions
