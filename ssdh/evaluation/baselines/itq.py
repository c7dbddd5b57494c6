"""Iterative quantisation: the first principal components, rotated so that their signs lose least.

Gong and Lazebnik, *Iterative quantization: a procrustean approach to learning binary codes*, CVPR 2011. As in faiss's
ITQTransform, it learns from centred rows of length 1, which changes no sign.
"""

import faiss

from ssdh.evaluation.baselines._base import FAISS_SEEDS, Codes, Float32
from ssdh.evaluation.baselines._linear import Affine, check_components, mean_of, principal_components, unit_rows

TITLE, ABOUT = "ITQ", "rotated principal components"


def fit(train: Float32, bits: int, seed: int) -> Codes:
    """Fit to train (n, D); the seed draws the first rotation. Raises CannotFitError for more bits than components."""
    check_components(train, bits)
    mean = mean_of(train)
    rows = unit_rows(train, mean)
    components = principal_components(rows, bits)
    itq = faiss.ITQMatrix(bits)
    itq.seed = seed & FAISS_SEEDS
    itq.train(rows @ components.T)
    return Affine.through(faiss.vector_to_array(itq.A).reshape(bits, bits) @ components, mean)
