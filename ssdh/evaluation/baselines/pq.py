"""Product quantisation: a code is the numbers of the nearest centres, one byte a part of the vector.

Jégou, Douze, Schmid, *Product quantization for nearest neighbor search*, TPAMI 2011; by faiss. The score is the
negative squared distance from the float query to the quantised vector.
"""

from ssdh.core.arrays import Float32
from ssdh.evaluation.baselines._base import Quantizer
from ssdh.evaluation.baselines._quantizer import FaissQuantizer, num_bytes, product_quantizer

TITLE, ABOUT = "PQ", "product quantisation, not Hamming"


def fit(train: Float32, bits: int, seed: int) -> Quantizer:
    """Fit bits/8 bytes an image to train (n, D); the seed draws nothing: faiss starts its k-means from its own.

    Raises CannotFitError unless `bits` is a multiple of 8 and there are 256 train images.
    """
    return FaissQuantizer.trained(product_quantizer(train.shape[1], num_bytes(train, bits)), train)
