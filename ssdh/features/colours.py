"""Colour changes of single images, by torchvision's functions: jitter, grey, blur."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssdh.core.device import threads


class Recolouring(NamedTuple):
    """What happens to one image, in this order; the defaults change nothing.

    brightness, contrast, saturation: factors; hue: a shift, ±0.5 being half the circle; grey: without colour; sigma: of
    a Gaussian blur, in pixels.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    grey: bool = False
    sigma: float = 0.0


AS_IT_IS = Recolouring()


def recolour(images: Tensor, recolourings: Sequence[Recolouring]) -> Tensor:
    """(B, 3, H, W) uint8 or float in 0…255, image i changed by recolourings[i]; float32 where one changes.

    Image by image, on one thread of a CPU: no value depends on what else is in the batch, nor on the number of threads.
    """
    if all(one == AS_IT_IS for one in recolourings):
        return images  # without importing torchvision
    with torch.inference_mode(), threads(1 if images.device.type == "cpu" else None):
        changed = [_changed(image.float(), one) for image, one in zip(images, recolourings, strict=True)]
    return torch.stack(changed)


def _changed(image: Tensor, one: Recolouring) -> Tensor:
    """One image (3, H, W) float32 in 0…255."""
    if one == AS_IT_IS:
        return image
    from torchvision.transforms.v2 import functional

    image = image / 255
    image = functional.adjust_brightness(image, one.brightness)
    image = functional.adjust_contrast(image, one.contrast)
    image = functional.adjust_saturation(image, one.saturation)
    image = functional.adjust_hue(image, one.hue)
    if one.grey:
        image = functional.rgb_to_grayscale(image, num_output_channels=3)
    if one.sigma:
        side = image.shape[-1] // 10 | 1  # a tenth of the image, as SimCLR takes it, and odd
        image = functional.gaussian_blur(image, [side, side], [one.sigma, one.sigma])
    return image * 255
