"""Photos of any size to codes, by the network and the preprocessing that made the database's codes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssdh.core.device import autocast
from ssdh.core.errors import DataError
from ssdh.features.decode import BadImageError, Pixels, decode_image
from ssdh.features.image_files import EXTENSIONS, SPECIAL, check_there, image_files, is_special
from ssdh.features.loader import normalise, preprocess
from ssdh.hashing.codes import pack, sign_codes
from ssdh.hashing.encoder import Encoder
from ssdh.search.gallery import Encoded
from ssdh.search.stored_outputs import stored_outputs

BATCH = 32  # photos a pass through the network


class PhotoEncoder:
    """Encodes photos on `device`; precision "bf16" where the database's features were computed so.

    A value within rounding of zero may give another bit than the pipeline, which computes larger blocks at once.
    """

    def __init__(self, encoder: Encoder, device: torch.device, precision: str = "fp32") -> None:
        self.encoder = encoder.to(device).eval()
        self.device, self.precision = device, precision
        self.min_side = encoder.preprocessing.resize

    def __call__(self, photos: Sequence[Pixels]) -> Encoded:
        """RGB images (H, W, 3) uint8 of any sizes to packed codes, relaxed codes and the features below them."""
        model = self.encoder.model
        outputs: list[NDArray[np.float32]] = [np.empty((0, model.bits), np.float32)]
        features: list[NDArray[np.float32]] = [np.empty((0, model.dim), np.float32)]
        for start in range(0, len(photos), BATCH):
            shapes = [preprocess(photo[None], self.encoder.preprocessing) for photo in photos[start : start + BATCH]]
            batch = normalise(torch.cat(shapes).to(self.device), self.encoder.preprocessing)  # (n, 3, size, size)
            with torch.inference_mode(), autocast(self.device, self.precision):
                below = model.features(batch).float()
                features.append(below.cpu().numpy())
                outputs.append(model(below).float().cpu().numpy())
        relaxed = np.concatenate(outputs)
        return Encoded(pack(sign_codes(relaxed)), relaxed, np.concatenate(features))

    def stored_outputs(self, packed: NDArray[np.uint8], features: NDArray[Any]) -> NDArray[np.float32]:
        """Outputs (n, K) of images of the database by their codes (n, ⌈K/8⌉) and features (n, D)."""
        return stored_outputs(self.encoder.model, packed, self.encoder.bits, features, self.device)


def find_photos(path: Path) -> list[Path]:
    """The photo itself, or every image file in a folder and below, sorted; raises DataError where there is none.

    As in ingestion, hidden files and folders below are not looked at.
    """
    check_there(path)
    if path.is_dir():
        photos = sorted(path / name for name in image_files(path))
        if not photos:
            raise DataError(f"{path} holds no image file ({', '.join(sorted(EXTENSIONS)[:6])}, …)")
        return photos
    return [path]


def read_photos(
    paths: Sequence[Path], min_side: int, skipped: list[tuple[Path, str]]
) -> Iterator[list[tuple[Path, Pixels]]]:
    """Decode photos in batches that fit memory, by the rules of ingestion; bad ones go to `skipped` with the reason.

    What is no file is bad, and not opened.
    """
    for start in range(0, len(paths), BATCH):
        batch = []
        for path in paths[start : start + BATCH]:
            if is_special(path):
                skipped.append((path, SPECIAL))
                continue
            try:
                batch.append((path, decode_image(path, min_side)))
            except BadImageError as error:
                skipped.append((path, str(error)))
        if batch:
            yield batch
