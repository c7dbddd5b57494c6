"""Unfinished work: its key, its folder, and locks that die with their process."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssdh.core import cache_dir as home
from ssdh.core import resume as work


def test_a_fingerprint_changes_with_inputs_and_parameters(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "a"
    file.write_text("1")
    first = work.fingerprint([tmp_path / "in"], {"lr": 0.1})
    assert work.fingerprint([tmp_path / "in"], {"lr": 0.1}) == first
    assert work.fingerprint([tmp_path / "in"], {"lr": 0.2}) != first
    file.write_text("2")
    assert work.fingerprint([tmp_path / "in"], {"lr": 0.1}) != first


def test_a_work_folder_stays_after_a_failure_and_goes_after_success(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), work.work_folder("key") as folder:
        (folder / "block").write_text("done")
        raise RuntimeError("killed")
    with work.work_folder("key") as folder:
        assert (folder / "block").read_text() == "done"
    assert not folder.exists()


def test_old_unfinished_work_is_removed(tmp_path: Path) -> None:
    root = home.ssdh_home() / "work"
    for name, days in (("old", 15), ("young", 13)):
        (root / name).mkdir(parents=True)
        os.utime(root / name, (time.time() - days * 86_400,) * 2)
    with work.work_folder("new"):
        assert not (root / "old").exists()
        assert (root / "young").exists()


def test_work_that_vanishes_while_old_work_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    root = home.ssdh_home() / "work"
    root.mkdir(parents=True)
    gone = root / "gone.lock"
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([gone]))
    with work.work_folder("new") as folder:
        assert folder.exists()


def test_the_lock_of_a_killed_process_is_free_and_a_living_ones_is_waited_for(tmp_path: Path) -> None:
    code = (
        "import sys, time; from ssdh.core.resume import work_folder\n"
        "with work_folder('key') as folder:\n"
        "    (folder / 'block').write_text('first'); print('held', flush=True); time.sleep(3600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waiter_code = (
            "from ssdh.core import resume as work\nwith work.work_folder('key') as f: print((f / 'block').read_text())"
        )
        waiter = subprocess.Popen([sys.executable, "-c", waiter_code], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            waiter.wait(timeout=1.5)
        holder.send_signal(signal.SIGKILL)
        assert waiter.communicate()[0] == "first\n"
    finally:
        holder.kill()
        holder.wait()


def test_a_fingerprint_changes_with_the_code_that_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "step.py"
    source.write_text("RATE = 1\n")
    before = work.fingerprint([], {})
    spec = importlib.util.spec_from_file_location("ssdh.step", source)
    assert spec is not None
    monkeypatch.setitem(sys.modules, "ssdh.step", importlib.util.module_from_spec(spec))
    loaded = work.fingerprint([], {})
    assert loaded != before
    source.write_text("RATE = 2\n")
    assert work.fingerprint([], {}) not in (before, loaded)
    source.write_text("RATE = 1\n")
    assert work.fingerprint([], {}) == loaded
