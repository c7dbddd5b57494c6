"""The 1797 handwritten digits that scikit-learn ships (8×8, from UCI): the embedded default, no network needed."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssdh.datasets.base import (
    Dataset,
    FixedCounts,
    Found,
    Protocol,
    RawDataset,
    check_counts,
    one_hot,
)

NUM_IMAGES = 1797
CLASS_SIZES = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)


class DigitsParams(FixedCounts):
    """The root is always null: the images come with scikit-learn."""

    root: None = None


class Digits(Dataset[DigitsParams]):
    """8×8 grey values 0…16, scaled to 0…255 and repeated to three channels."""

    name = "digits"
    title = "UCI handwritten digits"
    num_images = NUM_IMAGES
    about = "10 classes, comes with scikit-learn"
    Params = DigitsParams

    def find(self, params: DigitsParams) -> Found:
        """Inside scikit-learn's package."""
        spec = find_spec("sklearn")
        if spec is None or spec.origin is None:
            return Found(None, ("the package scikit-learn",))
        return Found(Path(spec.origin).parent / "datasets")

    def ensure(self, params: DigitsParams) -> None:
        """Nothing to fetch."""
        check_counts(self.name, params, NUM_IMAGES, CLASS_SIZES)

    def read(self, params: DigitsParams) -> RawDataset:
        """Images (1797, 8, 8, 3), named `digits/0000` in scikit-learn's order."""
        pixels, digits = _read(self.find(params).where)
        grey = np.rint(pixels * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
        return RawDataset(
            classes=tuple("0123456789"),
            labels=one_hot(digits, 10),
            names=[f"digits/{row:04d}" for row in range(len(grey))],
            images=np.repeat(grey[..., None], 3, axis=3),
            protocol=Protocol(params.num_query, params.num_train, stratified=True),
        )


DATASETS = (Digits(),)


def _read(folder: Path | None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Grey values (1797, 8, 8) and classes (1797,); read here, as scikit-learn's loader imports pandas and scipy."""
    path = folder / "data" / "digits.csv.gz" if folder else None
    if path and path.is_file():
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",")  # (1797, 65)
        return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target
