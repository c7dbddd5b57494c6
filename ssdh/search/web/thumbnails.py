"""Small versions of database images, encoded once; the last used ones are kept in memory."""

import io
from functools import lru_cache, partial
from typing import Literal, NamedTuple

from PIL import Image

from ssdh.features.decode import Pixels
from ssdh.search.gallery import Gallery

Size = Literal["thumbnail", "preview"]
SIDES: dict[Size, int] = {"thumbnail": 192, "preview": 640}  # pixels of the long side
KEPT: dict[Size, int] = {"thumbnail": 1024, "preview": 96}  # pictures; of noise, the worst case, 57 MiB together
TINY = 64  # images with no longer side are sent as they are, without loss: the page enlarges them pixel by pixel


class Picture(NamedTuple):
    """An encoded image and its media type."""

    data: bytes
    media_type: str


class Thumbnails:
    """Pictures of a gallery; the last used ones of each size are kept."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self._kept = {size: lru_cache(KEPT[size])(partial(self._encode, side)) for size, side in SIDES.items()}

    def get(self, row: int, size: Size) -> Picture:
        """The picture of a row; raises DataError where its image cannot be read."""
        return self._kept[size](row)

    def _encode(self, side: int, row: int) -> Picture:
        return encode_picture(self.gallery.pixels(row, side), side)


def encode_picture(pixels: Pixels, side: int) -> Picture:
    """Shrink (H, W, 3) uint8 to `side` px at most and encode it: JPEG, or PNG where it is tiny."""
    image = Image.fromarray(pixels)
    out = io.BytesIO()
    if max(image.size) <= TINY:
        image.save(out, "PNG")
        return Picture(out.getvalue(), "image/png")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.save(out, "JPEG", quality=85)
    return Picture(out.getvalue(), "image/jpeg")
