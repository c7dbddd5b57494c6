"""The parameters of images and backbone; importable without torch, so that they can be checked quickly."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ssdh.core.params import Params, lookup, section

Triple = Annotated[list[Annotated[float, Field(strict=True)]], Field(min_length=3, max_length=3)]
Scales = Annotated[list[Annotated[float, Field(strict=True, gt=0)]], Field(min_length=3, max_length=3)]


class ImageParams(Params):
    """What a network gets to see of a data set: its block `datasets.<name>.images`; None: what the weights want.

    weights: `imagenet` means the pretrained ones of the network's name, whatever they were trained on; `pretrained` is
    the same word.
    """

    size: int | None = Field(default=None, ge=8, le=2048)
    resize: int | None = Field(default=None, ge=8, le=4096)
    weights: Literal["imagenet", "features", "random", "file"]
    mean: Triple | None = None
    std: Scales | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None

    @field_validator("weights", mode="before")
    @classmethod
    def _one_word(cls, weights: Any) -> Any:
        return "imagenet" if weights == "pretrained" else weights

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
    images: ImageParams = section(params, name, ImageParams)
    return images


@dataclass(frozen=True)
class Preprocessing:
    """Short side to `resize` pixels (antialiased), centre crop of `size`, then (x / 255 − mean) / std."""

    resize: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"  # or bilinear


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
    """The `views` block: how many views of each train image a recipe asks for (0: none), and how they are drawn.

    required: whether the recipe cannot train without. Where it can, there are none by random weights, which take a crop
    far from its image.
    """

    count: int = Field(default=0, ge=0, le=1000)
    required: bool = True

    def reason_for_none(self, images: ImageParams | None) -> str:
        """Why a recipe that asks for views gets none of these images (None: embeddings); empty where it gets them."""
        if not self.count:
            return ""
        if images is None:
            return "embeddings have none"
        return "random weights see little in them" if images.weights == "random" and not self.required else ""


class BackboneParams(Params):
    """The frozen network: FAMILY/NETWORK (bare names are torchvision's), layer, precision, file of `weights: file`."""

    arch: str
    layer: str
    precision: Literal["fp32", "bf16"]
    weights_file: str

    @field_validator("arch")
    @classmethod
    def _known(cls, arch: str) -> str:
        from ssdh.features.families.registry import canonical  # whose families import this module

        return canonical(arch)

    @field_validator("layer")
    @classmethod
    def _of_the_family(cls, layer: str, info: ValidationInfo) -> str:
        from ssdh.features.families.registry import find

        if (arch := info.data.get("arch")) is not None:
            layers = ("auto", *find(arch)[0].layers)
            if layer not in layers:
                raise ValueError(f"must be one of {', '.join(layers)}")
        return layer
