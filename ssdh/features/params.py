"""The parameters of images and backbone; importable without torch, so that they can be checked quickly."""

import difflib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ssdh.core.errors import DataError
from ssdh.core.params import Params, lookup, section

Triple = Annotated[list[Annotated[float, Field(strict=True)]], Field(min_length=3, max_length=3)]


Scales = Annotated[list[Annotated[float, Field(strict=True, gt=0)]], Field(min_length=3, max_length=3)]


class ImageParams(Params):
    """What a network gets to see of a data set: its block `datasets.<name>.images`."""

    size: int = Field(ge=8, le=2048)
    resize: int | None = Field(default=None, ge=8, le=4096)
    weights: Literal["imagenet", "features", "random", "file"]
    mean: Triple | None = None
    std: Scales | None = None

    @field_validator("resize")
    @classmethod
    def _holds_the_crop(cls, resize: int | None, info: ValidationInfo) -> int | None:
        size = info.data.get("size")
        if resize is not None and size is not None and resize < size:
            raise ValueError(f"must be at least size ({size}), or the crop would have a black frame")
        return resize


class NoImages(Params):
    """The same block of a set that has no images: its rows are the features, and no network is run."""

    size: None = None
    weights: Literal["none"]


def image_params(params: dict[str, Any], dataset: str) -> ImageParams | None:
    """The block `datasets.<dataset>.images`; None where the data are embeddings (`weights: none`)."""
    name = f"datasets.{dataset}.images"
    block = lookup(params, name)
    if isinstance(block, dict) and block.get("weights") == "none":
        section(params, name, NoImages)
        return None
    found: ImageParams = section(params, name, ImageParams)
    return found


@dataclass(frozen=True)
class Preprocessing:
    """Short side to `resize` pixels (bicubic, antialiased), centre crop of `size`, then (x / 255 − mean) / std."""

    resize: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class AugmentParams(Params):
    """How a random view of an image is drawn: a crop, perhaps mirrored, perhaps in other colours.

    scale: the smallest share of the image's area in a crop. flip, jitter, grey, blur: probabilities. brightness,
    contrast, saturation: a factor is drawn from 1 ± this; hue: a shift from ± this, 0.5 being half the circle.
    """

    scale: float = Field(default=0.5, gt=0, le=1)
    flip: float = Field(default=0.5, ge=0, le=1)
    jitter: float = Field(default=0.7, ge=0, le=1)
    brightness: float = Field(default=0.4, ge=0, le=1)
    contrast: float = Field(default=0.4, ge=0, le=1)
    saturation: float = Field(default=0.4, ge=0, le=1)
    hue: float = Field(default=0.1, ge=0, le=0.5)
    grey: float = Field(default=0.2, ge=0, le=1)
    blur: float = Field(default=0.5, ge=0, le=1)


class ViewsParams(AugmentParams):
    """The `views` block: how many views of each train image a recipe asks for (0: none), and how they are drawn."""

    count: int = Field(default=0, ge=0, le=1000)


class BackboneParams(Params):
    """The frozen network: architecture, feature layer, precision, and the file of `images.weights: file`."""

    arch: str
    layer: Literal["auto", "fc7", "fc6", "pool5", "penultimate"]
    precision: Literal["fp32", "bf16"]
    weights_file: str

    @field_validator("arch")
    @classmethod
    def _known(cls, arch: str) -> str:
        known = architectures()
        if arch not in known:
            close = difflib.get_close_matches(arch, known, n=3) or ["vgg16", "alexnet", "resnet50"]
            raise ValueError(f"must be a classification network of torchvision, such as {', '.join(close)}")
        return arch


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
