"""MIRFLICKR-25K (Huiskes, Lew 2008): 25,000 Flickr photos with 24 labels, or 38 with the 14 stricter `_r1` ones.

Two layouts: the official archives (`mirflickr/im1.jpg` …, and one file of image numbers a label), or the one that
hashing repositories pass around (`img.txt`, `targets.txt`, `images/`).
"""

import hashlib
import re
from pathlib import Path
from typing import Literal

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.datasets.base import (
    Dataset,
    FileParams,
    FixedCounts,
    Found,
    Protocol,
    RawDataset,
    check_counts,
    refuse_bad_files,
)
from ssdh.datasets.text_lists import check_listed, locate, read_binary_rows, read_lines, read_names
from ssdh.features.download import RemoteFile, obtain

_HOST = "https://press.liacs.nl/mirflickr/mirflickr25k.v3b/"
IMAGES = RemoteFile(_HOST + "mirflickr25k.zip", "a23d0a8564ee84cda5622a6c2f947785", 3_069_184_257)
ANNOTATIONS = RemoteFile(_HOST + "mirflickr25k_annotations_v080.zip", "aa0138c79892b1b670184d142380948f", 207_220)
IMAGE_FOLDER, ANNOTATION_FOLDER = "mirflickr", "annotations"
NUM_IMAGES = 25_000

# The columns of the targets.txt that goes around, which names none: each matches the published count of one label.
_TARGETS_MD5 = "c4267734d74da6fb0ce8da3387041d25"

_TARGETS_CLASSES = (
    *("people", "plant_life", "car", "portrait", "female", "indoor", "night", "baby"),
    *("structures", "clouds", "tree", "flower", "transport", "animals", "water", "dog"),
    *("sunset", "male", "food", "sea", "lake", "river", "sky", "bird"),
)


class Flickr25kParams(FixedCounts, FileParams):
    """`labels`: 24 or 38. `unlabelled`: keep or drop the 419 images that carry no label."""

    labels: Literal[24, 38] = 24
    unlabelled: Literal["keep", "drop"] = "keep"


class Flickr25k(Dataset[Flickr25kParams]):
    """Multi-label photos of about 500 pixels; queries are drawn from all of them."""

    name = "flickr25k"
    title = "MIRFLICKR-25K"
    num_images = NUM_IMAGES
    about = "24 or 38 labels, 2.9 GiB to download"
    Params = Flickr25kParams

    def find(self, params: Flickr25kParams) -> Found:
        """Either layout under the root."""
        root = self.root(params)
        if (root / "img.txt").is_file():
            missing = [] if (root / "targets.txt").is_file() else ["targets.txt"]
        else:
            missing = [] if (root / IMAGE_FOLDER).is_dir() else [f"{IMAGE_FOLDER}/ (or img.txt)"]
            missing += [] if _annotation_folder(root) else [f"{ANNOTATION_FOLDER}/ (or targets.txt)"]
        return Found(root if root.is_dir() else None, tuple(missing))

    def missing_images(self, params: Flickr25kParams) -> tuple[int, int]:
        """Of the list, or of the 25,000 of the archive."""
        root = self.root(params)
        if (root / "img.txt").is_file():
            _, exists = _listed(root)
            return int((~exists).sum()), len(exists)
        return NUM_IMAGES - len(_official_images(root)[0]), NUM_IMAGES

    def ensure(self, params: Flickr25kParams) -> None:
        """Check the layout of a given folder, or download and unpack both archives; every listed image must exist."""
        root = self.root(params)
        if params.root is None and not (root / "img.txt").is_file():
            obtain(ANNOTATIONS, root, root / ANNOTATION_FOLDER)
            obtain(IMAGES, root, root / IMAGE_FOLDER, member=IMAGE_FOLDER)
        if missing := self.find(params).missing:
            raise DataError(
                f"{' and '.join(missing)} not found in {root}: give a folder in the layout of the official archives "
                "or with img.txt, targets.txt and images/ (params.yaml: datasets.flickr25k.data.root)"
            )
        if (root / "img.txt").is_file():
            paths, exists = _listed(root)
            check_listed(self.name, root, paths, exists, params.on_bad_image)
        else:
            _, paths = _official_images(root)
        check_counts(self.name, params, len(paths))
        refuse_bad_files(self.name, root, paths, params)

    def read(self, params: Flickr25kParams) -> RawDataset:
        """Photos in the order of the list, or of their numbers."""
        root = self.root(params)
        if (root / "img.txt").is_file():
            paths, exists = _listed(root)
            check_listed(self.name, root, paths, exists, params.on_bad_image)
            labels = read_binary_rows(root / "targets.txt", len(paths))
            classes = _class_names(root, labels.shape[1], params)
        else:
            numbers, paths = _official_images(root)
            classes, labels = _annotations(root, numbers, params)
        dropped = 0
        if params.unlabelled == "drop":
            keep = labels.sum(axis=1) > 0
            dropped = int((~keep).sum())
            labels = labels[keep]
            paths = [path for path, kept in zip(paths, keep, strict=True) if kept]
        return RawDataset(
            classes=classes,
            labels=labels,
            names=paths,
            protocol=Protocol(params.num_query, params.num_train),
            counts={"unlabelled_dropped": dropped},
        )


