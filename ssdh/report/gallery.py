"""Queries and the images nearest to them: which to show, who is nearest, and small pictures as data URIs."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssdh.core.arrays import Rows
from ssdh.core.errors import DataError
from ssdh.features.decode import BadImageError, decode_image
from ssdh.features.images import ArrayImages, open_images, read_manifest
from ssdh.hashing.codes import hamming

SIDE = 96  # pixels of a thumbnail's longer side, twice what is shown, for sharp screens
TINY = 40  # images up to this size are shown as they are, each pixel a square
NEAREST, WORST, TYPICAL = 10, 5, 5
MOST_CLASSES = 3  # class names under an image


@dataclass(frozen=True)
class Neighbour:
    """A database image: its file name, Hamming distance, picture, class names, and whether it is relevant.

    relevant: shares a label with the query; None without labels.
    """

    name: str
    distance: int
    picture: str
    classes: str
    relevant: bool | None


@dataclass(frozen=True)
class Query:
    """A query image with its average precision (None without labels) and its nearest neighbours, nearest first."""

    name: str
    picture: str
    classes: str
    average_precision: float | None
    nearest: list[Neighbour]


class Pictures:
    """Thumbnails of manifest rows as `data:` URIs; "" for a file that is gone, changed or broken.

    root: of image files; None for embeddings, of which there are names alone.
    """

    def __init__(self, images: Path, root: Path | None) -> None:
        self._source = None if root is None else open_images(images, root)
        self._names, _ = read_manifest(images)
        self.tiny = isinstance(self._source, ArrayImages) and max(self._source.shape[1:3]) <= TINY

    def uri(self, row: int) -> str:
        """The picture of a row: PNG as it is where images are tiny, else a JPEG of at most SIDE pixels."""
        pixels = self._pixels(row)
        if pixels is None:
            return ""
        image = Image.fromarray(pixels)
        buffer = io.BytesIO()
        if self.tiny:
            image.save(buffer, "PNG", optimize=True)
        else:
            image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            image.save(buffer, "JPEG", quality=78, optimize=True)
        kind = "png" if self.tiny else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"

    def name(self, row: int) -> str:
        """The last part of the row's path, or of its name in an array set; the whole name of an embedding."""
        name = self._names[row]
        return name if self._source is None else name.rsplit("/", 1)[-1]

    def _pixels(self, row: int) -> NDArray[np.uint8] | None:
        if self._source is None:
            return None
        if isinstance(self._source, ArrayImages):
            return np.array(self._source.read(np.array([row]))[0])
        try:
            return decode_image(self._source.read_bytes(row), SIDE)
        except (DataError, BadImageError):
            return None


def worst_and_typical(average_precision: NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """Positions of the queries with the lowest AP, worst first, and of some spread evenly over the rest, best first.

    >>> worst_and_typical(np.array([0.9, 0.1, 0.5]))
    ([1, 2, 0], [])
    """
    order = np.argsort(average_precision, kind="stable")
    rest = order[WORST:][::-1]
    spread = np.linspace(0, len(rest) - 1, min(TYPICAL, len(rest))).round().astype(int)
    return order[:WORST].tolist(), rest[spread].tolist()


def nearest(codes: NDArray[np.uint8], query: int, database: Rows, count: int = NEAREST) -> tuple[Rows, Rows]:
    """Rows of the `count` database items nearest to row `query`, and their distances; ties in the database's order.

    codes: (N, ⌈K/8⌉) uint8, packed; database: rows. The order inside a tie is the seeded one, that of `mAP stable`.
    """
    distances = np.concatenate(
        [hamming(codes[query : query + 1], codes[database[i : i + 65_536]])[0] for i in range(0, len(database), 65_536)]
    ).astype(np.int64)
    order = np.argsort(distances, kind="stable")[:count]
    return database[order], distances[order]


def show(
    positions: list[int],
    *,
    query: Rows,
    database: Rows,
    codes: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    classes: list[str],
    average_precision: NDArray[np.float64],
    pictures: Pictures,
) -> list[Query]:
    """The queries at `positions` of the split with their nearest images; labels (N, C), C = 0 without labels."""
    if len(codes) != len(labels):
        raise DataError(f"models/codes.npy has {len(codes)} rows, data/labels.npy {len(labels)}: run `dvc repro`")
    labelled = labels.shape[1] > 0
    shown = []
    for position in positions:
        row = int(query[position])
        rows, distances = nearest(codes, row, database)
        neighbours = [
            Neighbour(
                name=pictures.name(int(other)),
                distance=int(distance),
                picture=pictures.uri(int(other)),
                classes=class_names(labels[other], classes),
                relevant=bool((labels[row] & labels[other]).any()) if labelled else None,
            )
            for other, distance in zip(rows, distances, strict=True)
        ]
        ap = float(average_precision[position]) if len(average_precision) else None
        shown.append(Query(pictures.name(row), pictures.uri(row), class_names(labels[row], classes), ap, neighbours))
    return shown


def class_names(label: NDArray[np.uint8], classes: list[str]) -> str:
    """The names of an image's classes, at most three of them: "sky, water, people +2"."""
    names = [classes[i] if i < len(classes) else str(i) for i in np.flatnonzero(label)]
    more = f" +{len(names) - MOST_CLASSES}" if len(names) > MOST_CLASSES else ""
    return ", ".join(names[:MOST_CLASSES]) + more
