"""Ctrl-C as a terminal sends it, to every process of the job: one line, nothing left running, and on from there."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ssdh.experiments.dvc import INTERRUPTED, run_child
from tests.helpers.clone import Clone

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a process group"),
]

# a program in a program, neither of which ends at once
NESTED = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
NESTED += "print('up', flush=True); time.sleep(600)"


def start(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """A job of its own that hears Ctrl-C, whether or not we do (a shell's `… &` does not)."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted(
    command: list[str],
    under_way: Callable[[psutil.Process], bool],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> tuple[int, str, list[psutil.Process]]:
    """Exit code, what was said on stderr, and what still runs, of a job that got Ctrl-C once it was under way."""
    job = start(command, cwd, env)
    top = psutil.Process(job.pid)
    while not under_way(top):
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.02)
    family = top.children(recursive=True)
    os.killpg(job.pid, signal.SIGINT)
    _, message = job.communicate()
    return job.returncode, message, [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_the_exit_code_is_the_programs_own() -> None:
    assert run_child([sys.executable, "-c", "raise SystemExit(7)"], os.environ) == 7


def test_a_program_and_its_own_are_ended_without_a_word() -> None:
    code = "import os, sys; from ssdh.experiments.dvc import run_child\n"
    code += f"try:\n    run_child([sys.executable, '-c', {NESTED!r}], os.environ)\n"
    code += "except KeyboardInterrupt as error:\n    sys.exit(str(error))"
    message = interrupted(
        [sys.executable, "-c", code], lambda top: len(top.children(recursive=True)) == 2 and hears(top)
    )
    assert message == (1, f"{INTERRUPTED}\n", [])


def hears(process: psutil.Process) -> bool:
    """Whether a process does not ignore Ctrl-C, as `run_child` does for the moment in which it starts a program."""
    status = Path(f"/proc/{process.pid}/status")
    ignored = re.search(r"SigIgn:\s*(\w+)", status.read_text(encoding="ascii")) if status.exists() else None
    return ignored is None or not int(ignored[1], 16) >> (signal.SIGINT - 1) & 1


@pytest.fixture(scope="module")
def clone(first_run: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A run with all but the training done, which is long and takes many snapshots."""
    clone = first_run.copy(tmp_path_factory.mktemp("interrupted") / "clone")
    clone.set(train__epochs="2000", train__snapshot_interval="5")
    clone.commit("all but training")
    return clone


OLD = ["-d", "digits", "-a", "resnet18", "-c", "12", "-t", "300", "-T", "2000", "-s", "5", "--head-only", "--train"]


@pytest.mark.parametrize("flags", [["run"], OLD], ids=["run", "old flags"])
def test_a_run_is_one_line_and_the_next_goes_on(clone: Clone, flags: list[str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = clone.environment | {"SSDH_HOME": str(home)}
    command = [sys.executable, "-m", "ssdh", *flags]

    code, message, left = interrupted(
        command, lambda _: bool(list(home.glob("work/**/snapshot.pt"))), cwd=clone.folder, env=environment
    )
    assert (code, message.splitlines()[-1], left) == (130, INTERRUPTED, [])
    assert "Traceback" not in message
    assert "KeyboardInterrupt" not in message

    again = start(command, clone.folder, environment)
    assert again.stderr is not None
    result = next((line for line in again.stderr if "continuing from the snapshot" in line), "")
    os.killpg(again.pid, signal.SIGINT)
    again.communicate()
    assert re.search(r"of iteration [1-9]\d*", result)