DATASETS = (Flickr25k(),)


def _listed(root: Path) -> tuple[list[str], NDArray[np.bool_]]:
    """Paths of `img.txt` relative to the root, and which of them exist."""
    return locate(root, read_names(root / "img.txt"), ("images", IMAGE_FOLDER, ""))


def _class_names(root: Path, count: int, params: Flickr25kParams) -> tuple[str, ...]:
    """Names of the columns of `targets.txt`: `classes.txt` beside it, the known order, else numbers."""
    if count != params.labels:
        if count in (24, 38):
            raise DataError(
                f"{root / 'targets.txt'} has {count} labels, {params.labels} are asked for: set "
                f"datasets.flickr25k.data.labels to {count}, or use the official annotations"
            )
        logger.warning("{} has {} labels, MIRFLICKR-25K has 24 or 38: taken as they are", root / "targets.txt", count)
    if (root / "classes.txt").is_file():
        names = tuple(" ".join(read_lines(root / "classes.txt")).split())
        if len(names) != count:
            raise DataError(f"{root / 'classes.txt'} names {len(names)} classes, targets.txt has {count}")
        return names
    if hashlib.md5((root / "targets.txt").read_bytes(), usedforsecurity=False).hexdigest() == _TARGETS_MD5:
        return _TARGETS_CLASSES
    return tuple(f"label_{column}" for column in range(count))


def _official_images(root: Path) -> tuple[NDArray[np.int64], list[str]]:
    """Numbers and paths of `mirflickr/im<number>.jpg`, by number."""
    names = (re.fullmatch(r"im(\d+)\.jpg", path.name) for path in (root / IMAGE_FOLDER).iterdir())
    numbers = np.array(sorted(int(match[1]) for match in names if match), dtype=np.int64)
    if not len(numbers):
        raise DataError(f"{root / IMAGE_FOLDER} holds no im1.jpg …: unpack mirflickr25k.zip there")
    if len(numbers) != NUM_IMAGES:
        logger.warning("{} holds {:,} images, MIRFLICKR-25K has {:,}", root / IMAGE_FOLDER, len(numbers), NUM_IMAGES)
    return numbers, [f"{IMAGE_FOLDER}/im{number}.jpg" for number in numbers]


def _annotation_folder(root: Path) -> Path | None:
    """The folder of the label files; people unpack them in different places."""
    for folder in (root / ANNOTATION_FOLDER, root / "mirflickr25k_annotations_v080", root):
        if (folder / "people.txt").is_file():
            return folder
    return None


def _annotations(
    root: Path, numbers: NDArray[np.int64], params: Flickr25kParams
) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Class names in alphabetical order, and (N, C) labels of the images with these numbers.

    A label's file holds the numbers of its images, one a line; `<label>_r1.txt` are the stricter labels.
    """
    folder = _annotation_folder(root)
    assert folder is not None
    stems = sorted(path.stem for path in folder.glob("*.txt") if path.stem.lower() != "readme")
    if folder == root:  # other text files may lie there
        stems = [stem for stem in stems if stem.removesuffix("_r1") in _TARGETS_CLASSES]
    classes = [stem for stem in stems if params.labels == 38 or not stem.endswith("_r1")]
    if len(classes) != params.labels:
        raise DataError(f"{folder} has the files of {len(classes)} labels, expected {params.labels}: unpack it again")
    row_of = {int(number): row for row, number in enumerate(numbers)}
    labels = np.zeros((len(numbers), len(classes)), dtype=np.uint8)
    unknown: set[int] = set()
    for column, name in enumerate(classes):
        path = folder / f"{name}.txt"
        try:
            marked = [int(token) for token in path.read_text(encoding="ascii").split()]
        except (OSError, ValueError) as error:
            raise DataError(f"{path} must hold image numbers, one a line ({error})") from None
        labels[[row_of[number] for number in marked if number in row_of], column] = 1
        unknown.update(number for number in marked if number not in row_of)
    if unknown:
        logger.warning("{:,} annotated images are not in {}", len(unknown), root / IMAGE_FOLDER)
    return tuple(classes), labels
