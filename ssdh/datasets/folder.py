"""Anyone's own photos: a tree of image files without labels, with class sub-folders, or with a `labels.csv`."""

from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from loguru import logger
from numpy.typing import NDArray
from pydantic import Field

from ssdh.core.errors import DataError
from ssdh.datasets.base import (
    Dataset,
    FileParams,
    Found,
    Protocol,
    RawDataset,
    check_counts,
    check_label_size,
    one_hot,
    refuse_bad_files,
)
from ssdh.datasets.label_table import read_labels
from ssdh.datasets.text_lists import first_few, spelled_as, told_apart
from ssdh.features.image_files import Listing, image_files, is_text, list_images

LABEL_FILE = "labels.csv"


class FolderParams(FileParams):
    """`labels`: from `labels.csv`, from the names of the first-level sub-folders, none, or (auto) what is there.

    num_query: null is a tenth, at most 1000. num_train: null is 5000, or all that remain. exclude: patterns of paths
    that are left out.
    """

    root: str
    exclude: list[str] = Field(default_factory=list)
    labels: Literal["auto", "csv", "folders", "none"] = "auto"


class Folder(Dataset[FolderParams]):
    """Every file with an image's extension below the root, not hidden, excluded or in a thumbnails' folder."""

    name = "folder"
    title = "your own photos"
    about = "labels are optional"
    Params = FolderParams

    def find(self, params: FolderParams) -> Found:
        """The root, if it holds an image."""
        root = self.root(params)
        if not root.is_dir():
            return Found(None, ("the folder itself",))
        return Found(root, () if next(image_files(root, params.exclude), None) else ("images",))

    def ensure(self, params: FolderParams) -> None:
        """The root exists, holds an image, and has the labels asked for."""
        root = self.root(params)
        where = "(params.yaml: datasets.folder.data.root)"
        if not root.is_dir():
            raise DataError(f"{root} is not a folder: give the one that holds your photos {where}")
        if params.labels == "csv" and not _label_file(root):
            raise DataError(f"{root / LABEL_FILE} does not exist (params.yaml: datasets.folder.data.labels: csv)")
        names = _list(root, params).names
        check_counts(self.name, params, len(names))
        _labels_of(root, names, params)
        refuse_bad_files(self.name, root, names, params)

    def read(self, params: FolderParams) -> RawDataset:
        """Images sorted by path; C = 0 without labels."""
        root = self.root(params)
        listing = _list(root, params)
        names = listing.names
        kind, classes, labels = _labels_of(root, names, params)
        if classes and (unlabelled := int((~labels.any(axis=1)).sum())):
            logger.warning("{:,} of {:,} images carry no label in {}", unlabelled, len(names), root / LABEL_FILE)
        if passed_over := listing.passed_over():
            logger.warning("{}: passed over {}", root, passed_over)
        logger.info("{}: {:,} images, labels: {} ({} classes)", root, len(names), kind, len(classes))
        return RawDataset(
            classes=classes,
            labels=labels,
            names=names,
            protocol=Protocol(params.num_query, params.num_train),
            counts={"left_out": listing.files, "unread": listing.unread.total()},
        )


DATASETS = (Folder(),)


def _list(root: Path, params: FolderParams) -> Listing:
    """The images in order; raises DataError where there is none, or one whose name no table could hold."""
    listing = list_images(root, params.exclude)
    names = listing.names
    if not names:
        passed_over = f" that are read ({message})" if (message := listing.passed_over()) else ""
        raise DataError(
            f"{root} holds no images{passed_over}: put photos there, or name another folder "
            "(params.yaml: datasets.folder.data.root)"
        )
    unnamed = [name for name in names if not is_text(name)]
    if unnamed:
        raise DataError(
            f"{len(unnamed)} file names under {root} are not in UTF-8 ({first_few(unnamed)}): rename these files, "
            "or name another folder (params.yaml: datasets.folder.data.root)"
        )
    return listing


def _labels_of(root: Path, names: list[str], params: FolderParams) -> tuple[str, tuple[str, ...], NDArray[np.uint8]]:
    """(kind, C classes, labels (N, C)); raises DataError where images and labels do not fit."""
    kind = _kind(root, names) if params.labels == "auto" else params.labels
    return kind, *_LABELS[kind](root, names)


def _kind(root: Path, names: list[str]) -> str:
    """`labels.csv` where there is one; sub-folders where every image is in one and there are at least two."""
    if _label_file(root):
        return "csv"
    tops = {name.split("/", 1)[0] if "/" in name else "" for name in names}
    return "folders" if "" not in tops and len(tops) >= 2 else "none"


def _no_labels(root: Path, names: list[str]) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    return (), np.zeros((len(names), 0), dtype=np.uint8)


def _folder_labels(root: Path, names: list[str]) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """The first-level sub-folder is the class."""
    tops = [PurePosixPath(name).parts[0] for name in names]
    outside = [name for name in names if "/" not in name]
    if outside:
        raise DataError(
            f"{len(outside)} images of {root} are in no class sub-folder ({first_few(outside)}): move them, or set "
            "datasets.folder.data.labels to none"
        )
    classes = sorted(set(tops))
    check_label_size(f"sub-folders of {root}", len(names), len(classes))
    column_of = {name: column for column, name in enumerate(classes)}
    return tuple(classes), one_hot(np.array([column_of[top] for top in tops]), len(classes))


def _csv_labels(root: Path, names: list[str]) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """`labels.csv`: a path below the root and its labels, set apart by semicolons; a header line is recognised.

    An image that is not listed, or has an empty field, carries no label; several lines of one path add up.
    """
    path = _label_file(root) or root / LABEL_FILE
    there = set(names)
    listed = read_labels(path, there)
    spelled = spelled_as(list(listed), there)
    labels_of: dict[str, set[str]] = {}
    for name, own in listed.items():
        labels_of.setdefault(spelled.get(name, name), set()).update(own)
    if absent := [name for name in labels_of if name not in there]:
        raise DataError(
            f"{len(absent)} images of {path} are not in {root} ({told_apart(absent, there)}): correct the paths (they "
            "are relative to the folder of labels.csv) or remove the lines"
        )
    classes = sorted(set().union(*labels_of.values()))
    if not classes:
        raise DataError(f"{path} holds no label: write path,label[;label…] lines, or remove it")
    check_label_size(str(path), len(names), len(classes))
    row_of = {name: row for row, name in enumerate(names)}
    labels = np.zeros((len(names), len(classes)), dtype=np.uint8)
    column_of = {name: column for column, name in enumerate(classes)}
    for name, own in labels_of.items():
        labels[row_of[name], [column_of[label] for label in own]] = 1
    return tuple(classes), labels


def _label_file(root: Path) -> Path | None:
    """`labels.csv` in the root, or the one file there whose name differs from it in capitals only."""
    if (root / LABEL_FILE).is_file():
        return root / LABEL_FILE
    files = sorted(path for path in root.iterdir() if path.name.lower() == LABEL_FILE and path.is_file())
    if len(files) > 1:
        raise DataError(f"{root} holds {first_few([path.name for path in files])}: keep one, as {LABEL_FILE}")
    return files[0] if files else None


_LABELS = {"none": _no_labels, "folders": _folder_labels, "csv": _csv_labels}
