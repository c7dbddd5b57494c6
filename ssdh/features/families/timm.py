"""Every network of timm: by its name, from the Hugging Face Hub, or from a folder.

timm/vit_small_patch14_dinov2.lvd142m
timm/hf-hub:ORG/MODEL          (or ORG/MODEL@REVISION)
timm/local-dir:PATH            (config.json and model.safetensors, as timm's `save_for_hf` writes them)
"""

import difflib
import importlib.util
import json
import re
from pathlib import Path
from textwrap import shorten
from types import MethodType
from typing import TYPE_CHECKING, Any

from ssdh.core.cache_dir import ssdh_home
from ssdh.core.errors import DataError, ParameterError
from ssdh.features.download import RemoteFile, fetch
from ssdh.features.families.base import Family, ImageInput, few, without_storage
from ssdh.features.hub import hub_file
from ssdh.features.weights import read_weights, triple

if TYPE_CHECKING:
    from torch import Tensor, nn


CONFIG = "config.json"
FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class Timm(Family):
    """Networks of the package timm; parameters and modules keep its names.

    pre_logits: what goes into the classifier. Of the tokens (n, T, D) that `forward_features` returns, cls is the class
    token, mean the average of the patch tokens, cls+mean both, one after the other.
    """

    name = "timm"
    layers = ("pre_logits", "cls", "mean", "cls+mean")

    def check(self, network: str) -> None:
        """A name or tag that timm does not know is told with close ones; hubs and folders are looked at later."""
        if importlib.util.find_spec("timm") is None:
            raise ValueError("of timm needs that package: pip install 'ssdh[timm]'")
        if network.startswith(("hf-hub:", "local-dir:")):
            return
        import timm

        if not timm.is_model(network.partition(".")[0]):
            close = difflib.get_close_matches(network, timm.list_models(), n=3) or ["vit_small_patch14_dinov2.lvd142m"]
            raise ValueError(f"must be a network of timm, such as {', '.join(f'timm/{name}' for name in close)}")
        name, _, tag = network.partition(".")
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
        if tag and tag not in tags:
            raise ValueError(f"must have no tag or one of its pretrained weights: {few(tags)}")

    def build(self, network: str, layer: str, size: int, weights: str) -> "nn.Module":
        """As the class says."""
        return _ending_at(layer, _create(network, size), network)

    def input_of(self, network: str, weights: str) -> ImageInput:
        """As timm's data configuration says: the short side is ⌊size / crop_pct⌋, as in its own transform."""
        from timm.data import config

        resolve: Any = config.resolve_data_config
        own = resolve(pretrained_cfg=_config(network))
        size = int(own["input_size"][-1])
        how = "bilinear" if own["interpolation"] == "bilinear" else "bicubic"
        return ImageInput(size, int(size / own["crop_pct"]), triple(own["mean"]), triple(own["std"]), how)

    def fetch(self, network: str, weights: str) -> None:
        """The file of the pretrained weights, or DataError."""
        _weights_file(network, weights)

    def pretrained(self, network: str, weights: str) -> "dict[str, Tensor]":
        """The state dict as its authors published it."""
        return read_weights(str(_weights_file(network, weights)), f"the weights of timm/{network}")

    def load(
        self, network: str, layer: str, size: int, weights: str, state: "dict[str, Tensor]", source: str
    ) -> "nn.Module":
        """By timm's own loading, which knows its older and its authors' formats, and other image sizes.

        The classifier may be there, of any number of classes, or not; all else must fit.
        """
        config = _config(network)
        classifier = config.get("classifier") or ""
        first = classifier if isinstance(classifier, str) else classifier[0]
        count = len(state[f"{first}.weight"]) if f"{first}.weight" in state else 0
        given = {"state_dict": state, "source": "", "num_classes": count, "label_offset": 0, "custom_load": False}
        try:
            module = _create(network, size, pretrained=True, pretrained_cfg_overlay=given, num_classes=count)
        except (RuntimeError, KeyError, AttributeError) as error:
            message = " ".join(str(error).split()).removeprefix("Error(s) in loading state_dict for ")
            said = shorten(message, 300, placeholder=" …")
            raise DataError(f"{source} does not fit timm/{network}: {said}") from None
        module.pretrained_cfg.pop("state_dict", None)
        return _ending_at(layer, module, network)

    def versions(self) -> dict[str, str]:
        """timm's."""
        import timm

        return {"timm": timm.__version__}


