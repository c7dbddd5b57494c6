"""The way in: `python -m ssdh` without an activated environment, an author for git, or a terminal of Unicode."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ssdh.__main__ import main
from ssdh.cli import COMMANDS

STAGE = """stages:
  where:
    cmd: python -c "import sys; print(sys.prefix, file=open('where.txt', 'w'))"
    params: [bits]
    outs: [where.txt]
"""
EXPERIMENT = "from ssdh.experiments.dvc import dvc; dvc('exp', 'run', '-S', 'bits=7')"


@pytest.fixture
def repository(project: Path, tmp_path: Path) -> Path:
    """A repository with one stage, and a file that is not committed, in which git knows no author."""
    folder = tmp_path / "repository"
    folder.mkdir()
    shutil.copy(project / "params.yaml", folder)
    (folder / "dvc.yaml").write_text(STAGE)
    (folder / ".gitignore").write_text("where.txt\n")
    environment = bare(project, tmp_path)
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "-q", "-m", "first"],
    ):
        subprocess.run(command, cwd=folder, env=environment, check=True)
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text() + "# changed\n")
    return folder


def bare(project: Path, home: Path) -> dict[str, str]:
    """An environment without this interpreter's folder on PATH, and without an author."""
    folders = [one for one in os.environ["PATH"].split(os.pathsep) if Path(one) != Path(sys.executable).parent]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "EMAIL"))}
    nobody = {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "XDG_CONFIG_HOME": str(home)}
    return kept | nobody | {"PATH": os.pathsep.join(folders), "PYTHONPATH": str(project)}


def test_stages_find_the_python_that_runs_ssdh(repository: Path, project: Path, tmp_path: Path) -> None:
    """`.venv/bin/python -m ssdh run`, the environment not activated."""
    command = [sys.executable, "-m", "ssdh", "run"]
    subprocess.run(command, cwd=repository, env=bare(project, tmp_path), capture_output=True, check=False)
    assert (repository / "where.txt").read_text().strip() == sys.prefix


@pytest.mark.parametrize("known", [(), ("user.name",), ("user.email",)])
def test_experiments_run_where_git_knows_no_author(
    repository: Path, project: Path, tmp_path: Path, known: tuple[str, ...]
) -> None:
    """DVC refuses with "Git user name and email must be configured", for one of the two missing too."""
    environment = bare(project, tmp_path)
    for name in known:
        subprocess.run(["git", "config", name, "mine"], cwd=repository, env=environment, check=True)
    done = subprocess.run(
        [sys.executable, "-c", EXPERIMENT], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = ["git", "for-each-ref", "--format=%(committername)", "refs/exps"]
    result = subprocess.run(listed, cwd=repository, env=environment, capture_output=True, text=True, check=True).stdout
    assert ("mine" if "user.name" in known else "ssdh") in result.splitlines()


def test_an_author_that_git_knows_stays(project: Path, tmp_path: Path) -> None:
    environment = bare(project, tmp_path) | {"GIT_CONFIG_GLOBAL": str(tmp_path / "config")}
    (tmp_path / "config").write_text("[user]\n  name = me\n  email = me@localhost\n")
    asked = (
        "from ssdh.experiments.dvc import environment; print([k for k in environment() if k.startswith('GIT_AUTHOR')])"
    )
    for more, expected in (({}, "[]"), ({"GIT_AUTHOR_NAME": "x"}, "['GIT_AUTHOR_NAME']")):
        command = [sys.executable, "-c", asked]
        message = subprocess.run(
            command, cwd=tmp_path, env=environment | more, capture_output=True, text=True, check=True
        )
        assert message.stdout.strip() == expected


@pytest.mark.parametrize("command", [*COMMANDS, "--train"])
def test_help_reaches_a_terminal_that_lacks_some_characters(command: str, project: Path, tmp_path: Path) -> None:
    """Redirected output on Windows has the code page 1252: no → and no −."""
    environment = os.environ | {"PYTHONPATH": str(project), "PYTHONIOENCODING": "cp1252"}
    words = [sys.executable, "-m", "ssdh", command, "--help"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode("cp1252")
    assert b"usage" in done.stdout


@pytest.mark.parametrize("command", [["show"], ["show", "--csv"], ["datasets"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(
    command: list[str], repository: Path, project: Path, tmp_path: Path
) -> None:
    """`python -m ssdh show | head -1`: the pipe is closed before all is written."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "ssdh", *command]
    environment = bare(project, tmp_path)
    try:
        done = subprocess.run(
            words, cwd=repository, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_make_starts_programs_by_their_path(project: Path) -> None:
    """macOS's make 3.81 looks for `python` in the PATH that it was started with, whatever the Makefile exports."""
    text = (project / "Makefile").read_text(encoding="utf-8")
    programs = re.findall(r"^\t@?([^\s@]+)", text, re.MULTILINE)
    assert "$(PY)" in programs
    assert "PYTEST = $(PY) -m pytest" in text
    assert set(programs) <= {
        "$(PY)",
        "$(PYTHON)",
        "$(PYTEST)",
        "$(ACTIVATE)",
        "echo",
        "touch",
        "{",
        "--custom-compile-command",
    }


def test_evaluate_says_which_model_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--model", "typo.safetensors"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ssdh: typo.safetensors does not exist: --model takes a .safetensors of this pipeline")
    assert "dvc repro" not in line
