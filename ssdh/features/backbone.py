"""Pretrained networks as feature extractors: any torchvision classification network, a layer and its weights by name.

torch and torchvision are imported where they are used, so that parameters can be checked without them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from loguru import logger

from ssdh.core.errors import DataError, ParameterError
from ssdh.features.params import BackboneParams, ImageParams, Preprocessing
from ssdh.features.weights import (
    normalisation,
    only_convolutions,
    read_weights,
    torchvision_file,
    torchvision_weights,
    triple,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


RANDOM_SEED = 0  # of `weights: random`; never the pipeline's seed, so that a new seed extracts nothing anew


SMALLEST = {"vgg": 32, "alexnet": 63, "resnet": 8, "wide_resnet": 8, "resnext": 8}  # px from which on a family fits


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
    arch, layer = params.arch, params.layer
    classic = arch.startswith("vgg") or arch == "alexnet"
    convolutions = weights == "features" or (
        weights == "file" and classic and only_convolutions(read_weights(params.weights_file))
    )
    if weights == "features" and arch != "vgg16":
        raise ParameterError(
            f"images.weights 'features' exist for vgg16 only, got backbone.arch {arch!r}: use imagenet, random or file"
        )
    if layer == "auto":
        return "pool5" if convolutions else "fc7" if classic else "penultimate"
    if convolutions and layer != "pool5":
        raise ParameterError(
            f"backbone.layer {layer!r} needs weights beyond the convolutions, but images.weights {weights!r} has only "
            "these: set backbone.layer to pool5 (params.yaml: backbone.layer)"
        )
    if layer != "penultimate" and not classic:
        raise ParameterError(
            f"backbone.layer {layer!r} exists in VGG and AlexNet, not in {arch}: choose penultimate or auto "
            "(params.yaml: backbone.layer)"
        )
    return layer


def transforms_input(arch: str, weights: str) -> bool:
    """Whether the network itself renormalises its input: torchvision's weights of these two come from TensorFlow."""
    return weights == "imagenet" and arch in ("googlenet", "inception_v3")


