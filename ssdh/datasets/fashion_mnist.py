"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017) from its four official files, downloaded or in a folder."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.datasets.base import (
    Dataset,
    FixedCounts,
    Found,
    Protocol,
    RawDataset,
    check_counts,
    one_hot,
)
from ssdh.features.download import RemoteFile, fetch

_HOST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

ARCHIVES = (
    RemoteFile(_HOST + "train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
    RemoteFile(_HOST + "train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 29_515),
    RemoteFile(_HOST + "t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 4_422_102),
    RemoteFile(_HOST + "t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 5_148),
)

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

NUM_IMAGES = 70_000
MOST_BYTES = 1 << 26  # of a file unpacked; the largest holds 60,000 × 784
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist


class FashionMnist(Dataset[FixedCounts]):
    """70,000 grey images of 28×28, repeated to three channels; queries are drawn per class from all of them."""

    name = "fashion_mnist"
    title = "Fashion-MNIST"
    num_images = NUM_IMAGES
    about = "10 classes, 29 MiB to download"
    Params = FixedCounts

    def root(self, params: FixedCounts) -> Path:
        """The given folder, else the cache; Debian's package where the cache is empty and it is installed."""
        folder = super().root(params)
        if params.root is None and _missing(folder) and not _missing(DEBIAN_FOLDER):
            return DEBIAN_FOLDER
        return folder

    def find(self, params: FixedCounts) -> Found:
        """The four `.gz` files."""
        folder = self.root(params)
        return Found(folder if folder.is_dir() else None, _missing(folder))

    def ensure(self, params: FixedCounts) -> None:
        """Check that the four files are there, or download them."""
        check_counts(self.name, params, NUM_IMAGES)
        folder = self.root(params)
        missing = _missing(folder)
        if missing and params.root is not None:
            raise DataError(
                f"{', '.join(missing)} not found in {params.root}: give the folder of the four .gz files, or null to "
                "download them (params.yaml: datasets.fashion_mnist.data.root)"
            )
        if missing:
            for archive in ARCHIVES:
                fetch(archive, folder)

    def read(self, params: FixedCounts) -> RawDataset:
        """Images (70000, 28, 28, 3), train then test, named `train/00000` on."""
        folder = self.root(params)
        images, targets, names = [], [], []
        for part in ("train", "t10k"):
            pixels = _read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3)
            labels = _read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 1)
            if len(pixels) != len(labels) or (len(labels) and labels.max() >= len(CLASSES)):
                raise DataError(f"{folder}: {len(pixels)} {part} images and labels that do not fit: fetch them again")
            images.append(pixels)
            targets.append(labels)
            names += [f"{part}/{row:05d}" for row in range(len(pixels))]
        grey = np.concatenate(images)
        return RawDataset(
            classes=CLASSES,
            labels=one_hot(np.concatenate(targets).astype(np.int64), len(CLASSES)),
            names=names,
            images=np.repeat(grey[..., None], 3, axis=3),
            protocol=Protocol(params.num_query, params.num_train, stratified=True),
        )


DATASETS = (FashionMnist(),)


def _missing(folder: Path) -> tuple[str, ...]:
    return tuple(archive.name for archive in ARCHIVES if not (folder / archive.name).is_file())


def _read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """A gzipped IDX file of unsigned bytes with `ndim` axes; raises DataError where it is not one."""
    try:
        with gzip.open(path) as file:
            data = file.read(MOST_BYTES)  # a few bytes may unpack to gigabytes
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}): fetch it again") from None
    header = 4 + 4 * ndim
    if len(data) < header or data[:4] != bytes((0, 0, 8, ndim)):
        raise DataError(f"{path} is not an IDX file of bytes with {ndim} axes: fetch it again")
    shape = tuple(int(length) for length in np.frombuffer(data, ">u4", count=ndim, offset=4))
    if len(data) != header + math.prod(shape):
        raise DataError(f"{path} says shape {shape} but holds {len(data) - header} bytes: fetch it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
