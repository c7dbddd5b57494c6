"""The codes of `pca_rr`, scored asymmetrically: the query keeps its real outputs, the database has ±1.

Gordo, Perronnin, Gong, Lazebnik, *Asymmetric distances for binary embeddings*, TPAMI 2014: the score y_q·b_x.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32, Packed
from ssdh.evaluation.baselines._base import Quantizer
from ssdh.evaluation.baselines._linear import Affine
from ssdh.evaluation.baselines.pca_rr import rotated_components
from ssdh.hashing.codes import unpack

TITLE, ABOUT = "PCA-RR, asymmetric", "its codes against the query’s real outputs"


@dataclass(frozen=True)
class Asymmetric(Quantizer):
    """Codes of an affine map, scored by its real outputs."""

    codes: Affine

    def encode(self, features: NDArray[Any]) -> Packed:
        """The packed signs of features (N, D)."""
        return self.codes.encode(features)

    def scores(self, queries: NDArray[Any], codes: Packed) -> Float32:
        """y_q·b_x, float32 (q, n)."""
        outputs = self.codes.outputs(np.asarray(queries, np.float32))  # (q, bits)
        return outputs @ unpack(codes, len(self.codes.weights)).astype(np.float32).T


def fit(train: Float32, bits: int, seed: int) -> Quantizer:
    """Fit to train (n, D). Raises CannotFitError for more bits than components."""
    return Asymmetric(Affine.through(*rotated_components(train, bits, seed)))