def build_network(arch: str, layer: str, size: int, *, transform_input: bool = False) -> "nn.Module":
    """A torchvision network with fresh weights that ends at `layer`; parameters keep torchvision's names.

    fc6 and fc7 are the outputs of the first and second linear layer (before the ReLU), pool5 the average of the last
    convolution's maps, penultimate the input of the last layer.
    """
    import torchvision
    from torch import nn

    options: dict[str, Any] = {}
    if arch in ("googlenet", "inception_v3"):
        options = {"init_weights": False, "aux_logits": False, "transform_input": transform_input}
    elif arch.startswith("vit_"):
        options = {"image_size": size}
    elif arch.startswith("maxvit"):
        options = {"input_size": (size, size)}
    network: nn.Module = torchvision.models.get_model(arch, weights=None, **options)
    if layer == "pool5":
        return _pool5(network)
    if layer in ("fc6", "fc7"):
        children = list(cast("nn.Sequential", network.classifier))
        linear = [i for i, child in enumerate(children) if isinstance(child, nn.Linear)]
        network.classifier = nn.Sequential(*children[: linear[0 if layer == "fc6" else 1] + 1])
        return network
    parts = {name: part for name, part in network.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
    linear_names = [name for name, part in parts.items() if isinstance(part, nn.Linear)]
    last = linear_names[-1] if linear_names else list(parts)[-1]  # SqueezeNet ends with a convolution
    network.set_submodule(last, nn.Identity())
    return network


def _pool5(network: "nn.Module") -> "nn.Module":
    from collections import OrderedDict

    from torch import nn

    features = cast("nn.Module", network.features)
    return nn.Sequential(OrderedDict(features=features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))


def without_storage(build: "Callable[[], nn.Module]") -> "nn.Module":
    """The network that `build` makes, on the meta device: shapes without values, in milliseconds."""
    import torch

    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # RegNet computes its widths with tensors
        return build().to("meta")


def feature_size(arch: str, layer: str, size: int) -> int:
    """D of the features of images of `size` px, found without any weights; ParameterError where the size is unfit."""
    import torch

    try:
        network = without_storage(lambda: build_network(arch, layer, size)).eval()
        return int(network(torch.empty(1, 3, size, size, device="meta")).shape[1])
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ParameterError(
            f"images.size {size} does not fit backbone.arch {arch}: {reason} "
            "(params.yaml: datasets.<dataset>.images.size)"
        ) from None


def known_to_fit(arch: str, size: int) -> bool:
    """Whether images of `size` px fit this network, without asking it: importing torchvision takes seconds."""
    return any(arch.startswith(family) and size >= smallest for family, smallest in SMALLEST.items())


def load_backbone(params: BackboneParams, images: ImageParams) -> Backbone:
    """Build the frozen network with its weights; logs which weights and which preprocessing it uses.

    Raises ParameterError for a layer or size that does not fit, DataError for weights that are missing or broken.
    """
    import torch

    layer = resolve_layer(params, images.weights)
    dim = feature_size(params.arch, layer, images.size)
    if images.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            network = build_network(params.arch, layer, images.size)
    else:
        if images.weights == "file":
            state = read_weights(params.weights_file)
        else:
            state = torchvision_weights(params.arch, images.weights)
        transform_input = transforms_input(params.arch, images.weights)
        size = images.size
        network = without_storage(lambda: build_network(params.arch, layer, size, transform_input=transform_input))
        _check_fit(network, state, params, images.weights)
        _fill(network, state)
    preprocessing = resolve_preprocessing(params, images)
    logger.info(
        "backbone {} {}: {} weights, {} values an image, {} px, mean {} std {}",
        params.arch,
        layer,
        "random (seed 0: a smoke run, not the paper's setting)" if images.weights == "random" else images.weights,
        dim,
        images.size,
        _short(preprocessing.mean),
        _short(preprocessing.std),
    )
    return Backbone(network.eval(), dim, layer, preprocessing)


def _check_fit(network: "nn.Module", state: "dict[str, Tensor]", params: BackboneParams, weights: str) -> None:
    """Raise DataError that names the keys of `state` that are missing, unknown or of another shape."""
    import torchvision

    wanted = network.state_dict()
    options = {"init_weights": False} if params.arch in ("googlenet", "inception_v3") else {}
    whole = without_storage(lambda: torchvision.models.get_model(params.arch, weights=None, **options)).state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in wanted and key not in whole]
    shapes = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if missing or unknown or shapes:
        told = "; ".join(
            f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
            for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
            if keys
        )
        source = f"backbone.weights_file {params.weights_file}" if weights == "file" else f"weights {weights}"
        raise DataError(f"{source} does not fit {params.arch}: {told}; keys must be torchvision's names")


def _fill(network: "nn.Module", state: "dict[str, Tensor]") -> None:
    """Put `state`, which fits, into a network without storage."""
    import torch

    wanted = network.state_dict()
    chosen = {key: state.get(key, torch.zeros((), dtype=torch.long)) for key in wanted}
    chosen = {key: value.float() if value.is_floating_point() else value for key, value in chosen.items()}
    network.load_state_dict(chosen, strict=True, assign=True)
    network.requires_grad_(True)


# --- weights and their preprocessing ---------------------------------------------------------------------------------


def ensure_weights(params: BackboneParams, images: ImageParams) -> None:
    """Make sure before any stage runs that layer and weights are there, downloading torchvision's where they are not.

    Quick (no torch) for networks and sizes that are known to fit, with random weights or weights downloaded before.
    Raises DataError where they are missing, broken, or of another network.
    """
    layer = resolve_layer(params, images.weights)
    if images.weights in ("imagenet", "features"):
        torchvision_file(params.arch, images.weights)
    elif images.weights == "file":
        state = read_weights(params.weights_file)
        network = without_storage(lambda: build_network(params.arch, layer, images.size))
        _check_fit(network, state, params, images.weights)
    if not known_to_fit(params.arch, images.size):
        feature_size(params.arch, layer, images.size)


def resolve_preprocessing(params: BackboneParams, images: ImageParams) -> Preprocessing:
    """Size and normalisation: `images.mean`/`std` if set, else the weight file's metadata, else torchvision's."""
    mean, std = normalisation(params.arch, images.weights, params.weights_file)
    mean = triple(images.mean) if images.mean is not None else mean
    std = triple(images.std) if images.std is not None else std
    return Preprocessing(resize=images.resize or images.size, size=images.size, mean=mean, std=std)


def _short(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
