"""A collection in Python: rows of embeddings come and go, and each keeps its id and its code.

    from ssdh import Collection
    mine = Collection.create("mine", hasher)                  # or the file of a trained network
    ids = mine.add(X, names=names)                            # X: (n, D), an array, a memory map or a tensor
    distances, ids = mine.search(X[:3], top=10, rerank=200)   # (3, 10) each
    mine.names(ids)

Where the network takes images: `add_photos("photos")` and `search_photos("photo.jpg")`. The folder is the one that
`ssdh add`, `search`, `list` and `remove` work on.
"""

import operator
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssdh.core.device import select_device, use_device
from ssdh.core.errors import DataError, ParameterError, one_line
from ssdh.hashing.model_file import load_hashnet
from ssdh.hashing.network import HashNet
from ssdh.search import collection as stored
from ssdh.search.collection_add import add_array, add_photos
from ssdh.search.embedding_array import open_array
from ssdh.search.embedding_queries import encode_queries
from ssdh.search.encode import EncodeOptions
from ssdh.search.gallery import Encoded
from ssdh.search.index import Index
from ssdh.search.layout import KINDS, FeatureKind
from ssdh.search.photos import PhotoEncoder, read_photos
from ssdh.search.searchable import searchable_collection

if TYPE_CHECKING:
    from ssdh.hasher import Hasher


class Found(NamedTuple):
    """What a search finds, in its order, as `Index.search` gives it but by id.

    distances: int32 (q, k), bits that differ; ids: int64 (q, k). Where a query has fewer than k results, both are −1 at
    the end.
    """

    distances: NDArray[np.int32]
    ids: NDArray[np.int64]


