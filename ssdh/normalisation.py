"""Power-normalised features: sign(f)·|f|^p at unit length, so that neither a few large values nor an image's overall
activation decides a distance.

Perronnin, Sánchez, Mensink: "Improving the Fisher kernel for large-scale image classification", ECCV 2010, section 3.
The hash network does the same inside (`ssdh.network.HashNet.power`), so that queries need nothing else.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 22  # values at a time: temporaries of some 16 MB each


def power_normalise(features: NDArray[Any], power: float) -> NDArray[Any]:
    """Rows of `features` (n, d) as sign(f)·|f|^power at unit length, float32; `power` 0 returns them as they are.

    A row of zeros stays one.

    >>> power_normalise(np.array([[9.0, -16.0]]), 0.5)
    array([[ 0.6, -0.8]], dtype=float32)
    """
    if power == 0:
        return features
    normalised = np.empty(features.shape, np.float32)
    step = max(1, CHUNK // features.shape[1])
    for start in range(0, len(features), step):
        part = normalised[start : start + step]
        part[:] = features[start : start + step]
        if power != 1:
            np.copysign(np.power(np.abs(part), np.float32(power)), part, out=part)
        norms = np.linalg.norm(part, axis=1, keepdims=True)
        norms[norms == 0] = 1
        part /= norms
    return normalised
