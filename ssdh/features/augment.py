"""Random crops, flips and colours of images; a sample's draw depends on the numbers that the caller names it by.

Training names a sample (seed, epoch, row), views name it (SHA-256, number of the view): so any number of workers and
processes gives the same pixels, and so does resuming anywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from ssdh.core.arrays import Rows
from ssdh.core.device import to_device
from ssdh.core.errors import DataError
from ssdh.features.colours import Recolouring, recolour
from ssdh.features.decode import BadImageError, decode_image
from ssdh.features.images import ArrayImages, FileImages, ImageSource
from ssdh.features.loader import BlockLoader, normalise
from ssdh.features.params import AugmentParams, Preprocessing

# what training from images takes: the crops of torchvision's RandomResizedCrop, mirrored or not, colours as they are
CROPS = AugmentParams(scale=0.08, flip=0.5, jitter=0.0, grey=0.0, blur=0.0)
LOG_RATIO = (float(np.log(3 / 4)), float(np.log(4 / 3)))  # width to height of a crop
SIGMAS = (0.1, 2.0)  # of the blur, in pixels of the crop, as SimCLR draws them


class Draw(NamedTuple):
    """What chance decided for one sample: its crop (x, y: the crop's place in the room it has, 0…1) and its colours."""

    area: float
    log_ratio: float
    x: float
    y: float
    mirrored: bool
    colours: Recolouring


Draws = Sequence[Draw]
DrawRow = Callable[[int], Draw]  # the draw of a manifest row


def draw(numbers: Sequence[int], params: AugmentParams) -> Draw:
    """The draw of the sample that `numbers` (not negative, of any size) name."""
    area, ratio, x, y, flip, jitter, *colours, grey, blur, sigma = np.random.default_rng(list(numbers)).random(13)
    strengths = (params.brightness, params.contrast, params.saturation, params.hue)
    shifts = [(2 * value - 1) * strength for value, strength in zip(colours, strengths, strict=True)]
    if jitter >= params.jitter:
        shifts = [0.0] * 4
    return Draw(
        area=params.scale + (1 - params.scale) * area,
        log_ratio=LOG_RATIO[0] + (LOG_RATIO[1] - LOG_RATIO[0]) * ratio,
        x=x,
        y=y,
        mirrored=bool(flip < params.flip),
        colours=Recolouring(
            brightness=1 + shifts[0],
            contrast=1 + shifts[1],
            saturation=1 + shifts[2],
            hue=shifts[3],
            grey=bool(grey < params.grey),
            sigma=SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * sigma if blur < params.blur else 0.0,
        ),
    )


class Augmentation:
    """Batches of a set of images, augmented and normalised, on `device`.

    Array sets are cropped and scaled on the device in one operation (bicubic); files are decoded, cropped and scaled
    in `workers` processes, which live as long as this object. Colours change on the device.
    """

    def __init__(
        self,
        source: ImageSource,
        preprocessing: Preprocessing,
        *,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.source, self.preprocessing = source, preprocessing
        self.workers, self.device = workers, device
        self._loader: BlockLoader | None = None

    def batches(self, batches: Sequence[tuple[Rows, DrawRow]]) -> Iterator[Tensor]:
        """Yield one (B, 3, size, size) float32 batch for each of `batches`.

        batches: int64 manifest rows of each batch and what draws one of them, in the order they are wanted (of one
        process, or of the rest of an epoch after resuming). Raises DataError where a file is gone, changed or bad.
        """
        drawn = ((rows, [draw_row(int(row)) for row in rows]) for rows, draw_row in batches)
        largest = max((len(rows) for rows, _ in batches), default=0)
        for cropped, draws in self._cropped(drawn, largest):
            yield normalise(recolour(cropped, [one.colours for one in draws]), self.preprocessing)

    def _cropped(self, drawn: Iterator[tuple[Rows, Draws]], largest: int) -> Iterator[tuple[Tensor, Draws]]:
        """(B, 3, size, size) in 0…255 on the device, of arrays float32 and of files uint8, with what was drawn."""
        size = self.preprocessing.size
        if isinstance(self.source, ArrayImages):
            for rows, draws in drawn:
                pixels = to_device(torch.from_numpy(self.source.read(rows)), self.device).permute(0, 3, 1, 2)
                yield crop_on_device(pixels, draws, size), draws
            return
        if self._loader is None:
            self._loader = BlockLoader(_Crops(self.source, size), self.workers, largest * 3 * size**2)
        keys = list(drawn)
        for block, (_, draws) in zip(self._loader.load(keys), keys, strict=True):
            yield to_device(block, self.device), draws


def crop_box(drawn: Draw, width: int, height: int) -> tuple[float, float, float, float]:
    """(left, top, crop width, crop height) in pixels inside a (width, height) image; sides are cut to the image's."""
    crop_width = min(float(width), np.sqrt(drawn.area * width * height * np.exp(drawn.log_ratio)))
    crop_height = min(float(height), np.sqrt(drawn.area * width * height / np.exp(drawn.log_ratio)))
    return drawn.x * (width - crop_width), drawn.y * (height - crop_height), crop_width, crop_height


def crop_on_device(images: Tensor, draws: Draws, size: int) -> Tensor:
    """(B, 3, H, W) uint8 and B draws to (B, 3, size, size) float32 in 0…255, scaled bicubically.

    Each output pixel samples its place in the sample's own crop.
    """
    height, width = images.shape[-2:]
    boxes = np.array([crop_box(drawn, width, height) for drawn in draws])  # (B, 4)
    mirrored = np.array([drawn.mirrored for drawn in draws])
    steps = (np.arange(size) + 0.5) / size  # centres of the output's pixels, 0…1
    x = boxes[:, :1] + boxes[:, 2:3] * steps  # (B, size), in pixels of the image
    y = boxes[:, 1:2] + boxes[:, 3:4] * steps
    x = np.where(mirrored[:, None], x[:, ::-1], x)
    xs, ys = to_device(torch.from_numpy(np.stack((2 * x / width - 1, 2 * y / height - 1))).float(), images.device)
    grid = torch.stack((xs[:, None, :].expand(-1, size, -1), ys[:, :, None].expand(-1, -1, size)), dim=3)
    sampled = functional.grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    return sampled.clamp_(0.0, 255.0)


class _Crops(Dataset["Tensor | str"]):
    """Item (rows, draws) is a batch of image files as (B, 3, size, size) uint8, cropped, scaled and mirrored."""

    def __init__(self, source: FileImages, size: int) -> None:
        self.source, self.size = source, size

    def __getitem__(self, batch: tuple[Rows, Draws]) -> Tensor | str:
        try:
            return torch.cat([self._sample(int(row), drawn) for row, drawn in zip(*batch, strict=True)])
        except DataError as error:
            return str(error)

    def _sample(self, row: int, drawn: Draw) -> Tensor:
        size = self.size

        def enough(width: int, height: int) -> float:
            """The short side at which the crop still has `size` pixels each way."""
            _, _, crop_width, crop_height = crop_box(drawn, width, height)
            return min(width, height) * size / min(crop_width, crop_height)

        try:
            pixels = decode_image(self.source.read_bytes(row), enough)
        except BadImageError as error:
            raise DataError(f"{self.source.path(row)}: {error}") from None
        height, width = pixels.shape[:2]
        left, top, crop_width, crop_height = (round(value) for value in crop_box(drawn, width, height))
        crop = pixels[top : top + max(1, crop_height), left : left + max(1, crop_width)]
        batch = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None]
        batch = functional.interpolate(batch, (size, size), mode="bicubic", antialias=True).contiguous()
        return batch.flip(3) if drawn.mirrored else batch
