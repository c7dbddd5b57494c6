"""The GPU's code on an emulated device: every tensor where it must be, and the bits of the CPU's run.

Features, curves, weights and codes equal those of the CPU since the kernels are the CPU's. On a real card these
modules run unchanged; what it alone can show is not tested here.
"""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from ssdh.core.device import threads
from tests.helpers.emulated_cuda import DeviceError, emulated_cuda
from tests.helpers.tiny import copy_tiny, results, run_stage, start_stage, tiny_params, write_tiny

pytestmark = pytest.mark.long

STAGES = ["extract", "structure", "train", "encode", "evaluate"]
CASES: dict[str, dict[str, Any]] = {
    "hash layer": {"optimizer": "sgd", "lr": 0.1},
    "hash layer, labels made on the way": {"unknown_weight": 0.5, "target": "soft", "max_matrix_gib": 0.0},
    "whole network": {"finetune": True, "lr_backbone": 0.01, "optimizer": "sgd", "lr": 0.1},
}


def params_of(case: str, device: str) -> dict[str, Any]:
    """Parameters of a run of all stages by a small network."""
    train = dict(CASES[case])
    params = tiny_params("resnet18")
    params["structure"]["max_matrix_gib"] = train.pop("max_matrix_gib", 4.0)
    params["train"] |= train
    params["runtime"] |= {"device": device, "workers": 2 if device == "cuda" else 0}
    return params


def equal(folder: Path, other: Path) -> None:
    """Assert the same results; a model's file names its device, so its tensors are compared."""
    mine, theirs = results(folder), results(other)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] in ([], ["models/hashnet.safetensors"])
    weights, others = (load_file(run / "models/hashnet.safetensors") for run in (folder, other))
    assert all(np.array_equal(weights[name], others[name]) for name in weights)
    assert weights.keys() == others.keys()


@pytest.fixture(scope="module", params=CASES)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on the CPU and the same one on the device."""
    place = tmp_path_factory.mktemp("cuda")
    cpu = write_tiny(place / "cpu", params_of(request.param, "cpu"))
    with threads(1), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSDH_HOME", str(place / "home"))
        run_stage(cpu, *STAGES)
    device = write_tiny(place / "device", params_of(request.param, "cuda"))
    done = start_stage(device, place / "home-device", ["-m", "tests.helpers.emulated_cuda", *STAGES])
    assert done.returncode == 0, done.stderr
    return cpu, device


def assert_close(mine: Any, theirs: Any, name: str) -> None:
    """Equal but for a float's last digit, which depends on which kernel sums."""
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys(), name
        for key, value in mine.items():
            assert_close(value, theirs[key], f"{name}: {key}")
    else:
        assert theirs == (mine if isinstance(mine, str) else pytest.approx(mine, abs=1e-5)), name


def test_the_same_bits_as_on_the_cpu(runs: tuple[Path, Path]) -> None:
    cpu, device = runs
    equal(cpu, device)
    assert (cpu / "features/pseudo_labels.npy").read_bytes() == (device / "features/pseudo_labels.npy").read_bytes()
    mine, theirs = (json.loads((run / "metrics/metrics.json").read_text(encoding="utf-8")) for run in (cpu, device))
    assert_close(mine, theirs, "metrics.json")


@pytest.mark.parametrize("runs", ["whole network"], indirect=True)
def test_a_killed_training_continues_on_the_device(runs: tuple[Path, Path], tmp_path: Path) -> None:
    cpu, device = runs
    folder = copy_tiny(device, tmp_path / "run")
    for name in ("models/hashnet.safetensors", "metrics/train.csv", "metrics/validation.csv"):
        (folder / name).unlink()
    command = ["-m", "tests.helpers.emulated_cuda"]
    killed = start_stage(folder, tmp_path / "home", [*command, "--kill", "train: at an epoch's end", "train"])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = start_stage(folder, tmp_path / "home", [*command, "train"])
    assert done.returncode == 0, done.stderr
    assert "continuing from the snapshot" in done.stderr
    equal(cpu, folder)


def test_the_device_refuses_what_a_card_refuses() -> None:
    with emulated_cuda():
        tensor = torch.ones(3, device="cuda")
        assert tensor.is_cuda
        with pytest.raises(DeviceError, match="tensors on cuda:0 and on cpu"):
            tensor + torch.ones(3)
        with pytest.raises(DeviceError, match="numpy cannot look at"):
            tensor.numpy()
        assert (tensor + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]  # a scalar of the CPU is taken anywhere
        view = tensor[:2]
        view += 1
        assert tensor.cpu().tolist() == [2, 2, 1]
