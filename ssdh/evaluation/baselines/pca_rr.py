"""PCA and a random rotation: signs of the principal components, turned so that each bit holds a share of all of them.

Jégou, Douze, Schmid, Pérez, CVPR 2010; the baseline "PCA-RR" of Gong and Lazebnik, CVPR 2011.
"""

from ssdh.core.arrays import Float32
from ssdh.evaluation.baselines._base import Codes
from ssdh.evaluation.baselines._linear import Affine, check_components, mean_of, principal_components, random_rotation

TITLE, ABOUT = "PCA-RR", "randomly rotated principal components"


def fit(train: Float32, bits: int, seed: int) -> Codes:
    """Fit to train (n, D). Raises CannotFitError for more bits than components."""
    return Affine.through(*rotated_components(train, bits, seed))


def rotated_components(train: Float32, bits: int, seed: int) -> tuple[Float32, Float32]:
    """Weights (bits, D) and the train mean (D,)."""
    check_components(train, bits)
    mean = mean_of(train)
    return random_rotation(bits, bits, seed) @ principal_components(train - mean, bits), mean
