"""Photos into a collection: only what it has not seen is encoded, then all of it is added at once.

Codes of an interrupted addition are kept under `$SSDH_HOME/work`, so that the same addition goes on where it stopped;
the collection itself changes in one transaction at the end.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssdh.core.distributed import Rank
from ssdh.core.files import read_array
from ssdh.core.resume import work_folder
from ssdh.search.collection import Added, Collection
from ssdh.search.encode import How, encode_rows, find_files, inspect

NEW = "new.csv"  # the manifest of the images that are being encoded


def add_photos(collection: Collection, inputs: Sequence[Path], how: How) -> tuple[Added, list[tuple[str, str]]]:
    """Add photos and all photos in folders; returns what was done, and (path, reason) of files that are no images.

    An exact copy of an image, in the collection or among the photos, is a further path of that image: it is neither
    encoded nor listed twice. Raises DataError, changing nothing, where another process is writing, or a file is gone
    or changes meanwhile.
    """
    with collection.writing() as writer:
        photos = inspect(*find_files(inputs), how.workers or None)
        paths = [
            ((photos.root / name).as_posix(), digest) for name, digest in zip(photos.names, photos.digests, strict=True)
        ]
        known = writer.known(photos.digests)
        first = {digest: name for name, digest in zip(reversed(photos.names), reversed(photos.digests), strict=True)}
        new = [
            (name, digest)
            for name, digest in zip(photos.names, photos.digests, strict=True)
            if digest not in known and first[digest] == name
        ]
        digests = [digest for _, digest in new]
        if not new:
            return writer.commit(paths, [], np.empty((0, 0), np.uint8)), photos.skipped
        manifest = collection.folder / NEW
        replace(photos, names=[name for name, _ in new], digests=digests).write_manifest(manifest)
        with work_folder(how.key(collection.model, manifest, collection.layout)) as work:
            rows = work / "rows.npy"
            encode_rows(manifest, photos.root, collection.model, collection.layout, rows, work, Rank(), how)
            added = writer.commit(paths, digests, read_array(rows))
        manifest.unlink()
        return added, photos.skipped
