"""What a family of networks offers: its names and layers, fresh networks, weights, and the preprocessing they want.

A family is a module of this folder with `FAMILIES`, and `backbone.arch: FAMILY/NETWORK` names one of its networks
(bare names are torchvision's). `build` is all that a network of one's own needs.

Modules of this folder import torch and the package they are about only where they are used.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdh.core.errors import DataError, ParameterError
from ssdh.features.weights import IMAGENET_MEAN, IMAGENET_STD, Triple

if TYPE_CHECKING:
    from torch import Tensor, nn


NAMED = 6  # names in a message


@dataclass(frozen=True)
class ImageInput:
    """What weights were trained to see: a short side, the centre crop of it, channels, and how pixels are resized."""

    size: int = 224
    resize: int = 256
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    interpolation: str = "bicubic"


class Family(ABC):
    """Networks of one source. `network`: what follows `FAMILY/` in `backbone.arch`; a layer is one of `layers`."""

    name: str
    layers: tuple[str, ...] = ("output",)  # values of backbone.layer; the first is what `auto` means

    def check(self, network: str) -> None:  # noqa: B027 (a family of one's own need not)
        """Raise ValueError where there is certainly no such network."""

    def layer(self, network: str, wanted: str, weights: str, weights_file: str) -> str:
        """The layer that `wanted` means; ParameterError where network or weights do not have it."""
        if wanted != "auto" and wanted not in self.layers:
            raise ParameterError(
                f"backbone.layer {wanted!r} is none of {self.name}'s ({', '.join(self.layers)}): choose one, or auto "
                "(params.yaml: backbone.layer)"
            )
        return self.layers[0] if wanted == "auto" else wanted

    def known_to_fit(self, network: str, size: int) -> bool:
        """Whether images of `size` px fit for certain; where it is not known, the network itself is tried."""
        return False

    @abstractmethod
    def build(self, network: str, layer: str, size: int, weights: str) -> "nn.Module":
        """The network with fresh weights: images (n, 3, size, size), preprocessed, to features (n, D) of `layer`.

        weights: `images.weights`, for networks that compute otherwise with some. ParameterError or ValueError where
        layer or size do not fit.
        """

    def input_of(self, network: str, weights: str) -> ImageInput:
        """The preprocessing that `images.weights` want (of a file: unless its metadata says otherwise)."""
        return ImageInput()

    def fetch(self, network: str, weights: str) -> None:
        """Make sure that the pretrained weights are on this machine; DataError with what to do where they are not."""
        raise DataError(
            f"{self.name}/{network} has no pretrained weights: set images.weights to random or file (params.yaml: "
            "datasets.<dataset>.images.weights)"
        )

    def pretrained(self, network: str, weights: str) -> "dict[str, Tensor]":
        """The pretrained weights as a state dict, fetched where they are not here; DataError as `fetch`."""
        self.fetch(network, weights)
        raise NotImplementedError

    def load(
        self, network: str, layer: str, size: int, weights: str, state: "dict[str, Tensor]", source: str
    ) -> "nn.Module":
        """The network of `build` with the weights of `state`; keys of layers that are cut off may be there too.

        source: what errors call the weights. DataError names what is missing, unknown or of another shape.
        """
        network_to_fill = fillable(lambda: self.build(network, layer, size, weights))
        check_fit(network_to_fill, state, self.all_keys(network), f"{source} does not fit {network}")
        return fill(network_to_fill, state)

    def has_texts(self, network: str) -> bool:
        """Whether `texts` gives something."""
        return False

    def texts(self, network: str, weights: str, weights_file: str) -> "Callable[[Sequence[str]], Tensor]":
        """The function from texts to vectors (n, D) float32 in the space of the features, by the same weights.

        ParameterError where there is none.
        """
        raise ParameterError(
            f"{self.name}/{network} reads no texts: that takes a backbone.arch of open_clip with its own tokenizer"
        )

    def versions(self) -> dict[str, str]:
        """Versions of the packages that compute the features, torch and torchvision apart."""
        return {}

    def module(self) -> str:
        """The family's module below `ssdh/`, without suffix: its code is part of what features depend on."""
        return type(self).__module__.removeprefix("ssdh.").replace(".", "/")

    def all_keys(self, network: str) -> set[str]:
        """Keys of the whole network that weights may have beyond those of `build`."""
        return set()


def few(names: Sequence[str]) -> str:
    """The first names of a list, for a message.

    >>> few(["openai", "laion400m_e31"]), few(list("abcdefgh")), few([])
    ('openai, laion400m_e31', 'a, b, c, d, e, f and 2 more', 'there are none')
    """
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more if names else "there are none"


def without_storage(build: "Callable[[], nn.Module]") -> "nn.Module":
    """The network that `build` makes, on the meta device: shapes without values, in milliseconds."""
    import torch

    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # RegNet computes its widths with tensors
        return build().to("meta")


def fillable(build: "Callable[[], nn.Module]") -> "nn.Module":
    """A network whose every tensor that is not in its state dict holds its value; the others may be without storage."""
    import torch

    network = without_storage(build)
    if {name for name, _ in network.named_buffers()} <= set(network.state_dict()):
        return network
    with torch.random.fork_rng(devices=[]):
        return build()


def check_fit(network: "nn.Module", state: "dict[str, Tensor]", known: set[str], message: str) -> None:
    """Raise DataError, `message` and the keys, where keys of `state` are missing, unknown or of another shape.

    known: keys beyond the network's that are no mistake.
    """
    expected = network.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in expected and key not in known]
    shapes = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    if missing or unknown or shapes:
        explanation = "; ".join(
            f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
            for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
            if keys
        )
        raise DataError(f"{message}: {explanation}; keys must be those of its state dict")


def fill(network: "nn.Module", state: "dict[str, Tensor]") -> "nn.Module":
    """Put `state`, which fits, into a network that may be without storage, as float32; returns the network."""
    import torch

    expected = network.state_dict()
    chosen = {key: state.get(key, torch.zeros((), dtype=torch.long)) for key in expected}
    chosen = {key: value.float() if value.is_floating_point() else value for key, value in chosen.items()}
    network.load_state_dict(chosen, strict=True, assign=True)
    return network.requires_grad_(True)
