"""Several processes do what one does: the same weights, the same files; a rank that dies ends the run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.distributed_worker import CASES, main
from tests.helpers.tiny import (
    PROJECT,
    copy_tiny,
    environment,
    run_stage,
    start_stage,
    tiny_params,
    write_params,
    write_tiny,
)

pytestmark = pytest.mark.long

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the weights that one process and that three processes trained."""
    one, three = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("three")
    subprocess.run(
        [sys.executable, *LAUNCH, "3", "-m", "tests.helpers.distributed_worker", str(three)],
        check=True,
        env=environment(three),
        cwd=PROJECT,
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    main(one)
    torch.set_num_threads(before)
    return one, three


@pytest.mark.parametrize("case", CASES)
def test_three_processes_give_the_weights_of_one(weights: tuple[Path, Path], case: str) -> None:
    one, three = (torch.load(folder / f"{case}.pt", weights_only=True) for folder in weights)
    tolerance = 1e-10 if case.endswith("64") else 1e-5  # after 20 steps
    assert one.keys() == three.keys()
    for name, value in one.items():
        if value.is_floating_point():
            torch.testing.assert_close(
                three[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_training_moved_the_weights_and_left_the_statistics(weights: tuple[Path, Path]) -> None:
    from tests.helpers.distributed_worker import Backbone

    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = Backbone().state_dict()
    after = torch.load(weights[1] / "network-sgd-32.pt", weights_only=True)
    assert not torch.allclose(after["backbone.stem.0.weight"], before["stem.0.weight"])
    assert not torch.allclose(after["backbone.stem.1.weight"], before["stem.1.weight"])
    assert torch.equal(after["backbone.stem.1.running_mean"], before["stem.1.running_mean"])


# --- stages ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny workspace, whole network, that one process has run through."""
    folder = write_tiny(
        tmp_path_factory.mktemp("alone") / "run", tiny_params(finetune=True, epochs=2) | {"views": {"count": 2}}
    )
    run_stage(folder, "extract", "views", "structure", "train", "encode")
    return folder


def test_stages_in_two_processes(alone: Path, tmp_path: Path) -> None:
    folder = copy_tiny(alone, tmp_path / "run")
    written = {"extract": "features/features.npy", "views": "features/views.npy", "encode": "models/codes.npy"}
    for name in written.values():
        (folder / name).unlink()
    for stage in written:
        done = start_stage(folder, tmp_path / "home", ["-m", f"stages.{stage}"], SSDH_NPROC="2")
        assert done.returncode == 0, done.stderr
        assert f"stages.{stage}: 2 processes" in done.stderr
    for name in written.values():
        assert (folder / name).read_bytes() == (alone / name).read_bytes(), name
    done = start_stage(folder, tmp_path / "home", ["-m", "stages.train"], SSDH_NPROC="2")
    assert done.returncode == 0, done.stderr
    from ssdh.hashing.model_file import load_hashnet, read_metadata

    one, two = (load_hashnet(place / "models/hashnet.safetensors").state_dict() for place in (alone, folder))
    assert read_metadata(folder / "models/hashnet.safetensors")["processes"] == 2
    assert all(np.allclose(one[name], two[name], rtol=1e-3, atol=1e-4) for name in one)
    assert done.stderr.count("epoch 2/2") == 1  # only rank 0 speaks of progress
    lines = (tmp_path / "home" / "timings.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["stage", *written, "train"]


def test_torchrun_itself_starts_a_stage(alone: Path, tmp_path: Path) -> None:
    folder = copy_tiny(alone, tmp_path / "run")
    (folder / "models/codes.npy").unlink()
    done = start_stage(folder, tmp_path / "home", [*LAUNCH, "2", "-m", "stages.encode"])
    assert done.returncode == 0, done.stderr
    assert (folder / "models/codes.npy").read_bytes() == (alone / "models/codes.npy").read_bytes()


DIE = """
import os, pathlib, signal, sys, time
sys.argv = ["stages.train"]
from ssdh.training.finetune import NetworkTrainer
step = NetworkTrainer.step
def dying(self, iteration, *rest):
    if iteration == 2 and self.run.rank.index == {index}:
        while not list(pathlib.Path(os.environ["SSDH_HOME"]).rglob("snapshot.pt")):  # rank 0 writes it meanwhile
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, iteration, *rest)
NetworkTrainer.step = dying
from stages.train import main
main()
"""


@pytest.mark.parametrize("index", [1])
def test_a_rank_that_dies_ends_the_run(alone: Path, tmp_path: Path, index: int) -> None:
    folder = copy_tiny(alone, tmp_path / "run")
    model = folder / "models/hashnet.safetensors"
    model.unlink()
    (folder / "die.py").write_text(DIE.format(index=index))
    done = start_stage(folder, tmp_path / "home", [*LAUNCH, "2", "die.py"])
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert not model.exists()
    done = start_stage(folder, tmp_path / "home", ["-m", "stages.train"], SSDH_NPROC="2")
    assert done.returncode == 0, done.stderr
    assert "continuing from the snapshot of iteration 2" in done.stderr


def test_an_error_in_a_rank_is_one_line(alone: Path, tmp_path: Path) -> None:
    folder = copy_tiny(alone, tmp_path / "run")
    write_params(folder, tiny_params(finetune=True, freeze_until="nowhere"))
    done = start_stage(folder, tmp_path / "home", ["-m", "stages.train"], SSDH_NPROC="2")
    assert done.returncode == 1
    assert "train.freeze_until 'nowhere' is no part of the network" in done.stderr
    assert "of 2 ended with exit code 1: its own line is above" in done.stderr
    assert "Traceback" not in done.stderr
