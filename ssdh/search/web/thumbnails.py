"""Small versions of database images, encoded once and kept in memory up to a limit."""

import io
from collections import OrderedDict
from threading import Lock
from typing import Literal, NamedTuple

from PIL import Image

from ssdh.features.decode import Pixels
from ssdh.search.gallery import Gallery

Size = Literal["thumbnail", "preview"]
SIDES: dict[Size, int] = {"thumbnail": 192, "preview": 640}  # pixels of the long side
TINY = 64  # images with no longer side are sent as they are, without loss: the page enlarges them pixel by pixel


class Picture(NamedTuple):
    """An encoded image and its media type."""

    data: bytes
    media_type: str


class Thumbnails:
    """The least recently used pictures go first; `max_bytes` bounds their encoded size."""

    def __init__(self, gallery: Gallery, max_bytes: int = 64 << 20) -> None:
        self.gallery, self.max_bytes, self.held = gallery, max_bytes, 0
        self._pictures: OrderedDict[tuple[int, Size], Picture] = OrderedDict()
        self._lock = Lock()

    def get(self, row: int, size: Size) -> Picture:
        """The picture of a row; raises DataError where its image cannot be read."""
        key = (row, size)
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        picture = encode_picture(self.gallery.pixels(row, SIDES[size]), SIDES[size])
        with self._lock:
            if key not in self._pictures:
                self._pictures[key] = picture
                self.held += len(picture.data)
            while self.held > self.max_bytes and len(self._pictures) > 1:
                _, oldest = self._pictures.popitem(last=False)
                self.held -= len(oldest.data)
        return picture


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
