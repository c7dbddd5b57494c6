"""What a network gets to see of an image, as parameters: importable without torch, so that they can be checked quickly.

What does the work is in `ssdh.images`, which hands these names on.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from ssdh.params import Params

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


@dataclass(frozen=True)
class Preprocessing:
    """Short side to `resize` pixels (bicubic, antialiased), centre crop of `size`, then (x / 255 − mean) / std."""

    resize: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
