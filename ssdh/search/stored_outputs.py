"""Outputs of images of which a run or a collection keeps the codes and the features, to order equal distances by."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssdh.hashing.codes import unpack
from ssdh.hashing.encoder import feature_blocks, outputs_of
from ssdh.hashing.network import HashNet


def stored_outputs(
    model: HashNet, packed: NDArray[np.uint8], bits: int, features: NDArray[Any], device: torch.device
) -> NDArray[np.float32]:
    """Real outputs (n, bits) of codes (n, ⌈bits/8⌉), the first bits of `model`'s, and features (n, D).

    The hash layer alone runs. Signs are the codes': collections keep features of lower precision and unit length, from
    which a value near 0 may come out on its other side.
    """
    outputs = outputs_of(feature_blocks(model, features, device))(np.arange(len(features)))
    return np.abs(outputs[:, :bits]) * unpack(packed, bits).astype(np.float32)
