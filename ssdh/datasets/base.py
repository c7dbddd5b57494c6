"""What every data set module gives: its parameters, where its raw files lie, and its images and labels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ssdh.core.arrays import Rows
from ssdh.core.cache_dir import raw_folder
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.params import Params
from ssdh.datasets.verify import inspect_files, refuse_bad
from ssdh.features.params import ImageParams


@dataclass(frozen=True)
class Protocol:
    """How a data set is split.

    num_query: None takes all of `query_pool` if there is one, else a tenth, at most 1000. num_train: None takes 5000,
    or all of a smaller database. stratified: as many queries of each class (as even as the number allows); for sets
    with one label an image. query_pool, database_pool, train_pool: rows from which queries, database and train images
    come (None: all rows); num_train None takes all of a given train_pool.
    """

    num_query: int | None
    num_train: int | None
    stratified: bool = False
    query_pool: Rows | None = None
    database_pool: Rows | None = None
    train_pool: Rows | None = None


def default_num_query(num_images: int) -> int:
    """How many of all images are queries where no number is given."""
    return min(max(1, num_images // 10), 1000)


def default_num_train(num_images: int) -> int:
    """How many of the images that can train do so where no number is given."""
    return min(5000, num_images)


MOST_LABEL_BYTES = 4 * 2**30  # of the multi-hot matrix
FEWEST_TRAIN = 3  # images: two have one distance, which has no distribution
Count = Annotated[int, Field(strict=True, ge=1)]
TrainCount = Annotated[int, Field(strict=True, ge=FEWEST_TRAIN)]


class DataParams(Params):
    """A set's block `datasets.<name>.data`: where it lies (null: in `$SSDH_HOME`), how many images have a role."""

    root: str | None = None
    num_query: Count | None = None
    num_train: TrainCount | None = None


class FixedCounts(DataParams):
    """Of a set whose protocol gives both counts."""

    num_query: Count
    num_train: TrainCount


class FileParams(DataParams):
    """Of a set that is image files; `on_bad_image` says what a broken file does."""

    on_bad_image: Literal["fail", "skip"] = "fail"


Block = type[Params]
P = TypeVar("P", bound=DataParams)


@dataclass(frozen=True)
class RawDataset:
    """A data set as it lies on the disk, in its canonical order, which no seed changes.

    classes: C names. labels: (N, C) uint8 multi-hot; C = 0 without labels. names: N stable names, for file sets paths
    relative to the root with forward slashes. images: (N, H, W, 3) uint8 RGB of array sets, None for file sets.
    digests: of embeddings, the SHA-256 of each row's bytes, and bad: {row: reason} of rows to be left out.
    skipped: files left out already (path, reason). counts: further entries for `metrics/data.json`.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.uint8]
    names: list[str]
    protocol: Protocol
    images: NDArray[np.uint8] | None = None
    digests: list[str] | None = None
    bad: dict[int, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """Where a set was found (None: nowhere), and what is missing there, each a short text."""

    where: Path | None
    missing: tuple[str, ...] = ()


class Dataset(ABC, Generic[P]):
    """One data set of the registry; instances hold no state."""

    name: str
    title: str
    num_images: int | None = None  # None: as many as there are
    unit: str = "images"
    about: str  # what else is to say of it: "10 classes, 163 MiB to download"
    Params: type[P]
    Images: Block = ImageParams  # of its block `images`

    def root(self, params: P) -> Path:
        """The folder of the raw files, to which a file set's manifest paths are relative."""
        return raw_folder(self.name, params.model_dump())

    @abstractmethod
    def find(self, params: P) -> Found:
        """Look for the raw files, without network and without reading them whole."""

    def missing_images(self, params: P) -> tuple[int, int]:
        """(how many listed images are not there, how many are listed), once the lists are; (0, 0) for array sets."""
        return 0, 0

    @abstractmethod
    def ensure(self, params: P) -> None:
        """Make sure that the raw files are there, downloading them where that is possible.

        Quick where they are. Raises DataError with what to do: what to fetch, where to put it, its checksum.
        """

    @abstractmethod
    def read(self, params: P) -> RawDataset:
        """Read labels, names and, of array sets, pixels; raises DataError where a file does not fit."""


AnyDataset = Dataset[Any]


def check_label_size(where: str, num_rows: int, num_classes: int) -> None:
    """Raise DataError where the multi-hot matrix would be too large: a label that each row has for itself is a name."""
    if num_rows * num_classes > (MOST_LABEL_BYTES if num_rows > 2 * num_classes else MOST_LABEL_BYTES // 16):
        raise DataError(f"{where}: {num_classes:,} different values in {num_rows:,} rows are names, not classes")


def one_hot(classes: NDArray[np.integer[Any]], num_classes: int) -> NDArray[np.uint8]:
    """(N,) class numbers to (N, num_classes) uint8 with a single 1 in each row."""
    labels = np.zeros((len(classes), num_classes), dtype=np.uint8)
    labels[np.arange(len(classes)), classes] = 1
    return labels


def check_counts(
    name: str,
    params: DataParams,
    num_images: int,
    class_sizes: Sequence[int] = (),
    *,
    unit: str = "images",
    parameter: str = "root",
) -> None:
    """Raise ParameterError where queries and train images are more than the set can have; by `ensure`, early.

    class_sizes: images of each class where queries are drawn evenly over the classes, which the smallest one limits.
    """
    where = f"datasets.{name}.data"
    query, train = params.num_query or 1, params.num_train or FEWEST_TRAIN
    if num_images < 1 + FEWEST_TRAIN:
        raise ParameterError(
            f"{num_images} {unit} are too few, {1 + FEWEST_TRAIN} are the fewest to learn from and to search: "
            f"add {unit}, or name others (params.yaml: {where}.{parameter})"
        )
    most = num_images - FEWEST_TRAIN
    if class_sizes:
        most = min(most, len(class_sizes) * min(class_sizes))
    for key, asked, available in (
        ("num_query", query, most),
        ("num_train", train, max(0, num_images - query)),
    ):
        if asked > available:
            raise ParameterError(
                f"{where}.{key} asks for {asked:,} {unit}, at most {available:,} of {num_images:,} are left for it "
                f"(params.yaml: {where}.{key})"
            )


def refuse_bad_files(name: str, root: Path, paths: list[str], params: FileParams) -> None:
    """List all bad files in a DataError if data set `name` fails for them; by `ensure`, before anything is removed.

    Where they are skipped the others must be enough.
    """
    inspections = inspect_files(root, paths)
    if params.on_bad_image == "fail":
        refuse_bad(root, paths, inspections, f"datasets.{name}.data.on_bad_image")
    else:
        check_counts(name, params, sum(not item.reason for item in inspections))
