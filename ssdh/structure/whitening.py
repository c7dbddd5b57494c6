"""What random views change about an image tells no two images apart: such directions count less in the graph.

Ĉ is the covariance of the differences between the views of an image and the image, at a mean variance of 1. Features x
become (I + s·Ĉ)^-½ x, up to a rotation that no inner product sees: x = L⁻¹x with LLᵀ = I + s·Ĉ; s is the strength.

Hatch, Kajarekar and Stolcke: "Within-class covariance normalization for SVM-based speaker recognition", ICSLP 2006,
where each image is a class of its own and its views are the samples, so that no label is needed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.runtime import on_cores, one_blas_thread
from ssdh.structure.vectors import power_normalise

STRIP, BLOCK = 256, 1024  # columns of a covariance and rows of features that one core takes: no digit depends on cores
Views = Sequence[NDArray[np.floating[Any]]] | NDArray[np.floating[Any]]  # V of (n, D)


def whiten(features: NDArray[np.float32], factor: NDArray[np.float64]) -> NDArray[np.float32]:
    """Features (n, D) less their mean, times L⁻¹; factor: L (D, D) of `view_factor`. Returns (n, D) float32."""
    from scipy.linalg import solve_triangular

    mean = features.mean(axis=0, dtype=np.float64)
    whitened = np.empty_like(features)

    def solve(start: int) -> None:
        rows = slice(start, start + BLOCK)
        whitened[rows] = solve_triangular(factor, (features[rows] - mean).T, lower=True).T

    on_cores(solve, range(0, len(features), BLOCK))
    return whitened


def view_factor(features: NDArray[np.float32], views: Views, *, power: float, strength: float) -> NDArray[np.float64]:
    """L (D, D) with LLᵀ = I + strength·Ĉ, lower triangular; the unit matrix for views that change nothing.

    features: (n, D), power-normalised; views: features (V, n, D) of the same images, any float type, as extracted.
    """
    from scipy.linalg import cholesky

    covariance = view_covariance(features, views, power)
    if variance := covariance.trace() / len(covariance):
        covariance *= strength / variance
    covariance[np.diag_indices_from(covariance)] += 1
    with one_blas_thread():
        factor: NDArray[np.float64] = cholesky(covariance, lower=True)
    return factor


def view_covariance(features: NDArray[np.float32], views: Views, power: float) -> NDArray[np.float64]:
    """The mean of (v − x)(v − x)ᵀ over the views v of all images x, (D, D)."""
    n, dim = features.shape
    total = np.zeros((dim, dim))
    for view in views:
        differences = power_normalise(np.ascontiguousarray(view, np.float32), power) - features

        def add(start: int, differences: NDArray[np.float32] = differences) -> None:
            total[:, start : start + STRIP] += differences.T @ differences[:, start : start + STRIP]

        on_cores(add, range(0, dim, STRIP))
    total /= n * len(views)
    return total
