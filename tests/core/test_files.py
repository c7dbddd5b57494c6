"""Files that are whole or not there."""

import csv
import functools
import json
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssdh.core import files
from ssdh.core.errors import DataError


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"map": 0.5})
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(path, {"map": float("nan")})
    with pytest.raises(RuntimeError, match="midway"), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("midway")
    assert path.read_text() == '{\n  "map": 0.5\n}\n'
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith("ssdh-home")] == ["a.json"]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    """The kernel's own limit on file size stands in for a full disk: the write itself fails with an OSError."""
    code = (
        "import resource, signal, sys; from pathlib import Path; import numpy as np; from ssdh.core import files\n"
        "from ssdh.core.errors import DataError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: files.write_array(Path(sys.argv[1]), np.zeros(10_000))\n"
        "except DataError as error: print(error)\n"
    )
    path = tmp_path / "out" / "a.npy"
    path.parent.mkdir()
    np.save(path, np.arange(3))
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path} could not be written: ")
    assert done.stdout.count("\n") == 1
    assert [p.name for p in path.parent.iterdir()] == ["a.npy"]
    assert files.read_array(path).tolist() == [0, 1, 2]


@pytest.mark.parametrize("write", [lambda path: files.write_json(path, {}), files.check_writable])
@pytest.mark.parametrize("place", ["README.md/x.json", "README.md/more/x.json", "taken"])
def test_an_impossible_place_is_one_line(tmp_path: Path, write: Callable[[Path], None], place: str) -> None:
    (tmp_path / "README.md").write_text("a file")
    (tmp_path / "taken").mkdir()
    with pytest.raises(DataError, match=rf"{place} could not be written: ") as caught:
        write(tmp_path / place)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "README.md").read_text() == "a file"


def test_a_check_for_writing_leaves_nothing(tmp_path: Path) -> None:
    files.write_json(tmp_path / "out" / "a.json", {"map": 0.5})
    files.check_writable(tmp_path / "out" / "a.json")
    files.check_writable(tmp_path / "new" / "a.json")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.json"]
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(DataError, match="it is a folder"):
        files.check_writable(Path())


def test_arrays_come_back_mapped_and_read_only(tmp_path: Path) -> None:
    files.write_array(tmp_path / "a.npy", np.arange(6, dtype=np.int16).reshape(2, 3))
    array = files.read_array(tmp_path / "a.npy")
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
    private = files.read_array(tmp_path / "a.npy", mode="c")
    private[0, 0] = 9
    assert files.read_array(tmp_path / "a.npy")[0, 0] == 0


def test_an_empty_array_is_read_and_a_cut_or_missing_one_named(tmp_path: Path) -> None:
    files.write_array(tmp_path / "none.npy", np.zeros((0, 0), np.int8))
    assert files.read_array(tmp_path / "none.npy").shape == (0, 0)
    files.write_array(tmp_path / "cut.npy", np.zeros(1000))
    for size in (500, 5, 0):  # within the values, within the header, before it
        os.truncate(tmp_path / "cut.npy", size)
        with pytest.raises(DataError, match=r"cut\.npy is not a whole \.npy file"):
            files.read_array(tmp_path / "cut.npy")
    with pytest.raises(DataError, match=r"gone\.npy does not exist: run `dvc repro`"):
        files.read_array(tmp_path / "gone.npy")


def test_numbers_in_text_have_six_digits_and_no_sign_of_zero(tmp_path: Path) -> None:
    values = {"map": 2 / 3, "tiny": 1e-17, "zero": -0.0, "small": [1.23456789e-5, -1234567.8], "count": 1234567}
    files.write_json(tmp_path / "a.json", values)
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "map": 0.666667, "tiny": 0, "zero": 0, "small": [1.23457e-5, -1234570.0], "count": 1234567,
    }  # fmt: skip
    assert "-0.0" not in (tmp_path / "a.json").read_text()
    files.write_csv(
        tmp_path / "a.csv", ("x", "name"), [(np.float32(1 / 3), "a,b"), (-0.0, ""), (np.int64(7), 1e10 / 3)]
    )
    assert (tmp_path / "a.csv").read_bytes() == b'x,name\n0.333333,"a,b"\n0.0,\n7,3333330000.0\n'


def test_sums_in_another_order_write_the_same_text(tmp_path: Path) -> None:
    parts = np.random.default_rng(0).random(10_000).tolist()
    forwards, backwards = (functools.reduce(operator.add, order) for order in (parts, parts[::-1]))
    assert forwards != backwards  # else this shows nothing
    for name, total in (("a", forwards), ("b", backwards)):
        files.write_json(tmp_path / name, {"mean": total / 10_000, "difference": (total - forwards) / 10_000})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_odd_names_come_back_from_a_table_as_they_were(tmp_path: Path) -> None:
    names = ["cr\r.jpg", "lf\n.jpg", "crlf\r\n.jpg", 'a "quoted", name.jpg', " blank ", "ünï.jpg", "", "ends\r\n"]
    files.write_csv(tmp_path / "t.csv", ("row", "name"), list(enumerate(names)))
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["row", "name"], *([str(i), name] for i, name in enumerate(names))]
    files.write_csv(tmp_path / "plain.csv", ("row", "name"), [(1, "a.jpg")])
    assert (tmp_path / "plain.csv").read_bytes() == b"row,name\n1,a.jpg\n"


@pytest.mark.parametrize("shape", [(1000, 3), (1000,), (1000, 2, 2)])
def test_rows_are_taken_from_maps_views_and_arrays_alike(tmp_path: Path, shape: tuple[int, ...]) -> None:
    whole = np.random.default_rng(0).random(shape, np.float32)
    np.save(tmp_path / "a.npy", whole)
    np.save(tmp_path / "f.npy", np.asfortranarray(whole))
    rows = np.random.default_rng(1).integers(0, 900, 700)  # unsorted, some twice
    mapped = files.read_array(tmp_path / "a.npy")
    for array, expected in (
        (whole, whole), (mapped, whole), (files.read_array(tmp_path / "f.npy"), whole),
        (mapped[50:], whole[50:]), (mapped[::-1], whole[::-1]), (files.read_array(tmp_path / "a.npy", mode="c"), whole),
    ):  # fmt: skip
        for requested in (rows, np.sort(rows), rows[:0], slice(3, 500), slice(940, 2000)):
            taken = files.take_rows(array, requested)
            np.testing.assert_array_equal(taken, expected[requested])
            assert not isinstance(taken, np.memmap)
            assert taken.flags.writeable


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux, which says what a map holds")
def test_pages_of_taken_rows_do_not_stay(tmp_path: Path) -> None:
    np.save(tmp_path / "large.npy", np.zeros((20_000, 1024), np.float32))

    def held() -> int:
        """KiB of the file in this process's memory."""
        text = Path("/proc/self/smaps").read_text(encoding="utf-8")
        parts = [part for part in text.split("VmFlags") if "large.npy" in part]
        return sum(int(part.split("Rss:")[1].split()[0]) for part in parts)

    mapped = files.read_array(tmp_path / "large.npy")
    before = held()
    rows = np.random.default_rng(0).integers(0, 20_000, 5000)
    files.take_rows(mapped, rows)
    assert held() <= before + 1024
    mapped[rows]
    assert held() > before + 10_000  # else the first half would say nothing
