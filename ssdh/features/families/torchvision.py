"""Torchvision's classification networks, their ImageNet weights, and VGG16's convolutions alone (`features`)."""

import difflib
import importlib.util
import re
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ssdh.core.cache_dir import ssdh_home
from ssdh.core.errors import DataError, ParameterError
from ssdh.features.download import RemoteFile, fetch
from ssdh.features.families.base import Family, ImageInput, without_storage
from ssdh.features.weights import only_convolutions, read_weights, triple

if TYPE_CHECKING:
    from torch import Tensor, nn


SMALLEST = {"vgg": 32, "alexnet": 63, "resnet": 8, "wide_resnet": 8, "resnext": 8}  # px from which on a family fits
OF_TENSORFLOW = ("googlenet", "inception_v3")  # torchvision's weights of these two want a renormalised input


class Torchvision(Family):
    """Bare names in `backbone.arch`. Parameters keep torchvision's names.

    fc6 and fc7 are the outputs of the first and second linear layer (before the ReLU), pool5 the average of the last
    convolution's maps, penultimate the input of the last layer.
    """

    name = "torchvision"
    layers = ("penultimate", "fc7", "fc6", "pool5")

    def check(self, network: str) -> None:
        """Raise ValueError with close names; imports no torchvision."""
        known = architectures()
        if network not in known:
            close = difflib.get_close_matches(network, known, n=3) or ["vgg16", "alexnet", "resnet50"]
            raise ValueError(
                f"must be a classification network of torchvision, such as {', '.join(close)}, or FAMILY/NETWORK"
            )

    def layer(self, network: str, wanted: str, weights: str, weights_file: str) -> str:
        """`auto` is fc7 of VGG and AlexNet, pool5 of their convolutions alone, penultimate elsewhere.

        Of random weights it is pool5 too: fully connected layers that have learned nothing only take time.
        """
        classic = network.startswith("vgg") or network == "alexnet"
        convolutions = weights == "features" or (
            weights == "file" and classic and only_convolutions(read_weights(weights_file))
        )
        if weights == "features" and network != "vgg16":
            raise ParameterError(
                f"images.weights 'features' exist for vgg16 only, got backbone.arch {network!r}: use imagenet, random "
                "or file"
            )
        if wanted == "auto":
            untrained = weights == "random" and classic
            return "pool5" if convolutions or untrained else "fc7" if classic else "penultimate"
        layer = super().layer(network, wanted, weights, weights_file)
        if convolutions and layer != "pool5":
            raise ParameterError(
                f"backbone.layer {layer!r} needs weights beyond the convolutions, but images.weights {weights!r} has "
                "only these: set backbone.layer to pool5 (params.yaml: backbone.layer)"
            )
        if layer != "penultimate" and not classic:
            raise ParameterError(
                f"backbone.layer {layer!r} exists in VGG and AlexNet, not in {network}: choose penultimate or auto "
                "(params.yaml: backbone.layer)"
            )
        return layer

    def known_to_fit(self, network: str, size: int) -> bool:
        """Without asking the network: importing torchvision takes seconds."""
        return any(network.startswith(family) and size >= smallest for family, smallest in SMALLEST.items())

    def build(self, network: str, layer: str, size: int, weights: str) -> "nn.Module":
        """As the family's docstring says."""
        from torch import nn

        options: dict[str, Any] = {}
        if network in OF_TENSORFLOW:
            options = {"transform_input": weights == "imagenet", "aux_logits": False}
        elif network.startswith("vit_"):
            options = {"image_size": size}
        elif network.startswith("maxvit"):
            options = {"input_size": (size, size)}
        module = _whole(network, **options)
        if layer == "pool5":
            features = cast("nn.Module", module.features)
            return nn.Sequential(OrderedDict(features=features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
        if layer in ("fc6", "fc7"):
            children = list(cast("nn.Sequential", module.classifier))
            linear = [i for i, child in enumerate(children) if isinstance(child, nn.Linear)]
            module.classifier = nn.Sequential(*children[: linear[0 if layer == "fc6" else 1] + 1])
            return module
        parts = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
        linear_names = [name for name, part in parts.items() if isinstance(part, nn.Linear)]
        last = linear_names[-1] if linear_names else list(parts)[-1]  # SqueezeNet ends with a convolution
        module.set_submodule(last, nn.Identity())
        return module

    def all_keys(self, network: str) -> set[str]:
        """The whole network's."""
        return set(without_storage(lambda: _whole(network)).state_dict())

    def input_of(self, network: str, weights: str) -> ImageInput:
        """As torchvision's own transforms of the weights, at the field's 224 px unless they say otherwise.

        All are resized bicubically, as this project always did.
        """
        if weights not in ("features", "imagenet"):
            return ImageInput()
        transforms = torchvision_enum(network, weights).transforms()
        return ImageInput(
            transforms.crop_size[0], transforms.resize_size[0], triple(transforms.mean), triple(transforms.std)
        )

    def fetch(self, network: str, weights: str) -> None:
        """Torchvision's file."""
        torchvision_file(network, weights)

    def pretrained(self, network: str, weights: str) -> "dict[str, Tensor]":
        """Torchvision's state dict."""
        return torchvision_weights(network, weights)


def _whole(network: str, **options: Any) -> "nn.Module":
    import torchvision

    if network in OF_TENSORFLOW:
        options["init_weights"] = False
    module: nn.Module = torchvision.models.get_model(network, weights=None, **options)
    return module


def architectures() -> list[str]:
    """Names of torchvision's classification networks, read from its sources: importing it takes seconds.

    Raises DataError without torchvision.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("torchvision is not installed: run `make setup`")
    sources = (Path(spec.submodule_search_locations[0]) / "models").glob("*.py")
    registered = re.compile(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
    return sorted(name for source in sources for name in registered.findall(source.read_text(encoding="utf-8")))


def torchvision_weights(arch: str, weights: str) -> "dict[str, Tensor]":
    """Torchvision's state dict, from `$SSDH_HOME/weights` or its hash-checked download.

    Raises DataError where the file is broken or cannot be had.
    """
    import torch

    path = torchvision_file(arch, weights)
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        raise DataError(f"{path} is not a whole weight file: remove it and run again to download it anew") from None
    if arch.startswith("densenet"):  # saved when torchvision's modules had dots in their names
        state = {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", key): v for key, v in state.items()}
    return state


def torchvision_file(arch: str, weights: str) -> Path:
    """The downloaded file of torchvision's weights; fetches it when it is not there, unless SSDH_OFFLINE is set."""
    kept = ssdh_home() / "weights"
    marker = kept / f"{arch}.{weights}"  # the file's name, so that a second check needs no torchvision
    if marker.is_file() and (path := kept / marker.read_text(encoding="utf-8").strip()).is_file():
        return path
    url = str(torchvision_enum(arch, weights).url)
    digest = Path(url).stem.rsplit("-", 1)[1]  # all of torchvision's names end in the beginning of their SHA-256
    path = fetch(RemoteFile(url, sha256=digest), kept)
    marker.write_text(path.name + "\n", encoding="utf-8")
    return path


def torchvision_enum(arch: str, weights: str) -> Any:
    """The entry of torchvision's list: its default, or VGG16's convolutions alone."""
    import torchvision

    enum = torchvision.models.get_model_weights(arch)
    return enum.IMAGENET1K_FEATURES if weights == "features" else enum.DEFAULT


FAMILIES = (Torchvision(),)
