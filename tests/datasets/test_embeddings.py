"""One's own embeddings as a data set: labels, names, roles, bad rows, and what the manifest then holds."""

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssdh.core.errors import DataError, ParameterError
from ssdh.core.params import validate
from ssdh.datasets import registry
from ssdh.datasets.base import RawDataset
from ssdh.datasets.columns import labels_of, names_of, roles_of
from ssdh.datasets.prepare import counts, prepare, write_images
from ssdh.features.images import read_manifest

EMBEDDINGS = registry.get("embeddings")
WORDS = ["cat", "dog", "owl"]


def matrix(rows: int = 20, dim: int = 4) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, dim)).astype(np.float32)


@pytest.fixture
def params(tmp_path: Path) -> Any:
    """A function that gives the block `data`; paths that are not given are the placeholder."""
    none = tmp_path / "none.safetensors"
    none.touch()
    np.save(tmp_path / "a.npy", matrix())

    def make(features: str = "a.npy", keys: dict[str, str] | None = None, **data: Any) -> Any:
        files = {name: str(tmp_path / data.pop(name)) for name in ("labels", "names", "split") if name in data}
        every = dict.fromkeys(("labels", "names", "split"), str(none)) | files
        block = {"features": str(tmp_path / features), "keys": keys or {}} | every | data
        return validate(EMBEDDINGS.Params, block, "datasets.embeddings.data")

    return make


def read(params: Any) -> RawDataset:
    return EMBEDDINGS.read(params)


def test_a_matrix_alone_has_numbers_for_names_and_no_labels(params: Any, tmp_path: Path) -> None:
    raw = read(params())
    assert raw.names == [str(row) for row in range(20)]
    assert raw.labels.shape == (20, 0)
    assert raw.digests == [hashlib.sha256(row.tobytes()).hexdigest() for row in matrix()]
    prepared = prepare(raw, root=None, seed=0, workers=0, name="embeddings")
    write_images(tmp_path / "images", prepared)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["manifest.csv"]
    assert read_manifest(tmp_path / "images") == (raw.names, raw.digests)
    result = counts(prepared, name="embeddings")
    whole = hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()
    assert result["files"] == [f"a.npy {whole}"]
    assert (result["images"], result["dim"], result["dtype"]) == (20, 4, "float32")
    assert (result["query"], result["train"], result["database"]) == (2, 18, 18)  # a tenth; all that remain


@pytest.mark.parametrize("kind", ["named", "pandas", "parquet", "keys"])
def test_names_and_labels_beside_numbered_columns(kind: str, params: Any, tmp_path: Path) -> None:
    array, names, labels = matrix(), [f"n{row}" for row in range(20)], [WORDS[row % 3] for row in range(20)]
    values = [",".join(map(str, row)) for row in array.tolist()]
    ends = [""] * 20 if kind == "pandas" else [f",{label}" for label in labels]  # an index of names, and no labels
    lines = [f"{name},{line}{end}" for name, line, end in zip(names, values, ends, strict=True)]
    header = {"pandas": ",0,1,2,3", "keys": "who,f0,f1,f2,f3,what"}.get(kind, "id,f0,f1,f2,f3,label")
    path = tmp_path / f"wide.{'parquet' if kind == 'parquet' else 'csv'}"
    if kind == "parquet":
        columns = {f"f{place}": array[:, place] for place in range(4)}
        pq.write_table(pa.table({"id": names} | columns | {"label": labels}), path)
    else:
        path.write_text("\n".join([header, *lines]), encoding="utf-8")
    raw = read(params(path.name, keys={"features": "f", "names": "who", "labels": "what"} if kind == "keys" else {}))
    assert raw.names == names
    assert raw.digests == [hashlib.sha256(row.tobytes()).hexdigest() for row in array]
    if kind == "pandas":
        assert raw.labels.shape == (20, 0)
    else:
        assert [raw.classes[column] for column in raw.labels.argmax(1)] == labels


def test_bad_rows_are_one_line_a_kind(params: Any, tmp_path: Path) -> None:
    array = matrix()
    array[[2, 5], 1], array[7] = np.nan, 0
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(DataError) as error:
        EMBEDDINGS.ensure(params("bad.npy"))
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert "2 of 20 rows: a row holds NaN or infinity (2, 5)" in lines[0]
    assert "a row is all zero (7)" in lines[1]
    assert all("params.yaml: datasets.embeddings.data.on_bad_row: skip" in line for line in lines)


