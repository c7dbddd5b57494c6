"""Locality-sensitive hashing: signs of a random rotation of the centred features.

Charikar, *Similarity estimation techniques from rounding algorithms*, STOC 2002; orthonormal directions: Ji, Li, Yan,
Zhang, Tian, *Super-bit locality-sensitive hashing*, NIPS 2012.
"""

from ssdh.core.arrays import Float32
from ssdh.evaluation.baselines._base import Codes
from ssdh.evaluation.baselines._linear import Affine, mean_of, random_rotation

TITLE, ABOUT = "LSH", "signs of random projections"


def fit(train: Float32, bits: int, seed: int) -> Codes:
    """Draw `bits` directions; of train (n, D) only the mean is used."""
    return Affine.through(random_rotation(train.shape[1], bits, seed), mean_of(train))
