"""A collection that grows: what is encoded, what is recognised, what stays, who may write, and how it is searched."""

import json
import multiprocessing
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from ssdh.__main__ import main
from ssdh.core.errors import DataError
from ssdh.core.files import file_sha256
from ssdh.features.images import read_manifest
from ssdh.search import collection_add
from ssdh.search.collection import DATABASE, MODEL, BusyError, Collection, Removed, create, open_collection
from ssdh.search.collection_add import add_photos
from ssdh.search.encode import EncodeOptions
from tests.helpers.finished_run import finished_run
from tests.helpers.galleries import disc


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(project, tmp_path_factory.mktemp("run"))


@pytest.fixture
def photos(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished / "photos", tmp_path / "photos"))


@pytest.fixture
def collection(finished: Path, tmp_path: Path) -> Collection:
    return create(tmp_path / "mine", finished / "models/hashnet.safetensors", "float16")


@pytest.fixture
def options() -> EncodeOptions:
    import torch

    return EncodeOptions(torch.device("cpu"), 0)


def state(collection: Collection) -> list[tuple[int, str, tuple[str, ...], bytes]]:
    """Everything that is searched or listed."""
    codes = collection.table().packed
    return [
        (item.id, item.sha256, item.paths, code.tobytes()) for item, code in zip(collection.items(), codes, strict=True)
    ]


# --- adding ---------------------------------------------------------------------------------------------------------


def test_codes_are_those_of_the_pipeline(
    collection: Collection, photos: Path, finished: Path, options: EncodeOptions
) -> None:
    added, skipped = add_photos(collection, [photos], options)
    assert (added.new, added.copies, added.unchanged, skipped) == (24, 0, 0, [])
    names, digests = read_manifest(finished / "data/images")
    codes = dict(zip(digests, np.load(finished / "models/codes.npy"), strict=True))
    table = collection.table()
    assert sorted(table.metadata["sha256"]) == sorted(digests)
    assert sorted(table.metadata["name"]) == sorted((photos / name).as_posix() for name in names)
    for digest, code in zip(table.metadata["sha256"], table.packed, strict=True):
        assert np.array_equal(code, codes[digest])
    features = collection.features(table.ids)
    assert features.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(features.astype(float), axis=1), 1, atol=1e-3)