def test_skipped_rows_leave_names_and_labels_in_step(params: Any, tmp_path: Path) -> None:
    array = matrix()
    array[2, 1], array[7], array[19] = np.inf, 0, array[4]
    np.savez(tmp_path / "bad.npz", features=array, labels=np.arange(20) % 3)
    raw = read(params("bad.npz", on_bad_row="skip"))
    prepared = prepare(raw, root=None, seed=0, workers=0, name="embeddings")
    kept = [row for row in range(20) if row not in (2, 7)]
    assert prepared.raw.names == [str(row) for row in kept]
    np.testing.assert_array_equal(prepared.raw.labels.argmax(1), np.array(kept) % 3)
    assert prepared.raw.skipped == [("2", "holds NaN or infinity"), ("7", "is all zero")]
    result = counts(prepared, name="embeddings")
    assert [result[key] for key in ("nan_rows", "zero_rows", "odd_rows", "duplicate_rows")] == [1, 1, 0, 1]
    assert (result["images"], result["skipped"]) == (18, 2)


@pytest.mark.parametrize(
    ("column", "classes", "labels"),
    [
        (np.array([3, 1, 3]), ["1", "3"], [[0, 1], [1, 0], [0, 1]]),
        (np.array([[10], [2], [-1]]), ["2", "10"], [[0, 1], [1, 0], [0, 0]]),
        (np.array([0.0, np.nan, 2.0]), ["0", "2"], [[1, 0], [0, 0], [0, 1]]),
        (np.array([[1, 0], [1, 1], [0, 0]], np.uint8), ["0", "1"], [[1, 0], [1, 1], [0, 0]]),
        (np.array([[True, False], [True, True]]), ["0", "1"], [[1, 0], [1, 1]]),
        (np.array(["owl", "cat", ""]), ["cat", "owl"], [[0, 1], [1, 0], [0, 0]]),
        (np.array([b"owl", b"cat"]), ["cat", "owl"], [[0, 1], [1, 0]]),
        (["cat; owl", None, "owl"], ["cat", "owl"], [[1, 1], [0, 0], [0, 1]]),
        (["3", "-1", "-1.0", "-x", "2; -1"], ["-x", "2", "3"], [[0, 0, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]),
        ([["cat", "owl"], [], ["owl"]], ["cat", "owl"], [[1, 1], [0, 0], [0, 1]]),
        ([[1, 0], [0, 1]], ["0", "1"], [[1, 0], [0, 1]]),
        ([[4, 7], [7, 4]], ["4", "7"], [[1, 1], [1, 1]]),
    ],
)
def test_labels_of_every_kind(column: Any, classes: list[str], labels: Any) -> None:
    result = labels_of(column, "labels")
    assert list(result[0]) == classes
    np.testing.assert_array_equal(result[1], labels)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.array([[1, 2], [0, 1]]), r"of shape \(2, 2\) must be 0 and 1"),
        (np.zeros((2, 2, 2)), r"got shape \(2, 2, 2\)"),
        (np.array([0.5, 1.0]), "holds 0.5:"),
        ([{"a": 1}], "holds {'a': 1}"),
        (np.arange(70_000), "70,000 different values in 70,000 rows are names, not classes"),
    ],
)
def test_labels_that_are_none(column: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"^labels.*{message}"):
        labels_of(column, "labels")


def test_names_must_be_there_and_differ() -> None:
    assert names_of(np.array([7, 8]), "names") == ["7", "8"]
    assert names_of([b"a", "b"], "names") == ["a", "b"]
    with pytest.raises(DataError, match=r"^names: row 1 has no name; 2 of 3 are empty"):
        names_of(["a", "", None], "names")
    with pytest.raises(DataError, match=r"^names: 'b' stands there more than once"):
        names_of(["a", "b", "c", "b"], "names")
    for lists in (np.eye(2), [["a", "b"], ["c", "d"]]):
        with pytest.raises(DataError, match=r"^names holds .*a name is a text or a number, one a row"):
            names_of(lists, "names")


def label_files(folder: Path) -> dict[str, Any]:
    """{file: keys} of the same 20 labels in every format."""
    numbers = np.arange(20) % 3
    texts = [WORDS[number] for number in numbers]
    np.save(folder / "l.npy", numbers)
    np.save(folder / "hot.npy", np.eye(3, dtype=np.uint8)[numbers])
    np.save(folder / "t.npy", np.array(texts))
    np.savez(folder / "l.npz", x=numbers[:1], label=numbers)
    (folder / "l.txt").write_text("\n".join(texts) + "\n")
    (folder / "l.csv").write_text("\n".join(texts))
    (folder / "h.csv").write_text("\n".join(["label", *texts]))
    (folder / "two.csv").write_text("\n".join(["size,kind", *(f"1,{text}" for text in texts)]))
    pq.write_table(pa.table({"class": texts, "z": numbers}), folder / "l.parquet")
    with h5py.File(folder / "l.h5", "w") as file:
        file["y"] = texts
    names = ("l.npy", "hot.npy", "t.npy", "l.npz", "l.txt", "l.csv", "h.csv", "l.parquet", "l.h5")
    return {name: {} for name in names} | {"two.csv": {"labels": "kind"}}


