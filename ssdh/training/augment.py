"""Random crops and flips for training on images; a sample's draw depends on (seed, epoch, row) and nothing else.

So a run gives the same batches for any number of workers or processes, and after resuming at any iteration.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from ssdh.core.device import to_device
from ssdh.core.errors import DataError
from ssdh.features.decode import BadImageError, decode_image
from ssdh.features.images import ArrayImages, FileImages, ImageSource, Rows
from ssdh.features.loader import BlockLoader, normalise
from ssdh.features.params import Preprocessing

SCALE = (0.08, 1.0)  # share of the image's area in a crop, as torchvision's RandomResizedCrop


LOG_RATIO = (float(np.log(3 / 4)), float(np.log(4 / 3)))  # width to height


class Augmentation:
    """Batches of a set of images, augmented and normalised, on `device`.

    Array sets are cropped and scaled on the device in one operation (bicubic); files are decoded, cropped and scaled
    in `workers` processes, which live as long as this object.
    """

    def __init__(
        self,
        source: ImageSource,
        preprocessing: Preprocessing,
        *,
        seed: int,
        workers: int = 0,
        device: torch.device | str = "cpu",
        scale: tuple[float, float] = SCALE,
    ) -> None:
        self.source, self.preprocessing, self.scale = source, preprocessing, scale
        self.seed, self.workers, self.device = seed, workers, device
        self._loader: BlockLoader | None = None

    def batches(self, batches: Sequence[Rows], epoch: int) -> Iterator[Tensor]:
        """Yield one (B, 3, size, size) float32 batch for each of `batches`.

        batches: int64 manifest rows of each batch, in the order they are wanted (of one process, or of the rest of an
        epoch after resuming). Raises DataError where a file is gone, changed or bad.
        """
        if isinstance(self.source, ArrayImages):
            for rows in batches:
                draws = np.stack([draw(self.seed, epoch, int(row), self.scale) for row in rows])
                pixels = to_device(torch.from_numpy(self.source.read(rows)), self.device).permute(0, 3, 1, 2)
                cropped = crop_on_device(pixels, draws, self.preprocessing.size)
                yield normalise(cropped, self.preprocessing)
            return
        if self._loader is None:
            dataset = _TrainBlocks(self.source, self.preprocessing, self.seed, self.scale)
            largest = max((len(rows) for rows in batches), default=0)
            self._loader = BlockLoader(dataset, self.workers, largest * 3 * self.preprocessing.size**2)
        for block in self._loader.load((epoch, rows) for rows in batches):
            yield normalise(to_device(block, self.device), self.preprocessing)


def draw(seed: int, epoch: int, row: int, scale: tuple[float, float] = SCALE) -> NDArray[np.float64]:
    """The random draw of one sample: (area, log ratio, x, y, flip), the last three uniform in [0, 1)."""
    area, ratio, x, y, flip = np.random.default_rng([seed, epoch, row]).random(5)
    low, high = scale
    return np.array([low + (high - low) * area, LOG_RATIO[0] + (LOG_RATIO[1] - LOG_RATIO[0]) * ratio, x, y, flip])


def crop_box(drawn: NDArray[np.float64], width: int, height: int) -> tuple[float, float, float, float]:
    """(left, top, crop width, crop height) in pixels inside a (width, height) image; sides are cut to the image's."""
    area, log_ratio, x, y, _ = drawn
    crop_width = min(float(width), np.sqrt(area * width * height * np.exp(log_ratio)))
    crop_height = min(float(height), np.sqrt(area * width * height / np.exp(log_ratio)))
    return x * (width - crop_width), y * (height - crop_height), crop_width, crop_height


def crop_on_device(images: Tensor, draws: NDArray[np.float64], size: int) -> Tensor:
    """(B, 3, H, W) uint8 and (B, 5) draws to (B, 3, size, size) float32 in 0…255, scaled up bicubically.

    Each output pixel samples its place in the sample's own crop, mirrored where flip < 0.5.
    """
    height, width = images.shape[-2:]
    boxes = np.array([crop_box(drawn, width, height) for drawn in draws])  # (B, 4)
    steps = (np.arange(size) + 0.5) / size  # centres of the output's pixels, 0…1
    x = boxes[:, :1] + boxes[:, 2:3] * steps  # (B, size), in pixels of the image
    y = boxes[:, 1:2] + boxes[:, 3:4] * steps
    x = np.where(draws[:, 4:] < 0.5, x[:, ::-1], x)
    xs, ys = to_device(torch.from_numpy(np.stack((2 * x / width - 1, 2 * y / height - 1))).float(), images.device)
    grid = torch.stack((xs[:, None, :].expand(-1, size, -1), ys[:, :, None].expand(-1, -1, size)), dim=3)
    sampled = functional.grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    return sampled.clamp_(0.0, 255.0)


class _TrainBlocks(Dataset["Tensor | str"]):
    """Item (epoch, rows) is a batch of image files as (B, 3, size, size) uint8, cropped, scaled and flipped."""

    def __init__(self, source: FileImages, preprocessing: Preprocessing, seed: int, scale: tuple[float, float]) -> None:
        self.source, self.preprocessing, self.seed, self.scale = source, preprocessing, seed, scale

    def __getitem__(self, batch: tuple[int, Rows]) -> Tensor | str:
        epoch, rows = batch
        try:
            return torch.cat([self._sample(epoch, int(row)) for row in rows])
        except DataError as error:
            return str(error)

    def _sample(self, epoch: int, row: int) -> Tensor:
        drawn = draw(self.seed, epoch, row, self.scale)
        size = self.preprocessing.size

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
        return batch.flip(3) if drawn[4] < 0.5 else batch
