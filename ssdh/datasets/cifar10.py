"""CIFAR-10 (Krizhevsky 2009) from its official Python archive, or from a folder that holds `cifar-10-batches-py/`.

Three protocols: `cifar10` draws its queries from all images; in `cifar10_i` and `cifar10_ii` they are the official test
images, and the 50,000 others are searched.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ssdh.core.errors import DataError
from ssdh.datasets.base import (
    Count,
    Dataset,
    FixedCounts,
    Found,
    Protocol,
    RawDataset,
    TrainCount,
    check_counts,
    one_hot,
)
from ssdh.features.download import RemoteFile, obtain

ARCHIVE = RemoteFile(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170_498_071
)
FOLDER = "cifar-10-batches-py"
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
META = "batches.meta"
NUM_IMAGES, NUM_TEST = 60_000, 10_000
MOST_TUPLES = 24  # in a pickle; a batch holds six, of its array

# the globals that a pickled batch may name: what numpy arrays and Python 2 strings need, nothing else
_ALLOWED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class Cifar10(Dataset[FixedCounts]):
    """60,000 colour images of 32×32; queries are drawn per class from all of them, as in the field."""

    name = "cifar10"
    title = "CIFAR-10"
    num_images = NUM_IMAGES
    about = "10 classes, 163 MiB to download"
    Params = FixedCounts

    def find(self, params: FixedCounts) -> Found:
        """The seven files of `cifar-10-batches-py/`."""
        folder = self._folder(params)
        if not folder.is_dir():
            return Found(None, (f"{FOLDER}/",))
        return Found(folder, tuple(f"{FOLDER}/{name}" for name in (*BATCHES, META) if not (folder / name).is_file()))

    def ensure(self, params: FixedCounts) -> None:
        """Check the layout of an existing folder, or download and unpack the official archive."""
        check_counts(self.name, params, NUM_IMAGES)
        folder = self._folder(params)
        if params.root is None:
            obtain(ARCHIVE, folder.parent, folder, member=FOLDER)
        missing = self.find(params).missing
        if missing and params.root is None:
            raise DataError(f"{folder} lacks {', '.join(missing)}: remove the folder, it will be unpacked again")
        if missing:
            raise DataError(
                f"{', '.join(missing)} not found under {params.root}: give the folder that holds {FOLDER}/, or null to "
                f"download it (params.yaml: datasets.{self.name}.data.root)"
            )

    def read(self, params: FixedCounts) -> RawDataset:
        """Images in the order of the batches, train then test, named `data_batch_1/00000` on."""
        folder = self._folder(params)
        classes = _class_names(folder / META)
        images, targets, names = [], [], []
        for batch in BATCHES:
            pixels, numbers = _read_batch(folder / batch, len(classes))
            images.append(pixels)
            targets.append(numbers)
            names += [f"{batch}/{row:05d}" for row in range(len(pixels))]
        return RawDataset(
            classes=classes,
            labels=one_hot(np.concatenate(targets), len(classes)),
            names=names,
            images=np.concatenate(images),
            protocol=self.protocol(params, np.array([name.startswith(BATCHES[-1]) for name in names])),
        )

    def protocol(self, params: FixedCounts, is_test: NDArray[np.bool_]) -> Protocol:
        """Queries from all images, evenly over the classes; is_test: (N,), the official test images."""
        return Protocol(params.num_query, params.num_train, stratified=True)

    def _folder(self, params: FixedCounts) -> Path:
        root = self.root(params)
        return root if root.name == FOLDER else root / FOLDER


class Cifar10TestParams(FixedCounts):
    """Queries from the 10,000 test images, train images from the 50,000 others."""

    num_query: Annotated[Count, Field(le=NUM_TEST)]
    num_train: Annotated[TrainCount, Field(le=NUM_IMAGES - NUM_TEST)]


class Cifar10Test(Cifar10):
    """The test images are the queries, the others the database."""

    about = "10 classes, 163 MiB to download (shared with cifar10)"
    Params = Cifar10TestParams

    def __init__(self, roman: str) -> None:
        self.name, self.title = f"cifar10_{roman}", f"CIFAR-10 ({roman.upper()}: test images as queries)"

    def protocol(self, params: FixedCounts, is_test: NDArray[np.bool_]) -> Protocol:
        """Queries from the test images, evenly over the classes; database and train images from the others."""
        pools = [np.flatnonzero(rows).astype(np.int64) for rows in (is_test, ~is_test)]
        return Protocol(params.num_query, params.num_train, True, *pools)


DATASETS = (Cifar10(), Cifar10Test("i"), Cifar10Test("ii"))


class _Unpickler(pickle.Unpickler):
    """Loads arrays, lists and strings only: a pickle can otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.", 1)  # as numpy 1 and Python 2 wrote it
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 file does")
        if name == "encode":
            return _encode
        return super().find_class(module, name)


def _encode(text: str, encoding: str) -> bytes:
    """The bytes that Python 2 wrote as a text; of other encodings some make them longer, again and again."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for bytes by {encoding!r}, which no CIFAR-10 file does")
    return text.encode(encoding)


def _load(path: Path) -> dict[Any, Any]:
    """A batch file's mapping, with its text keys; files written by Python 2 and 3 both."""
    try:
        data = path.read_bytes()
        _refuse_what_grows(data)
        value = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a broken pickle may raise whatever its parts raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is not a whole CIFAR-10 file ({said}): fetch it again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold a mapping, got {type(value).__name__}: fetch it again")
    return value


def _refuse_what_grows(data: bytes) -> None:
    """Raise ValueError where a pickle puts something at a place of the memo beyond its own length, or nests tuples.

    The memo grows to any place that is named: ten bytes ask for 10 GB. A tuple of twice the same tuple, and so on, is a
    key whose hash takes years.
    """
    tuples = 0
    for operation, place, _ in pickletools.genops(data):
        if operation.name in ("PUT", "LONG_BINPUT") and int(place or 0) > len(data):
            raise ValueError(f"it names place {place} of {len(data)} bytes")
        tuples += operation.name.startswith("TUPLE")
    if tuples > MOST_TUPLES:
        raise ValueError(f"it holds {tuples} tuples")


def _class_names(path: Path) -> tuple[str, ...]:
    names = _load(path).get("label_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path} has no label_names: fetch it again")
    return tuple(names)


def _read_batch(path: Path, num_classes: int) -> tuple[Any, Any]:
    """(n, 32, 32, 3) uint8 pixels and (n,) class numbers of one batch."""
    batch = _load(path)
    data, numbers = batch.get("data"), batch.get("labels", [])
    if not isinstance(numbers, list) or not all(isinstance(number, int) and 0 <= number < 256 for number in numbers):
        raise DataError(f"{path} has labels that are no numbers: fetch it again")
    labels = np.array(numbers, np.int64)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise DataError(f"{path} must hold rows of 3072 bytes (32×32 RGB): fetch it again")
    if labels.shape != (len(data),) or (len(labels) and not 0 <= labels.min() <= labels.max() < num_classes):
        raise DataError(f"{path} has {len(data)} images and labels that do not fit them: fetch it again")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
