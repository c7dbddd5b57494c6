"""A cache folder that belongs to somebody else: what is wrong is said in one line, and what may be read is used.

Root may write anywhere: for it the programs run without that right (`setpriv`).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.finished_run import finished_run
from tests.helpers.tiny import copy_tiny, environment, results, run_with_views

pytestmark = [pytest.mark.long, pytest.mark.skipif(os.name == "nt", reason="rights as POSIX has them")]

AS_ANYBODY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"] if os.geteuid() == 0 else []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that has run, its home beside it."""
    if AS_ANYBODY and shutil.which("setpriv") is None:
        pytest.skip("needs util-linux's setpriv, or a user other than root")
    return run_with_views(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def home(whole: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the home, writable again at the end."""
    copy = tmp_path / "shared home"
    shutil.copytree(whole.parent / "home", copy)
    yield copy
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)


def forbid(home: Path, folders: int, files: int) -> None:
    for path in (*home.rglob("*"), home):
        path.chmod(folders if path.is_dir() else files)


def run(folder: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*AS_ANYBODY, sys.executable, "-m", *arguments]
    own = environment(home)
    return subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("stage", ["check", "extract", "train", "encode"])
@pytest.mark.parametrize("folders", [0o555, 0o000])
def test_a_home_that_cannot_be_written_to(
    stage: str, folders: int, whole: Path, home: Path, tmp_path: Path, project: Path
) -> None:
    folder = copy_tiny(whole, tmp_path / "run")
    if stage == "check":
        (folder / "data/raw/photos").mkdir(parents=True)
    forbid(home, folders, 0o444)
    done = run(folder, home, f"stages.{stage}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = next(line for line in done.stderr.splitlines() if line.startswith(f"{stage}: "))
    assert str(home) in said
    assert "Permission denied" in said
    assert "SSDH_HOME" in said
    assert results(folder) == results(whole)


@pytest.mark.parametrize(("name", "files"), [("of its owner alone (umask 077)", 0o000), ("to be read", 0o444)])
def test_features_of_somebody_else(name: str, files: int, whole: Path, home: Path, tmp_path: Path) -> None:
    """Read where they may be, computed again where they may not; the owner's files are left alone."""
    folder = copy_tiny(whole, tmp_path / "run")
    for path in (home / "features").rglob("*"):
        if path.is_file():
            path.chmod(files)
    before = {path: path.stat().st_mtime_ns for path in (home / "features").rglob("*.npy")}
    done = run(folder, home, "stages.extract")
    assert done.returncode == 0, done.stderr
    assert ("168 of 168 rows to compute" in done.stderr) == (files == 0)
    assert results(folder) == results(whole)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_commands_with_a_home_of_somebody_else(home: Path, tmp_path: Path, project: Path) -> None:
    folder = finished_run(project, tmp_path / "run", count=8)
    forbid(home, 0o555, 0o444)
    for command in (["encode", "photos", "--out", "codes"], ["add", "collection", "photos"]):
        done = run(folder, home, "ssdh", *command, "--workers", "0")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "cannot be written to (Permission denied): give yourself the right, or set SSDH_HOME" in done.stderr
    assert not (folder / "codes/encode.json").exists()


def test_what_was_made_for_its_owner_alone_works_for_the_owner(whole: Path, tmp_path: Path) -> None:
    folder, home = copy_tiny(whole, tmp_path / "run"), tmp_path / "home"
    before = os.umask(0o077)
    try:
        for _ in range(2):
            for stage in ("extract", "train", "encode"):
                assert run(folder, home, f"stages.{stage}").returncode == 0
    finally:
        os.umask(before)
    assert results(folder) == results(whole)
