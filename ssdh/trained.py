"""A trained network at work: its outputs for features or images, and how it is built again from its file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssdh.backbones import Backbone, BackboneParams, load_backbone, resolve_layer, resolve_preprocessing
from ssdh.codes import pack, sign_codes
from ssdh.errors import DataError
from ssdh.extraction import BLOCK, run_network
from ssdh.images import ImageParams, Preprocessing, Rows
from ssdh.network import HashNet, load_hashnet, read_metadata

Floats = NDArray[np.float32]
Blocks = Callable[[Rows], Iterator[Floats]]  # what `compute_rows` asks for


def feature_blocks(model: HashNet, features: NDArray[Any], device: torch.device) -> Blocks:
    """What `compute_rows` asks for: outputs (≤ BLOCK, K) of blocks of rows of `features` (N, D)."""

    def blocks_of(rows: Rows) -> Iterator[Floats]:
        starts = range(0, len(rows), BLOCK)
        batches = (torch.from_numpy(np.array(features[rows[start : start + BLOCK]])) for start in starts)
        return run_network(model, batches, device)

    return blocks_of


def packed(blocks_of: Blocks) -> Callable[[Rows], Iterator[NDArray[np.uint8]]]:
    """The same blocks as packed codes (≤ BLOCK, ⌈K/8⌉)."""
    return lambda rows: (pack(sign_codes(outputs)) for outputs in blocks_of(rows))


def outputs_of(blocks_of: Blocks) -> Callable[[Rows], Floats]:
    """The same blocks as one array (n, K)."""
    return lambda rows: np.concatenate(list(blocks_of(rows)))


# --- the file of a trained network ----------------------------------------------------------------------------------


def describe_backbone(backbone: BackboneParams, images: ImageParams) -> dict[str, Any]:
    """The metadata by which the frozen network of a model is built again."""
    preprocessing = resolve_preprocessing(backbone, images)
    return {
        "arch": backbone.arch,
        "layer": resolve_layer(backbone, images.weights),
        "weights": images.weights,
        "weights_file": backbone.weights_file,
        "backbone_precision": backbone.precision,
        "size": preprocessing.size,
        "resize": preprocessing.resize,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def check_same_backbone(path: Path, backbone: BackboneParams, images: ImageParams) -> None:
    """Raise DataError where the model at `path` (`train.init_file`) belongs to another frozen network than the given.

    Of a whole network the preprocessing must be the same too. What the file does not say is not compared.
    """
    metadata = read_metadata(path)
    wanted = describe_backbone(backbone, images)
    places = {"arch": "backbone.arch", "layer": "backbone.layer", "weights": "datasets.<dataset>.images.weights"}
    if metadata["has_backbone"]:
        places |= {name: f"datasets.<dataset>.images.{name}" for name in ("size", "mean", "std")}
    for name, place in places.items():
        if name in metadata and metadata[name] != wanted[name]:
            raise DataError(
                f"train.init_file {path} was trained with {name} {metadata[name]}, wanted is {wanted[name]}: set "
                f"{place} to the file's (params.yaml: train.init_file)"
            )


def model_preprocessing(metadata: dict[str, Any]) -> Preprocessing:
    """What the images of a model must go through, from its metadata."""
    mean, std = ((float(v[0]), float(v[1]), float(v[2])) for v in (metadata["mean"], metadata["std"]))
    return Preprocessing(resize=int(metadata["resize"]), size=int(metadata["size"]), mean=mean, std=std)


def image_precision(metadata: dict[str, Any]) -> str:
    """The precision, fp32 or bf16, in which a model encodes images: its own, or that of its frozen network."""
    found: str = metadata["precision"] if metadata["has_backbone"] else metadata["backbone_precision"]
    return found


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
    model = load_hashnet(path)
    if model.backbone is None:
        model.backbone = _frozen(path, metadata, weights_file).module
    return Encoder(model, model_preprocessing(metadata)).eval()


def _frozen(path: Path, metadata: dict[str, Any], weights_file: Path | None) -> Backbone:
    try:
        backbone = BackboneParams(
            arch=metadata["arch"],
            layer=metadata["layer"],
            precision=metadata["backbone_precision"],
            weights_file=str(weights_file or metadata["weights_file"]),
        )
        images = ImageParams(
            **{name: metadata[name] for name in ("size", "resize", "mean", "std")},
            weights="file" if weights_file else metadata["weights"],
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} does not say which frozen network it belongs to ({error}): train it anew") from None
    return load_backbone(backbone, images)
