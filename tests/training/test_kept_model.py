"""`train.epochs: 0` keeps a trained model: a collection grows, and the codes that it had stay."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ssdh.core.files import write_array
from ssdh.core.split import Split, write_split
from ssdh.hashing.model_file import read_metadata
from tests.helpers.tiny import NUM_IMAGES, run_stage, tiny_images, tiny_params, write_params, write_tiny

FEWER = 120  # images that were there first


def grow(folder: Path, count: int) -> None:
    """Let the workspace hold the first `count` images, of which the last third trains."""
    images, labels = tiny_images()
    lines = (folder / "data/images/manifest.csv").read_text().splitlines()[: count + 1]
    (folder / "data/images/manifest.csv").write_text("\n".join(lines) + "\n")
    write_array(folder / "data/images/images.npy", images[:count])
    write_array(folder / "data/labels.npy", labels[:count])
    rows = np.arange(count)
    write_split(folder / "data/split", Split(query=rows[:20], train=rows[-count // 3 :], database=rows[20:]), count)


@pytest.mark.parametrize(
    "train",
    [
        pytest.param({"power": 0.7}, id="head"),
        pytest.param({"finetune": True, "lr_backbone": 0.01}, id="network", marks=pytest.mark.long),
    ],
)
def test_codes_stay_when_photos_are_added(tmp_path: Path, train: dict[str, Any]) -> None:
    first, grown = write_tiny(tmp_path / "first", tiny_params(**train)), tmp_path / "grown"
    grow(first, FEWER)
    run_stage(first, "extract", "views", "structure", "train", "encode")
    model = first / "models/hashnet.safetensors"
    keep = tiny_params(**train | {"epochs": 0, "init_file": str(model)})
    write_tiny(grown, keep)
    grow(grown, NUM_IMAGES)
    run_stage(grown, "extract", "views", "structure", "train", "encode")
    before, after = (load_file(folder / "models/hashnet.safetensors") for folder in (first, grown))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    old, new = np.load(first / "models/codes.npy"), np.load(grown / "models/codes.npy")
    assert len(new) == NUM_IMAGES
    assert np.array_equal(new[:FEWER], old)
    assert (grown / "metrics/train.csv").read_text() == "epoch,iteration,loss\n"
    assert read_metadata(grown / "models/hashnet.safetensors")["train"]["epochs"] == 0
    write_params(grown, tiny_params(**train))  # an ordinary run changes them
    run_stage(grown, "train", "encode")
    assert not np.array_equal(np.load(grown / "models/codes.npy")[:FEWER], old)
