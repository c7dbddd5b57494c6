"""A finished run, opened for looking: searchable codes, the images behind them, the network that encodes new ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Packed
from ssdh.core.errors import DataError
from ssdh.features.decode import BadImageError, Pixels, decode_image
from ssdh.features.images import FileImages, ImageSource
from ssdh.hashing.rerank import Features
from ssdh.search.engines import CodeTable
from ssdh.search.index import Index


class Encoded(NamedTuple):
    """What a search needs of n photos, one row a photo.

    packed: uint8 (n, ⌈bits/8⌉); outputs: (n, bits), whose signs the codes are; features: (n, D), comparable with those
    that the index keeps.
    """

    packed: Packed
    outputs: NDArray[np.float32]
    features: NDArray[np.float32]


class Encode(Protocol):
    """RGB images (H, W, 3) uint8 of any sizes to codes, outputs and features; a JPEG's short side need not be decoded
    larger than `min_side`.
    """

    min_side: int

    def __call__(self, photos: Sequence[Pixels]) -> Encoded:
        """One row a photo."""

    def stored_outputs(self, packed: Packed, features: NDArray[Any]) -> NDArray[np.float32]:
        """Outputs (n, bits) of images by their codes (n, ⌈bits/8⌉) and the features (n, D) that the index keeps."""


@dataclass(frozen=True)
class Gallery:
    """index: codes of all images, with names. images: the pixels, by the same rows. encode: photos to codes.
    title: the data set's name. version: changes whenever an image does. files: opens the codes of every file, exact
    copies among them, with features by the same rows. ids: of the rows, ascending; None: the rows themselves. texts:
    encodes texts, where the network reads some.

    labels: (N, C) multi-hot and classes: C names, where there are any. notice: what a viewer should know of the run.
    """

    index: Index
    images: ImageSource
    encode: Encode
    title: str
    version: str
    files: Callable[[], tuple[CodeTable, Features | None]]
    ids: Sequence[int] | None = None
    texts: Callable[[Sequence[str]], Encoded] | None = None
    classes: Sequence[str] = ()
    labels: NDArray[np.uint8] | None = field(default=None, repr=False)
    notice: str = ""

    def __post_init__(self) -> None:
        if len(self.images) != len(self.index):
            raise DataError(f"{len(self.index)} codes do not fit {len(self.images)} images: run `dvc repro`")

    def name(self, row: int) -> str:
        """The image's name: of a file set its path relative to the root."""
        return str(row) if self.index.names is None else self.index.names[row]

    def rows_of(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """The rows (n,) of images by their ids; −1 where an id came after the gallery was opened."""
        known, wanted = np.arange(len(self.index)) if self.ids is None else np.asarray(self.ids), np.asarray(ids)
        rows = np.searchsorted(known, wanted).astype(np.int64)
        return np.where(known[rows.clip(max=len(known) - 1)] == wanted, rows, -1)

    def classes_of(self, row: int) -> list[str]:
        """Names of the classes that an image belongs to."""
        if self.labels is None:
            return []
        return [name for name, present in zip(self.classes, self.labels[row], strict=False) if present]

    def pixels(self, row: int, min_side: int | None = None) -> Pixels:
        """An image as (H, W, 3) uint8; a JPEG may come smaller, but not below `min_side`.

        Raises DataError where the file is gone, has changed since it was listed, or cannot be decoded.
        """
        if not isinstance(self.images, FileImages):
            pixels: Pixels = self.images.read(np.array([row]))[0]
            return pixels
        try:
            return decode_image(self.images.read_bytes(row), min_side)
        except BadImageError as error:
            raise DataError(f"{self.images.path(row)}: {error}") from None
