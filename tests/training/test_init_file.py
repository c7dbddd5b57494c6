"""The network that training starts from: fresh, or a model of a file that fits."""

from pathlib import Path

import pytest
import torch

from ssdh.core.errors import DataError
from ssdh.core.params import read_recipe
from ssdh.features.backbone import build_network
from ssdh.hashing.model_file import save_hashnet
from ssdh.hashing.network import seeded_hashnet
from ssdh.training.init_file import initial_hashnet
from ssdh.training.params import TrainParams


def starting_from(path: Path) -> TrainParams:
    return TrainParams(**(read_recipe("published")["train"] | {"init_file": str(path)}))


def test_start_from_a_model(tmp_path: Path) -> None:
    empty, path = tmp_path / "none.safetensors", tmp_path / "model.safetensors"
    empty.touch()
    given = seeded_hashnet(6, 12, 5)
    given.center.fill_(2)
    save_hashnet(path, given, {"bits": 12})
    fresh = initial_hashnet(6, 12, 1, starting_from(empty))
    assert torch.equal(fresh.hash.weight, seeded_hashnet(6, 12, 1).hash.weight)
    result = initial_hashnet(6, 12, 1, starting_from(path))
    assert torch.equal(result.hash.weight, given.hash.weight)
    assert torch.equal(result.center, given.center)
    with pytest.raises(DataError, match="has 12 bits on features of 6 values, expected are 16 bits on 6"):
        initial_hashnet(6, 16, 1, starting_from(path))
    with pytest.raises(DataError, match=r"gone.safetensors does not exist"):
        initial_hashnet(6, 12, 1, starting_from(tmp_path / "gone.safetensors"))
    whole = seeded_hashnet(512, 12, 0, build_network("squeezenet1_1", "penultimate", 32))
    save_hashnet(path, whole, {"bits": 12, "arch": "squeezenet1_1", "layer": "penultimate", "size": 32})
    with pytest.raises(DataError, match=r"holds a whole network: set train.finetune to true"):
        initial_hashnet(512, 12, 1, starting_from(path))
