"""A trained network at work: its outputs for features or images."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssdh.core.arrays import Float32, Rows
from ssdh.core.errors import DataError
from ssdh.core.files import take_rows
from ssdh.features.backbone import Backbone, load_backbone
from ssdh.features.forward import BLOCK, run_network
from ssdh.features.params import BackboneParams, ImageParams, Preprocessing
from ssdh.hashing.codes import pack, sign_codes
from ssdh.hashing.model_file import load_hashnet, model_preprocessing, read_metadata, takes_embeddings
from ssdh.hashing.network import HashNet

OF_IMAGES = ("arch", "layer", "size", "resize", "mean", "std")  # without which no image can be encoded
Blocks = Callable[[Rows], Iterator[Float32]]  # what `compute_rows` asks for


def feature_blocks(model: HashNet, features: NDArray[Any], device: torch.device) -> Blocks:
    """What `compute_rows` asks for: outputs (≤ BLOCK, K) of blocks of rows of `features` (N, D) of any number type."""

    def blocks_of(rows: Rows) -> Iterator[Float32]:
        blocks = (take_rows(features, rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK))
        batches = (torch.from_numpy(np.asarray(block, np.float32)) for block in blocks)
        return run_network(model, batches, device)

    return blocks_of


def packed(blocks_of: Blocks) -> Callable[[Rows], Iterator[NDArray[np.uint8]]]:
    """The same blocks as packed codes (≤ BLOCK, ⌈K/8⌉)."""
    return lambda rows: (pack(sign_codes(outputs)) for outputs in blocks_of(rows))


def outputs_of(blocks_of: Blocks) -> Callable[[Rows], Float32]:
    """The same blocks as one array (n, K)."""
    return lambda rows: np.concatenate(list(blocks_of(rows)))


class Encoder(nn.Module):
    """A network from preprocessed images (n, 3, size, size) to relaxed codes (n, K), with its preprocessing."""

    def __init__(self, model: HashNet, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing

    @property
    def bits(self) -> int:
        """K, the length of a code."""
        return self.model.bits

    def forward(self, images: Tensor) -> Tensor:
        """images: (n, 3, size, size), normalised; returns (n, K) in (−1, 1)."""
        outputs: Tensor = self.model(images)
        return outputs


def load_encoder(path: Path, weights_file: Path | None = None) -> Encoder:
    """Read a trained network as one from images to codes, in evaluation mode.

    Where only the hash layer was trained, the frozen network is built again from the file's metadata; its weights come
    from where they came from in training, or from `weights_file`. Raises DataError where something is missing.
    """
    metadata = read_metadata(path)
    if takes_embeddings(metadata):
        raise DataError(f"{path} takes embeddings of {metadata['dim']} values, not images: give it those")
    if missing := [name for name in OF_IMAGES if name not in metadata]:
        raise DataError(f"{path} does not say which frozen network it belongs to ({missing[0]}): train it anew")
    model = load_hashnet(path)
    if model.backbone is None:
        model.backbone = _frozen(path, metadata, weights_file).module
    return Encoder(model, model_preprocessing(metadata)).eval()


def _frozen(path: Path, metadata: dict[str, Any], weights_file: Path | None) -> Backbone:
    return load_backbone(*described_backbone(path, metadata, weights_file))


def described_backbone(
    path: Path, metadata: dict[str, Any], weights_file: Path | None = None
) -> tuple[BackboneParams, ImageParams]:
    """What a model's file says of its network; DataError where it does not."""
    try:
        backbone = BackboneParams(
            arch=metadata["arch"],
            layer=metadata["layer"],
            precision=metadata["backbone_precision"],
            weights_file=str(weights_file or metadata["weights_file"]),
        )
        images = ImageParams(
            **{name: metadata[name] for name in ("size", "resize", "mean", "std")},
            interpolation=metadata.get("interpolation", "bicubic"),
            weights="file" if weights_file else metadata["weights"],
        )
    except (KeyError, ValueError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path} does not say which frozen network it belongs to ({said}): train it anew") from None
    return backbone, images
