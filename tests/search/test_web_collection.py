"""The page's near-identical groups and added photos, over HTTP: what is answered, and what is refused."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from ssdh.__main__ import main
from ssdh.core.errors import DataError
from ssdh.search import photo_adder
from ssdh.search.collection import Collection, create, open_collection
from ssdh.search.collection_add import add_photos
from ssdh.search.encode import EncodeOptions
from ssdh.search.photo_adder import PhotoAdder, file_name
from ssdh.search.searchable import open_searchable
from ssdh.search.web.app import create_app
from tests.helpers.finished_run import finished_run
from tests.helpers.galleries import digits_gallery, disc, files_gallery

OPTIONS = EncodeOptions(torch.device("cpu"), 0)
LIMIT = 1 << 20


def photo(seed: int) -> bytes:
    out = io.BytesIO()
    disc(seed).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = finished_run(project, tmp_path_factory.mktemp("run"), count=6, bits=64)
    (folder / "photos/copy.jpg").write_bytes((folder / "photos/day 0/000.jpg").read_bytes())
    return folder


@pytest.fixture
def collection(finished: Path, tmp_path: Path) -> Collection:
    result = create(tmp_path / "mine", finished / "models/hashnet.safetensors", "float16")
    add_photos(result, [finished / "photos"], OPTIONS)
    return result


@pytest.fixture
def client(collection: Collection) -> Iterator[TestClient]:
    """The page of a collection to which photos may be added."""
    gallery = open_searchable(collection.folder).open_gallery()
    app = create_app(gallery, collection=collection, max_upload=LIMIT, adder=PhotoAdder(collection, OPTIONS))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as result:
        yield result


# --- near-identical images ------------------------------------------------------------------------------------------


def test_groups_are_those_of_the_command(
    client: TestClient, collection: Collection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for limits in ((), ("radius", "0"), ("radius", "20", "min_similarity", "0.5")):
        options = [f"--{text.replace('_', '-')}" if text[0].isalpha() else text for text in limits]
        assert main(["duplicates", "--collection", str(collection.folder), "--json", *options]) == 0
        message = json.loads(capsys.readouterr().out)
        answer = client.get("/api/duplicates", params=dict(zip(limits[::2], limits[1::2], strict=True))).json()
        assert (answer["radius"], answer["min_similarity"]) == (message["radius"], message["min_similarity"])
        assert answer["total"] == len(message["groups"]) >= 1
        for group, expected in zip(answer["groups"], message["groups"], strict=True):
            assert group["size"] == len(expected)
            shown = [{name: image[name] for name in expected[0]} for image in group["images"]]
            assert shown == expected


def test_images_of_a_collection_have_their_ids(client: TestClient, collection: Collection) -> None:
    paths = {item.id: item.paths for item in collection.items()}
    images = client.get("/api/images?start=0&count=100").json()["images"]
    assert len(images) == len(paths)
    assert all(image["name"] in paths[image["id"]] for image in images)


def test_a_copy_is_shown_by_the_picture_of_its_image(client: TestClient, finished: Path) -> None:
    (group,) = client.get("/api/duplicates?radius=0&min_similarity=1").json()["groups"]
    assert [Path(image["name"]).name for image in group["images"]] == ["copy.jpg", "000.jpg"]
    assert [image["exact"] for image in group["images"]] == [False, True]
    first, second = group["images"]
    digest = hashlib.sha256((finished / "photos/copy.jpg").read_bytes()).hexdigest()
    assert first["sha256"] == second["sha256"] == digest
    assert (first["id"], first["row"], first["thumbnail"]) == (second["id"], second["row"], second["thumbnail"])
    assert client.get(first["thumbnail"]).headers["content-type"] == "image/jpeg"


def test_groups_come_by_pages(tmp_path: Path) -> None:
    gallery = digits_gallery(tmp_path, count=400)
    with TestClient(create_app(gallery), base_url="http://127.0.0.1") as client:
        whole = client.get("/api/duplicates?radius=3&min_similarity=0.9&count=50").json()
        assert 3 < whole["total"] <= 50
        parts = [
            client.get(f"/api/duplicates?radius=3&min_similarity=0.9&start={start}&count=2").json()["groups"]
            for start in range(0, whole["total"], 2)
        ]
        assert [group for part in parts for group in part] == whole["groups"]
        assert whole["images"] == sum(group["size"] for group in whole["groups"])
        assert client.get("/api/duplicates?radius=3&min_similarity=0.9&start=1000").json()["groups"] == []


def test_without_features_codes_alone_decide(tmp_path: Path) -> None:
    with TestClient(create_app(files_gallery(tmp_path, ["a.jpg", "b.jpg"])), base_url="http://127.0.0.1") as client:
        answer = client.get("/api/duplicates?radius=24").json()
        assert answer["min_similarity"] is None
        assert [image["similarity"] for image in answer["groups"][0]["images"]] == [None, None]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("radius=-1", "radius must be from 0 to 64 bits, got -1"),
        ("radius=65", "radius must be from 0 to 64 bits, got 65"),
        ("radius=2.5", "radius: "),
        ("radius=99999999999999999999999999", "radius"),
        ("min_similarity=2", "min-similarity must be from -1 to 1, got 2"),
        ("min_similarity=nan", "min-similarity must be from -1 to 1, got nan"),
        ("min_similarity=x", "min_similarity: "),
        ("start=-1", "start: "),
        ("count=0", "count: "),
        ("count=51", "count: "),
        ("similarity=0.9", "similarity is not a parameter here"),
    ],
)
def test_what_is_asked_wrongly_is_told(client: TestClient, query: str, message: str) -> None:
    answer = client.get(f"/api/duplicates?{query}")
    assert answer.status_code == 422
    assert message in answer.json()["error"]


# --- added photos ---------------------------------------------------------------------------------------------------


def test_an_added_photo_is_kept_found_and_as_if_added_by_the_command(
    client: TestClient, collection: Collection, finished: Path, tmp_path: Path
) -> None:
    before = {item.id: item.sha256 for item in collection.items()}
    assert client.get("/api/about").json()["adds"] is True
    answer = client.post("/api/images", params={"name": "beach.png"}, content=photo(77))
    assert (answer.status_code, answer.json()) == (201, {"id": 7, "new": True, "row": 6, "images": 7})
    assert client.get("/api/about").json()["images"] == 7
    (result,) = client.post("/api/search?top=1", content=photo(77)).json()["results"]
    assert (result["distance"], result["row"], Path(result["name"]).parent.name) == (0, 6, "photos")
    assert Path(result["name"]).read_bytes() == photo(77)
    assert client.get(result["thumbnail"]).status_code == 200
    assert {item.id: item.sha256 for item in collection.items()}.items() >= before.items()

    other = create(tmp_path / "other", finished / "models/hashnet.safetensors", "float16")
    (tmp_path / "beach.png").write_bytes(photo(77))
    add_photos(other, [tmp_path / "beach.png"], OPTIONS)
    assert np.array_equal(other.table().packed[0], collection.table().packed[6])
    assert np.array_equal(other.features([1]), collection.features([7]))


def test_a_photo_that_is_there_is_recognised(client: TestClient, collection: Collection, finished: Path) -> None:
    data = (finished / "photos/day 1/001.jpg").read_bytes()
    (known,) = (item.id for item in collection.items() if item.sha256 == hashlib.sha256(data).hexdigest())
    answer = client.post("/api/images?name=again.jpg", content=data)
    assert (answer.status_code, answer.json()["id"], answer.json()["new"]) == (200, known, False)
    with collection.writing():  # another process adds meanwhile
        assert client.post("/api/images?name=again.jpg", content=data).json() == answer.json()
    for name in ("a.png", "b.png"):
        assert client.post(f"/api/images?name={name}", files={"file": photo(5)}).json()["id"] == 7
    assert len(collection) == 7
    assert len(list((collection.folder / "photos").iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "empty file"),
        (b"<html>", 422, "a web page, not an image"),
        (photo(3)[:900], 422, "this file cannot be used"),
        (b"\xff" * (LIMIT + 1), 413, "larger than 1 MiB"),
    ],
)
def test_what_is_no_photo_changes_nothing(
    client: TestClient, collection: Collection, content: bytes, status: int, message: str
) -> None:
    answer = client.post("/api/images?name=a.jpg", content=content)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text
    assert len(collection) == 6
    assert not (collection.folder / "photos").exists()


def test_malformed_additions_are_refused(client: TestClient, collection: Collection) -> None:
    form = {"content-type": "multipart/form-data; boundary=XyZ"}
    assert client.post("/api/images", content=b"--XyZ\r\nhalf", headers=form).status_code == 422
    assert client.post("/api/images?id=3", content=photo(1)).status_code == 422
    assert client.post(f"/api/images?name={'x' * 501}", content=photo(1)).status_code == 422
    foreign = {"Origin": "https://evil.example"}
    assert client.post("/api/images", content=photo(1), headers=foreign).status_code == 403
    assert client.put("/api/images", content=photo(1)).status_code == 405
    assert len(collection) == 6


def test_another_writer_is_told_and_nothing_is_left(client: TestClient, collection: Collection) -> None:
    with collection.writing():
        answer = client.post("/api/images?name=a.png", content=photo(8))
    assert (answer.status_code, "another process is changing" in answer.json()["error"]) == (409, True)
    assert client.post("/api/images?name=a.png", content=photo(8)).status_code == 201


def test_a_failed_addition_leaves_no_file(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise DataError("no space")

    monkeypatch.setattr(photo_adder, "add_photos", fail)
    with pytest.raises(DataError, match="no space"):
        PhotoAdder(collection, OPTIONS).add(photo(8), "a.png")
    assert list((collection.folder / "photos").iterdir()) == []


def test_nothing_is_added_unless_it_is_allowed(
    collection: Collection, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = open_searchable(collection.folder).open_gallery()
    with TestClient(create_app(gallery), base_url="http://127.0.0.1") as client:
        assert client.get("/api/about").json()["adds"] is False
        answer = client.post("/api/images?name=a.png", content=photo(1))
        assert (answer.status_code, "--allow-add" in answer.json()["error"]) == (403, True)
    assert len(collection) == 6
    monkeypatch.chdir(finished)
    assert main(["serve", "--allow-add", "--port", "0"]) == 1
    assert "--allow-add needs --collection FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("beach.jpg", "beach-0123456789ab.jpg"),
        ("../../etc/passwd", "passwd-0123456789ab.jpg"),
        ("C:\\Users\\me\\CON.PNG", "CON-0123456789ab.png"),
        ("..", "__-0123456789ab.jpg"),
        ("", "photo-0123456789ab.jpg"),
        ("a\0b<c>|d.webp", "a_b_c__d-0123456789ab.webp"),
        (".hidden.jpg", "_hidden-0123456789ab.jpg"),
        ("図" * 300 + ".gif", "図" * 40 + "-0123456789ab.gif"),
        ("run.exe", "run-0123456789ab.jpg"),
    ],
)
def test_names_are_harmless(name: str, kept: str) -> None:
    assert file_name(name, "0123456789abcdef" * 4) == kept
    assert len(kept.encode()) < 200


def test_what_was_added_is_there_when_it_is_opened_again(client: TestClient, collection: Collection) -> None:
    client.post("/api/images?name=a.png", content=photo(9))
    (item,) = (item for item in open_collection(collection.folder).items() if item.id == 7)
    assert item.sha256 == hashlib.sha256(photo(9)).hexdigest()
    assert main(["add", str(collection.folder), str(collection.folder / "photos"), "--workers", "0"]) == 0
    assert len(collection) == 7
