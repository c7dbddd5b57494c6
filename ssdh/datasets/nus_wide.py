"""NUS-WIDE (Chua et al. 2009) with its 10 or 21 most frequent concepts; multi-label photos from Flickr.

Two layouts: the official ground truth (`Groundtruth/AllLabels/Labels_<concept>.txt`, `ImageList/Imagelist.txt`,
`Concepts81.txt`), from which the k concepts with most positives are taken and the images with at least one; or the
lists that hashing repositories pass around (`img_tc10.txt` and `targets_onehot_tc10.txt`; for 21 `database_img.txt`,
`database_label_onehot.txt`, `test_img.txt`, `test_label_onehot.txt`). No archive of the photos can be downloaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.arrays import Rows
from ssdh.core.errors import DataError
from ssdh.datasets.base import (
    Dataset,
    FileParams,
    Found,
    Protocol,
    RawDataset,
    TrainCount,
    check_counts,
    refuse_bad_files,
)
from ssdh.datasets.text_lists import first_few, locate, not_there, read_binary_rows, read_lines, read_names

CONCEPTS, IMAGE_LIST, LABEL_FOLDER = "Concepts81.txt", "ImageList/Imagelist.txt", "Groundtruth/AllLabels"
IMAGE_FOLDERS = ("", "images", "Flickr")
PUBLISHED = {10: 186_577, 21: 195_834}  # images with at least one of the k concepts, on the official labels
QUERIES_21 = 2100  # of the published lists; as many are drawn where there is only the ground truth


class NusWideParams(FileParams):
    """`missing`: what an image that is listed but not there does; many of the links are dead."""

    num_train: TrainCount
    missing: Literal["fail", "skip"] = "fail"


@dataclass(frozen=True)
class _Listed:
    """All that the text files say. names: N as listed. labels: (N, k). query_pool: rows of the test list, if any."""

    classes: tuple[str, ...]
    names: list[str]
    labels: NDArray[np.uint8]
    query_pool: Rows | None = None


class NusWide(Dataset[NusWideParams]):
    """The set with its `k` (10 or 21) most frequent concepts."""

    Params = NusWideParams

    def __init__(self, k: Literal[10, 21]) -> None:
        self.k = k
        self.name = f"nus_wide_{k}"
        self.title = f"NUS-WIDE, top {k} concepts"
        self.num_images = PUBLISHED[k]
        self.about = f"{k} labels, photos not downloadable"

    @property
    def lists(self) -> tuple[str, ...]:
        """The files of the layout that is passed around."""
        if self.k == 10:
            return ("img_tc10.txt", "targets_onehot_tc10.txt")
        return ("database_img.txt", "database_label_onehot.txt", "test_img.txt", "test_label_onehot.txt")

    def find(self, params: NusWideParams) -> Found:
        """Either layout's text files."""
        root = self.root(params)
        missing_lists = [name for name in self.lists if not (root / name).is_file()]
        missing_truth = [] if _concepts(root).is_file() else [CONCEPTS]
        missing_truth += [name for name in (IMAGE_LIST, LABEL_FOLDER) if not (root / name).exists()]
        missing = missing_truth if len(missing_lists) == len(self.lists) else missing_lists
        if missing_lists and len(missing_truth) == 3:
            missing = missing_lists
        return Found(root if root.is_dir() else None, () if not missing_lists or not missing_truth else tuple(missing))

    def missing_images(self, params: NusWideParams) -> tuple[int, int]:
        """Dead links."""
        root = self.root(params)
        _, exists = locate(root, self._listed(root).names, IMAGE_FOLDERS)
        return int((~exists).sum()), len(exists)

    def ensure(self, params: NusWideParams) -> None:
        """Check the layout, and that the listed images are there or may be missing."""
        root = self.root(params)
        if missing := self.find(params).missing:
            raise DataError(
                f"{', '.join(missing)} not found in {root}: NUS-WIDE cannot be downloaded; put there the lists "
                f"{', '.join(self.lists)} or the official {LABEL_FOLDER}, {IMAGE_LIST} and {CONCEPTS}, with the "
                f"photos under images/ or Flickr/ (params.yaml: datasets.{self.name}.data.root)"
            )
        paths, exists = self._located(root, self._listed(root), params)
        present = [path for path, there in zip(paths, exists, strict=True) if there]
        check_counts(self.name, params, len(present))
        refuse_bad_files(self.name, root, present, params)

    def read(self, params: NusWideParams) -> RawDataset:
        """Photos in the order of the lists (database, then test), or of the official image list."""
        root = self.root(params)
        listed = self._listed(root)
        paths, exists = self._located(root, listed, params)
        new_row = np.cumsum(exists) - 1
        pool = listed.query_pool
        query_pool = None if pool is None else new_row[pool[exists[pool]]].astype(np.int64)
        num_query = params.num_query
        if num_query is None and query_pool is None:
            num_query = QUERIES_21 if self.k == 21 else 5000
        database = None if query_pool is None else np.setdiff1d(np.arange(exists.sum(), dtype=np.int64), query_pool)
        return RawDataset(
            classes=listed.classes,
            labels=listed.labels[exists],
            names=[path for path, there in zip(paths, exists, strict=True) if there],
            protocol=Protocol(num_query, params.num_train, query_pool=query_pool, database_pool=database),
            skipped=[(path, "missing") for path, there in zip(paths, exists, strict=True) if not there],
            counts={"missing": int((~exists).sum())},
        )

    def _listed(self, root: Path) -> _Listed:
        """Read the lists that are passed around where they are complete, else the ground truth."""
        if all((root / name).is_file() for name in self.lists):
            return self._read_lists(root)
        return self._read_truth(root)

    def _read_lists(self, root: Path) -> _Listed:
        pairs = list(zip(self.lists[::2], self.lists[1::2], strict=True))
        names = [read_names(root / images) for images, _ in pairs]
        labels = [read_binary_rows(root / rows, len(part)) for (_, rows), part in zip(pairs, names, strict=True)]
        for (_, rows), part in zip(pairs, labels, strict=True):
            if part.shape[1] != self.k:
                raise DataError(f"{root / rows} has {part.shape[1]} labels a row, {self.name} has {self.k}")
        pool = None
        if len(pairs) == 2:
            if both := set(names[0]) & set(names[1]):
                raise DataError(
                    f"{len(both)} images stand in both {pairs[0][0]} and {pairs[1][0]} of {root} "
                    f"({first_few(sorted(both))}): remove them from one"
                )
            pool = np.arange(len(names[0]), len(names[0]) + len(names[1]), dtype=np.int64)
        every_name = [name for part in names for name in part]
        listed = _Listed(_class_names(root, self.k), every_name, np.concatenate(labels), pool)
        self._compare(root, len(listed.names))
        return listed

    def _read_truth(self, root: Path) -> _Listed:
        """The k most frequent of the 81 concepts (alphabetical columns) and the images with at least one."""
        names = read_names(root / IMAGE_LIST)
        concepts = read_names(_concepts(root))
        columns = []
        for concept in concepts:
            column = read_binary_rows(root / LABEL_FOLDER / f"Labels_{concept}.txt", len(names))
            columns.append(column[:, 0])
        positives = np.array([int(column.sum()) for column in columns])
        if len(concepts) < self.k:
            raise DataError(f"{_concepts(root)} names {len(concepts)} concepts, {self.name} needs {self.k}")
        top = np.sort(np.argsort(-positives, kind="stable")[: self.k])
        labels = np.stack([columns[column] for column in top], axis=1)
        rows = np.flatnonzero(labels.any(axis=1))
        self._compare(root, len(rows))
        return _Listed(tuple(concepts[column] for column in top), [names[row] for row in rows], labels[rows])

    def _compare(self, root: Path, count: int) -> None:
        if count != PUBLISHED[self.k]:
            logger.warning("{} lists {:,} images for {}, expected {:,}", root, count, self.name, PUBLISHED[self.k])

    def _located(self, root: Path, listed: _Listed, params: NusWideParams) -> tuple[list[str], NDArray[np.bool_]]:
        """Paths relative to the root and which exist; raises DataError where they may not be missing."""
        paths, exists = locate(root, listed.names, IMAGE_FOLDERS)
        missing = [path for path, there in zip(paths, exists, strict=True) if not there]
        if len(missing) == len(paths):
            raise DataError(
                f"none of the {len(paths):,} images of {self.name} is under {root}: expected {missing[0]}, there or "
                f"in {' or '.join(f'{folder}/' for folder in IMAGE_FOLDERS[1:])}"
            )
        if missing and params.missing == "fail":
            raise DataError(
                f"{len(missing):,} of {len(paths):,} images of {self.name} are missing under {root} "
                f"({not_there(root, missing)}): add them, or leave them out (params.yaml: "
                f"datasets.{self.name}.data.missing: skip)"
            )
        return paths, exists


DATASETS = (NusWide(10), NusWide(21))


def _concepts(root: Path) -> Path:
    """The list of the 81 concepts: at the top, or in `ConceptsList/` as the authors' later archive has it."""
    inside = root / "ConceptsList" / CONCEPTS
    return inside if inside.is_file() else root / CONCEPTS


def _class_names(root: Path, k: int) -> tuple[str, ...]:
    """The lists name no concepts: numbers, unless a `classes.txt` of the right length lies beside them."""
    path = root / "classes.txt"
    if path.is_file() and len(names := tuple(" ".join(read_lines(path)).split())) == k:
        return names
    return tuple(f"label_{column}" for column in range(k))
