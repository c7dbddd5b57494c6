"""Iterative quantisation: the first principal components, rotated so that their signs lose least.

Gong and Lazebnik, *Iterative quantization: a procrustean approach to learning binary codes*, CVPR 2011, section 2.2,
from centred rows of length 1, which changes no sign. Not faiss's ITQMatrix: up to 1.15 its step leaves one factor of
the singular value decomposition untransposed, and its rotation is as good as a random one.
"""

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32
from ssdh.evaluation.baselines._base import Codes
from ssdh.evaluation.baselines._linear import (
    Affine,
    check_components,
    mean_of,
    principal_components,
    random_rotation,
    unit_rows,
)

TITLE, ABOUT = "ITQ", "rotated principal components"
ITERATIONS = 50  # of the paper's experiments


def fit(train: Float32, bits: int, seed: int) -> Codes:
    """Fit to train (n, D); the seed draws the first rotation. Raises CannotFitError for more bits than components."""
    check_components(train, bits)
    mean = mean_of(train)
    rows = unit_rows(train, mean)
    components = principal_components(rows, bits)
    rotation = fit_rotation((rows @ components.T).astype(np.float64), random_rotation(bits, bits, seed))
    return Affine.through((rotation @ components).astype(np.float32), mean)


def fit_rotation(projected: NDArray[np.float64], rotation: NDArray[np.floating]) -> NDArray[np.float64]:
    """The rotation R (K, K) that brings V·Rᵀ of projected rows V (n, K) near its signs B, from a first one.

    By turns B = sign(V·Rᵀ), and the R that minimises ‖B − V·Rᵀ‖ for this B (orthogonal Procrustes): U·Wᵀ of
    Bᵀ·V = U·S·Wᵀ. Neither step raises the loss.
    """
    result = rotation.astype(np.float64)
    for _ in range(ITERATIONS):
        signs = np.where(projected @ result.T >= 0, 1.0, -1.0)
        left, _, right = np.linalg.svd(signs.T @ projected)
        result = left @ right
    return result
