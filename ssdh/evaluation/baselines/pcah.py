"""PCA hashing: signs of the first principal components (Wang, Kumar, Chang, CVPR 2010)."""

from ssdh.core.arrays import Float32
from ssdh.evaluation.baselines._base import Codes
from ssdh.evaluation.baselines._linear import Affine, check_components, mean_of, principal_components

TITLE, ABOUT = "PCAH", "signs of the principal components"


def fit(train: Float32, bits: int, seed: int) -> Codes:
    """Fit to train (n, D); the seed draws nothing. Raises CannotFitError for more bits than components."""
    check_components(train, bits)
    mean = mean_of(train)
    return Affine.through(principal_components(train - mean, bits), mean)