def _create(network: str, size: int | None = None, **options: Any) -> Any:
    """timm's network with its classifier, for images of `size` px (None: its own)."""
    import timm

    name = _local(network)
    try:
        if size is not None and _config(network).get("fixed_input_size"):
            options["img_size"] = size
        return timm.create_model(name, **options)
    except (json.JSONDecodeError, KeyError):
        raise ParameterError(
            f"backbone.arch timm/{network}: its {CONFIG} is not one of timm's: name a model that was saved for timm "
            "(params.yaml: backbone.arch)"
        ) from None
    except FileNotFoundError:
        folder = name.removeprefix("local-dir:")
        raise ParameterError(
            f"backbone.arch timm/{network}: {folder} holds no {CONFIG}: name a folder that timm or `hf download` wrote "
            "(params.yaml: backbone.arch)"
        ) from None


def _local(network: str) -> str:
    """The name by which timm finds the network without the Hub: what is there is fetched into a folder first."""
    if not network.startswith("hf-hub:"):
        return network
    config = hub_file(network.removeprefix("hf-hub:"), [CONFIG], "its configuration")
    return f"local-dir:{config.parent}"


def _config(network: str) -> dict[str, Any]:
    """timm's `pretrained_cfg` of the network: image size, normalisation, licence, where its weights are."""
    module: Any = without_storage(lambda: _create(network))
    config: dict[str, Any] = module.pretrained_cfg
    return config


def _ending_at(layer: str, module: Any, network: str) -> "nn.Module":
    """The network without its classifier, whose output is `layer`."""
    module.reset_classifier(0)
    if layer != "pre_logits":
        prefix = getattr(module, "num_prefix_tokens", None)
        if prefix is None or (layer != "mean" and not prefix):
            what = "tokens" if prefix is None else "class token"
            raise ParameterError(
                f"backbone.layer {layer!r} is not in timm/{network}, which has no {what}: choose pre_logits or auto "
                "(params.yaml: backbone.layer)"
            )
        module.forward = MethodType(TOKENS[layer], module)  # not a wrapper: modules keep their names
    result: nn.Module = module
    return result


def _cls(module: Any, images: "Tensor") -> "Tensor":
    tokens: Tensor = module.forward_features(images)  # (n, T, D)
    return tokens[:, 0]


def _mean(module: Any, images: "Tensor") -> "Tensor":
    tokens: Tensor = module.forward_features(images)  # (n, T, D): class token and registers come first
    return tokens[:, module.num_prefix_tokens :].mean(1)


def _cls_and_mean(module: Any, images: "Tensor") -> "Tensor":
    import torch

    tokens: Tensor = module.forward_features(images)  # (n, T, D)
    return torch.cat((tokens[:, 0], tokens[:, module.num_prefix_tokens :].mean(1)), dim=1)  # (n, 2 D)


TOKENS = {"cls": _cls, "mean": _mean, "cls+mean": _cls_and_mean}


def _weights_file(network: str, weights: str) -> Path:
    """The file of the pretrained weights, fetched where it is not here; DataError where there is none."""
    if weights != "imagenet":
        raise ParameterError(
            f"images.weights {weights!r} exist for vgg16 only, got backbone.arch timm/{network}: use imagenet, random "
            "or file"
        )
    config = _config(network)
    about = f"licence: {config.get('license') or 'see that page'}"
    if network.startswith("local-dir:"):
        folder = Path(network.removeprefix("local-dir:"))
        for name in FILES:
            if (folder / name).is_file():
                return folder / name
        raise DataError(f"{folder} holds no weights ({', '.join(FILES[:2])}): put them there, or set images.weights")
    if network.startswith("hf-hub:"):
        return hub_file(network.removeprefix("hf-hub:"), FILES, about)
    if repo := config.get("hf_hub_id"):
        named = config.get("hf_hub_filename")
        return hub_file(repo, (named, *FILES) if named else FILES, about)
    if url := config.get("url"):
        digest = re.search(r"-([0-9a-f]{8,})$", Path(url).stem)  # how its SHA-256 begins
        return fetch(RemoteFile(url, sha256=digest[1] if digest else ""), ssdh_home() / "weights")
    raise DataError(
        f"timm/{network} has no pretrained weights: name one that has (timm.list_pretrained()), or set images.weights "
        "to random or file (params.yaml: backbone.arch)"
    )


FAMILIES = (Timm(),)
