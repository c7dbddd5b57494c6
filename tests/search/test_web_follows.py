"""The page of a collection that other processes change: the next answer is of the new state, whole, or one line."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from fastapi.testclient import TestClient

from ssdh.core.errors import DataError
from ssdh.search.collection import DATABASE, MODEL, Collection, create, open_collection
from ssdh.search.collection_add import add_photos
from ssdh.search.encode import EncodeOptions
from ssdh.search.searchable import searchable_collection
from ssdh.search.web import current
from ssdh.search.web.app import create_app
from tests.helpers.finished_run import finished_run
from tests.helpers.galleries import disc, encoded, serving

OPTIONS = EncodeOptions(torch.device("cpu"), 0)


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(project, tmp_path_factory.mktemp("run"), count=6, bits=64)


@pytest.fixture
def photos(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished / "photos", tmp_path / "photos"))


@pytest.fixture
def collection(finished: Path, photos: Path, tmp_path: Path) -> Collection:
    made = create(tmp_path / "mine", finished / "models/hashnet.safetensors", "float16")
    add_photos(made, [photos], OPTIONS)
    return made


@pytest.fixture
def app(collection: Collection) -> Any:
    return create_app(searchable_collection(collection).open_gallery(), collection=collection)


@pytest.fixture
def client(app: Any) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as result:
        yield result


def add(collection: Collection, path: Path, seed: int) -> int:
    """A new photo, added as another process does it; its id."""
    disc(seed).save(path)
    other = open_collection(collection.folder)
    add_photos(other, [path], OPTIONS)
    number = other.id_of(path.as_posix())
    assert number is not None
    return number


def remove(collection: Collection, *ids: int) -> None:
    with open_collection(collection.folder).writing() as writer:
        writer.remove(ids)


def test_what_others_add_and_remove_is_in_the_next_answer(
    client: TestClient, collection: Collection, photos: Path
) -> None:
    assert client.get("/api/about").json()["images"] == 6
    new = add(collection, photos / "new.png", 99)
    (found,) = client.post("/api/search?top=1", content=encoded(disc(99))).json()["results"]
    assert (found["distance"], found["id"]) == (0, new)
    remove(collection, 1, new)
    assert client.get("/api/about").json()["images"] == 5
    images = client.get("/api/images?start=0").json()["images"]
    assert [image["id"] for image in images] == [2, 3, 4, 5, 6]
    results = client.post("/api/search?top=9", content=encoded(disc(99))).json()["results"]
    assert sorted(result["id"] for result in results) == [2, 3, 4, 5, 6]


def test_a_file_that_moved_is_shown_under_its_new_name(
    client: TestClient, collection: Collection, photos: Path
) -> None:
    (photos / "day 0/000.jpg").rename(photos / "moved.jpg")
    assert client.get("/images/0/thumbnail").status_code == 410
    add_photos(open_collection(collection.folder), [photos], OPTIONS)
    image = client.get("/api/images?start=0").json()["images"][0]
    assert Path(image["name"]).name == "moved.jpg"
    assert client.get(image["thumbnail"]).status_code == 200


def test_an_image_keeps_its_addresses_when_rows_shift(client: TestClient, collection: Collection) -> None:
    first, second = client.get("/api/images?start=0").json()["images"][:2]
    before = client.get(second["thumbnail"]).content
    remove(collection, first["id"])
    assert client.get(second["thumbnail"]).content == before
    query = client.get(f"/api/search?id={second['id']}").json()["query"]
    assert (query["id"], query["row"], query["name"]) == (second["id"], 0, second["name"])
    for address in (first["thumbnail"], f"/api/search?id={first['id']}"):
        answer = client.get(address)
        assert (answer.status_code, answer.json()["error"]) == (404, "there is no image with the id 1")
    assert client.get("/api/search?id=2&row=0").status_code == 422
    assert client.get(f"/api/search?id={10**30}").status_code == 422


def test_an_addition_of_nothing_new_opens_nothing(
    client: TestClient, collection: Collection, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current, "open_collection", lambda _: pytest.fail("opened"))
    version = collection.version()
    add_photos(collection, [photos], OPTIONS)
    assert client.get("/api/about").json()["images"] == 6
    assert collection.version() == version


def test_who_asks_meanwhile_gets_the_whole_state_of_before(
    app: Any, collection: Collection, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, go = Event(), Event()

    def slow(folder: Path) -> Collection:
        opening.set()
        assert go.wait(60)
        return open_collection(folder)

    monkeypatch.setattr(current, "open_collection", slow)

    def ask(address: str) -> Any:
        with urlopen(f"{address}/api/images?start=0") as answer:
            return json.load(answer)

    with serving(app) as address, ThreadPoolExecutor(1) as pool:
        before = ask(address)
        add(collection, photos / "new.png", 99)
        first = pool.submit(ask, address)
        assert opening.wait(60)
        assert ask(address) == before
        go.set()
        assert first.result(60)["total"] == 7
        assert ask(address)["total"] == 7


def vanish(folder: Path) -> None:
    folder.rename(folder.with_name("away"))


def break_database(folder: Path) -> None:
    (folder / DATABASE).rename(folder / "kept")
    (folder / DATABASE).write_bytes(b"no database at all" * 999)


def empty_database(folder: Path) -> None:
    (folder / DATABASE).rename(folder / "kept")
    sqlite3.connect(folder / DATABASE).close()
    (folder / DATABASE).touch()


def lose_model(folder: Path) -> None:
    """With a change, without which nobody looks at the model."""
    (folder / MODEL).rename(folder / "kept")
    with sqlite3.connect(folder / DATABASE) as database:
        database.execute("PRAGMA user_version = 1")


def remove_all(folder: Path) -> None:
    remove(open_collection(folder), 1, 2, 3, 4, 5, 6)


BROKEN: dict[Callable[[Path], None], str] = {
    vanish: "is no collection",
    break_database: "cannot be used: file is not a database",
    empty_database: "cannot be used: no such table",
    lose_model: "is not the network that made these codes",
    remove_all: "is empty",
}


@pytest.mark.parametrize("happens", BROKEN, ids=lambda happens: happens.__name__)
def test_a_collection_that_is_gone_or_broken_is_one_line_until_it_is_back(
    happens: Callable[[Path], None], client: TestClient, collection: Collection, tmp_path: Path
) -> None:
    kept = shutil.copytree(collection.folder, tmp_path / "kept")
    happens(collection.folder)
    for method, address, content in (
        ("GET", "/api/about", None),
        ("GET", "/api/images", None),
        ("GET", "/api/search?row=0", None),
        ("GET", "/images/0/thumbnail", None),
        ("GET", "/api/duplicates", None),
        ("POST", "/api/search", encoded(disc(1))),
    ):
        answer = client.request(method, address, content=content)
        assert (answer.status_code, BROKEN[happens] in answer.json()["error"]) == (503, True), (address, answer.text)
        assert len(answer.json()["error"].splitlines()) == 1
    assert client.get("/").status_code == 200
    shutil.rmtree(collection.folder, ignore_errors=True)
    shutil.copytree(kept, collection.folder)
    assert client.get("/api/about").json()["images"] == 6


def test_another_collection_in_its_place_is_opened_with_its_own_network(
    client: TestClient, collection: Collection, photos: Path, project: Path, tmp_path: Path
) -> None:
    other = finished_run(project, tmp_path / "run", count=3, bits=12)
    shutil.rmtree(collection.folder)
    add_photos(create(collection.folder, other / "models/hashnet.safetensors", "none"), [photos], OPTIONS)
    assert client.get("/api/about").json()["bits"] == 12
    (result,) = client.post("/api/search?top=1", content=(photos / "day 1/001.jpg").read_bytes()).json()["results"]
    assert (result["distance"], Path(result["name"]).name) == (0, "001.jpg")
    with pytest.raises(DataError, match="is another collection than it was before"):
        add_photos(collection, [photos], OPTIONS)
    with pytest.raises(DataError, match="is another collection than it was before"):
        len(collection)
