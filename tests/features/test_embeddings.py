"""Files of embeddings of every format: the same rows, bit for bit, and one line for what is none."""

import hashlib
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from ssdh.core.errors import DataError
from ssdh.datasets.columns import read_column
from ssdh.features import embedding_part
from ssdh.features.embeddings import Embeddings, open_embeddings, pass_on


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that 50 rows are several blocks with a rest."""
    monkeypatch.setattr(embedding_part, "BLOCK_BYTES", 200)


def matrix(dtype: Any = np.float32, rows: int = 50, dim: int = 6) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((rows, dim)) * 40).astype(dtype)


def rows_of(found: Embeddings) -> np.ndarray:
    blocks = list(found.blocks())
    assert len(blocks) > 1
    assert all(block.good.all() for block in blocks)
    return np.concatenate([block.values for block in blocks])


def write(path: Path, array: np.ndarray) -> Path:
    """`array` in the format that the name asks for."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.name == "packed.npz":
        np.savez_compressed(path, features=array, labels=np.arange(len(array)))
    elif path.suffix == ".npz":
        np.savez(path, features=array, other=array[:1])
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file({"features": np.ascontiguousarray(array), "zz": np.zeros(3)}, path)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["features"] = array
    elif path.name == "fixed.parquet":
        column = pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])
        pq.write_table(pa.table({"id": np.arange(len(array)), "embedding": column}), path, row_group_size=7)
    elif path.name == "wide.parquet":
        columns = {f"v_{place}": array[:, place] for place in reversed(range(array.shape[1]))}
        pq.write_table(pa.table({"id": np.arange(len(array)), **columns}), path, row_group_size=7)
    else:
        pq.write_table(pa.table({"text": ["x"] * len(array), "v": list(array)}), path, row_group_size=7)
    return path


FILES = ("a.npy", "packed.npz", "a.npz", "a.safetensors", "a.h5", "fixed.parquet", "a.parquet", "wide.parquet")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint8"])
def test_rows_come_back_bit_for_bit_in_the_type_of_the_file(tmp_path: Path, name: str, dtype: str) -> None:
    array = np.abs(matrix()).astype(dtype) + np.ones(1, dtype)
    result = open_embeddings(write(tmp_path / name, array))
    assert (result.shape, result.dtype) == (array.shape, array.dtype)
    assert rows_of(result).tobytes() == array.tobytes()


@pytest.mark.parametrize("name", FILES)
def test_float64_becomes_float32(tmp_path: Path, name: str) -> None:
    array = matrix(np.float64)
    result = open_embeddings(write(tmp_path / name, array))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(rows_of(result), array.astype(np.float32))


