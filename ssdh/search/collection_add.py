"""Photos or embeddings into a collection: only what it has not seen is encoded, then all of it is added at once.

Codes of an interrupted addition are kept under `$SSDH_HOME/work`, so that the same addition goes on where it stopped;
the collection itself changes in one transaction at the end.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.distributed import Rank
from ssdh.core.errors import DataError
from ssdh.core.files import read_array, write_csv
from ssdh.core.resume import work_folder
from ssdh.datasets.columns import names_of
from ssdh.features.image_files import is_gone
from ssdh.search.collection import CONTENT, Added, Collection, Writer
from ssdh.search.embedding_array import EmbeddingArray, open_array
from ssdh.search.encode import EncodeOptions, Told, encode_rows, find_files, inspect
from ssdh.search.encode_embeddings import EmbeddingFile, encode_array, open_file

NEW = "new.csv"  # the manifest of what is being encoded

NOTHING = np.empty((0, 0), np.uint8)


def add_photos(
    collection: Collection,
    inputs: Sequence[Path],
    options: EncodeOptions,
    exclude: Sequence[str] = (),
    told: Told | None = None,
    *,
    wait: bool = False,
) -> tuple[Added, list[tuple[str, str]]]:
    """Add photos and all photos in folders; returns what was done, and (path, reason) of files that are no images.

    inputs, exclude, told: as of `find_files`. An exact copy of an image, in the collection or among the photos, is a
    further path of that image: it is neither encoded nor listed twice. A moved or renamed file has its new path alone:
    other paths of a photo at which there is no file any more are forgotten. wait: for another process that is writing.
    Raises DataError, changing nothing, where a file is gone or changes meanwhile, BusyError where another process is
    writing and is not waited for.
    """
    with collection.writing(wait=wait) as writer:
        photos = inspect(*find_files(inputs, exclude, told), options.workers or None, told)
        paths = [
            ((photos.root / name).as_posix(), digest) for name, digest in zip(photos.names, photos.digests, strict=True)
        ]
        gone = [path for path in writer.paths_of(photos.digests) if is_gone(Path(path))]
        new = _new(writer, photos.digests)
        if not len(new):
            return writer.commit(paths, [], NOTHING, gone), photos.skipped
        names, digests = ([column[row] for row in new] for column in (photos.names, photos.digests))
        manifest = collection.folder / NEW
        replace(photos, names=names, digests=digests).write_manifest(manifest)
        with _to_commit(collection, options) as (rows, work):
            encode_rows(manifest, photos.root, collection.model, collection.layout, rows, work, Rank(), options)
            added = writer.commit(paths, digests, read_array(rows), gone)
        return added, photos.skipped


def add_embeddings(collection: Collection, path: Path, options: EncodeOptions) -> Added:
    """Add the rows of a file or folder of embeddings, by the names that it holds, else as FILE:ROW.

    A row of a name that is there replaces what stood under that name. Raises DataError, changing nothing, as
    `add_photos`, and where a row is bad.
    """
    with collection.writing() as writer:
        file = open_file(path, collection.model, collection.layout)
        names = file.names or [f"{path.resolve().as_posix()}:{number}" for number in file.numbers]
        return _add_rows(writer, names, file, options)


def add_array(
    collection: Collection, features: Any, names: Sequence[str] | None, options: EncodeOptions
) -> NDArray[np.int64]:
    """Add rows (n, D) of an array or a tensor; returns their ids (n,). Waits for another process that is writing.

    names: as those of a file, else CONTENT and a row's SHA-256. Raises DataError as `add_embeddings`.
    """
    rows = open_array(features, collection.layout.dim)
    if names is None:
        names = [f"{CONTENT}{digest}" for digest in rows.digests]
    elif len(names) != len(rows.digests):
        raise DataError(f"{len(names):,} names do not fit {len(rows.digests):,} rows of features: give one a row")
    else:
        names = names_of(names, "names")
        for name in names:
            collection.check_name(name)
    with collection.writing(wait=True) as writer:
        _add_rows(writer, names, rows, options)
        ids = writer.known(rows.digests)
    return np.array([ids[digest] for digest in rows.digests], np.int64)


def _add_rows(
    writer: Writer, names: Sequence[str], rows: EmbeddingFile | EmbeddingArray, options: EncodeOptions
) -> Added:
    collection = writer.collection
    paths = list(zip(names, rows.digests, strict=True))
    new = _new(writer, rows.digests)
    if not len(new):
        return writer.commit(paths, [], NOTHING)
    digests = [rows.digests[row] for row in new]
    manifest = collection.folder / NEW
    write_csv(manifest, ("row", "path", "sha256"), ((row, names[row], rows.digests[row]) for row in new))
    with _to_commit(collection, options) as (out, work):
        encode_array(rows.taking(work), new, collection.model, collection.layout, out, work, Rank(), options)
        return writer.commit(paths, digests, read_array(out))


@contextmanager
def _to_commit(collection: Collection, options: EncodeOptions) -> Iterator[tuple[Path, Path]]:
    """(array of rows that is to be written, folder of unfinished work) of the manifest NEW, which goes at the end."""
    manifest = collection.folder / NEW
    with work_folder(options.key(collection.model, manifest, collection.layout)) as work:
        yield work / "rows.npy", work
    manifest.unlink()


def _new(writer: Writer, digests: Sequence[str]) -> NDArray[np.int64]:
    """The first row of each content that the collection has not, ascending."""
    known = writer.known(digests)
    first: dict[str, int] = {}
    for row, digest in enumerate(digests):
        first.setdefault(digest, row)
    return np.array(sorted(row for digest, row in first.items() if digest not in known), np.int64)
