"""The estimator and the pipeline on the same features, seed and split give the same model and codes."""

import numpy as np
import pytest

from ssdh import Hasher
from ssdh.core.params import read_params
from ssdh.core.split import read_split
from tests.helpers.clone import Clone

pytestmark = pytest.mark.long


def test_the_estimator_gives_the_pipelines_bits(first_run: Clone) -> None:
    params = read_params(first_run.folder / "params.yaml")
    features = np.load(first_run.folder / "features/features.npy")
    split = read_split(first_run.folder / "data/split")
    given = {
        name: value
        for section in ("structure", "train")
        for name, value in params[section].items()
        if value is not None and name != "init_file"
    }
    hasher = Hasher(bits=params["bits"], seed=params["seed"], recipe=params["recipe"], num_train=None, **given)
    codes = hasher.fit(features[split.train]).transform(features)
    np.testing.assert_array_equal(codes, np.load(first_run.folder / "models/codes.npy"))
    np.testing.assert_array_equal(Hasher.from_run(first_run.folder).transform(features), codes)