def test_labels_from_files_of_their_own(params: Any, tmp_path: Path) -> None:
    for name, keys in label_files(tmp_path).items():
        raw = read(params(labels=name, keys=keys))
        np.testing.assert_array_equal(raw.labels.argmax(1), np.arange(20) % 3, err_msg=name)
        assert raw.labels.shape == (20, 3), name


@pytest.mark.parametrize("name", ["a.npz", "a.parquet", "a.h5", "shards", "clip"])
def test_labels_and_names_that_lie_beside_the_features(params: Any, tmp_path: Path, name: str) -> None:
    array, numbers, names = matrix(), np.arange(20) % 3, [f"photo {row}.jpg" for row in range(20)]
    table = pa.table({"v": list(array), "label": numbers, "image_path": names})
    (tmp_path / "shards").mkdir()
    (tmp_path / "clip/img_emb").mkdir(parents=True)
    (tmp_path / "clip/metadata").mkdir()
    np.savez(tmp_path / "a.npz", features=array, labels=numbers, names=np.array(names))
    pq.write_table(table, tmp_path / "a.parquet")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["labels"], file["names"] = array, numbers, names
    for shard in range(2):
        part = slice(10 * shard, 10 * shard + 10)
        np.save(tmp_path / f"shards/img_emb_{shard}.npy", array[part])
        np.save(tmp_path / f"clip/img_emb/img_emb_{shard}.npy", array[part])
        own = table.drop_columns(["v"]).slice(10 * shard, 10)
        pq.write_table(own, tmp_path / f"shards/metadata_{shard}.parquet")
        pq.write_table(own, tmp_path / f"clip/metadata/metadata_{shard}.parquet")
    raw = read(params(name))
    assert raw.names == names
    np.testing.assert_array_equal(raw.labels.argmax(1), numbers)
    assert raw.digests == [hashlib.sha256(row.tobytes()).hexdigest() for row in array]
    plain = read(params(name, keys={"labels": "none", "names": "none"}))
    assert (plain.names[3], plain.labels.shape) == ("3", (20, 0))


