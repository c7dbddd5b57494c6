"""Scalable graph hashing: bits whose products approximate the similarity of all pairs, which is never written down.

Jiang and Li, *Scalable graph hashing with feature transformation*, IJCAI 2015. The similarity 2·exp(−|x − y|²/2) − 1 is
P(x)·Q(y) to first order of x·y; bits are learned one after the other on a kernel map X of the images, each from what
the others left of K·S: w is the top generalised eigenvector of (A, XᵀX), A = K(XᵀP)(XᵀQ)ᵀ − Σ vvᵀ, v = Xᵀ sign(Xw).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32
from ssdh.evaluation.baselines._anchors import squared_distances
from ssdh.evaluation.baselines._base import Codes
from ssdh.evaluation.baselines._linear import mean_of, unit_rows

TITLE, ABOUT = "SGH", "bits that rebuild a Gaussian similarity"
BASES, RIDGE = 300, 1e-6


@dataclass(frozen=True)
class KernelHash(Codes):
    """Bases (m, D) of centred unit rows, kernel width, mean of the kernel map (m,), and the map W (m, bits)."""

    mean: Float32
    bases: Float32
    width: float
    shift: NDArray[np.float64]
    weights: NDArray[np.float64]

    def outputs(self, features: Float32) -> NDArray[np.float64]:
        """(k(x) − mean)·W of features (n, D), float64 (n, bits)."""
        return (kernel(unit_rows(features, self.mean), self.bases, self.width) - self.shift) @ self.weights


def fit(train: Float32, bits: int, seed: int) -> Codes:
    """Fit to train (n, D); the seed draws the bases among its rows."""
    mean = mean_of(train)
    rows = unit_rows(train, mean)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:BASES])
    bases = rows[chosen]
    width = float(np.sqrt(squared_distances(rows, bases)).mean())
    mapped = kernel(rows, bases, width)
    shift = mapped.mean(axis=0)
    return KernelHash(mean, bases, width, shift, learn(mapped - shift, rows, bits))


def kernel(rows: Float32, bases: Float32, width: float) -> NDArray[np.float64]:
    """exp(−|x − y|²/(2·width²)) of rows (n, D) and bases (m, D), float64 (n, m)."""
    values: NDArray[np.float64] = np.exp(squared_distances(rows, bases) / (-2 * width * width))
    return values


def factors(rows: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """P and Q (n, D + 2) with P(x)·Q(y) ≈ 2·exp(−|x − y|²/2) − 1 where |x·y| ≤ 1."""
    rows = rows.astype(np.float64)
    decay = np.exp(-np.square(rows).sum(axis=1, keepdims=True) / 2)
    odd, even = np.sqrt(np.e - 1 / np.e), np.sqrt(np.e + 1 / np.e)
    shared, ones = np.hstack([odd * decay * rows, even * decay]), np.ones((len(rows), 1))
    return np.hstack([shared, ones]), np.hstack([shared, -ones])


def learn(mapped: NDArray[np.float64], rows: NDArray[np.floating], bits: int) -> NDArray[np.float64]:
    """W (m, bits) of the centred kernel map X (n, m) of rows (n, D)."""
    left, right = (mapped.T @ factor for factor in factors(rows))  # (m, D + 2)
    residual = bits * left @ right.T
    lower = np.linalg.cholesky(mapped.T @ mapped + RIDGE * np.eye(mapped.shape[1]))
    inverse = np.linalg.inv(lower)
    weights = np.empty((mapped.shape[1], bits))
    for bit in range(bits):
        _, vectors = np.linalg.eigh(inverse @ residual @ inverse.T)
        weights[:, bit] = inverse.T @ vectors[:, -1]
        projected = mapped.T @ np.where(mapped @ weights[:, bit] >= 0, 1.0, -1.0)
        residual -= np.outer(projected, projected)
    return weights
