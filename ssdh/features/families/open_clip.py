"""Image towers of open_clip's models: `open_clip/MODEL/TAG`, such as `open_clip/ViT-B-32/laion2b_s34b_b79k`.

TAG names the pretrained weights; random ones and a file need none.
"""

import difflib
import importlib.util
from typing import TYPE_CHECKING, Any

from ssdh.core.cache_dir import ssdh_home
from ssdh.core.errors import ParameterError
from ssdh.features.download import RemoteFile, fetch
from ssdh.features.families.base import Family, ImageInput, check_fit, few
from ssdh.features.hub import hub_file
from ssdh.features.weights import read_weights, triple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn


FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class OpenClip(Family):
    """The features are the image embeddings, before they are scaled to unit length; modules keep open_clip's names."""

    name = "open_clip"
    layers = ("embedding",)

    def check(self, network: str) -> None:
        """Raise ValueError with close names, or with the tags of the model."""
        if importlib.util.find_spec("open_clip") is None:
            raise ValueError("of open_clip needs that package: pip install 'ssdh[open_clip]'")
        import open_clip

        model, _, tag = network.partition("/")
        if model not in open_clip.list_models():
            close = difflib.get_close_matches(model, open_clip.list_models(), n=3) or ["ViT-B-32"]
            raise ValueError(
                f"must be a model of open_clip, such as {', '.join(f'open_clip/{name}' for name in close)}"
            )
        if tag and tag not in (tags := open_clip.list_pretrained_tags_by_model(model)):
            raise ValueError(f"must end with pretrained weights of {model}: {few(tags)}")

    def build(self, network: str, layer: str, size: int, weights: str) -> "nn.Module":
        """The image tower alone."""
        from open_clip import model as models

        config = _model(network)
        vision = dict(config["vision_cfg"]) | {"image_size": size}
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False
        gelu = bool(_tag(network).get("quick_gelu", config.get("quick_gelu", False)))
        build: Any = models._build_vision_tower
        tower: nn.Module = build(config["embed_dim"], vision, gelu)
        return tower

    def input_of(self, network: str, weights: str) -> ImageInput:
        """As open_clip's own transform: the short side is the crop's."""
        from open_clip.transform import PreprocessCfg

        size = int(_model(network)["vision_cfg"]["image_size"])
        how, usual = _tag(network), PreprocessCfg()
        mean, std = how.get("mean") or usual.mean, how.get("std") or usual.std
        interpolation = how.get("interpolation") or usual.interpolation
        return ImageInput(
            size, size, triple(mean), triple(std), "bilinear" if interpolation == "bilinear" else "bicubic"
        )

    def fetch(self, network: str, weights: str) -> None:
        """The file of the pretrained weights, or DataError."""
        _weights_file(network, weights)

    def pretrained(self, network: str, weights: str) -> "dict[str, Tensor]":
        """The state dict of the whole model."""
        return read_weights(str(_weights_file(network, weights)), f"the weights of open_clip/{network}")

    def load(
        self, network: str, layer: str, size: int, weights: str, state: "dict[str, Tensor]", source: str
    ) -> "nn.Module":
        """Weights of the whole model or of its image tower alone; positions are resampled to the size."""
        from types import SimpleNamespace

        from open_clip.model import resize_pos_embed

        if any(key.startswith("visual.") for key in state):
            state = {key: value for key, value in state.items() if key.startswith("visual.")}
        else:
            state = {f"visual.{key}": value for key, value in state.items()}
        resample: Any = resize_pos_embed
        resample(state, SimpleNamespace(visual=self.build(network, layer, size, weights)))
        state = {key.removeprefix("visual."): value for key, value in state.items()}
        return super().load(network, layer, size, weights, state, source)

    def has_texts(self, network: str) -> bool:
        """Not where the tokenizer would have to come from the Hub."""
        return not any(name.startswith("hf_") for name in _model(network)["text_cfg"])

    def texts(self, network: str, weights: str, weights_file: str) -> "Callable[[Sequence[str]], Tensor]":
        """By the text tower of the whole model, whose weights must be there; random ones know no text."""
        import open_clip
        import torch

        if not self.has_texts(network) or weights == "random":
            return super().texts(network, weights, weights_file)
        model = network.partition("/")[0]
        state = read_weights(weights_file) if weights == "file" else self.pretrained(network, weights)
        whole: Any = open_clip.create_model(model, force_quick_gelu=bool(_tag(network).get("quick_gelu")))
        check_fit(whole, state, set(state), f"the weights of open_clip/{network} are not those of its whole model")
        whole.load_state_dict({name: state[name] for name in whole.state_dict()})
        whole.eval()
        tokenize = open_clip.get_tokenizer(model)

        def vectors(texts: "Sequence[str]") -> "Tensor":
            with torch.inference_mode():
                result: Tensor = whole.encode_text(tokenize(list(texts))).float()
                return result

        return vectors

    def versions(self) -> dict[str, str]:
        """open_clip's."""
        import open_clip

        return {"open_clip": str(open_clip.__version__)}


def _model(network: str) -> dict[str, Any]:
    import open_clip

    config: dict[str, Any] = open_clip.get_model_config(network.partition("/")[0])
    return config


def _tag(network: str) -> dict[str, Any]:
    """What open_clip knows of the pretrained weights; nothing where no tag is given."""
    import open_clip

    model, _, tag = network.partition("/")
    config: dict[str, Any] = open_clip.get_pretrained_cfg(model, tag) if tag else {}
    return config


def _weights_file(network: str, weights: str) -> "Path":
    """The file of the pretrained weights, fetched where it is not here; DataError where it cannot be had."""
    import open_clip

    model, _, tag = network.partition("/")
    if not tag or weights != "imagenet":
        tags = few(open_clip.list_pretrained_tags_by_model(model))
        raise ParameterError(
            f"backbone.arch open_clip/{network} with images.weights {weights!r} names no weights: write "
            f"open_clip/{model}/TAG ({tags}), or set images.weights to random or file (params.yaml: backbone.arch)"
        )
    config = _tag(network)
    if config.get("hf_hub"):
        repo, _, name = str(config["hf_hub"]).rpartition("/")
        return hub_file(repo, (name, *FILES) if name else FILES, "licence: see that page")
    return fetch(RemoteFile(str(config["url"]), sha256=str(config.get("sha256", ""))), ssdh_home() / "weights")


FAMILIES = (OpenClip(),)
