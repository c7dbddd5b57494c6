"""Embeddings of every format through encode, add, search, duplicates: the same codes, by the names that they carry."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from ssdh.__main__ import main
from ssdh.hashing.codes import pack, sign_codes
from ssdh.hashing.model_file import save_hashnet
from ssdh.hashing.network import seeded_hashnet
from ssdh.search import finished_run
from ssdh.search.collection import open_collection

ROWS, DIM, BITS = 130, 24, 32
NAMES = [f"item {row}" for row in range(ROWS)]


def rows() -> np.ndarray:
    """(130, 24) float32; rows 100 and 101 are exact copies of row 5, row 102 is nearly row 6."""
    result = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    result[100:102] = result[5]
    result[102] = result[6] * 1.5 + np.float32(1e-4)
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "hashnet.safetensors"
    metadata = {"input": "embeddings", "dim": DIM, "bits": BITS}
    save_hashnet(path, seeded_hashnet(DIM, BITS, seed=3), metadata)
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSDH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def expected_codes(model: Path) -> tuple[np.ndarray, np.ndarray]:
    """(codes (n, 4), which bits are sure (n, 32)) by hand: the signs of W·x + b."""
    state = safetensors.numpy.load_file(model)
    outputs = (rows() - state["center"]) @ state["hash.weight"].T + state["hash.bias"]
    return pack(sign_codes(outputs)), np.abs(outputs) > 1e-4


def npz(path: Path, array: np.ndarray) -> None:
    np.savez(path, features=array, names=np.array(NAMES))


def parquet(path: Path, array: np.ndarray) -> None:
    pq.write_table(pa.table({"name": NAMES, "embedding": list(array)}), path)


def shards(path: Path, array: np.ndarray) -> None:
    path.mkdir()
    for number, start in enumerate(range(0, ROWS, 50)):
        np.save(path / f"img_emb_{number}.npy", array[start : start + 50])
        pq.write_table(pa.table({"name": NAMES[start : start + 50]}), path / f"metadata_{number}.parquet")


def hdf5(path: Path, array: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["features"], file["names"] = array, NAMES


def wide(path: Path, array: np.ndarray) -> None:
    pq.write_table(pa.table({"name": NAMES} | {f"f{n}": array[:, n] for n in range(DIM)}), path)


def text(path: Path, array: np.ndarray) -> None:
    header = ",".join(["id", *(f"f{n}" for n in range(DIM))])
    lines = [header, *(",".join([name, *map(repr, row)]) for name, row in zip(NAMES, array.tolist(), strict=True))]
    path.write_text("\n".join(lines), encoding="utf-8")


FORMATS: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "a.npy": np.save,
    "a.npz": npz,
    "a.parquet": parquet,
    "wide.parquet": wide,
    "a.csv": text,
    "shards": shards,
    "a.safetensors": lambda path, array: safetensors.numpy.save_file({"features": array}, path),
    "a.h5": hdf5,
}
NAMED = ("a.npz", "a.parquet", "wide.parquet", "a.csv", "shards", "a.h5")


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_through_every_command(
    name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FORMATS[name](tmp_path / name, rows())
    codes, sure = expected_codes(model)
    names = NAMES if name in NAMED else [f"{(tmp_path / name).as_posix()}:{row}" for row in range(ROWS)]

    assert main(["encode", name, "--model", str(model), "--out", "out", "--features", "float16"]) == 0
    results = np.load("out/codes.npy")
    assert not (np.unpackbits(results ^ codes, axis=1, count=BITS).astype(bool) & sure).any()
    with Path("out/manifest.csv").open(newline="", encoding="utf-8") as file:
        listed = [row["path"] for row in csv.DictReader(file)]
    assert listed == (NAMES if name in NAMED else [str(row) for row in range(ROWS)])
    unit = rows() / np.linalg.norm(rows(), axis=1, keepdims=True)
    np.testing.assert_allclose(np.load("out/features.npy").astype(float), unit, atol=1e-3)

    assert main(["add", "mine", name, "--model", str(model)]) == 0
    collection = open_collection(Path("mine"))
    table = collection.table(copies=True)
    assert dict(zip(table.metadata["name"], table.packed.tobytes().hex(" ", 4).split(), strict=True)) == {
        one: code.tobytes().hex() for one, code in zip(names, results, strict=True)
    }
    assert len(collection) == ROWS - 2  # two are exact copies
    np.testing.assert_array_equal(collection.features([7]), np.load("out/features.npy")[6:7])  # ids count from 1

    # a query of the same format, in two stages: the order of the cosines
    (tmp_path / "q").mkdir()
    FORMATS[name](tmp_path / "q" / name, rows())
    options = ("--collection", "mine", "--top", "12", "--rerank", "500")
    answers = answer(capsys, "search", f"q/{name}", *options)["queries"]
    kept = collection.features(collection.table().ids).astype(float)
    cosines = kept @ unit[40] / np.linalg.norm(kept, axis=1)
    best = np.argsort(-cosines)[:12]
    assert [result["id"] for result in answers[40]["results"]] == [collection.table().ids[row] for row in best]
    assert answers[40]["results"][0]["name"] == names[40]
    assert answers[40]["results"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    by_name = answer(capsys, "search", names[40], *options)["queries"][0]
    assert [result["id"] for result in by_name["results"]] == [result["id"] for result in answers[40]["results"]]

    groups = answer(capsys, "duplicates", "--collection", "mine", "--radius", "2", "--min-similarity", "0.9999")[
        "groups"
    ]
    assert [[item["name"] for item in group] for group in groups] == [
        sorted(names[row] for row in (5, 100, 101)), [names[6], names[102]],
    ]  # fmt: skip


def test_rows_that_are_there_are_not_encoded_and_changed_ones_replace(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    npz(tmp_path / "a.npz", rows())
    assert main(["add", "mine", "a.npz", "--model", str(model)]) == 0
    assert "mine: 128 rows added; 2 rows are copies or new names of rows that were there" in capsys.readouterr().out
    ids = {path: item.id for item in open_collection(Path("mine")).items() for path in item.paths}
    changed = rows()
    changed[3] *= 2
    npz(tmp_path / "b.npz", changed)
    assert main(["add", "mine", "b.npz"]) == 0
    said = capsys.readouterr().out
    assert "1 rows added; 129 rows were there; 1 rows are gone, their names hold others now" in said
    after = {path: item.id for item in open_collection(Path("mine")).items() for path in item.paths}
    assert after == ids | {"item 3": 129}
    assert main(["remove", "mine", "item 3", "1"]) == 0
    assert "2 images removed" in capsys.readouterr().out
    assert main(["remove", "mine", "--missing"]) == 1
    assert "--missing is for photos" in capsys.readouterr().err
    assert main(["serve", "--collection", "mine", "--port", "0"]) == 1
    assert "holds embeddings, which have no pictures" in capsys.readouterr().err


def numbered(path: Path, names: list[str]) -> None:
    """A table of as many rows with these names."""
    pq.write_table(pa.table({"id": names, "embedding": list(rows()[: len(names)])}), path)


def names_in(collection: str) -> set[str]:
    return {path for item in open_collection(Path(collection)).items() for path in item.paths}


def test_a_number_is_a_name_first_and_then_an_id(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbered(tmp_path / "a.parquet", [*map(str, range(49, -1, -1)), "1000"])  # the row "49" has the id 1, "1000" 51
    assert main(["add", "mine", "a.parquet", "--model", str(model)]) == 0
    left = names_in("mine")
    capsys.readouterr()
    assert main(["remove", "mine", "17"]) == 1  # "17" has the id 33, and "33" the id 17
    assert "17 is the id of one image and a name of another, whose id is 33" in capsys.readouterr().err
    assert names_in("mine") == left
    assert main(["remove", "mine", "--id", "17"]) == 0
    assert names_in("mine") == left - {"33"}
    assert main(["remove", "mine", "17", "0", "51"]) == 0  # names alone, and an id alone
    assert names_in("mine") == left - {"33", "17", "0", "1000"}
    assert main(["remove", "mine", "--id", "9" * 30]) == 1
    assert f"mine has no image {'9' * 30}" in capsys.readouterr().err


def test_a_number_is_an_id_of_the_collection_and_never_a_place(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    npz(tmp_path / "a.npz", rows())
    assert main(["add", "mine", "a.npz", "--model", str(model)]) == 0
    assert main(["remove", "mine", "2", "4"]) == 0
    (query,) = answer(capsys, "search", "9", "--collection", "mine", "--top", "1")["queries"]
    assert (query["results"][0]["id"], query["results"][0]["name"]) == (9, "item 8")
    assert main(["search", "9", "--collection", "mine", "--top", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == ["9", "     0         9  item 8"]
    assert main(["search", "4", "--collection", "mine"]) == 1  # there is a row 4, and no id 4
    assert "4 is no file of embeddings, no name and no row" in capsys.readouterr().err


def test_in_a_run_whose_names_are_row_numbers_a_number_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished_run, "read_manifest", lambda _: (["0", "1", "3", "4"], []))  # row 2 is left out
    assert [finished_run.find_row(text) for text in ("1", "3", "2", "4")] == [1, 2, None, 3]
    monkeypatch.setattr(finished_run, "read_manifest", lambda _: (["a", "b", "3"], []))
    assert [finished_run.find_row(text) for text in ("1", "3", "b", "4")] == [1, 2, 1, None]


def test_given_names_are_shown_and_every_name_is_found(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    npz(tmp_path / "a.npz", rows())
    np.save(tmp_path / "b.npy", rows())
    assert main(["add", "mine", "a.npz", "--model", str(model)]) == 0
    assert main(["add", "mine", "b.npy"]) == 0
    other = f"{tmp_path.as_posix()}/b.npy:9"
    for name in ("item 9", other, "item 101"):  # rows 5, 100 and 101 are one
        (query,) = answer(capsys, "search", name, "--collection", "mine", "--top", "1")["queries"]
        assert query["results"][0]["name"] == ("item 9" if name != "item 101" else "item 100")
    listed = open_collection(Path("mine")).items()
    assert {item.paths[0] for item in listed} == {*NAMES} - {"item 5", "item 101"}
    assert main(["remove", "mine", "item 9"]) == 0
    assert "mine: 0 images removed; 1 names removed of images that have others." in capsys.readouterr().out


def test_a_collection_without_features_is_searched_by_codes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    npz(tmp_path / "a.npz", rows())
    assert main(["add", "mine", "a.npz", "--model", str(model), "--features", "none"]) == 0
    (result,) = answer(capsys, "search", "item 9", "--collection", "mine", "--top", "3")["queries"]
    assert (result["results"][0]["name"], result["results"][0]["distance"]) == ("item 9", 0)
    (again,) = answer(capsys, "search", "item 9", "--collection", "mine", "--top", "3", "--rerank", "50")["queries"]
    assert again["results"] == result["results"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: np.save(path, np.ones((4, 5), np.float32)), "has 5 values a row, "),
        (lambda path: np.save(path, np.full((4, DIM), np.nan, np.float32)), "row 0 holds NaN or infinity: repair it"),
        (lambda path: np.save(path, np.zeros((4, DIM), np.float32)), "row 0 is all zero: repair it"),
        (lambda path: np.save(path, np.ones((4, DIM), np.int64)), "holds int64, embeddings are"),
        (lambda path: np.save(path, np.ones((4, DIM), object), allow_pickle=True), "Python objects"),
        (lambda path: path.touch(), "is empty"),
        (lambda _: None, "does not exist"),
    ],
)
@pytest.mark.parametrize("command", [["encode", "--out", "out"], ["add", "mine"]])
def test_what_is_no_embedding_is_one_line(
    make: Callable[[Path], Any], message: str, command: list[str], model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make(tmp_path / "a.npy")
    assert main([*command, "a.npy", "--model", str(model)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ssdh:")]
    assert message in line


def test_photos_and_embeddings_do_not_mix(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", rows())
    assert main(["encode", "a.npy", "b.npy", "--model", str(model), "--out", "out"]) == 1
    assert "a.npy must be encoded alone" in capsys.readouterr().err
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").touch()
    assert main(["add", "mine", "photos", "--model", str(model)]) == 1
    assert "photos holds no img_emb" in capsys.readouterr().err