def test_test_rows_of_a_benchmark_file_are_the_queries(params: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["train"], file["test"] = matrix(30), matrix(6)
    raw = read(params("a.hdf5"))
    assert (raw.names[0], raw.names[30], raw.names[35]) == ("train/0", "test/0", "test/5")
    split = prepare(raw, root=None, seed=3, workers=0, name="embeddings").split
    assert sorted(split.query) == list(range(30, 36))
    assert sorted(split.database) == sorted(split.train) == list(range(30))


@pytest.mark.parametrize("name", ["roles.txt", "roles.npy", "rows.csv", "names.csv"])
def test_roles_from_a_file(params: Any, tmp_path: Path, name: str) -> None:
    roles = ["query"] * 3 + ["train"] * 8 + ["database"] * 5 + ["unused"] * 4
    (tmp_path / "roles.txt").write_text("\n".join(roles))
    np.save(tmp_path / "roles.npy", np.array(roles))
    shuffled = np.random.default_rng(0).permutation(16)
    (tmp_path / "rows.csv").write_text("\n".join(["row,role", *(f"{row},{roles[row]}" for row in shuffled)]))
    (tmp_path / "n.txt").write_text("\n".join(f"n{row}" for row in range(20)))
    (tmp_path / "names.csv").write_text("\n".join(["name,role", *(f"n{row},{roles[row]}" for row in shuffled)]))
    raw = read(params(split=name, **({"names": "n.txt"} if name == "names.csv" else {})))
    split = prepare(raw, root=None, seed=0, workers=0, name="embeddings").split
    assert sorted(split.query) == [0, 1, 2]
    assert sorted(split.train) == list(range(3, 11))
    assert sorted(split.database) == list(range(3, 16))


@pytest.mark.parametrize(
    ("roles", "data", "message"),
    [
        ({"query": 20}, {}, "0 rows for the role train, 3 are needed .*data.split"),
        ({"train": 20}, {}, "0 rows for the role query, 1 are needed .*data.split"),
        ({"query": 1, "train": 2, "database": 17}, {}, "2 rows for the role train, 3 are needed"),
        ({"query": 5, "train": 15}, {"num_query": 6}, "5 rows for the role query, 6 are needed .*data.num_query"),
        ({"query": 5, "database": 15}, {"num_train": 16}, "15 rows for the role train, 16 are needed .*data.num_train"),
        ({"query": 1, "database": 19}, {"on_bad_row": "skip"}, "0 rows for the role query, 1 are needed"),
    ],
)
def test_roles_of_too_few_rows_are_found_before_any_stage(
    params: Any, tmp_path: Path, roles: dict[str, int], data: dict[str, Any], message: str
) -> None:
    array = matrix()
    array[0] = 0 if "on_bad_row" in data else array[0]  # the only query is a bad row
    np.save(tmp_path / "a.npy", array)
    (tmp_path / "r.txt").write_text("\n".join(role for role, count in roles.items() for _ in range(count)))
    with pytest.raises(ParameterError, match=message) as error:
        EMBEDDINGS.ensure(params(split="r.txt", **data))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_roles_beside_names_or_rows_are_theirs(tmp_path: Path, suffix: str, separator: str) -> None:
    path = tmp_path / f"r{suffix}"
    for lines in ("name,role\nb,query\na,train\nc,database\n", "row,role\n1,query\n0,train\n2,database\n"):
        path.write_text(lines.replace(",", separator))
        assert roles_of(path, ["a", "b", "c"]).tolist() == ["train", "query", "database"]


def test_roles_that_do_not_fit(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    for text, message in (
        ("query\ntrain\n", "has 2 roles, the features have 3 rows"),
        ("query\nvalidation\ntrain\n", "got 'validation'"),
    ):
        (tmp_path / "r.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            roles_of(tmp_path / "r.txt", names)
    (tmp_path / "r.csv").write_text("name,role\na,query\nb,train\na,train\n")
    with pytest.raises(DataError, match="'a' stands there more than once, a row has one role"):
        roles_of(tmp_path / "r.csv", names)
    (tmp_path / "r.csv").write_text("name,role\nz,query\n")
    with pytest.raises(DataError, match="'z' is no row of the features"):
        roles_of(tmp_path / "r.csv", names)


def test_what_does_not_fit_is_one_line_that_names_the_parameter(params: Any, tmp_path: Path) -> None:
    block = r"params\.yaml: datasets\.embeddings\.data\."
    np.save(tmp_path / "l.npy", np.arange(19))
    np.save(tmp_path / "o.npy", np.array(["a", None] * 10, object), allow_pickle=True)
    (tmp_path / "x.csv").write_text("a,b\n" + "1,2\n" * 20)
    (tmp_path / "ragged.csv").write_text("a,label\n1,2\n1\n")
    np.save(tmp_path / "few.npy", matrix(3))
    np.savez(tmp_path / "short.npz", features=matrix(), names=np.arange(19))
    np.savez(tmp_path / "twice.npz", features=matrix(), names=np.arange(20) // 2)
    for data, message in (
        ({"features": "none.safetensors"}, rf"holds no embeddings: .*{block}features"),
        ({"labels": "l.npy"}, rf"labels .*l\.npy has 19 rows, the features have 20.*{block}labels"),
        ({"names": "l.npy"}, rf"names .*has 19 rows.*{block}names"),
        ({"features": "short.npz"}, rf"names .*has 19 rows.*say `none` to leave them.*{block}keys\.names"),
        ({"features": "twice.npz"}, rf"'0' stands there more than once.*: choose other names.*{block}keys\.names"),
        ({"labels": "o.npy"}, "holds Python objects, which are not read"),
        ({"labels": "x.csv"}, rf"has no column of labels.*{block}keys\.labels"),
        ({"labels": "x.csv", "keys": {"labels": "z"}}, "has no 'z', it has a, b"),
        ({"labels": "ragged.csv"}, "line 3: expected 2 fields as in line 1, got 1"),
        ({"labels": "absent.npy"}, rf"absent\.npy does not exist.*{block}labels"),
    ):
        with pytest.raises(DataError, match=message) as error:
            EMBEDDINGS.ensure(params(**data))
        assert "\n" not in str(error.value)
    with pytest.raises(ParameterError, match=rf"^3 rows are too few.*{block}features"):
        EMBEDDINGS.ensure(params("few.npy"))
    with pytest.raises(ParameterError, match="num_query asks for 18 rows"):
        EMBEDDINGS.ensure(params(num_query=18))
    with pytest.raises(ParameterError, match=r"embeddings\.data\.on_bad_row"):
        params(on_bad_row="ignore")
