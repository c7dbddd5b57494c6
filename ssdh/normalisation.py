"""Power-normalised features: sign(f)·|f|^p at unit length, so that neither a few large values nor an image's overall
activation decides a distance.

Perronnin, Sánchez, Mensink: "Improving the Fisher kernel for large-scale image classification", ECCV 2010, section 3.
The hash network does the same inside (`ssdh.network.HashNet.power`), so that queries need nothing else.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def power_normalise(features: NDArray[Any], power: float) -> NDArray[Any]:
    """Rows of `features` (n, d) as sign(f)·|f|^power at unit length, float32; `power` 0 returns them as they are.

    A row of zeros stays one.

    >>> power_normalise(np.array([[9.0, -16.0]]), 0.5)
    array([[ 0.6, -0.8]], dtype=float32)
    """
    if power == 0:
        return features
    powered: NDArray[np.float32] = np.asarray(features, np.float32)
    if power != 1:
        powered = np.copysign(np.power(np.abs(powered), np.float32(power)), powered).astype(np.float32, copy=False)
    norms = np.linalg.norm(powered, axis=1, keepdims=True)
    norms[norms == 0] = 1
    normalised: NDArray[Any] = np.divide(powered, norms, dtype=np.float32)
    return normalised
