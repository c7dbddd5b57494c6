"""COCO 2017 (Lin et al. 2014) as a multi-label set: 80 object categories; `train2017` and `val2017` together.

Two layouts: the official archives (`annotations/instances_<part>2017.json`, `train2017/`, `val2017/`), or the one that
hashing repositories pass around (`img.txt`, `targets.txt`, `images/`).
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
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
from ssdh.datasets.text_lists import check_listed, clean_name, locate, read_binary_rows, read_lines, read_names
from ssdh.features.download import RemoteFile, obtain

PARTS = {"train2017": 118_287, "val2017": 5_000}  # images

# COCO publishes no checksums: unpacking checks the archives' own (CRC-32 of each file)
ANNOTATIONS = RemoteFile("http://images.cocodataset.org/annotations/annotations_trainval2017.zip")
IMAGES = {part: RemoteFile(f"http://images.cocodataset.org/zips/{part}.zip") for part in PARTS}
NUM_CLASSES = 80


class CocoParams(FixedCounts, FileParams):
    """`unlabelled`: keep or drop the 1,069 images without an object; the field drops them and has 122,218."""

    unlabelled: Literal["keep", "drop"] = "drop"


class Coco(Dataset[CocoParams]):
    """Photos with 2.9 of 80 labels each; queries are drawn from all of them."""

    name = "coco"
    title = "COCO 2017"
    num_images = sum(PARTS.values())
    about = "80 labels, 19 GiB to download"
    Params = CocoParams

    def find(self, params: CocoParams) -> Found:
        """Either layout under the root."""
        root = self.root(params)
        if (root / "img.txt").is_file():
            missing = [] if (root / "targets.txt").is_file() else ["targets.txt"]
        else:
            missing = [name for part in PARTS if not (root / (name := _annotation_file(part))).is_file()]
            missing += [f"{part}/" for part in PARTS if not (root / part).is_dir()]
        return Found(root if root.is_dir() else None, tuple(missing))

    def missing_images(self, params: CocoParams) -> tuple[int, int]:
        """Of the list, or of the annotations."""
        root = self.root(params)
        _, exists = locate(root, _read(root)[0])
        return int((~exists).sum()), len(exists)

    def ensure(self, params: CocoParams) -> None:
        """Check the layout of a given folder, or download and unpack the archives; every listed image must exist."""
        root = self.root(params)
        if params.root is None and not (root / "img.txt").is_file():
            obtain(ANNOTATIONS, root, root / "annotations", member="annotations")
            for part, archive in IMAGES.items():
                obtain(archive, root, root / part, member=part)
        if missing := self.find(params).missing:
            raise DataError(
                f"{' and '.join(missing)} not found in {root}: give a folder in the layout of the official archives "
                "or with img.txt, targets.txt and images/ (params.yaml: datasets.coco.data.root)"
            )
        names, labels, _ = _read(root)
        names, _ = _chosen(names, labels, params)
        check_listed(self.name, root, *locate(root, names), params.on_bad_image)
        check_counts(self.name, params, len(names))
        refuse_bad_files(self.name, root, names, params)

    def read(self, params: CocoParams) -> RawDataset:
        """Photos in the order of the list, or by part and number."""
        names, labels, classes = _read(self.root(params))
        kept, kept_labels = _chosen(names, labels, params)
        return RawDataset(
            classes=classes,
            labels=kept_labels,
            names=kept,
            protocol=Protocol(params.num_query, params.num_train),
            counts={"unlabelled_dropped": len(names) - len(kept)},
        )


DATASETS = (Coco(),)


def _annotation_file(part: str) -> str:
    return f"annotations/instances_{part}.json"


def _read(root: Path) -> tuple[list[str], NDArray[np.uint8], tuple[str, ...]]:
    """Paths relative to the root, labels (N, 80) and class names, of either layout."""
    if not (root / "img.txt").is_file():
        return _official(root)
    names, _ = locate(root, read_names(root / "img.txt"), ("images", ""))
    labels = read_binary_rows(root / "targets.txt", len(names))
    if labels.shape[1] != NUM_CLASSES:
        raise DataError(f"{root / 'targets.txt'} has {labels.shape[1]} labels, COCO has {NUM_CLASSES}")
    if (root / "classes.txt").is_file():  # one a line: names hold blanks
        classes = tuple(name.strip() for name in read_lines(root / "classes.txt") if name.strip())
        if len(classes) != NUM_CLASSES:
            raise DataError(f"{root / 'classes.txt'} names {len(classes)} classes, targets.txt has {NUM_CLASSES}")
        return names, labels, classes
    return names, labels, tuple(f"label_{column}" for column in range(NUM_CLASSES))  # lists do not name their order


def _official(root: Path) -> tuple[list[str], NDArray[np.uint8], tuple[str, ...]]:
    """Of the annotation files: an image has the label of each category of which it holds an object."""
    names: list[str] = []
    blocks: list[NDArray[np.uint8]] = []
    classes: tuple[str, ...] = ()
    for part in PARTS:
        path = root / _annotation_file(part)
        content = _load(path)
        try:
            categories = sorted((int(item["id"]), str(item["name"])) for item in content["categories"])
            files = sorted((int(item["id"]), clean_name(str(item["file_name"]), path)) for item in content["images"])
            pairs = [(int(item["image_id"]), int(item["category_id"])) for item in content["annotations"]]
            column = {number: place for place, (number, _) in enumerate(categories)}
            row = {number: place for place, (number, _) in enumerate(files)}
            places = np.array([(row[image], column[category]) for image, category in pairs], np.int64).reshape(-1, 2)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path} is not a whole annotation file ({error!r}): fetch it again") from None
        own = tuple(name for _, name in categories)
        if len(own) != NUM_CLASSES or (classes and own != classes):
            raise DataError(f"{path} has {len(own)} categories, COCO has the same {NUM_CLASSES} in each file")
        classes = own
        labels = np.zeros((len(files), NUM_CLASSES), np.uint8)
        labels[places[:, 0], places[:, 1]] = 1
        blocks.append(labels)
        names += [f"{part}/{name}" for _, name in files]
    return locate(root, names)[0], np.concatenate(blocks), classes


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a whole annotation file ({error}): fetch it again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a mapping, got {type(content).__name__}: fetch it again")
    return content


def _chosen(names: list[str], labels: NDArray[np.uint8], params: CocoParams) -> tuple[list[str], NDArray[np.uint8]]:
    """All images, or those with a label."""
    keep = (labels.sum(axis=1) > 0) | (params.unlabelled == "keep")
    return [name for name, kept in zip(names, keep, strict=True) if kept], labels[keep]
