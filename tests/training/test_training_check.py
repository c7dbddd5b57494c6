"""What `check` says of training before any stage removes a result."""

from pathlib import Path
from typing import Any

import pytest

from ssdh.check import check_training
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.params import section
from ssdh.features.backbone import build_network
from ssdh.features.params import BackboneParams, ImageParams
from ssdh.hashing.model_file import save_hashnet
from ssdh.hashing.network import seeded_hashnet
from ssdh.training.params import TrainParams, check_train_params
from tests.helpers.tiny import tiny_params


def check(bits: int = 12, **train: Any) -> None:
    params = tiny_params(**train)
    images: ImageParams = section(params, "datasets.digits.images", ImageParams)
    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    check_training(section(params, "train", TrainParams), backbone, images, bits)


@pytest.fixture(autouse=True)
def _in_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The placeholder is found by its relative path."""
    monkeypatch.chdir(project)


def test_modules_to_freeze() -> None:
    check(finetune=True, freeze_until="features.4")
    check(finetune=False, freeze_until="nowhere")  # not used
    with pytest.raises(ParameterError, match=r"freeze_until 'nowhere' is no part of the network"):
        check(finetune=True, freeze_until="nowhere")


def test_models_to_start_from(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_hashnet(path, seeded_hashnet(1024, 12, 0), {"bits": 12})
    check(init_file=str(path))
    check(init_file=str(path), finetune=True)
    with pytest.raises(DataError, match=r"has 12 bits on features of 1024 values, expected are 16 bits on 1024"):
        check(bits=16, init_file=str(path))
    network = seeded_hashnet(1024, 12, 0, build_network("mobilenet_v3_small", "penultimate", 32))
    save_hashnet(path, network, {"bits": 12, "arch": "mobilenet_v3_small", "layer": "penultimate", "size": 32})
    check(init_file=str(path), finetune=True)
    with pytest.raises(DataError, match=r"holds a whole network: set train.finetune to true"):
        check(init_file=str(path))
    described = {"bits": 12, "arch": "mobilenet_v3_small", "layer": "penultimate", "size": 32, "weights": "random"}
    others = {"arch": "vgg16", "layer": "fc7", "weights": "imagenet", "size": 64, "mean": [0, 0, 1], "std": [1, 1, 1]}
    for name, value in others.items():
        save_hashnet(path, network, described | {name: value})
        with pytest.raises(DataError, match=rf"train.init_file .* with {name} .* expected is .*{name} to the file's"):
            check(init_file=str(path), finetune=True)
    save_hashnet(path, seeded_hashnet(1024, 12, 0), described | {"size": 64})  # features alone: any size
    check(init_file=str(path))
    save_hashnet(path, seeded_hashnet(1024, 12, 0), described | {"backbone_precision": "bf16"})
    with pytest.raises(DataError, match=r"with backbone_precision bf16, expected is fp32: set backbone.precision to"):
        check(init_file=str(path))
    save_hashnet(path, seeded_hashnet(1024, 12, 0, power=0.7), described)
    check(init_file=str(path), power=0.7)
    with pytest.raises(DataError, match=r"trained with train.power 0.7, expected is 0: set train.power to 0.7"):
        check(init_file=str(path))
    save_hashnet(path, seeded_hashnet(1024, 12, 0, head="linear"), described)
    check(init_file=str(path), head="linear")
    with pytest.raises(DataError, match=r"has the head linear, expected is tanh: set train.head to linear"):
        check(init_file=str(path))
    path.write_bytes(b"no model, but longer than the placeholder")
    with pytest.raises(DataError, match=r"model.safetensors is not a whole model file"):
        check(init_file=str(path))


def test_no_epochs_need_a_model_to_keep(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"epochs 0 keeps a trained model, but train.init_file names none"):
        check_train_params(section(tiny_params(epochs=0), "train", TrainParams), 12)
    path = tmp_path / "model.safetensors"
    save_hashnet(path, seeded_hashnet(1024, 12, 0), {"bits": 12})
    check_train_params(section(tiny_params(epochs=0, init_file=str(path)), "train", TrainParams), 12)