@pytest.mark.parametrize("name", ["a.npy", "packed.npz", "a.npz", "a.h5"])
def test_big_endian_and_fortran_order_are_the_same_rows(tmp_path: Path, name: str) -> None:
    array = matrix()
    for stored in (array.astype(">f4"), np.asfortranarray(array)):
        result = open_embeddings(write(tmp_path / name, stored))
        assert rows_of(result).tobytes() == array.tobytes()


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    tensor = torch.from_numpy(matrix()).bfloat16()
    safetensors.torch.save_file({"x": tensor}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(rows_of(open_embeddings(tmp_path / "a.safetensors")), tensor.float().numpy())


def test_shards_come_by_number_from_a_folder_or_its_subfolder(tmp_path: Path) -> None:
    array = matrix(rows=120)
    for place in (tmp_path / "flat", tmp_path / "nested" / "img_emb"):
        place.mkdir(parents=True)
        for shard in range(12):
            np.save(place / f"img_emb_{shard}.npy", array[10 * shard : 10 * shard + 10])
            np.save(place / f"text_emb_{shard}.npy", -array[10 * shard : 10 * shard + 10])
    np.testing.assert_array_equal(rows_of(open_embeddings(tmp_path / "flat")), array)
    np.testing.assert_array_equal(rows_of(open_embeddings(tmp_path / "flat", "text_emb")), -array)


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    array = matrix(rows=110)
    for shard in range(11):
        write(tmp_path / f"part-{shard}.parquet", array[10 * shard : 10 * shard + 10])
    np.testing.assert_array_equal(rows_of(open_embeddings(tmp_path)), array)


def test_train_and_test_of_a_benchmark_file(tmp_path: Path) -> None:
    array = matrix()
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["test"], file["train"] = array[:8], array[8:]
        file["neighbors"] = np.zeros((8, 100), np.int32)
    result = open_embeddings(tmp_path / "a.hdf5")
    assert [part.role for part in result.parts] == ["train", "test"]
    np.testing.assert_array_equal(rows_of(result), np.concatenate([array[8:], array[:8]]))
    np.testing.assert_array_equal(rows_of(open_embeddings(tmp_path / "a.hdf5", "train")), array[8:])


def test_an_array_in_a_group_is_named_by_its_path(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["clip/image"], file["clip/labels"] = matrix(), np.arange(50) % 4
    np.testing.assert_array_equal(rows_of(open_embeddings(tmp_path / "a.h5", "clip/image")), matrix())
    np.testing.assert_array_equal(read_column(tmp_path / "a.h5", "clip/labels", ()), np.arange(50) % 4)
    with pytest.raises(DataError, match="has clip/image, clip/labels: say which"):
        open_embeddings(tmp_path / "a.h5")


def faults(path: Path) -> dict[int, int]:
    result = np.concatenate([block.fault for block in open_embeddings(path).blocks()])
    return {int(row): int(result[row]) for row in np.flatnonzero(result)}


def test_bad_rows_of_a_matrix(tmp_path: Path) -> None:
    array = matrix(np.float16)
    array[3, 2], array[17, 0], array[49] = np.nan, -np.inf, 0
    assert faults(write(tmp_path / "a.npy", array)) == {3: 1, 17: 1, 49: 2}
    whole = np.ones((5, 4), np.int8)
    whole[2] = 0
    assert faults(write(tmp_path / "b.npy", whole)) == {2: 2}


@pytest.mark.parametrize("kind", [pa.float32(), pa.float16(), pa.int8()])
def test_rows_of_other_lengths_and_nulls_of_a_list_column(tmp_path: Path, kind: Any) -> None:
    lists: list[Any] = [[1, 2, 3] for _ in range(30)]
    lists[0], lists[7], lists[29], lists[12] = [1, 2], [1, 2, 3, 4], None, [1, None, 3]
    if kind == pa.float16():
        lists = [None if row is None else [None if x is None else np.float16(x) for x in row] for row in lists]
    pq.write_table(pa.table({"v": pa.array(lists, pa.list_(kind))}), tmp_path / "a.parquet")
    assert faults(tmp_path / "a.parquet") == dict.fromkeys((0, 7, 12, 29), 3)
    blocks = list(open_embeddings(tmp_path / "a.parquet").blocks())
    np.testing.assert_array_equal(np.concatenate([b.values[b.good] for b in blocks]), np.tile([1, 2, 3], (26, 1)))


@pytest.mark.parametrize("kind", ["list", "wide"])
def test_a_parquet_file_of_one_group_is_streamed(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_part, "BLOCK_BYTES", 1 << 16)
    array = matrix(rows=100_000, dim=16)  # 6.4 MB
    columns = {f"f{place}": array[:, place] for place in range(16)} if kind == "wide" else {"v": list(array)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", use_dictionary=False)
    del columns
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in open_embeddings(tmp_path / "a.parquet").blocks())
    assert most < array.nbytes / 2


def table(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def lines_of(array: np.ndarray, separator: str = ",") -> list[str]:
    return [separator.join(map(str, row)) for row in array.tolist()]


KINDS = ("header", "no header", "pandas", "tsv", "names", "quotes", "shuffled", "from one", "underscores")


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_the_same_rows(tmp_path: Path, kind: str) -> None:
    array = matrix()
    lines, path = lines_of(array), tmp_path / "a.csv"
    if kind == "header":
        table(path, "f0,f1,f2,f3,f4,f5", *lines)
    elif kind == "no header":
        np.savetxt(path, array, "%.9g", delimiter=",")
    elif kind == "pandas":
        table(path, ",0,1,2,3,4,5", *(f"{row},{line}" for row, line in enumerate(lines)), "")
    elif kind == "tsv":
        path = table(tmp_path / "a.tsv", "\t".join(f"x{n}" for n in range(6)), *lines_of(array, "\t"))
    elif kind == "names":
        table(path, "id,emb_0,emb_1,emb_2,emb_3,emb_4,emb_5,label,x1,x2", *(f"n,{line},3,7,8" for line in lines))
    elif kind == "quotes":
        table(path, '"text","e[0]","e[1]","e[2]","e[3]","e[4]","e[5]"', *(f'"two\nlines, so",{line}' for line in lines))
    elif kind == "shuffled":
        order = [3, 1, 0, 5, 4, 2]
        table(path, ",".join(f"f{n}" for n in order), *lines_of(array[:, order]))
    elif kind == "underscores":  # Python reads 0_1 as the number 1
        table(path, "0_0,0_1,0_2,0_3,0_4,0_5", *lines)
    else:
        table(path, "\ufeffV1,V2,V3,V4,V5,V6", *lines)
    result = open_embeddings(path)
    assert (result.shape, result.dtype) == (array.shape, np.float32)
    assert rows_of(result).tobytes() == array.tobytes()


def test_of_several_kinds_of_numbered_columns_one_is_named(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", "a_0,a_1,b_0,b_1,b_2", *["1,2,3,4,5"] * 4)
    columns = {name: np.full(4, place, np.float32) for place, name in enumerate(["a0", "a1", "b0", "b1", "b2"], 1)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        for key, expected in (("a", [1, 2]), ("b", [3, 4, 5]), ("b_", [3, 4, 5])):
            (block,) = open_embeddings(tmp_path / name, key).blocks()
            assert block.values.tolist() == [expected] * 4
        with pytest.raises(DataError, match="has a, b: say which holds the embeddings"):
            open_embeddings(tmp_path / name)
        with pytest.raises(DataError, match="has no 'c', it has a, b"):
            open_embeddings(tmp_path / name, "c")


def test_bad_rows_of_wide_tables(tmp_path: Path) -> None:
    lines = lines_of(matrix(rows=40, dim=3))
    lines[3], lines[20], lines[21], lines[39] = "1,nan,3", "1,,3", "0,0,0", "1,1e39,inf"
    table(tmp_path / "a.csv", "f0,f1,f2", *lines)
    assert faults(tmp_path / "a.csv") == {3: 1, 20: 3, 21: 2, 39: 1}
    array: list[Any] = np.ones((30, 3)).tolist()
    array[7][1], array[9][0], array[29][2] = None, None, float("nan")
    pq.write_table(pa.table({f"f{n}": [row[n] for row in array] for n in range(3)}), tmp_path / "a.parquet")
    assert faults(tmp_path / "a.parquet") == {7: 3, 9: 3, 29: 1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id,f0,f1", *["a,1,2"] * 30, "b,1,x2y"], r"a\.csv: row 30, column 'f1' holds 'x2y', which is no number"),
        (["1.5,2", "1,NA"], r"a\.csv: row 1, column 1 holds 'NA', which is no number"),
        (["f0,f1", "1,2", "1,2,3"], r"a\.csv, line 3: expected 2 fields as in line 1, got 3"),
        (["id;f0;f1", "a;1;2"], r"no numbered columns \(f0, f1, …\) of values: its columns are id;f0;f1"),
        (["width,height", "1,2"], "its columns are width, height"),
        (["f0,f1,f3", "1,2,3"], "after column 'f1' comes 'f3': number the columns of values one after the other"),
        (["f0,f1,f_1", "1,2,3"], "after column 'f1' comes 'f_1'"),
        (["cat,0.25,0.5", "dog,1,2"], "first line must name the columns, it holds '0.25'"),
        (["cat,1,-3", "dog,1,2"], "first line must name the columns, it holds '-3'"),
        (["cat,12,7,9", "dog,1,2,3"], "after column '7' comes '9'"),
        (["f0,f1"], r"holds no value, its shape is \(0, 2\)"),
        (["f0,f1", "1,\udce9"], "cannot be read as text in UTF-8"),
    ],
)
def test_what_is_wrong_with_text_is_one_line(tmp_path: Path, lines: list[str], message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=message) as error:
        list(open_embeddings(path).blocks())
    assert "\n" not in str(error.value)


def test_numbered_columns_of_a_parquet_file_are_of_one_type(tmp_path: Path) -> None:
    columns = {"f0": np.ones(4, np.float32), "f1": np.ones(4, np.float64)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: column 'f0' holds float, column 'f1' double: convert"):
        open_embeddings(tmp_path / "a.parquet")
    pq.write_table(pa.table({name: np.ones(4, np.int64) for name in columns}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="holds int64, embeddings are float16"):
        open_embeddings(tmp_path / "b.parquet")


def test_a_shard_of_another_length_is_bad_as_a_whole(tmp_path: Path) -> None:
    np.save(tmp_path / "img_emb_0.npy", np.ones((4, 3), np.float32))
    np.save(tmp_path / "img_emb_1.npy", np.ones((2, 5), np.float32))
    assert faults(tmp_path) == {4: 3, 5: 3}


class Explodes:
    """A pickle of it would end the process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def bad_files(folder: Path) -> dict[str, str]:
    """Path below `folder` and what its error says."""
    np.save(folder / "objects.npy", np.array([Explodes(), 1], object), allow_pickle=True)
    np.savez(folder / "objects.npz", features=np.array([[Explodes()], [1]], object), allow_pickle=True)
    (folder / "pickle.npy").write_bytes(pickle.dumps(Explodes()))
    np.save(folder / "text.npy", np.array([["a", "b"]] * 5))
    np.save(folder / "one.npy", np.ones(5, np.float32))
    np.save(folder / "three.npy", np.ones((5, 2, 2), np.float32))
    np.save(folder / "empty.npy", np.ones((0, 7), np.float32))
    np.save(folder / "integers.npy", np.ones((5, 2), np.int64))
    (folder / "nothing.npy").touch()
    (folder / "short.npy").write_bytes((folder / "three.npy").read_bytes()[:60])
    np.save(folder / "cut.npy", np.ones((50, 20), np.float32))
    os.truncate(folder / "cut.npy", 1000)
    (folder / "broken.npz").write_bytes(b"PK not a zip")
    (folder / "broken.h5").write_bytes(b"x" * 50)
    (folder / "broken.parquet").write_bytes(b"x" * 50)
    (folder / "broken.safetensors").write_bytes(b"x" * 50)
    (folder / "a.jsonl").write_text("[1]\n")
    np.savez(folder / "several.npz", a=np.ones((5, 2)), b=np.ones((5, 2)))
    pq.write_table(pa.table({"text": ["a"] * 5}), folder / "text.parquet")
    pq.write_table(pa.table({"v": [["a"]] * 5}), folder / "texts.parquet")
    pq.write_table(pa.table({"v": pa.array([], pa.list_(pa.float32()))}), folder / "no_rows.parquet")
    (folder / "no_shards").mkdir()
    (folder / "mixed").mkdir()
    np.save(folder / "mixed/img_emb_0.npy", np.ones((4, 3), np.float32))
    np.save(folder / "mixed/img_emb_1.npy", np.ones((4, 3), np.float16))
    return {
        "objects.npy": "Python objects",
        "objects.npz": "Python objects",
        "pickle.npy": "pickles are not read",
        "text.npy": "holds text",
        "one.npy": r"shape \(5,\): reshape",
        "three.npy": r"shape \(5, 2, 2\): reshape",
        "empty.npy": r"holds no value, its shape is \(0, 7\)",
        "integers.npy": "holds int64.*astype",
        "nothing.npy": "is empty",
        "short.npy": "is not a NumPy array",
        "cut.npy": "is cut short",
        "broken.npz": r"not a whole \.npz",
        "broken.h5": r"not a whole \.h5",
        "broken.parquet": r"not a whole \.parquet",
        "broken.safetensors": r"not a whole \.safetensors",
        "a.jsonl": "known are .npy, .npz",
        "several.npz": r"has a, b: say which .*datasets\.embeddings\.data\.keys\.features",
        "text.parquet": "no column of lists of numbers: its columns are text",
        "texts.parquet": "no column of lists of numbers",
        "no_rows.parquet": r"holds no value, its shape is \(0, 0\)",
        "no_shards": "holds no img_emb_",
        "mixed": "img_emb_1.npy holds float16, .*img_emb_0.npy float32",
        "absent.npy": "does not exist",
    }


def test_what_is_no_matrix_of_numbers_is_one_line(tmp_path: Path) -> None:
    for name, message in bad_files(tmp_path).items():
        with pytest.raises(DataError, match=message) as error:
            open_embeddings(tmp_path / name)
        assert str(tmp_path / name.split("/")[0]) in str(error.value), name
        assert "\n" not in str(error.value), name


def test_a_compressed_file_that_ends_early_is_told_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, features=matrix(rows=4000))
    data = bytearray(path.read_bytes())
    data[40_000:40_004] = b"zzzz"  # the archive's checksum no longer fits
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"is not a whole \.npz file \(Bad CRC-32"):
        list(open_embeddings(path).blocks())


@pytest.mark.parametrize(("package", "name"), [("pyarrow", "a.parquet"), ("h5py", "a.h5")])
def test_a_missing_package_is_named(tmp_path: Path, package: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / name, matrix())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"needs {package}, .*pip install 'ssdh\[embeddings\]'"):
        open_embeddings(tmp_path / name)


def test_digests_are_those_of_the_rows(tmp_path: Path) -> None:
    array = matrix(np.float16)
    result = open_embeddings(write(tmp_path / "a.npy", np.asfortranarray(array)))
    digests = [bytes(digest).hex() for block in result.blocks() for digest in block.digests()]
    assert digests == [hashlib.sha256(row.tobytes()).hexdigest() for row in array]


def test_good_rows_are_passed_on_and_a_changed_file_is_not(tmp_path: Path) -> None:
    array = matrix(np.float16)
    array[[4, 30]] = 0
    path = write(tmp_path / "a.npy", array)
    kept = np.delete(array, [4, 30], axis=0)
    digests = np.array([list(hashlib.sha256(row.tobytes()).digest()) for row in kept], np.uint8)
    pass_on(tmp_path / "out/features.npy", open_embeddings(path), digests)
    passed = np.load(tmp_path / "out/features.npy", mmap_mode="r")
    assert passed.dtype == np.float16
    np.testing.assert_array_equal(passed, kept)
    for others in (digests[:-1], digests[[*range(48), 0]], digests[[1, *range(1, 48)]]):
        with pytest.raises(DataError, match="has changed since it was prepared"):
            pass_on(tmp_path / "other.npy", open_embeddings(path), others)
    assert not (tmp_path / "other.npy").exists()
