"""Two programs in one workspace at once, and processes that are stopped for a while."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.helpers.clone import Clone
from tests.helpers.finished_run import finished_run
from tests.helpers.tiny import copy_tiny, environment, results, run_stage, tiny_params, write_tiny

pytestmark = [pytest.mark.long, pytest.mark.skipif(os.name == "nt", reason="sends SIGSTOP")]
STOPPED = 3.0  # seconds


def child_of(job: "subprocess.Popen[bytes]", is_it: Callable[[psutil.Process], bool]) -> psutil.Process:
    """The first process below the job that fits."""
    while True:
        assert job.poll() is None, "it has ended"
        for one in psutil.Process(job.pid).children(recursive=True):
            try:
                if is_it(one):
                    return one
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.005)


def stop_for_a_while(process: psutil.Process) -> None:
    process.suspend()
    time.sleep(STOPPED)
    process.resume()


def test_two_repros_at_once(first_run: Clone, tmp_path: Path) -> None:
    clone = first_run.copy(tmp_path / "clone")
    clone.set(bits="8")
    dvc = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro"]
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(dvc, cwd=clone.folder, env=clone.environment, stdout=log, stderr=log)
        child_of(first, lambda one: any("stages." in word for word in one.cmdline()))
        second = clone.dvc("repro", check=False)
        assert first.wait() == 0, (tmp_path / "log").read_text()
    if second.returncode:  # it came while a stage was at work
        assert "is busy, it is being blocked by" in second.stderr
        assert "Traceback" not in second.stderr
    assert clone.repro() == []
    other = first_run.copy(tmp_path / "other")
    other.set(bits="8")
    other.repro()
    assert (clone.folder / "dvc.lock").read_bytes() == (other.folder / "dvc.lock").read_bytes()


def test_gc_and_checkout_beside_a_queue(first_run: Clone, tmp_path: Path) -> None:
    clone = first_run.copy(tmp_path / "clone")
    clone.dvc("exp", "run", "--queue", "-S", "bits=8,10")
    clone.dvc("queue", "start")
    try:
        while clone.dvc("queue", "status").stdout.count("Queued") == 2:
            time.sleep(0.5)
        clone.dvc("gc", "--workspace", "--force")
        clone.dvc("checkout")
        clone.wait_for_queue()
        assert clone.dvc("queue", "status").stdout.count("Success") == 2
    finally:
        clone.dvc("queue", "stop", "--kill", check=False)
    assert clone.run("git", "status", "--porcelain").stdout == ""
    assert clone.repro() == []


def test_a_stage_that_is_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSDH_HOME", str(tmp_path / "home"))
    whole = write_tiny(tmp_path / "whole", tiny_params(epochs=200, eval_interval=0))
    run_stage(whole, "extract", "structure")
    folder = copy_tiny(whole, tmp_path / "run")
    run_stage(whole, "train", "encode")
    home = tmp_path / "other home"
    command = [sys.executable, "-m", "stages.train"]
    job = subprocess.Popen(command, cwd=folder, env=environment(home), stderr=subprocess.DEVNULL)
    while not list(home.glob("work/*/snapshot.pt")):
        assert job.poll() is None
        time.sleep(0.01)
    stop_for_a_while(psutil.Process(job.pid))
    assert job.wait() == 0
    run_stage(folder, "encode")
    assert results(folder) == results(whole)


def test_a_worker_that_is_stopped_goes_on(tmp_path: Path, project: Path) -> None:
    folder = finished_run(project, tmp_path / "run")
    for copy in range(40):  # work for some seconds
        for path in sorted((folder / "photos").rglob("*.jpg")):
            place = folder / "more" / str(copy) / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                image.convert("L").point(lambda value, copy=copy: (value + copy) % 256).save(place, quality=95)
    command = [sys.executable, "-m", "ssdh", "encode", "more", "--workers", "2", "--out"]
    codes = []
    for name in ("stopped", "undisturbed"):
        own = environment(tmp_path / name)
        job = subprocess.Popen([*command, name], cwd=folder, env=own, stderr=subprocess.DEVNULL)
        if name == "stopped":
            started = time.monotonic()
            stop_for_a_while(child_of(job, lambda one: "resource_tracker" not in " ".join(one.cmdline())))
            assert time.monotonic() - started >= STOPPED
        assert job.wait() == 0
        codes.append((folder / name / "codes.npy").read_bytes())
    assert codes[0] == codes[1]