class Collection:
    """A folder of codes that grows; made by `create`, opened by `open`.

    Every call sees the state of that moment, whatever process changed it. Additions and removals are all or nothing;
    one that finds another under way waits for it.

    >>> import ssdh
    >>> X = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mine = Collection.create(f"{folder}/mine", ssdh.Hasher(bits=12, epochs=2).fit(X))
    ...     ids = mine.add(X, names=[f"row {number}" for number in range(200)])
    ...     mine.names(mine.search(X[:1], top=1, rerank=20).ids).tolist()
    [['row 0']]
    """

    def __init__(self, collection: stored.Collection) -> None:
        self._stored = collection
        self._opened: tuple[str, Index, NDArray[np.int64]] | None = None  # version, codes, ids by row

    @classmethod
    def create(
        cls, folder: str | Path, model: "str | Path | Hasher", *, features: FeatureKind = "float16"
    ) -> "Collection":
        """Make an empty collection in a new or empty folder.

        model: a fitted Hasher, or the file of a trained network; it is copied. features: what is kept of a row beside
        its code, to re-rank by: "float16" or "int8", 2 or 1 bytes a value, or "none". Raises DataError where the folder
        holds other things or the file is no network.
        """
        if features not in KINDS:
            raise ParameterError(f"features must be one of {', '.join(KINDS)}, got {features!r}")
        if isinstance(model, (str, Path)):
            return cls(stored.create(Path(folder), Path(model), features))
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / stored.MODEL
            model.save(file)
            return cls(stored.create(Path(folder), file, features))

    @classmethod
    def open(cls, folder: str | Path) -> "Collection":
        """Open what `create` or `ssdh add` made; DataError where it is not there or not whole."""
        return cls(stored.open_collection(Path(folder)))

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._stored.folder

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process that is handed it opens the folder itself."""
        return Collection.open, (self.folder,)

    def __len__(self) -> int:
        return len(self._stored)

    def add(self, features: ArrayLike, names: Sequence[str] | None = None) -> NDArray[np.int64]:
        """Add rows of embeddings (n, D); returns their ids (n,) int64.

        names: n different ones, by which rows are found and removed; a name that is there goes to the new row, and the
        row that had it is removed unless it has others. Without, a row is called `sha256:` and its digest. A row that
        is there, to the bit, is not added again: it keeps its id and has one name more. Raises DataError, changing
        nothing, where a row cannot be used (NaN, infinity, zeros alone, another length), names do not fit, or the
        collection holds photos.
        """
        if not self._stored.of_embeddings:
            raise DataError(f"{self.folder} holds photos: use add_photos")
        return add_array(self._stored, features, names, _options())

    def add_photos(self, photos: str | Path | Iterable[str | Path], exclude: str | Sequence[str] = ()) -> int:
        """Add photos, and all in folders, as `ssdh add` does; returns how many images are new.

        Their names are their absolute paths; one that is no image is logged and left out. exclude: a pattern, or
        several, of files in folders that are passed over. Raises DataError, changing nothing, where a path does not
        exist or holds no image.
        """
        patterns = [exclude] if isinstance(exclude, str) else exclude
        added, _ = add_photos(self._stored, _paths(photos), _options(), patterns, wait=True)
        return added.new

    def search(self, features: ArrayLike, top: int = 10, radius: int | None = None, *, rerank: int = 0) -> Found:
        """The `top` rows nearest to each of `features` (q, D): by code, equal distances by the network's outputs.

        radius, rerank: as of `Index.search`; the `rerank` nearest by code are ordered by cosine, or, where no features
        are kept, by the asymmetric score. Raises DataError for features that cannot be used and an empty collection.
        """
        rows = open_array(features, self._stored.layout.dim).values
        return self._find(encode_queries(rows, self._network, select_device("auto")), top, radius, rerank)

    def search_photos(
        self,
        photos: str | Path | Iterable[str | Path],
        top: int = 10,
        radius: int | None = None,
        *,
        rerank: int = 0,
    ) -> Found:
        """The images nearest to each of q files of photos, as `search`; DataError where one cannot be read."""
        encoder, skipped = self._photo_encoder, list[tuple[Path, str]]()
        batches = read_photos(_paths(photos), encoder.min_side, skipped)
        encoded = [encoder([pixels for _, pixels in batch]) for batch in batches]
        if skipped:
            raise DataError("\n".join(f"{one_line(str(path))}: {reason}" for path, reason in skipped))
        return self._find(Encoded(*map(np.concatenate, zip(*encoded, strict=True))), top, radius, rerank)

    def _find(self, queries: Encoded, top: int, radius: int | None, rerank: int) -> Found:
        while True:
            version, index, ids = self._index()
            try:
                distances, rows = index.search(
                    queries.packed,
                    top,
                    radius,
                    rerank=rerank,
                    query_features=queries.features,
                    query_outputs=queries.outputs,
                )
            except DataError:
                if self._stored.version() == version:  # else a row whose features were to be read went meanwhile
                    raise
            else:
                return Found(distances, np.where(rows < 0, -1, ids[rows]))

    def remove(self, wanted: int | str | Iterable[int | str]) -> int:
        """Remove rows by id or name, all or none; returns how many went.

        A name goes with its row unless the row has others, and takes names below it along (`a` those of `a/b`), as a
        folder does its photos. Raises DataError where one is not there, TypeError where one is neither a whole number
        nor a text.
        """
        each: Iterable[Any] = (
            wanted if isinstance(wanted, Iterable) and not isinstance(wanted, (str, bytes)) else [wanted]
        )
        with self._stored.writing(wait=True) as writer:
            return writer.remove([one if isinstance(one, str) else operator.index(one) for one in each]).images

    def names(self, ids: ArrayLike) -> NDArray[Any]:
        """The names of these ids, texts in an array of their shape; of several the first, of −1 the empty text.

        Raises DataError where an id is not there, TypeError where one is no whole number.
        """
        numbers = np.asarray(ids)
        numbers = numbers.astype(np.int64, casting="same_kind" if numbers.size else "unsafe")  # [] is of floats
        known = self._stored.names([number for number in np.unique(numbers).tolist() if number != -1]) | {-1: ""}
        return np.array([known[number] for number in numbers.ravel().tolist()], object).reshape(numbers.shape)

    @cached_property
    def _network(self) -> HashNet:
        return load_hashnet(self._stored.model)

    @cached_property
    def _photo_encoder(self) -> PhotoEncoder:
        return searchable_collection(self._stored).open_encoder()

    def _index(self) -> tuple[str, Index, NDArray[np.int64]]:
        """The version, its codes, searchable, and their ids by row; built anew where the collection has changed."""
        opened = self._opened
        if opened is None or opened[0] != self._stored.version():
            now = searchable_collection(self._stored)
            opened = (now.version, now.open_index(features=True), np.array(now.table.ids, np.int64))
            self._opened = opened
        return opened


def _paths(photos: str | Path | Iterable[str | Path]) -> list[Path]:
    result = [Path(photos)] if isinstance(photos, (str, Path)) else [Path(photo) for photo in photos]
    if not result:
        raise DataError("give a photo at least")
    return result


def _options() -> EncodeOptions:
    """The device that is there; photos are decoded in this process, which may be no program that others can import."""
    return EncodeOptions(use_device("auto", deterministic=True), workers=0)
