"""The 1797 handwritten digits that scikit-learn ships (8×8, from UCI): the embedded default, no network needed."""

import numpy as np

from ssdh.datasets.base import Count, DataParams, Dataset, Found, RawDataset, check_counts, one_hot
from ssdh.datasets.splits import Protocol

NUM_IMAGES = 1797


class DigitsParams(DataParams):
    """The root is always null: the images come with scikit-learn."""

    root: None = None
    num_query: Count
    num_train: Count


class Digits(Dataset[DigitsParams]):
    """8×8 grey values 0…16, scaled to 0…255 and repeated to three channels."""

    name = "digits"
    title = "UCI handwritten digits"
    size = "1,797 images, 10 classes, comes with scikit-learn"
    Params = DigitsParams

    def find(self, params: DigitsParams) -> Found:
        """Inside scikit-learn's package."""
        from importlib.util import find_spec
        from pathlib import Path

        spec = find_spec("sklearn")
        if spec is None or spec.origin is None:
            return Found(None, ("the package scikit-learn",))
        return Found(Path(spec.origin).parent / "datasets")

    def ensure(self, params: DigitsParams) -> None:
        """Nothing to fetch."""
        check_counts(self.name, params, NUM_IMAGES)

    def read(self, params: DigitsParams) -> RawDataset:
        """Images (1797, 8, 8, 3), named `digits/0000` in scikit-learn's order."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
        return RawDataset(
            classes=tuple("0123456789"),
            labels=one_hot(bunch.target, 10),
            names=[f"digits/{row:04d}" for row in range(len(grey))],
            images=np.repeat(grey[..., None], 3, axis=3),
            protocol=Protocol(params.num_query, params.num_train, stratified=True),
        )
