"""Atomic files, work folders and the stage's shell."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ssdh import runs
from ssdh.errors import DataError, ParameterError


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    runs.write_json(path, {"map": 0.5})
    with pytest.raises(ValueError, match="Out of range float"):
        runs.write_json(path, {"map": float("nan")})
    with pytest.raises(RuntimeError, match="midway"), runs.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("midway")
    assert path.read_text() == '{\n  "map": 0.5\n}\n'
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith("ssdh-home")] == ["a.json"]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    """The kernel's own limit on file size stands in for a full disk: the write itself fails with an OSError."""
    code = (
        "import resource, signal, sys; from pathlib import Path; import numpy as np; from ssdh import runs\n"
        "from ssdh.errors import DataError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: runs.write_array(Path(sys.argv[1]), np.zeros(10_000))\n"
        "except DataError as error: print(error)\n"
    )
    path = tmp_path / "out" / "a.npy"
    path.parent.mkdir()
    np.save(path, np.arange(3))
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path} could not be written: ")
    assert done.stdout.count("\n") == 1
    assert [p.name for p in path.parent.iterdir()] == ["a.npy"]
    assert runs.read_array(path).tolist() == [0, 1, 2]


def test_arrays_come_back_mapped_and_read_only(tmp_path: Path) -> None:
    runs.write_array(tmp_path / "a.npy", np.arange(6, dtype=np.int16).reshape(2, 3))
    array = runs.read_array(tmp_path / "a.npy")
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
    private = runs.read_array(tmp_path / "a.npy", mode="c")
    private[0, 0] = 9
    assert runs.read_array(tmp_path / "a.npy")[0, 0] == 0


def test_an_empty_array_is_read_and_a_cut_or_missing_one_named(tmp_path: Path) -> None:
    runs.write_array(tmp_path / "none.npy", np.zeros((0, 0), np.int8))
    assert runs.read_array(tmp_path / "none.npy").shape == (0, 0)
    runs.write_array(tmp_path / "cut.npy", np.zeros(1000))
    os.truncate(tmp_path / "cut.npy", 500)
    with pytest.raises(DataError, match=r"cut\.npy is not a whole \.npy file"):
        runs.read_array(tmp_path / "cut.npy")
    with pytest.raises(DataError, match=r"gone\.npy does not exist: run `dvc repro`"):
        runs.read_array(tmp_path / "gone.npy")


def test_a_fingerprint_changes_with_inputs_and_parameters(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "a"
    file.write_text("1")
    first = runs.fingerprint([tmp_path / "in"], {"lr": 0.1})
    assert runs.fingerprint([tmp_path / "in"], {"lr": 0.1}) == first
    assert runs.fingerprint([tmp_path / "in"], {"lr": 0.2}) != first
    file.write_text("2")
    assert runs.fingerprint([tmp_path / "in"], {"lr": 0.1}) != first


def test_a_work_folder_stays_after_a_failure_and_goes_after_success(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), runs.work_folder("key") as folder:
        (folder / "block").write_text("done")
        raise RuntimeError("killed")
    with runs.work_folder("key") as folder:
        assert (folder / "block").read_text() == "done"
    assert not folder.exists()


def test_old_unfinished_work_is_removed(tmp_path: Path) -> None:
    root = runs.ssdh_home() / "work"
    for name, days in (("old", 15), ("young", 13)):
        (root / name).mkdir(parents=True)
        os.utime(root / name, (time.time() - days * 86_400,) * 2)
    with runs.work_folder("new"):
        assert not (root / "old").exists()
        assert (root / "young").exists()


def test_work_that_vanishes_while_old_work_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    root = runs.ssdh_home() / "work"
    root.mkdir(parents=True)
    gone = root / "gone.lock"
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([gone]))
    with runs.work_folder("new") as folder:
        assert folder.exists()


def test_decoding_workers_are_shared_out_over_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "num_cores", lambda: 16)
    common = {"device": "cpu", "processes": None, "deterministic": True, "log_level": "INFO"}
    auto, fixed = runs.RuntimeParams(workers=None, **common), runs.RuntimeParams(workers=5, **common)
    assert (auto.num_workers, fixed.num_workers) == (16, 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert (auto.num_workers, fixed.num_workers) == (2, 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert auto.num_workers == 1


def test_a_stage_waits_for_one_of_other_parameters_that_still_writes_its_outs(tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    code = (
        "import sys, time; from pathlib import Path; from ssdh.devices import Rank, shared_work\n"
        "with shared_work(Rank(), lambda: sys.argv[1], [Path(sys.argv[2])]):\n"
        "    Path(sys.argv[2]).write_text(sys.argv[1]); print('in', flush=True); time.sleep(float(sys.argv[3]))\n"
    )

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    orphan = start("old", str(out), "60")
    try:
        assert orphan.stdout is not None
        assert orphan.stdout.readline() == "in\n"
        waiter = start("new", str(out), "0")
        elsewhere = start("newer", str(tmp_path / "other.npy"), "0")
        assert elsewhere.wait(timeout=30) == 0
        with pytest.raises(subprocess.TimeoutExpired):
            waiter.wait(timeout=1.5)
        assert out.read_text() == "old"
        orphan.kill()
        _, told = waiter.communicate(timeout=30)
        assert "another process, with other parameters, is still to write" in told
        assert out.read_text() == "new"
    finally:
        orphan.kill()
        orphan.wait()


def test_the_lock_of_a_killed_process_is_free_and_a_living_ones_is_waited_for(tmp_path: Path) -> None:
    code = (
        "import sys, time; from ssdh import runs\n"
        "with runs.work_folder('key') as folder:\n"
        "    (folder / 'block').write_text('first'); print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waiter_code = "from ssdh import runs\nwith runs.work_folder('key') as f: print((f / 'block').read_text())"
        waiter = subprocess.Popen([sys.executable, "-c", waiter_code], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            waiter.wait(timeout=1.5)
        holder.send_signal(signal.SIGKILL)
        assert waiter.communicate(timeout=30)[0] == "first\n"
    finally:
        holder.kill()
        holder.wait()


def test_the_shell_prints_one_line_for_an_expected_error(capsys: pytest.CaptureFixture[str]) -> None:
    @runs.stage("train")
    def main() -> None:
        raise ParameterError("bits must be a positive integer, got 0 (params.yaml: bits)")

    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "train: bits must be a positive integer, got 0 (params.yaml: bits)",
        "train: correct it and run again; earlier results, without what was not committed: "
        "git checkout HEAD -- params.yaml dvc.lock metrics && dvc checkout --force --allow-missing",
    ]
    assert not (runs.ssdh_home() / "timings.csv").exists()


def test_the_shell_writes_down_the_seconds_of_a_stage_that_ended(tmp_path: Path) -> None:
    runs.stage("evaluate")(lambda: time.sleep(0.02))()
    runs.stage("evaluate")(lambda: None)()
    with (runs.ssdh_home() / "timings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["evaluate", "evaluate"]
    assert float(rows[0]["seconds"]) >= 0.02
