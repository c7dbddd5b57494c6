"""Photos that come as bytes, from the page say, into a collection, in whose folder each is kept as a file."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePath

from ssdh.core.errors import DataError
from ssdh.core.files import atomic_path
from ssdh.features.decode import decode_image
from ssdh.features.image_files import EXTENSIONS
from ssdh.search.collection import Collection
from ssdh.search.collection_add import add_photos
from ssdh.search.encode import EncodeOptions

FOLDER = "photos"  # in the collection's folder

LONGEST = 40  # characters of a name that are kept


@dataclass(frozen=True)
class AddedPhoto:
    """The id of a photo in the collection; new: whether it was not there before."""

    id: int
    new: bool


@dataclass(frozen=True)
class PhotoAdder:
    """Adds photos to a collection; whoever holds it writes, so it is made only where that is allowed."""

    collection: Collection
    options: EncodeOptions

    def add(self, data: bytes, name: str) -> AddedPhoto:
        """Add a photo, unless one of the same bytes is there.

        Its code is the one that `ssdh add` gives it. Raises BadImageError where the bytes are no image and DataError
        where another process is writing or there is no space; the collection is then as before.
        """
        decode_image(data)
        digest = hashlib.sha256(data).hexdigest()
        if known := self.collection.known([digest]):
            return AddedPhoto(known[digest], False)
        path = self.collection.folder / FOLDER / file_name(name, digest)
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
        try:
            add_photos(self.collection, [path], self.options)
        except DataError:
            path.unlink(missing_ok=True)
            raise
        added = self.collection.known([digest])
        if not added:
            raise DataError("another process has removed this photo again")
        return AddedPhoto(added[digest], True)


def file_name(name: str, digest: str) -> str:
    """A name for a photo's file that no path and no system reads otherwise, told apart by its content.

    >>> file_name("../My beach?.JPG", "0123456789abcdef")
    'My beach_-0123456789ab.jpg'
    """
    given = PurePath(name.replace("\\", "/"))
    suffix = given.suffix.lower() if given.suffix.lower() in EXTENSIONS else ".jpg"
    stem = re.sub(r"[^\w -]", "_", given.stem)[:LONGEST].strip() or "photo"
    return f"{stem}-{digest[:12]}{suffix}"
