"""Outside a pipeline's folder each command that needs one says so in one line, with both ways out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdh.__main__ import main
from ssdh.cli import COMMANDS

NEED_NONE = {"init", "cache", "list", "remove"}  # of a folder of their own
LINES = [
    ["run"],
    ["datasets"],
    ["evaluate"],
    ["compare", "HEAD", "angry-tilt"],
    ["show"],
    ["table", "--dry-run"],
    ["search", "a.png"],
    ["export", "out"],
    ["serve", "--port", "0"],
    ["encode", "a.png", "--out", "codes"],
    ["add", "mine", "a.png"],
    ["duplicates"],
]


@pytest.mark.parametrize("line", [*LINES, ["search", "a.npy"], ["--train", "--dataset", "digits"]], ids=" ".join)
def test_elsewhere_it_is_one_line(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 30)).save("a.png")
    np.save("a.npy", np.eye(4))
    there = sorted(tmp_path.iterdir())
    assert main(line) == 1
    out, err = capfd.readouterr()
    assert out == ""
    [said] = err.splitlines()
    assert said.startswith("ssdh: ")
    assert f"{tmp_path} holds no pipeline: go to the folder of one that `dvc repro` has run, or write one" in said
    assert "`ssdh init FOLDER`" in said
    assert sorted(tmp_path.iterdir()) == there


def test_no_command_is_left_out() -> None:
    assert {line[0] for line in LINES} | NEED_NONE == set(COMMANDS)
