"""ImageNet-100, the hundred ImageNet classes of the hashing literature (Cao, Long, Wang, Yu, ICCV 2017), from a folder.

Nothing can be downloaded: ImageNet asks for an account. The folder holds the images and the lists that go around,
`database.txt` and `test.txt`, an image a line: its path, then a 1 and 99 zeros (`train/n01440764/x.JPEG 1 0 0 …`).
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
from ssdh.datasets.text_lists import check_listed, clean_name, locate, read_lines

NUM_CLASSES = 100
LISTS = ("database.txt", "test.txt")


class ImageNet100Params(FileParams):
    """`num_query`: null = all of the test list."""

    num_train: TrainCount


class ImageNet100(Dataset[ImageNet100Params]):
    """Queries are the test list, the database is the database list."""

    name = "imagenet100"
    title = "ImageNet-100"
    about = "100 classes, from a folder with its lists"
    Params = ImageNet100Params

    def find(self, params: ImageNet100Params) -> Found:
        """Both lists under the root."""
        root = self.root(params)
        missing = tuple(name for name in LISTS if not (root / name).is_file())
        return Found(root if root.is_dir() else None, missing)

    def missing_images(self, params: ImageNet100Params) -> tuple[int, int]:
        """Of both lists."""
        root = self.root(params)
        _, exists = locate(root, [name for file in LISTS for name in _read(root / file)[0]])
        return int((~exists).sum()), len(exists)

    def ensure(self, params: ImageNet100Params) -> None:
        """Check the lists and that every listed image exists; there is no download."""
        root = self.root(params)
        if missing := self.find(params).missing:
            raise DataError(
                f"{' and '.join(missing)} not found in {root}: ImageNet cannot be downloaded without an account, give "
                "a folder with its images and both lists (params.yaml: datasets.imagenet100.data.root)"
            )
        names = self.read(params).names
        check_listed(self.name, root, *locate(root, names), params.on_bad_image)
        check_counts(self.name, params, len(names))
        refuse_bad_files(self.name, root, names, params)

    def read(self, params: ImageNet100Params) -> RawDataset:
        """Images of the database list, then those of the test list that are not in it."""
        root = self.root(params)
        (listed, labels), (listed_queries, query_labels) = (_read(root / file) for file in LISTS)
        names, queries = locate(root, listed)[0], locate(root, listed_queries)[0]
        if both := set(names) & set(queries):
            raise DataError(f"{min(both)} stands in {' and in '.join(LISTS)} of {root}: a query may not be searched")
        columns = np.concatenate([labels, query_labels])
        rows = np.arange(len(columns), dtype=np.int64)
        return RawDataset(
            classes=_class_names([*names, *queries], columns),
            labels=columns,
            names=[*names, *queries],
            protocol=Protocol(
                params.num_query, params.num_train, query_pool=rows[len(names) :], database_pool=rows[: len(names)]
            ),
        )


DATASETS = (ImageNet100(),)


def _read(path: Path) -> tuple[list[str], NDArray[np.uint8]]:
    """Paths and one-hot labels (n, 100) of a list; a path may hold blanks."""
    names: list[str] = []
    columns: list[int] = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        name, *flags = line.rsplit(maxsplit=NUM_CLASSES)
        if len(flags) != NUM_CLASSES or flags.count("1") != 1 or flags.count("0") != NUM_CLASSES - 1:
            raise DataError(f"{path} line {number} must be a path, then a 1 and {NUM_CLASSES - 1} zeros")
        names.append(clean_name(name, path))
        columns.append(flags.index("1"))
    if not names:
        raise DataError(f"{path} lists no images")
    if len(set(names)) < len(names):
        raise DataError(f"{path} lists an image twice: {max(names, key=names.count)}")
    return names, np.eye(NUM_CLASSES, dtype=np.uint8)[columns]


def _class_names(names: list[str], labels: NDArray[np.uint8]) -> tuple[str, ...]:
    """The folder of a class (`n01440764`) where its images lie in one that no other class has, else numbers."""
    folders: dict[int, set[str]] = {}
    for name, column in zip(names, labels.argmax(axis=1).tolist(), strict=True):
        if len(parts := name.split("/")) > 1 and parts[-2] != "val":
            folders.setdefault(column, set()).add(parts[-2])
    single = {column: next(iter(inside)) for column, inside in folders.items() if len(inside) == 1}
    known = single if len(set(single.values())) == len(single) == len(folders) else {}
    return tuple(known.get(column, f"class_{column}") for column in range(NUM_CLASSES))
