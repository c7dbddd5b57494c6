"""Optimised product quantisation: PQ after the rotation that loses least.

Ge, He, Ke, Sun, *Optimized product quantization*, CVPR 2013; by faiss, on the first principal components of unit rows.
"""

import faiss

from ssdh.core.arrays import Float32
from ssdh.evaluation.baselines._base import Quantizer
from ssdh.evaluation.baselines._linear import principal_components, unit_rows
from ssdh.evaluation.baselines._quantizer import FaissQuantizer, num_bytes, product_quantizer

TITLE, ABOUT = "OPQ", "PQ after the rotation that loses least, not Hamming"
COMPONENTS = 128  # that are rotated: of more, faiss needs minutes


def fit(train: Float32, bits: int, seed: int) -> Quantizer:
    """Fit bits/8 bytes an image to train (n, D); the seed draws nothing: faiss has its own.

    Raises CannotFitError unless `bits` is a multiple of 8 and there are 256 train images.
    """
    parts = num_bytes(train, bits)
    rows = unit_rows(train)
    components = principal_components(rows, min(max(COMPONENTS, parts), *rows.shape))
    index = product_quantizer(len(components), parts)
    reduced = FaissQuantizer(index, components)
    rotation = faiss.OPQMatrix(index.d, parts)
    rotation.pq = inner = faiss.ProductQuantizer(index.d, parts, 8)
    inner.cp.min_points_per_centroid = 1  # no word about few train images
    rotation.niter = 20
    rotation.train(reduced.prepared(train))
    matrix = faiss.vector_to_array(rotation.A).reshape(index.d, index.d)[:, : len(components)]
    return FaissQuantizer.trained(index, train, matrix @ components)
