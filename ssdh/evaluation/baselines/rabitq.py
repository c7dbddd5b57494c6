"""RaBitQ: a bit a dimension of rotated principal components, and 8 bytes that make its distances unbiased estimates.

Gao and Long, *RaBitQ: quantizing high-dimensional vectors with a theoretical error bound*, SIGMOD 2024; by faiss. It
has as many dimensions as `bits`, so a code is 8 bytes longer than the others: 12 bytes at 32 bits; compare by bytes.
"""

import faiss

from ssdh.core.arrays import Float32
from ssdh.evaluation.baselines._base import Quantizer
from ssdh.evaluation.baselines._linear import check_components, principal_components, random_rotation, unit_rows
from ssdh.evaluation.baselines._quantizer import FaissQuantizer

TITLE, ABOUT = "RaBitQ", "a bit a dimension and 8 bytes more, not Hamming"


def fit(train: Float32, bits: int, seed: int) -> Quantizer:
    """Fit to train (n, D). Raises CannotFitError for more bits than components."""
    check_components(train, bits)
    components = principal_components(unit_rows(train), bits)
    index = faiss.IndexRaBitQ(bits)
    index.qb = 0  # the query stays float, as with the other quantisers
    return FaissQuantizer.trained(index, train, random_rotation(bits, bits, seed) @ components)
