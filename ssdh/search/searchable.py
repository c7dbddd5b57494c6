"""What can be searched: the finished run in this folder, or a collection; both open the same four things."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.device import select_device
from ssdh.core.errors import DataError
from ssdh.features.images import FileImages
from ssdh.hashing.encoder import load_encoder
from ssdh.hashing.model_file import image_precision, read_metadata
from ssdh.hashing.rerank import Features
from ssdh.search import finished_run
from ssdh.search.collection import Collection, open_collection
from ssdh.search.engines import CodeTable
from ssdh.search.finished_run import SMOKE_RUN
from ssdh.search.gallery import Gallery
from ssdh.search.index import Index, Kind
from ssdh.search.photos import PhotoEncoder
from ssdh.search.texts import texts_on_demand


class Searchable(Protocol):
    """Codes of images, the images, and the network that encodes others."""

    def open_index(self, kind: Kind = "flat", *, features: bool = False) -> Index:
        """The codes, searchable, with their names and, where asked for and kept, features by which to re-rank."""

    def open_table(self) -> CodeTable:
        """The codes with ids and metadata."""

    def find_row(self, text: str) -> int | None:
        """The row of the image of this name, else of this id, in a run row number; None where there is none."""

    def open_files(self, *, features: bool) -> tuple[CodeTable, Features | None]:
        """Codes of every file, exact copies among them, and, where asked for and kept, features by the same rows."""

    def open_encoder(self) -> PhotoEncoder:
        """The network, from photos to codes."""

    def open_gallery(self, kind: Kind = "flat") -> Gallery:
        """All of it, for the page."""


@dataclass(frozen=True)
class FeatureRows:
    """The features of a collection by row; what is asked for is read."""

    collection: Collection
    ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(n, D) of these rows, each read once."""
        distinct, place = np.unique(rows, return_inverse=True)
        return self.collection.features([self.ids[row] for row in distinct])[place]


@dataclass(frozen=True)
class SearchableCollection:
    """A collection as it was when it was opened; what is added later is seen when it is opened again."""

    collection: Collection
    version: str
    table: CodeTable

    def open_table(self) -> CodeTable:
        """The codes with ids and metadata."""
        return self.table

    def open_index(self, kind: Kind = "flat", *, features: bool = False) -> Index:
        """The codes, searchable; row i is the i-th lowest id. DataError where there are none."""
        table = self.table
        if not len(table):
            raise DataError(f"{self.collection.folder} is empty: `python -m ssdh add {self.collection.folder} PHOTOS`")
        if kind != "flat":
            logger.info("building the {} index of {} codes", kind, len(table))
        kept = self._features(table) if features else None
        return Index(table.packed, bits=table.bits, names=table.metadata["name"], features=kept, kind=kind)

    def find_row(self, text: str) -> int | None:
        """The row of the image of this name, else of this id."""
        number = self.collection.id_of(text)
        if number is None and text.isdecimal():
            number = int(text)
        return self.table.ids.index(number) if number in self.table.ids else None

    def open_files(self, *, features: bool) -> tuple[CodeTable, Features | None]:
        """Codes of every file, exact copies among them with the id of their image, and features by the same rows."""
        table = self.collection.table(copies=True)
        return table, self._features(table) if features else None

    def _features(self, table: CodeTable) -> FeatureRows | None:
        """The features by the table's rows; None where the collection keeps none."""
        return None if self.collection.layout.dtype is None else FeatureRows(self.collection, table.ids)

    def open_encoder(self) -> PhotoEncoder:
        """The collection's own network."""
        model = self.collection.model
        return PhotoEncoder(load_encoder(model), select_device("auto"), image_precision(read_metadata(model)))

    def open_gallery(self, kind: Kind = "flat", before: Gallery | None = None) -> Gallery:
        """All of it, for the page; an image is read from the first of its paths.

        before: an earlier state of this collection, whose networks are taken over.
        """
        if self.collection.of_embeddings:
            raise DataError(
                f"{self.collection.folder} holds embeddings, which have no pictures to show: `python -m ssdh search` "
                "finds rows"
            )
        files = zip(self.table.metadata["name"], self.table.metadata["sha256"], strict=True)
        return Gallery(
            index=self.open_index(kind, features=True),
            images=FileImages(Path(), files),
            encode=before.encode if before else self.open_encoder(),
            title=self.collection.folder.resolve().name,
            version=self.version,
            files=lambda: self.open_files(features=True),
            ids=self.table.ids,
            texts=before.texts if before else texts_on_demand(self.collection.model),
            notice=SMOKE_RUN if read_metadata(self.collection.model).get("weights") == "random" else "",
        )


def open_searchable(collection: Path | None) -> Searchable:
    """The collection in a folder; None: the finished run in this folder."""
    if collection is None:
        return finished_run
    return searchable_collection(open_collection(collection))


def searchable_collection(collection: Collection) -> SearchableCollection:
    """A collection as it is now."""
    return SearchableCollection(collection, collection.version(), collection.table())
