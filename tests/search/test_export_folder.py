"""The folder of an export: what is refused before anything is loaded, and what a second export takes away."""

import json
from pathlib import Path

import pytest

from ssdh.__main__ import main
from ssdh.core.errors import DataError
from ssdh.search.export_folder import ABOUT, announce, finish, open_folder


def test_a_new_and_an_empty_folder_are_taken(tmp_path: Path) -> None:
    assert open_folder(tmp_path / "a/b") == open_folder(tmp_path) == set()
    assert list(tmp_path.iterdir()) == []  # an export that fails later leaves no folder


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that `export FOLDER` says in a folder without a run: the target is looked at first."""
    assert main(["export", str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    return line


def test_what_is_no_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file, link = Path("README.md"), Path("link")
    file.write_text("mine")
    link.symlink_to("nowhere")
    assert refused(file, capsys).endswith("is a file: name a new or empty folder for the export")
    assert "cannot be a folder" in refused(link, capsys)
    for path in (file / "x", file / "x/y"):
        assert "cannot be a folder (Not a directory): name another one" in refused(path, capsys)
    assert file.read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "cannot be a folder" in refused(Path("/proc/x"), capsys)


@pytest.mark.parametrize("about", [None, "{", "[]", '{"sha256": []}', '{"files": {}}'])
def test_a_folder_of_something_else_is_left_alone(
    about: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = Path("photos")
    photos.mkdir()
    (photos / "codes.npy").write_text("mine")
    if about is not None:
        (photos / ABOUT).write_text(about)
    assert "not empty and holds no export.json of an earlier export: name a new or empty folder" in refused(
        photos, capsys
    )
    assert (photos / "codes.npy").read_text() == "mine"


def test_files_of_the_earlier_export_alone_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    names = ("codes.npy", "model.onnx", "model.onnx.data", "notes.txt")
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    (tmp_path / "photo.jpg").touch()
    listed = ("codes.npy", "model.onnx", "notes.txt", "../photo.jpg")  # not all of them are names that an export gives
    (folder / ABOUT).write_text(json.dumps({"sha256": dict.fromkeys(listed, "0")}))
    earlier = open_folder(folder)
    assert earlier == {"codes.npy", "model.onnx"}
    finish(folder, {"sha256": {"codes.npy": "1"}}, earlier)
    assert {path.name for path in folder.iterdir()} == {"codes.npy", "model.onnx.data", "notes.txt", ABOUT}
    assert (tmp_path / "photo.jpg").exists()
    assert open_folder(folder) == {"codes.npy"}


def test_an_interrupted_export_is_known_as_one(tmp_path: Path) -> None:
    open_folder(tmp_path)
    announce(tmp_path, ["model.onnx", "codes.npy"])
    (tmp_path / "codes.npy").touch()
    assert open_folder(tmp_path) == {"model.onnx", "codes.npy"}


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot be a folder \(Permission denied\)"):
        open_folder(tmp_path)
