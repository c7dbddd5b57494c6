"""Networks as feature extractors, by name: a network of a family, one of its layers, and its weights.

The families are in `ssdh/features/families`; torch is imported where it is used, so that parameters can be checked
without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loguru import logger

from ssdh.core.errors import ParameterError
from ssdh.features.families.base import fillable, without_storage
from ssdh.features.families.registry import find
from ssdh.features.params import BackboneParams, ImageParams, Preprocessing
from ssdh.features.weights import file_normalisation, read_weights, triple

if TYPE_CHECKING:
    from torch import nn


RANDOM_SEED = 0  # of `weights: random`; never the pipeline's seed, so that a new seed extracts nothing anew


@dataclass(frozen=True)
class Backbone:
    """A feature extractor in evaluation mode: images (n, 3, size, size), preprocessed, to features (n, dim)."""

    module: "nn.Module"
    dim: int
    layer: str
    preprocessing: Preprocessing


# --- the network and its layer --------------------------------------------------------------------------------------


def resolve_layer(params: BackboneParams, weights: str) -> str:
    """The layer that `auto` means; raises ParameterError where network or weights do not have the one asked for."""
    family, network = find(params.arch)
    return family.layer(network, params.layer, weights, params.weights_file)


def build_network(arch: str, layer: str, size: int, weights: str = "random") -> "nn.Module":
    """A network with fresh weights that ends at `layer`; parameters keep the names that its package gives them.

    weights: `images.weights`, for networks that compute otherwise with some (torchvision's googlenet).
    """
    family, network = find(arch)
    return family.build(network, layer, size, weights)


def shape_of_network(arch: str, layer: str, size: int) -> "nn.Module":
    """The network on the meta device: shapes without values, in milliseconds."""
    return without_storage(lambda: build_network(arch, layer, size))


def network_to_fill(arch: str, layer: str, size: int, weights: str) -> "nn.Module":
    """The network for a state dict that holds all of its tensors (`load_state_dict` with `assign=True`)."""
    return fillable(lambda: build_network(arch, layer, size, weights))


def feature_size(arch: str, layer: str, size: int) -> int:
    """D of the features of images of `size` px, found without any weights; ParameterError where the size is unfit."""
    import torch

    try:
        network = shape_of_network(arch, layer, size).eval()
        return int(network(torch.empty(1, 3, size, size, device="meta")).shape[1])
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ParameterError(
            f"images.size {size} does not fit backbone.arch {arch}: {reason} "
            "(params.yaml: datasets.<dataset>.images.size)"
        ) from None


def load_backbone(params: BackboneParams, images: ImageParams) -> Backbone:
    """Build the frozen network with its weights; logs which weights and which preprocessing it uses.

    Raises ParameterError for a layer or size that does not fit, DataError for weights that are missing or broken.
    """
    import torch

    layer = resolve_layer(params, images.weights)
    preprocessing = resolve_preprocessing(params, images)
    size = preprocessing.size
    dim = feature_size(params.arch, layer, size)
    if images.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            module = build_network(params.arch, layer, size)
    else:
        module = _with_weights(params, images.weights, layer, size)
    logger.info(
        "backbone {} {}: {} weights, {} values an image, {} px, mean {} std {}",
        params.arch,
        layer,
        "random (seed 0: a smoke run, not the paper's setting)" if images.weights == "random" else images.weights,
        dim,
        size,
        _short(preprocessing.mean),
        _short(preprocessing.std),
    )
    return Backbone(module.eval(), dim, layer, preprocessing)


def _with_weights(params: BackboneParams, weights: str, layer: str, size: int) -> "nn.Module":
    family, network = find(params.arch)
    if weights == "file":
        state, source = read_weights(params.weights_file), f"backbone.weights_file {params.weights_file}"
    else:
        state, source = family.pretrained(network, weights), f"weights {weights}"
    return family.load(network, layer, size, weights, state, source)


# --- weights and their preprocessing ---------------------------------------------------------------------------------


def ensure_weights(params: BackboneParams, images: ImageParams) -> None:
    """Make sure before any stage runs that layer and weights are there, downloading pretrained ones where they are not.

    Quick (no torch) for torchvision's networks and sizes that are known to fit, with random weights or weights
    downloaded before. Raises DataError where they are missing, broken, or of another network.
    """
    family, network = find(params.arch)
    layer = resolve_layer(params, images.weights)
    if images.weights in ("imagenet", "features"):
        family.fetch(network, images.weights)
    size = image_size(params, images)
    if images.weights == "file":
        _with_weights(params, "file", layer, size)
    if not family.known_to_fit(network, size):
        feature_size(params.arch, layer, size)


def image_size(params: BackboneParams, images: ImageParams) -> int:
    """`images.size`, or what the weights want where it is null."""
    if images.size is not None:
        return images.size
    family, network = find(params.arch)
    return family.input_of(network, images.weights).size


def resolve_preprocessing(params: BackboneParams, images: ImageParams) -> Preprocessing:
    """Sizes and normalisation: those of `images` if set, else of the weight file's metadata, else the network's own.

    `images.resize` without a value is `images.size`; where neither is set, both are the network's own.
    """
    family, network = find(params.arch)
    own = family.input_of(network, images.weights)
    mean, std = own.mean, own.std
    if images.weights == "file":
        mean, std = file_normalisation(params.weights_file) or (mean, std)
    size = images.size or own.size
    resize = images.resize or (images.size or own.resize)
    if resize < size:
        raise ParameterError(
            f"images.resize {resize} is below the {size} px that {params.arch} wants: set it to null, or images.size "
            "too (params.yaml: datasets.<dataset>.images.resize)"
        )
    return Preprocessing(
        resize=resize,
        size=size,
        mean=triple(images.mean) if images.mean is not None else mean,
        std=triple(images.std) if images.std is not None else std,
        interpolation=images.interpolation or own.interpolation,
    )


def _short(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
