"""Kill a stage anywhere: the next run continues and ends with the same bytes; nothing torn is taken for whole."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from ssdh.core.resume import work_folder
from tests.helpers import killing
from tests.helpers.tiny import copy_tiny, environment, results, tiny_params, write_tiny

pytestmark = pytest.mark.long

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["tests.helpers.killing", "stages.extract", "stages.views", "stages.structure", "stages.train", "stages.encode"]
)
STAGES = ["extract", "views", "structure", "train", "encode"]


def run(folder: Path, home: Path, stages: list[str], point: str | None = None) -> int | None:
    """Run stages in a process of their own; returns its exit code, −9 if it was killed."""
    process = SERVER.Process(target=killing.run, args=(folder, home, stages, point))
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that nothing has interrupted."""
    place = tmp_path_factory.mktemp("whole")
    folder = write_tiny(place / "run", tiny_params(finetune=True, lr_backbone=0.001) | {"views": {"count": 2}})
    assert run(folder, place / "home", STAGES) == 0
    return folder


@pytest.mark.parametrize("point", killing.POINTS)
def test_killed_at_a_named_point(whole: Path, tmp_path: Path, point: str) -> None:
    stage = killing.POINTS[point][0]
    folder, home = copy_tiny(whole, tmp_path / "run"), tmp_path / "home"
    outs = {"extract": ["features/features.npy"], "encode": ["models/codes.npy"]}
    outs["views"] = ["features/views.npy"]
    outs["train"] = ["models/hashnet.safetensors", "metrics/train.csv", "metrics/validation.csv"]
    for name in outs[stage]:  # as DVC does before it runs a stage
        (folder / name).unlink()
    assert run(folder, home, [stage], point) == -signal.SIGKILL
    for name in outs[stage]:
        if (folder / name).exists():
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), "a torn file stands in its place"
    for name in outs[stage]:
        (folder / name).unlink(missing_ok=True)
    assert run(folder, home, [stage]) == 0
    assert results(folder) == results(whole)
    left = [path for path in folder.rglob("*") if ".tmp" in path.name]
    assert left == [], "what the killed writer left is still there"
    assert [path for path in (home / "work").iterdir() if path.is_dir()] == []


def test_a_killed_run_continues_instead_of_starting_again(whole: Path, tmp_path: Path) -> None:
    folder, home = copy_tiny(whole, tmp_path / "run"), tmp_path / "home"
    (folder / "models/hashnet.safetensors").unlink()
    assert run(folder, home, ["train"], "train: at an epoch's end") == -signal.SIGKILL
    (snapshot,) = (home / "work").glob("*/snapshot.pt")
    import torch

    assert torch.load(snapshot, weights_only=True)["progress"]["iteration"] == 4  # of 6, one snapshot every 2
    # a run that may only take the 5 steps that are missing
    assert run(folder, home, ["train"], "train: in mid-epoch") == 0
    assert results(folder) == results(whole)


def test_another_run_does_not_take_the_snapshot(whole: Path, tmp_path: Path) -> None:
    folder, home = copy_tiny(whole, tmp_path / "run"), tmp_path / "home"
    (folder / "models/hashnet.safetensors").unlink()
    assert run(folder, home, ["train"], "train: in mid-epoch") == -signal.SIGKILL
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["seed"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    assert run(folder, home, ["train"]) == 0
    other = write_tiny(tmp_path / "other", params)
    assert run(other, tmp_path / "elsewhere", STAGES) == 0
    name = "models/hashnet.safetensors"
    assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert (folder / name).read_bytes() != (whole / name).read_bytes()


def test_a_full_disk_is_one_line_and_leaves_nothing(whole: Path, tmp_path: Path) -> None:
    folder, home = copy_tiny(whole, tmp_path / "run"), tmp_path / "home"
    (folder / "models/hashnet.safetensors").unlink()
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from stages.train import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(home), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "models/hashnet.safetensors").exists()
    assert [path for path in tmp_path.rglob("*") if ".tmp" in path.name or path.name == "snapshot.pt"] == []


def test_two_processes_at_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSDH_HOME", str(tmp_path))
    code = (
        "import sys, time; from ssdh.core.resume import work_folder\n"
        "with work_folder('k') as folder:\n"
        "    (folder / 'half').touch(); print('in', flush=True); time.sleep(3600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment(tmp_path))
    assert other.stdout is not None
    assert other.stdout.readline() == b"in\n"
    started = time.monotonic()
    killer = SERVER.Process(target=kill_later, args=(other.pid, 1.0))
    killer.start()
    with work_folder("k") as folder:  # waits until the other one is killed
        assert time.monotonic() - started > 0.5
        assert (folder / "half").exists()
    other.wait()
    killer.join()


def kill_later(process: int, seconds: float) -> None:
    """Kill a process after a while."""
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)


PIPELINE = {
    "stages": {
        "train": {
            "cmd": "python -m stages.train",
            "deps": ["features/features.npy", "params.yaml"],
            "outs": ["models/hashnet.safetensors", "metrics/train.csv", "metrics/validation.csv"],
        }
    }
}


def test_only_the_dvc_process_is_killed(whole: Path, tmp_path: Path) -> None:
    folder, home = copy_tiny(whole, tmp_path / "run"), tmp_path / "home"
    for name in PIPELINE["stages"]["train"]["outs"]:
        (folder / name).unlink()
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["train"] |= {"epochs": 40, "eval_interval": 0}  # seconds of work; the stage looks for its dvc twice in one
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    undisturbed = copy_tiny(folder, tmp_path / "undisturbed")
    (folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    own = environment(home, DVC_NO_ANALYTICS="1", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=folder, env=own, check=True)
    log = (tmp_path / "first.log").open("w")
    first = subprocess.Popen([*dvc, "repro"], cwd=folder, env=own, stdout=log, stderr=log, start_new_session=True)
    while not list((home / "work").glob("*/snapshot.pt")):  # training is under way
        assert first.poll() is None, (tmp_path / "first.log").read_text()
        time.sleep(0.05)
    (stage,) = [child for child in psutil.Process(first.pid).children(True) if "stages.train" in child.cmdline()]
    first.kill()
    first.wait()
    assert psutil.wait_procs([stage], timeout=600)[1] == [], "the stage goes on without dvc"
    log = (tmp_path / "again.log").open("w")
    again = subprocess.Popen([*dvc, "repro"], cwd=folder, env=own, stdout=log, stderr=log, start_new_session=True)
    assert again.wait() == 0
    assert "continuing from the snapshot" in (tmp_path / "again.log").read_text()
    assert run(undisturbed, tmp_path / "elsewhere", ["train"]) == 0
    for name in PIPELINE["stages"]["train"]["outs"]:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    status = subprocess.run([*dvc, "status"], cwd=folder, env=own, capture_output=True, text=True, check=True)
    assert "up to date" in status.stdout


@pytest.mark.slow
def test_twenty_random_kills_of_a_real_repro(tmp_path: Path) -> None:
    from benchmarks.studies import kills

    result = kills.run(20, int(time.time()), tmp_path)
    assert len(result["kills"]) == 20
    assert result["rounds_compared"] >= 1
