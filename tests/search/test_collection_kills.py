"""Killed by SIGKILL at named points and at random moments, a collection is as before or as after, never between."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdh.core import resume
from ssdh.search import collection as module
from ssdh.search import collection_add
from ssdh.search.collection import Collection, Writer, create, open_collection
from ssdh.search.collection_add import add_photos
from ssdh.search.encode import EncodeOptions
from tests.helpers.finished_run import finished_run
from tests.helpers.killing import call, die

pytestmark = [pytest.mark.long, pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")]


def state(folder: Path) -> list[tuple[int, str, tuple[str, ...], bytes, bytes]]:
    collection = open_collection(folder)
    table = collection.table()
    features = collection.features(table.ids)
    return [
        (item.id, item.sha256, item.paths, code.tobytes(), feature.tobytes())
        for item, code, feature in zip(collection.items(), table.packed, features, strict=True)
    ]


def options() -> EncodeOptions:
    import torch

    torch.set_num_threads(1)
    return EncodeOptions(torch.device("cpu"), 0)


def add(folder: Path, photos: Path) -> None:
    add_photos(open_collection(folder), [photos], options())


# --- named points ---------------------------------------------------------------------------------------------------


def while_encoding() -> None:
    from ssdh.features import forward

    forward._fetched = call(1, forward._fetched, lambda *_: die())


def before_the_transaction() -> None:
    Writer.commit = lambda *_: die()  # type: ignore[method-assign,assignment]


def between_images_and_paths() -> None:
    Writer.known = call(2, Writer.known, lambda *_: die())  # type: ignore[method-assign]


def before_the_commit() -> None:
    Writer._remove_pathless = lambda *_: die()  # type: ignore[method-assign]


def after_the_commit() -> None:
    resume.shutil.rmtree = lambda *_, **__: die()  # type: ignore[attr-defined,assignment]


POINTS: dict[str, tuple[Callable[[], None], bool]] = {
    "while it encodes": (while_encoding, False),
    "with all codes, before the transaction": (before_the_transaction, False),
    "between images and paths": (between_images_and_paths, False),
    "before the commit": (before_the_commit, False),
    "after the commit, before cleaning up": (after_the_commit, True),
}


def add_and_die(folder: Path, photos: Path, home: Path, point: str) -> None:
    os.environ["SSDH_HOME"] = str(home)
    POINTS[point][0]()
    add(folder, photos)


def add_without_network(folder: Path, photos: Path, home: Path, _: str) -> None:
    """Add photos; dies where the network would run."""
    from ssdh.features import forward

    os.environ["SSDH_HOME"] = str(home)
    forward._outputs = lambda *_: die()
    add(folder, photos)


def change_again_and_again(folder: Path, rows: np.ndarray, started: Any) -> None:
    """Add the same hundred images at once and remove them at once, without end."""
    collection = open_collection(folder)
    digests = [f"{number:064x}" for number in range(len(rows))]
    paths = [(f"/{digest}.jpg", digest) for digest in digests]
    while True:
        with collection.writing() as writer:
            writer.commit(paths, digests, rows)
            started.set()
            writer.remove([path for path, _ in paths])


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(project, tmp_path_factory.mktemp("run"))


@pytest.fixture
def collection(finished: Path, tmp_path: Path) -> Collection:
    made = create(tmp_path / "mine", finished / "models/hashnet.safetensors", "int8")
    add(made.folder, finished / "photos/day 0")
    return made


@pytest.fixture(scope="module")
def context() -> Any:
    result = multiprocessing.get_context("forkserver")
    result.set_forkserver_preload(["tests.search.test_collection_kills"])
    return result


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point_then_again(
    point: str, collection: Collection, finished: Path, tmp_path: Path, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(collection.folder)
    whole = tmp_path / "whole"
    shutil.copytree(collection.folder, whole)
    add(whole, finished / "photos")
    after = state(whole)
    assert (len(before), len(after)) == (8, 24)

    home = tmp_path / "home of the killed"
    process = context.Process(target=add_and_die, args=(collection.folder, finished / "photos", home, point))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert state(collection.folder) == (after if POINTS[point][1] else before)

    monkeypatch.setenv("SSDH_HOME", str(home))
    add(collection.folder, finished / "photos")
    assert state(collection.folder) == after
    assert {path.name for path in collection.folder.iterdir()} >= {module.DATABASE, module.MODEL}


def test_codes_of_a_killed_addition_are_not_computed_again(
    collection: Collection, finished: Path, tmp_path: Path, context: Any
) -> None:
    ends = []
    for target, point in ((add_and_die, "with all codes, before the transaction"), (add_without_network, "")):
        home = tmp_path / "home"
        process = context.Process(target=target, args=(collection.folder, finished / "photos", home, point))
        process.start()
        process.join()
        ends.append(process.exitcode)
    assert ends == [-signal.SIGKILL, 0]
    assert len(collection) == 24


def test_killed_at_random_moments(collection: Collection, context: Any) -> None:
    before = state(collection.folder)
    rng = np.random.default_rng(0)
    rows = np.zeros((100, collection.layout.rows(np.zeros((1, 12 + 512), np.float32)).shape[1]), np.uint8)
    seen = set()
    for _ in range(12):
        started = context.Event()
        process = context.Process(target=change_again_and_again, args=(collection.folder, rows, started))
        process.start()
        while not started.wait(1):
            assert process.is_alive()
        process.join(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        result = state(collection.folder)
        assert result[:8] == before
        assert len(result) in (8, 108)
        seen.add(len(result))
        with sqlite3.connect(collection.folder / module.DATABASE) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        with collection.writing() as writer:
            writer.commit([("/x", "f" * 64)], ["f" * 64], rows[:1])
            if len(result) > 8:
                writer.remove([item.id for item in collection.items()[8:-1]])
            writer.remove(["/x"])
    assert seen
    assert collection_add.NEW not in {path.name for path in collection.folder.iterdir()}