def test_only_new_photos_are_encoded_and_old_ids_and_codes_stay(
    collection: Collection, photos: Path, options: EncodeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_photos(collection, [photos], options)
    before = state(collection)
    encoded: list[int] = []
    encode = collection_add.encode_rows

    def counting(manifest: Path, *rest: Any) -> None:
        encoded.append(len(manifest.read_text(encoding="utf-8").splitlines()) - 1)
        encode(manifest, *rest)

    monkeypatch.setattr(collection_add, "encode_rows", counting)
    for seed in range(3):
        disc(1000 + seed).save(photos / f"a{seed}.png")
    added, _ = add_photos(collection, [photos], options)
    assert (added.new, added.unchanged, encoded) == (3, 24, [3])
    assert state(collection)[:24] == before
    assert [item.id for item in collection.items()] == list(range(1, 28))
    assert add_photos(collection, [photos], options)[0].new == 0
    assert encoded == [3]


def test_exact_copies_and_renamed_files_are_recognised(
    collection: Collection, photos: Path, options: EncodeOptions
) -> None:
    first = photos / "day 0/000.jpg"
    shutil.copy(first, photos / "z copy.jpg")
    added, _ = add_photos(collection, [photos], options)
    assert (added.new, added.copies) == (24, 1)
    (item,) = (item for item in collection.items() if len(item.paths) > 1)
    assert item.paths == (first.as_posix(), (photos / "z copy.jpg").as_posix())
    assert item.sha256 == file_sha256(first)
    ids = {item.sha256: item.id for item in collection.items()}
    (photos / "day 1/001.jpg").rename(photos / "renamed.jpg")
    first.unlink()
    added, _ = add_photos(collection, [photos], options)
    assert (added.new, added.copies, added.unchanged, added.moved) == (0, 1, 23, 2)
    assert {item.sha256: item.id for item in collection.items()} == ids
    paths = [path for item in collection.items() for path in item.paths]
    assert sorted(paths) == sorted(path.as_posix() for path in photos.rglob("*.jpg"))


def test_a_copy_elsewhere_does_not_take_the_place_of_a_file_that_is_there(
    collection: Collection, photos: Path, tmp_path: Path, options: EncodeOptions
) -> None:
    add_photos(collection, [photos / "day 0"], options)
    (tmp_path / "copies").mkdir()
    shutil.copy(photos / "day 0/000.jpg", tmp_path / "copies/a.jpg")
    added, _ = add_photos(collection, [tmp_path / "copies"], options)
    assert (added.new, added.copies, added.moved) == (0, 1, 0)
    assert len(next(item for item in collection.items() if len(item.paths) > 1).paths) == 2


@pytest.mark.parametrize("command", ["add", "encode"])
def test_what_is_passed_over_is_said(
    command: str, finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in (".hidden/a.jpg", "@eaDir/a.jpg", "__MACOSX/a.jpg", ".thumbnails/a.jpg", "day 0/000_small.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "day 0/000.jpg", photos / name)
    for name in ("a.CR2", "b.dng", "c.jxl", "d.jxl"):
        (photos / name).touch()
    where = ["out"] if command == "add" else ["--out", "out"]
    model = ["--model", str(finished / "models/hashnet.safetensors"), "--workers", "0"]
    exclude = ["--exclude", "*_small.jpg", "--exclude", "day 1/*"]
    assert main([command, *(where if command == "add" else []), "photos", *model, *exclude,
                 *(where if command == "encode" else [])]) == 0  # fmt: skip
    message = capsys.readouterr()
    assert (
        "photos: passed over 4 hidden or thumbnails' folders; 9 hidden or excluded files; formats that are not read: "
        "1 .cr2, 1 .dng, 2 .jxl"
    ) in message.err
    assert ("16 images added" if command == "add" else ": 16 codes") in message.out


def test_a_file_with_another_image_takes_it_over(collection: Collection, photos: Path, options: EncodeOptions) -> None:
    add_photos(collection, [photos], options)
    changed = photos / "day 2/002.jpg"
    (old,) = (item for item in collection.items() if item.paths == (changed.as_posix(),))
    disc(500).save(changed)
    added, _ = add_photos(collection, [changed], options)
    assert (added.new, added.removed) == (1, 1)
    (new,) = (item for item in collection.items() if item.paths == (changed.as_posix(),))
    assert new.id == 25 != old.id


def test_what_is_no_image_is_left_out_and_said(collection: Collection, photos: Path, options: EncodeOptions) -> None:
    (photos / "broken.jpg").write_bytes(b"<html>")
    added, skipped = add_photos(collection, [photos], options)
    assert added.new == 24
    assert skipped == [("broken.jpg", "a web page, not an image")]
    with pytest.raises(DataError, match=r"none of 1 files is an image: .*broken\.jpg: a web page"):
        add_photos(collection, [photos / "broken.jpg"], options)


# --- removing -------------------------------------------------------------------------------------------------------


def test_removed_ids_never_come_back(collection: Collection, photos: Path, options: EncodeOptions) -> None:
    add_photos(collection, [photos], options)
    with collection.writing() as writer:
        assert writer.remove([24, (photos / "day 0").as_posix(), (photos / "day 1/001.jpg").as_posix()]).images == 10
    assert len(collection) == 14
    added, _ = add_photos(collection, [photos], options)
    assert added.new == 10
    assert {item.id for item in collection.items()} & {24} == set()
    assert max(item.id for item in collection.items()) == 34


def test_an_image_stays_while_it_has_a_file(collection: Collection, photos: Path, options: EncodeOptions) -> None:
    shutil.copy(photos / "day 0/000.jpg", photos / "copy.jpg")
    add_photos(collection, [photos], options)
    with collection.writing() as writer:
        assert writer.remove([(photos / "copy.jpg").as_posix()]) == Removed(images=0, paths=1)
        before = state(collection)
        with pytest.raises(DataError, match="has no image 99: `python -m ssdh list` shows"):
            writer.remove([1, 2, 99])
    assert state(collection) == before


def test_of_two_that_make_a_collection_in_one_place_one_does(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first has added is not lost by the second."""
    model, copy = finished / "models/hashnet.safetensors", shutil.copyfile

    def meanwhile(*arguments: Path) -> Path:
        monkeypatch.setattr(shutil, "copyfile", copy)
        with pytest.raises(BusyError, match="another process is changing"):
            create(tmp_path / "mine", model, "float16")
        return Path(copy(*arguments))

    monkeypatch.setattr(shutil, "copyfile", meanwhile)
    made = create(tmp_path / "mine", model, "float16")
    with pytest.raises(DataError, match=r"mine holds other things \(collection\.sqlite3\)"):
        create(tmp_path / "mine", model, "float16")
    assert len(made) == 0


# --- several processes ----------------------------------------------------------------------------------------------


def hold(folder: Path, ready: Any, go: Any) -> None:
    with open_collection(folder).writing():
        ready.set()
        go.wait()


@pytest.mark.long
def test_one_writer_at_a_time_and_its_lock_dies_with_it(
    collection: Collection, photos: Path, options: EncodeOptions
) -> None:
    context = multiprocessing.get_context("forkserver")
    ready, go = context.Event(), context.Event()
    process = context.Process(target=hold, args=(collection.folder, ready, go))
    process.start()
    while not ready.wait(1):
        assert process.is_alive()
    with pytest.raises(DataError, match="another process is changing"):
        add_photos(collection, [photos], options)
    assert len(collection) == 0  # readers go on
    process.kill()
    process.join()
    assert add_photos(collection, [photos], options)[0].new == 24


def test_readers_see_the_state_of_before_until_all_is_there(
    collection: Collection, photos: Path, options: EncodeOptions
) -> None:
    add_photos(collection, [photos / "day 0"], options)
    before = state(collection)
    seen: list[Any] = []
    with collection.writing() as writer, pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(writer), "_remove_pathless", lambda *_: seen.append(state(collection)) or 0)
        digest = "ab" * 32
        rows = np.zeros((1, collection.layout.rows(np.zeros((1, 12 + 512), np.float32)).shape[1]), np.uint8)
        writer.commit([("/new.jpg", digest)], [digest], rows)
    assert seen == [before]
    assert len(collection) == 9


# --- files ----------------------------------------------------------------------------------------------------------


def test_mistakes_are_one_line(finished: Path, tmp_path: Path, collection: Collection) -> None:
    model = finished / "models/hashnet.safetensors"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").touch()
    with pytest.raises(DataError, match=r"holds other things \(mine\.txt\)"):
        create(tmp_path / "other", model, "none")
    with pytest.raises(DataError, match="is no collection: make one with"):
        open_collection(tmp_path / "other")
    with pytest.raises(DataError, match="does not exist"):
        create(tmp_path / "new", tmp_path / "none.safetensors", "none")
    assert not (tmp_path / "new").exists()
    (collection.folder / MODEL).write_bytes(b"other")
    with pytest.raises(DataError, match="is not the network that made these codes"):
        open_collection(collection.folder)
    (collection.folder / DATABASE).write_bytes(b"no database at all" * 99)
    with pytest.raises(DataError, match="cannot be used: file is not a database"):
        open_collection(collection.folder)


def test_a_collection_half_made_is_made_anew(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = finished / "models/hashnet.safetensors"

    def fail(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", fail)
        with pytest.raises(DataError, match=r"collection\.sqlite3 could not be written: killed"):
            create(tmp_path / "mine", model, "int8")
    assert (tmp_path / "mine" / MODEL).exists()
    assert len(create(tmp_path / "mine", model, "int8")) == 0


# --- on the command line --------------------------------------------------------------------------------------------


def test_a_watched_folder_is_added_again(
    finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        """Something new after the first pass alone; the third is broken off."""
        naps.append(seconds)
        if len(naps) == 1:
            disc(99).save(photos / "new.png")
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("ssdh.cli.add.time.sleep", sleep)
    options = ["--model", str(finished / "models/hashnet.safetensors"), "--workers", "0", "--device", "cpu"]
    assert main(["add", "mine", "photos", "--watch", "60", *options]) == 130
    assert naps == [60, 60, 60]
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("mine: "))
    assert first == "mine: 24 images added. It holds 24 images."
    assert second.startswith("mine: 1 images added; 24 files were there")


@pytest.fixture
def watch(
    collection: Collection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[list[str], list[str]]]:
    """Runs `add mine … --watch 60`, between whose rounds things happen; gives what it printed and warned of."""
    monkeypatch.chdir(collection.folder.parent)

    def run(rounds: Sequence[Callable[[], Any]], *arguments: str) -> tuple[list[str], list[str]]:
        coming = iter([*rounds, Mock(side_effect=KeyboardInterrupt)])
        monkeypatch.setattr("ssdh.cli.add.time.sleep", lambda _: next(coming)())
        capsys.readouterr()
        assert main(["add", "mine", *arguments, "--watch", "60", "--workers", "0", "--device", "cpu"]) == 130
        printed, logged = capsys.readouterr()
        warned = [line.partition(" WARNING ")[2] for line in logged.splitlines() if " WARNING " in line]
        return printed.splitlines(), warned

    return run


def nothing() -> None:
    """A round in which all is as before."""


@pytest.mark.usefixtures("photos")
def test_a_watch_waits_for_another_writer_and_says_so_once(collection: Collection, watch: Any) -> None:
    with ExitStack() as other:
        other.enter_context(collection.writing())
        printed, warned = watch([nothing, nothing, other.close, nothing, nothing], "photos")
    assert printed == ["mine: 24 images added. It holds 24 images."]
    assert warned == ["another process is changing mine: wait until it has ended (looking again every 60 s)"]


def test_a_watch_goes_on_when_a_drive_is_away_for_a_while(photos: Path, watch: Any) -> None:
    away = photos.with_name("away")

    def unmount() -> None:
        photos.rename(away)
        photos.mkdir()

    def mount() -> None:
        photos.rmdir()
        away.rename(photos)
        disc(99).save(photos / "new.png")

    printed, warned = watch([unmount, nothing, mount, nothing], "photos")
    assert printed[0] == "mine: 24 images added. It holds 24 images."
    assert printed[1:] == ["mine: 1 images added; 24 files were there. It holds 25 images."]
    assert warned == ["photos holds no image file (looking again every 60 s)"]


def test_a_watch_goes_on_with_other_folders_when_one_is_moved(collection: Collection, photos: Path, watch: Any) -> None:
    Path("more").mkdir()
    disc(98).save("more/a.png")

    def take_away() -> None:
        photos.rename("away")
        disc(97).save("more/b.png")

    def bring_back() -> None:
        Path("away").rename(photos)

    printed, warned = watch([take_away, nothing, bring_back, take_away, bring_back], "photos", "more")
    assert printed[0] == "mine: 25 images added. It holds 25 images."
    assert printed[1:] == ["mine: 1 images added; 1 files were there. It holds 26 images."]
    assert warned == ["photos is gone (looking again every 60 s)"] * 2


def test_a_watch_goes_on_when_its_collection_is_back(collection: Collection, photos: Path, watch: Any) -> None:
    def take_away() -> None:
        collection.folder.rename("away")

    def bring_back() -> None:
        assert not collection.folder.exists()
        Path("away").rename(collection.folder)
        disc(99).save(photos / "new.png")

    printed, (warning,) = watch([take_away, nothing, bring_back], "photos")
    assert printed[1:] == ["mine: 1 images added; 24 files were there. It holds 25 images."]
    assert warning.endswith("(looking again every 60 s)")


def test_a_mistake_ends_a_watch_that_has_not_begun(
    collection: Collection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssdh.cli.add.time.sleep", lambda _: pytest.fail("slept"))
    assert main(["add", str(collection.folder), "photoz", "--watch", "60", "--device", "cpu"]) == 1
    assert "photoz does not exist" in capsys.readouterr().err


def test_a_watch_tells_of_a_broken_file_once_until_it_changes(photos: Path, watch: Any) -> None:
    broken = photos / "broken.jpg"
    (photos / ".hidden.jpg").touch()

    def write(content: bytes, seconds: int) -> None:
        broken.write_bytes(content)
        os.utime(broken, (seconds, seconds))

    changes = [partial(write, b"<html>", 1), nothing, partial(write, b"<html> again", 2), nothing, nothing]
    _, warned = watch(changes, "photos")
    message = f"{broken} is left out: a web page, not an image"
    assert warned == ["photos: passed over 1 hidden or excluded files", message, message]


def test_commands(
    finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(finished / "models/hashnet.safetensors")
    assert main(["add", "mine", "photos/day 0", "photos/day 1", "--model", model, "--workers", "0"]) == 0
    assert "mine: 16 images added. It holds 16 images." in capsys.readouterr().out
    shutil.copy(photos / "day 0/000.jpg", photos / "day 2/copy.jpg")
    assert main(["add", "mine", "photos", "--workers", "0"]) == 0  # the model is the collection's own
    message = capsys.readouterr().out
    assert "8 images added; 1 files are copies or new names of images that were there; 16 files were there" in message

    assert main(["list", "mine", "--json"]) == 0
    items = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [item["id"] for item in items] == list(range(1, 25))
    assert main(["search", "photos/day 2/005.jpg", "--collection", "mine", "--top", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    best = result["queries"][0]["results"][0]
    assert result["images"] == 24
    assert (best["distance"], best["name"]) == (0, (photos / "day 2/005.jpg").as_posix())
    assert best["id"] == next(item["id"] for item in items if best["name"] in item["paths"])

    assert main(["export", "out", "--to", "parquet", "--collection", "mine"]) == 0
    import pyarrow.parquet as pq

    assert pq.read_table("out/codes.parquet")["id"].to_pylist() == list(range(1, 25))
    (photos / "day 1/001.jpg").unlink()
    assert main(["remove", "mine", "--missing"]) == 0
    assert main(["remove", "mine", "3", "photos/day 2/copy.jpg"]) == 0
    message = capsys.readouterr().out
    assert "1 images removed. It holds 23 images." in message
    assert "1 images removed; 1 names removed of images that have others. It holds 22 images." in message
    assert main(["remove", "mine"]) == 1
    assert "name images to remove, or give --missing" in capsys.readouterr().err


def test_a_drive_that_is_not_mounted_empties_no_collection(
    collection: Collection, photos: Path, options: EncodeOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    add_photos(collection, [photos], options)
    before = state(collection)
    photos.rename(photos.with_name("away"))
    for _ in range(2):
        assert main(["remove", str(collection.folder), "--missing"]) == 1
        assert f"{photos / 'day 0'} is gone or empty" in capsys.readouterr().err
        assert state(collection) == before
        for day in ("day 0", "day 1", "day 2"):
            (photos / day).mkdir(parents=True, exist_ok=True)  # as places where a drive is mounted
    assert main(["remove", str(collection.folder), "--missing", "--force"]) == 0
    assert len(collection) == 0


def test_a_linked_photo_is_removed_by_whatever_it_is_called(
    finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSDH_HOME", str(tmp_path / "home"))
    model = str(finished / "models/hashnet.safetensors")
    files = sorted(photos.rglob("*.jpg"))
    links = tmp_path / "links"
    links.mkdir()
    for number in range(5):
        (links / f"soft{number}.jpg").symlink_to(files[number])
    (links / "hard.jpg").hardlink_to(files[5])
    (tmp_path / "outside.jpg").symlink_to(files[6])
    (tmp_path / "other name").symlink_to(links)
    assert main(["add", "mine", "links", "outside.jpg", "--model", model, "--device", "cpu"]) == 0
    stored = {path for item in open_collection(tmp_path / "mine").items() for path in item.paths}
    assert stored == {path.as_posix() for path in [*links.iterdir(), files[6]]}

    called = ["links/soft0.jpg", "other name/soft1.jpg", files[2].as_posix(), "links/../links/soft3.jpg"]
    for left, name in zip(range(6, -1, -1), [*called, str(files[5]), "outside.jpg"], strict=False):
        assert main(["remove", "mine", name]) == 0, name
        assert f"1 images removed. It holds {left:,} images." in capsys.readouterr().out
    assert main(["remove", "mine", str(files[7])]) == 1
    assert f"has no image {files[7].as_posix()}" in capsys.readouterr().err
    (links / "soft4.jpg").unlink()
    assert main(["remove", "mine", "other name/soft4.jpg"]) == 0


def test_a_folder_whose_name_is_a_number_is_not_taken_for_an_id(
    collection: Collection,
    photos: Path,
    options: EncodeOptions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (photos / "day 2").rename(photos / "3")
    add_photos(collection, [photos], options)
    before = state(collection)
    monkeypatch.chdir(photos)
    assert main(["remove", str(collection.folder), "3"]) == 1
    assert "3 is the id of one image and a name of another" in capsys.readouterr().err
    assert state(collection) == before
    assert main(["remove", str(collection.folder), "./3"]) == 0
    assert [path for item in collection.items() for path in item.paths if path.startswith(f"{photos}/3/")] == []
    assert main(["remove", str(collection.folder), "12", "--id", "10"]) == 0
    assert len(collection) == 24 - 8 - 2


def test_the_page_opens_a_collection(collection: Collection, photos: Path, options: EncodeOptions) -> None:
    from fastapi.testclient import TestClient

    from ssdh.search.searchable import open_searchable
    from ssdh.search.web.app import create_app

    with pytest.raises(DataError, match="is empty"):
        open_searchable(collection.folder).open_gallery()
    add_photos(collection, [photos], options)
    gallery = open_searchable(collection.folder).open_gallery()
    version = gallery.version
    with TestClient(create_app(gallery), base_url="http://localhost") as client:
        assert client.get("/api/about").json()["title"] == "mine"
        photo = (photos / "day 0/003.jpg").read_bytes()
        result = client.post("/api/search?top=3", content=photo).json()["results"]
        assert (result[0]["distance"], result[0]["name"]) == (0, (photos / "day 0/003.jpg").as_posix())
        assert client.get(result[0]["thumbnail"]).headers["content-type"].startswith("image/")
    with collection.writing() as writer:
        writer.remove([1])
    assert open_searchable(collection.folder).open_gallery().version != version
