"""Collections in Python: against brute force, against the commands on the same folder, and several at once."""

import itertools
import json
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdh import Collection, Hasher
from ssdh.__main__ import main
from ssdh.core.errors import DataError, ParameterError
from ssdh.search import collection as stored
from ssdh.search.collection import open_collection
from tests.helpers.finished_run import finished_run

ROWS, DIM, BITS = 300, 24, 20
NAMES = [f"item {row}" for row in range(ROWS)]


def rows(count: int = ROWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def hasher() -> Hasher:
    return Hasher(bits=BITS, epochs=3).fit(rows())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSDH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mine(hasher: Hasher) -> Collection:
    return Collection.create("mine", hasher)


def hamming(hasher: Hasher, queries: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Bits that differ, from the signs themselves."""
    own, theirs = hasher.decision_function(queries) >= 0, hasher.decision_function(others) >= 0
    return (own[:, None] != theirs[None]).sum(axis=2)


def test_a_search_finds_the_nearest_codes_by_id_and_name(hasher: Hasher, mine: Collection) -> None:
    X = rows()
    ids = mine.add(X, NAMES)
    assert (ids.dtype, ids.tolist(), len(mine)) == (np.int64, list(range(1, ROWS + 1)), ROWS)
    distances, found = mine.search(X[:7], top=12)
    expected = hamming(hasher, X[:7], X)
    assert (distances.dtype, found.dtype, found.shape) == (np.int32, np.int64, (7, 12))
    np.testing.assert_array_equal(distances, np.sort(expected, axis=1)[:, :12])
    np.testing.assert_array_equal(distances, np.take_along_axis(expected, found - 1, 1))
    assert mine.names(found).tolist() == [[f"item {number - 1}" for number in line] for line in found]
    assert mine.search(X[:1]).ids.shape == (1, 10)


def test_a_shortlist_is_ordered_by_cosine(mine: Collection) -> None:
    X = rows()
    mine.add(X, NAMES)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    nearest = np.argsort(-(unit[:5] @ unit.T), axis=1)[:, :10]
    np.testing.assert_array_equal(mine.search(X[:5], top=10, rerank=ROWS).ids - 1, nearest)
    distances, ids = mine.search(X[:5], top=10, radius=0, rerank=ROWS)
    assert (ids[:, 0] == np.arange(1, 6)).all()
    assert ((ids == -1) == (distances == -1)).all()
    assert (ids == -1).any()
    assert (mine.names(ids)[ids == -1] == "").all()


@pytest.mark.parametrize("kind", ["float64", "bfloat16", "tensor", "memmap", "big-endian", "list"])
def test_any_array_of_the_same_values_is_the_same_rows(kind: str, mine: Collection, tmp_path: Path) -> None:
    X = torch.from_numpy(rows()).bfloat16().float().numpy()
    np.save(tmp_path / "x.npy", X)
    given: dict[str, Any] = {
        "float64": X.astype(np.float64),
        "bfloat16": torch.from_numpy(X).bfloat16(),
        "tensor": torch.from_numpy(X).requires_grad_(),
        "memmap": np.load(tmp_path / "x.npy", mmap_mode="r"),
        "big-endian": X.astype(">f4"),
        "list": X.tolist(),
    }
    ids = mine.add(X, NAMES)
    before = open_collection(Path("mine")).table().packed
    np.testing.assert_array_equal(mine.add(given[kind]), ids)
    assert len(mine) == ROWS
    np.testing.assert_array_equal(mine.search(given[kind][:4], rerank=50).ids, mine.search(X[:4], rerank=50).ids)
    other = Collection.create("other", Path("mine/model.safetensors"))
    other.add(given[kind], NAMES)
    np.testing.assert_array_equal(open_collection(Path("other")).table().packed, before)


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint8, np.int64, bool])
def test_rows_of_every_type_of_numbers_find_themselves(dtype: Any, mine: Collection) -> None:
    X = (np.abs(rows()) * 9 % 2 if dtype is bool else np.abs(rows()) * 9).astype(dtype)
    ids = mine.add(X)
    np.testing.assert_array_equal(mine.search(X, top=1, rerank=ROWS).ids[:, 0], ids)


def test_equal_rows_are_one_and_names_go_to_the_new_row(mine: Collection) -> None:
    X = rows(4)
    X[2] = X[0]
    ids = mine.add(X, ["a", "b", "c", "d"])
    assert (ids.tolist(), len(mine)) == ([1, 2, 1, 3], 3)
    np.testing.assert_array_equal(mine.add(X), ids)  # without names: nothing is new, and given names are shown
    assert mine.names([1, 2, 3]).tolist() == ["a", "b", "d"]
    assert mine.add(rows(1, seed=5), ["d"]).tolist() == [4]
    assert mine.names(4) == "d"
    assert len(mine) == 4  # the row that was d keeps the name that its digest gives it
    assert mine.names(3).item().startswith("sha256:")
    assert mine.add(rows(1, seed=6), ["b"]).tolist() == [5]
    fresh = Collection.create("fresh", Path("mine/model.safetensors"))
    fresh.add(X[:2], ["a", "b"])
    fresh.add(rows(1, seed=7), ["b"])
    assert len(fresh) == 2
    with pytest.raises(DataError, match="has no image 2"):
        fresh.names(2)


def test_rows_are_removed_by_id_and_name_and_ids_never_come_back(mine: Collection) -> None:
    X = rows()
    ids = mine.add(X, NAMES)
    assert mine.remove(ids[:3]) == 3
    assert mine.remove("item 3") == 1
    assert mine.remove([5, "item 5", np.int64(7)]) == 3
    assert len(mine) == ROWS - 7
    assert 8 not in mine.search(X[:7], top=ROWS).ids[:, :1]
    assert mine.search(X, top=ROWS).ids.min() == 8
    with pytest.raises(DataError, match="mine has no image item 3"):
        mine.remove(["item 20", "item 3"])
    for wanted in (21.5, [21.0], b"item 20", np.array([21.0])):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            mine.remove(wanted)
    assert mine.names(21) == "item 20"
    for odd in (21.0, "item 20", [2**70], [np.nan]):
        with pytest.raises(TypeError):
            mine.names(odd)
    assert mine.names([]).shape == (0,)
    assert mine.add(X[:1], ["item 0"]).tolist() == [ROWS + 1]


def test_what_is_named_twice_is_removed_once(mine: Collection) -> None:
    X = rows(6)
    X[3] = X[0]
    assert mine.remove(mine.add(X)) == 5  # equal rows have one id
    ids = mine.add(rows(4), ["a", "a/b", "a/c", "d"])
    assert mine.remove(["a", "a/b", int(ids[2]), "d", int(ids[3]), "d"]) == 4
    assert len(mine) == 0


def test_a_name_takes_what_is_below_it_and_no_other(mine: Collection) -> None:
    names = ["a", "a/b", "a/\U0010ffff", "a/b/c", "a0", "a.b", "ab", "A", "b/a/c", "a\x7f", "/d/e:1", "/f"]
    mine.add(rows(len(names)), names)
    with pytest.raises(DataError, match="has no image : "):
        mine.remove("")
    assert mine.remove("a") == 4
    assert mine.names(np.arange(5, 13)).tolist() == names[4:]
    assert mine.remove("/d/") == 1
    assert mine.remove("/") == 1
    assert len(mine) == 6


def test_names_are_found_without_looking_at_all(mine: Collection) -> None:
    """Removing half the rows by name takes SQLite as many steps as removing the others by id, up to a factor."""
    mine.add(rows(), NAMES)
    steps = []
    for wanted in (range(1, ROWS // 2 + 1), NAMES[ROWS // 2 :]):
        with open_collection(mine.folder).writing() as writer:
            count = itertools.count()
            writer.database.set_progress_handler(lambda count=count: next(count) < 0, 10)
            writer.remove(wanted)
            steps.append(next(count))
    assert len(mine) == 0
    assert steps[1] < 2 * steps[0]


def test_commands_and_library_share_the_folder(
    hasher: Hasher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    X = rows()
    np.savez(tmp_path / "a.npz", features=X, names=np.array(NAMES))
    hasher.save(tmp_path / "h.safetensors")
    assert main(["add", "mine", "a.npz", "--model", "h.safetensors"]) == 0
    mine = Collection.open("mine")
    assert len(mine) == ROWS
    np.testing.assert_array_equal(mine.add(X, NAMES), np.arange(1, ROWS + 1))
    mine.add(rows(2, seed=1), ["cat", "dog"])
    np.save(tmp_path / "q.npy", X[:6])
    capsys.readouterr()
    for rerank in ("0", "40"):
        assert main(["search", "q.npy", "--collection", "mine", "--top", "8", "--rerank", rerank, "--json"]) == 0
        results = [query["results"] for query in json.loads(capsys.readouterr().out)["queries"]]
        found = mine.search(X[:6], top=8, rerank=int(rerank))
        assert found.ids.tolist() == [[result["id"] for result in line] for line in results]
        assert found.distances.tolist() == [[result["distance"] for result in line] for line in results]
        assert mine.names(found.ids).tolist() == [[result["name"] for result in line] for line in results]
    assert main(["remove", "mine", "cat", "item 0"]) == 0
    assert len(mine) == ROWS
    assert 1 not in mine.search(X[:1], top=ROWS).ids
    Collection.create("made", hasher, features="int8").add(X, NAMES)
    assert main(["add", "made", "a.npz"]) == 0
    assert f"{ROWS:,} rows were there" in capsys.readouterr().out


def test_what_another_one_changes_is_seen(mine: Collection) -> None:
    other = Collection.open(mine.folder)
    mine.add(rows())
    X = rows(1, seed=9)
    assert other.search(X, top=1).distances.shape == (1, 1)
    (number,) = mine.add(X)
    assert other.search(X, top=1, rerank=ROWS).ids.item() == number
    mine.remove(number)
    assert other.search(X, top=1, rerank=ROWS).ids.item() != number


def test_a_row_that_goes_during_a_search_is_not_found(mine: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    X = rows()
    ids = mine.add(X)
    features, other = stored.Collection.features, Collection.open("mine")

    def one_goes_before(self: stored.Collection, wanted: Any) -> Any:
        monkeypatch.setattr(stored.Collection, "features", features)
        other.remove(ids[:3])
        return features(self, wanted)

    monkeypatch.setattr(stored.Collection, "features", one_goes_before)
    found = mine.search(X[:3], top=ROWS, rerank=ROWS).ids
    assert len(mine) == ROWS - 3
    assert np.sort(found, axis=1).tolist() == [ids[3:].tolist()] * 3


def test_another_process_can_be_handed_one(mine: Collection) -> None:
    X = rows()
    mine.add(X)
    expected = mine.search(X[:5], rerank=50).ids
    handed = pickle.loads(pickle.dumps(mine))
    np.testing.assert_array_equal(handed.search(X[:5], rerank=50).ids, expected)


def test_a_folder_that_is_gone_is_one_line_whatever_is_asked(mine: Collection) -> None:
    X = rows()
    mine.add(X)
    shutil.rmtree("mine")
    asked: list[Callable[[], Any]] = [
        lambda: len(mine),
        lambda: mine.add(X),
        lambda: mine.search(X),
        lambda: mine.names(1),
        lambda: mine.remove(1),
        lambda: mine.add_photos("a.jpg"),
        lambda: mine.search_photos("a.jpg"),
    ]
    for ask in asked:
        with pytest.raises(DataError, match="mine is no collection"):
            ask()
    assert not Path("mine").exists()


def test_additions_at_once_come_one_after_the_other(hasher: Hasher, mine: Collection) -> None:
    def add(seed: int) -> np.ndarray:
        return Collection.open("mine").add(rows(40, seed), [f"{seed}/{row}" for row in range(40)])

    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(add, range(8)))
    assert len({*np.concatenate(ids).tolist()}) == len(mine) == 320
    for seed, own in enumerate(ids):
        assert mine.names(own[[0, 39]]).tolist() == [f"{seed}/0", f"{seed}/39"]
        assert (mine.search(rows(40, seed), top=1, rerank=320).ids[:, 0] == own).all()


def test_an_addition_waits_for_who_is_writing(mine: Collection) -> None:
    with open_collection(mine.folder).writing():
        waiting = threading.Thread(target=mine.add, args=(rows(3),))
        waiting.start()
        time.sleep(0.3)
        assert waiting.is_alive()
        assert len(mine) == 0
    waiting.join(30)
    assert len(mine) == 3


def bad(row: int, value: float) -> np.ndarray:
    X = rows(5)
    X[row] = value
    return X


@pytest.mark.parametrize(
    ("features", "names", "message"),
    [
        (np.ones(DIM), None, r"features must be \(n, 24\), one row an embedding, got shape \(24,\)"),
        (np.ones((3, 5)), None, r"features must be \(n, 24\).*got shape \(3, 5\)"),
        (np.ones((0, DIM)), None, r"got shape \(0, 24\)"),
        (np.full((2, DIM), "a"), None, "features must be numbers, got <U1"),
        ([[1.0] * DIM, [1.0]], None, r"features must be \(n, 24\).*got rows of different lengths"),
        (np.ones((2, DIM), object), None, "features must be numbers, got object"),
        (np.ones((2, DIM), complex), None, "features must be numbers, got complex128"),
        (bad(3, np.nan), None, "features: row 3 holds NaN or infinity: repair it"),
        (bad(2, 0), None, "features: row 2 is all zero"),
        (np.full((2, DIM), 1e300), None, "features: row 0 holds NaN or infinity"),
        (rows(3), ["a", "b"], "2 names do not fit 3 rows of features"),
        (rows(3), ["a", "b", "a"], r"names.*a name is of one row"),
        (rows(3), ["a", "", "c"], "names: row 1 has no name"),
        (rows(3), ["a", None, "c"], "names: row 1 has no name"),
        (rows(3), ["a", float("nan"), "c"], "names: row 1 has no name"),
        (rows(3), ["a", np.float32("nan"), "c"], "names: row 1 has no name"),
        (rows(3), ["a", "b\0c", "c"], r"names holds 'b\\x00c': no name has a null"),
        (rows(3), ["a", "\udce9", "c"], r"'\\udce9' is not in UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_embedding_is_one_line_and_changes_nothing(
    features: Any, names: Any, message: str, mine: Collection
) -> None:
    mine.add(rows(2, seed=3))
    with pytest.raises(DataError, match=message) as error:
        mine.add(features, names)
    assert "\n" not in str(error.value)
    assert len(mine) == 2
    if names is None:
        with pytest.raises(DataError, match=message):
            mine.search(features)


def test_mistakes_are_one_line(hasher: Hasher, mine: Collection, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="mine is empty"):
        mine.search(rows(1))
    with pytest.raises(DataError, match="is no collection: make one"):
        Collection.open("none")
    with pytest.raises(DataError, match="holds other things"):
        Collection.create("mine", hasher)
    with pytest.raises(DataError, match="does not exist"):
        Collection.create("new", "none.safetensors")
    with pytest.raises(ParameterError, match="features must be one of none, float16, int8, got 'float32'"):
        Collection.create("new", hasher, features="float32")  # type: ignore[arg-type]
    assert not Path("new").exists()
    mine.add(rows())
    with pytest.raises(ParameterError, match="top must be at least 1, got 0"):
        mine.search(rows(1), top=0)
    with pytest.raises(DataError, match="takes embeddings of 24 values, not images"):
        mine.search_photos(["a.jpg"])


def test_photos_are_added_and_searched_as_by_the_commands(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(project, tmp_path / "run", count=9)
    model, photos = run / "models/hashnet.safetensors", run / "photos"
    mine = Collection.create("mine", model)
    assert mine.add_photos([photos / "day 0", str(photos / "day 1/001.jpg")]) == 4
    assert mine.add_photos(photos, exclude="day 2/*") == 2
    assert mine.add_photos(photos, exclude=["day 2/*"]) == 0
    assert main(["add", "mine", str(photos), "--workers", "0"]) == 0
    assert "3 images added; 6 files were there" in capsys.readouterr().out
    assert main(["search", str(photos), "--collection", "mine", "--top", "4", "--rerank", "9", "--json"]) == 0
    queries = json.loads(capsys.readouterr().out)["queries"]
    paths = [query["photo"] for query in queries]
    found = mine.search_photos(paths, top=4, rerank=9)
    assert found.ids.tolist() == [[result["id"] for result in query["results"]] for query in queries]
    assert mine.names(found.ids[:, 0]).tolist() == paths
    assert mine.search_photos(paths[0], top=4, rerank=9).ids.tolist() == found.ids[:1].tolist()
    (photos / "broken.jpg").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"broken\.jpg: a web page, not an image"):
        mine.search_photos([paths[0], photos / "broken.jpg"])
    with pytest.raises(DataError, match=r"^'\\udce9\.jpg': cannot be read"):
        mine.search_photos("\udce9.jpg")
    with pytest.raises(DataError, match="has no image : "):
        mine.remove("")
    for ask in (mine.search_photos, mine.add_photos):
        with pytest.raises(DataError, match="give a photo at least"):
            ask([])
    with pytest.raises(DataError, match="mine holds photos: use add_photos"):
        mine.add(rows(3))
    assert mine.remove([paths[0], paths[1]]) == 2
    assert len(mine) == 7
