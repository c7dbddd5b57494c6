"""Folders with few rights: a collection that cannot be written to is read as ever; photos that cannot be looked at.

Permissions do not bind root: as root, these tests act as a user who has none there.
"""

import encodings.idna  # noqa: F401 (what Python loads late, where nobody but root may read)
import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from ssdh.__main__ import main
from ssdh.core.errors import DataError
from ssdh.features.image_files import list_images
from ssdh.search.collection import DATABASE, Collection, create, open_collection
from ssdh.search.collection_add import add_photos
from ssdh.search.encode import EncodeOptions, find_files
from ssdh.search.photos import find_photos
from ssdh.search.searchable import searchable_collection
from ssdh.search.web.app import create_app
from tests.helpers.finished_run import finished_run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="its folders have no such permission")

OPTIONS = EncodeOptions(torch.device("cpu"), 0)
NOBODY = 65534


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(project, tmp_path_factory.mktemp("run"), count=6, bits=64)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everyone can look into, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        for folder in Path(name).iterdir():
            folder.chmod(0o755)


@pytest.fixture
def collection(finished: Path, place: Path) -> Collection:
    shutil.copytree(finished / "photos", place / "photos")
    made = create(place / "mine", finished / "models/hashnet.safetensors", "float16")
    add_photos(made, [place / "photos"], OPTIONS)
    return made


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user whom permissions bind."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """As somebody who may look into this folder, but not write to it or to what it holds."""
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    before = sorted(folder.iterdir())
    with as_nobody():
        with pytest.raises(PermissionError):
            (folder / "new").touch()
        yield
    folder.chmod(0o755)
    assert sorted(folder.iterdir()) == before


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """As somebody who may not look into this folder."""
    folder.chmod(0o300 if os.geteuid() else 0o700)
    with as_nobody():
        yield
    folder.chmod(0o755)


def answers(collection: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the commands that read a collection say of it."""
    result = []
    for command in (
        ["search", str(photo), "--collection", str(collection), "--rerank", "3"],
        ["duplicates", "--collection", str(collection), "--radius", "20", "--min-similarity", "0.5"],
        ["list", str(collection)],
    ):
        capsys.readouterr()
        assert main(command) == 0
        result.append(capsys.readouterr().out)
    return result


def page(collection: Collection) -> TestClient:
    gallery = searchable_collection(collection).open_gallery()
    return TestClient(create_app(gallery, collection=collection), base_url="http://127.0.0.1")


def test_it_is_searched_as_ever(collection: Collection, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = place / "photos/day 0/000.jpg"
    expected = answers(collection.folder, photo, capsys)
    with read_only(collection.folder):
        assert answers(collection.folder, photo, capsys) == expected


def test_the_page_shows_it_and_what_its_owner_does(collection: Collection, place: Path) -> None:
    with page(collection) as client:
        photo = (place / "photos/day 1/001.jpg").read_bytes()
        expected = client.post("/api/search?rerank=4", content=photo).json()
    with read_only(collection.folder):
        opened = open_collection(collection.folder)
        with page(opened) as client:
            assert client.post("/api/search?rerank=4", content=photo).json() == expected
            assert client.get("/images/0/thumbnail").status_code == 200
            assert client.get("/api/duplicates").status_code == 200
    with page(opened) as client:
        (collection.folder / DATABASE).chmod(0o644)
        with collection.writing() as writer:
            writer.remove([1])
        with read_only(collection.folder):
            assert client.get("/api/about").json()["images"] == 5


def test_nothing_is_added_or_removed_in_one_line(
    collection: Collection, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, mine = str(place / "photos"), str(collection.folder)
    commands = (
        ["add", mine, photos, "--device", "cpu"],
        ["remove", mine, "1"],
        ["serve", "--collection", mine, "--allow-add", "--port", "0"],
    )
    with read_only(collection.folder):
        for command in commands:
            capsys.readouterr()
            assert main(command) == 1
            (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ssdh: ")]
            assert line.startswith(f"ssdh: {mine} cannot be written to")
    assert len(collection) == 6


def test_what_its_owner_writes_meanwhile_is_seen(collection: Collection) -> None:
    with closing(sqlite3.connect(collection.folder / DATABASE)) as owner:
        owner.execute("DELETE FROM paths WHERE id = 1")
        owner.execute("DELETE FROM images WHERE id = 1")
        owner.commit()
        assert (collection.folder / f"{DATABASE}-wal").stat().st_size
        with read_only(collection.folder):
            assert len(open_collection(collection.folder)) == 5


def test_a_change_that_was_broken_off_is_one_line_and_no_earlier_state(collection: Collection, place: Path) -> None:
    with closing(sqlite3.connect(collection.folder / DATABASE)) as owner:
        owner.execute("DELETE FROM paths WHERE id = 1")
        owner.commit()
        copy = Path(shutil.copytree(collection.folder, place / "copy"))
    (copy / f"{DATABASE}-shm").unlink()
    with read_only(copy), pytest.raises(DataError, match=r"collection\.sqlite3 cannot be used: unable to open"):
        open_collection(copy)


# --- photos that cannot be looked at ----------------------------------------------------------------------------------


def test_a_closed_folder_is_passed_over_and_said(place: Path) -> None:
    for name in ("a.jpg", "closed/b.jpg", "open/c.jpg"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).touch()
    with closed(place / "closed"):
        listing = list_images(place)
    assert listing.names == ["a.jpg", "open/c.jpg"]
    assert listing.passed_over() == "1 folders that cannot be looked into"


def test_a_photo_in_a_closed_folder_is_one_line(place: Path) -> None:
    (place / "closed").mkdir()
    (place / "closed/a.jpg").touch()
    (place / "closed").chmod(0o000)
    with as_nobody():
        for find in (lambda path: find_files([path]), find_photos):
            with pytest.raises(DataError, match=r"a\.jpg cannot be looked at \(Permission denied\)"):
                find(place / "closed/a.jpg")
            with pytest.raises(DataError, match=r"none\.jpg does not exist: give photos"):
                find(place / "none.jpg")


def test_what_cannot_be_looked_at_is_not_taken_for_gone(
    collection: Collection, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a drive that answers with errors."""
    shutil.copytree(place / "photos/day 0", place / "copies")
    look = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path.is_relative_to(place / "photos"):
            raise OSError(errno.EIO, "Input/output error")
        return look(path, **options)

    before = {item.id: item.paths for item in collection.items()}
    monkeypatch.setattr(Path, "stat", stat)
    assert main(["remove", str(collection.folder), "--missing"]) == 0
    assert "0 images removed. It holds 6 images." in capsys.readouterr().out
    add_photos(collection, [place / "copies"], OPTIONS)
    after = {item.id: item.paths for item in collection.items()}
    assert all(set(paths) <= set(after[number]) for number, paths in before.items())
    assert sum(len(paths) for paths in after.values()) == 8


def test_a_folder_that_lets_nobody_list_it_is_not_taken_for_empty(place: Path, collection: Collection) -> None:
    (place / "photos/day 0/000.jpg").unlink()
    (place / "photos/day 0").chmod(0o711)
    collection.folder.chmod(0o777)
    for path in collection.folder.iterdir():
        path.chmod(0o666)
    with as_nobody():
        assert main(["remove", str(collection.folder), "--missing"]) == 1
    assert len(collection) == 6
