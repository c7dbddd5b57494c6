"""Stray files with the names of modules, in the working folder and on PYTHONPATH, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssdh.core.shadowing import shadowing

COMMANDS = {"stages": ["stages.check"], "ssdh": ["ssdh", "cache"]}


def start(project: Path, folder: Path, command: list[str], *before: Path) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(map(str, (*before, project)))
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "program", "content"),
    [
        ("yaml", "stages", "x = 1\n"),
        ("random", "stages", "raise ValueError('of a script')\n"),
        ("numpy", "stages", "import no_such_package\n"),
        ("ssdh", "stages", "x = 1\n"),
        ("loguru", "ssdh", "x = 1\n"),
    ],
)
@pytest.mark.parametrize("place", ["elsewhere", "here"])
def test_the_file_is_named(name: str, program: str, content: str, place: str, project: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    stray = tmp_path / place / f"{name}.py"
    stray.write_text(content)
    (tmp_path / "elsewhere" / "turtle.py").write_text("never = 'imported'\n")
    done = start(project, tmp_path / "here", COMMANDS[program], tmp_path / "elsewhere")
    assert done.returncode == 1
    assert f"{program}: {stray} stands in the place of" in done.stderr
    assert "Traceback" not in done.stderr
    assert "turtle.py" not in done.stderr


def test_packages_of_an_installer_are_not_stray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("installed", "own"):
        (tmp_path / folder / "yaml").mkdir(parents=True)
        (tmp_path / folder / "yaml" / "__init__.py").touch()
    (tmp_path / "own" / "report.py").touch()  # no module's name
    (tmp_path / "installed" / "PyYAML-6.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "own"), str(tmp_path / "installed"), *sys.path])
    assert [path for path in shadowing() if path.is_relative_to(tmp_path)] == [tmp_path / "own" / "yaml"]
