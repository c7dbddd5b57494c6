"""`data/`: what the stage writes, what the seed may change, bad files and duplicates."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ssdh.core.errors import DataError, ParameterError
from ssdh.core.split import read_split
from ssdh.datasets import registry
from ssdh.datasets import verify as verification
from ssdh.datasets.base import AnyDataset, Protocol, RawDataset
from ssdh.datasets.digits import CLASS_SIZES
from ssdh.datasets.prepare import Prepared, counts, prepare, write_images, write_roles
from ssdh.datasets.verify import inspect_files

FILES = ("images/manifest.csv", "images/images.npy", "labels.npy")


def run_stage(folder: Path, dataset: str, data: dict[str, Any], *, seed: int = 0, project: Path) -> Any:
    """Run `python -m stages.prepare` in `folder` on the project's own parameters with this data set."""
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    params["dataset"], params["seed"] = dataset, seed
    params["datasets"][dataset]["data"] = data
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(project)}
    command = [sys.executable, "-m", "stages.prepare"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _photos(root: Path, count: int, first: int = 0) -> list[Path]:
    """Different small photos `0000.png` …"""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(first)
    paths = [root / f"{number:04d}.png" for number in range(first, first + count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)
    return paths


def _prepare(dataset: AnyDataset, params: Any, seed: int = 0) -> Prepared:
    return prepare(
        dataset.read(params),
        root=dataset.root(params),
        seed=seed,
        workers=2,
        name=dataset.name,
        on_bad_image=getattr(params, "on_bad_image", "fail"),
    )


def test_stage_writes_the_contract_and_the_seed_moves_roles_only(tmp_path: Path, project: Path) -> None:
    contents = []
    for seed in (0, 1):
        done = run_stage(tmp_path, "digits", {"num_query": 200, "num_train": 1000}, seed=seed, project=project)
        assert done.returncode == 0, done.stderr
        contents.append(
            {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        )
    for name in FILES:
        assert contents[0][f"data/{name}"] == contents[1][f"data/{name}"]
    assert contents[0]["data/split/order.npy"] != contents[1]["data/split/order.npy"]

    images, labels = np.load(tmp_path / "data/images/images.npy"), np.load(tmp_path / "data/labels.npy")
    assert (images.shape, images.dtype) == ((1797, 8, 8, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((1797, 10), np.uint8)
    with (tmp_path / "data/images/manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[5] == {"row": "5", "path": "digits/0005", "sha256": hashlib.sha256(images[5].tobytes()).hexdigest()}
    split = read_split(tmp_path / "data/split")
    assert labels[split.query].sum(axis=0).tolist() == [20] * 10
    metrics = json.loads((tmp_path / "metrics/data.json").read_text())
    assert metrics["classes"] == list("0123456789")
    assert {key: metrics[key] for key in ("dataset", "images", "query", "train", "database", "skipped")} == {
        "dataset": "digits",
        "images": 1797,
        "query": 200,
        "train": 1000,
        "database": 1597,
        "skipped": 0,
    }


def test_stage_leaves_nothing_of_another_set(tmp_path: Path, project: Path) -> None:
    _photos(tmp_path / "photos", 12)
    assert run_stage(tmp_path, "digits", {"num_query": 20, "num_train": 100}, project=project).returncode == 0
    done = run_stage(tmp_path, "folder", {"root": "photos"}, project=project)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "data/images").iterdir()] == ["manifest.csv"]
    assert np.load(tmp_path / "data/labels.npy").shape == (12, 0)


def test_stage_fails_with_one_line_a_bad_file(tmp_path: Path, project: Path) -> None:
    for path in _photos(tmp_path / "photos", 12)[:2]:
        path.write_bytes(b"<html>")
    done = run_stage(tmp_path, "folder", {"root": "photos"}, project=project)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for part in ("2 of 12 files", "on_bad_image: skip", "0000.png: a web page", "0001.png: a web page"):
        assert part in done.stderr
    assert not (tmp_path / "data/labels.npy").exists()


def test_all_bad_files_are_reported_at_once(shared: Path) -> None:
    dataset = registry.get("folder")
    params = dataset.Params(root=str(shared / "odd-images"))
    for attempt in (dataset.ensure, lambda params: _prepare(dataset, params)):  # before DVC removes anything, and after
        with pytest.raises(DataError) as caught:
            attempt(params)
        lines = str(caught.value).splitlines()
        assert lines[0].startswith("8 of 33 files")
        assert "datasets.folder.data.on_bad_image: skip" in lines[0]
        assert sorted(line.split(":")[0].strip() for line in lines[1:]) == [
            "broken.png",
            "broken_data_stream.png",
            "decompression_bomb.gif",
            "html_saved_as.jpg",
            "truncated_image.png",
            "truncated_jpeg.jpg",
            "zero_bytes.jpg",
            "zero_width.gif",
        ]


def test_skipped_files_are_counted_and_listed(shared: Path, tmp_path: Path) -> None:
    dataset = registry.get("folder")
    params = dataset.Params(root=str(shared / "odd-images"), on_bad_image="skip")
    dataset.ensure(params)
    prepared = _prepare(dataset, params)
    write_images(tmp_path / "images", prepared)
    write_roles(tmp_path / "split", prepared)
    metrics = counts(prepared, name="folder")
    assert (metrics["images"], metrics["skipped"], metrics["query"], metrics["database"]) == (25, 8, 2, 23)
    with (tmp_path / "split/skipped.csv").open() as file:
        skipped = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert len(skipped) == 8
    assert skipped["zero_bytes.jpg"] == "empty file"
    with (tmp_path / "images/manifest.csv").open() as file:
        manifest = list(csv.DictReader(file))
    assert not skipped.keys() & {row["path"] for row in manifest}
    assert [int(row["row"]) for row in manifest] == list(range(25))
    for row in manifest:
        data = (shared / "odd-images" / row["path"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()


def test_labels_and_pools_stay_with_their_images_when_some_are_dropped(tmp_path: Path) -> None:
    paths = _photos(tmp_path, 10)
    for number in (0, 4, 9):
        paths[number].write_bytes(b"")
    labels = np.eye(10, dtype=np.uint8)
    protocol = Protocol(
        None, 1, query_pool=np.array([3, 4, 5], np.int64), database_pool=np.array([0, 1, 2, 6, 7, 8], np.int64)
    )
    raw = RawDataset(
        tuple("abcdefghij"), labels, [path.name for path in paths], protocol, skipped=[("x.jpg", "missing")]
    )
    prepared = prepare(raw, root=tmp_path, seed=0, workers=0, name="folder", on_bad_image="skip")
    kept = [1, 2, 3, 5, 6, 7, 8]
    assert prepared.raw.names == [f"{number:04d}.png" for number in kept]
    np.testing.assert_array_equal(prepared.raw.labels, labels[kept])
    assert sorted(kept[row] for row in prepared.split.query) == [3, 5]
    assert sorted(kept[row] for row in prepared.split.database) == [1, 2, 6, 7, 8]
    assert [path for path, _ in prepared.raw.skipped] == ["x.jpg", "0000.png", "0004.png", "0009.png"]


def test_nothing_but_bad_files_is_an_error(tmp_path: Path) -> None:
    for path in _photos(tmp_path, 3):
        path.write_bytes(b"no image")
    dataset = registry.get("folder")
    params = dataset.Params(root=str(tmp_path), on_bad_image="skip")
    with pytest.raises(DataError, match="no image that can be decoded"):
        _prepare(dataset, params)


@pytest.mark.parametrize("kind", ["file", "array"])
def test_duplicates_across_query_and_database_are_counted(tmp_path: Path, kind: str) -> None:
    images = None
    paths = _photos(tmp_path, 8)
    shutil.copy(paths[7], paths[1])  # query 1 and database 7
    shutil.copy(paths[2], paths[3])  # two queries: not across
    if kind == "array":
        images = np.stack([np.asarray(Image.open(path)) for path in paths])
    queries = np.array([1, 2, 3], np.int64)
    protocol = Protocol(None, 1, query_pool=queries, database_pool=np.array([0, 4, 5, 6, 7], np.int64))
    raw = RawDataset((), np.zeros((8, 0), np.uint8), [path.name for path in paths], protocol, images=images)
    prepared = prepare(raw, root=tmp_path, seed=0, workers=2, name="folder")
    assert counts(prepared, name="folder")["duplicate_queries"] == 1


def test_early_check_names_both_numbers(tmp_path: Path) -> None:
    _photos(tmp_path, 10)
    dataset = registry.get("folder")
    with pytest.raises(ParameterError, match=r"folder.data.num_query asks for 10 images, at most 7 of 10"):
        dataset.ensure(dataset.Params(root=str(tmp_path), num_query=10))
    with pytest.raises(ParameterError, match=r"folder.data.num_train asks for 8 images, at most 7 of 10"):
        dataset.ensure(dataset.Params(root=str(tmp_path), num_query=3, num_train=8))
    digits = registry.get("digits")  # queries are drawn evenly over the classes; the smallest has 174 images
    digits.ensure(digits.Params(num_query=1740, num_train=57))
    with pytest.raises(ParameterError, match=r"digits.data.num_query asks for 1,741 images, at most 1,740 of 1,797"):
        digits.ensure(digits.Params(num_query=1741, num_train=5))


def test_class_sizes_of_digits_are_those_of_its_labels() -> None:
    digits = registry.get("digits")
    labels = digits.read(digits.Params(num_query=200, num_train=1000)).labels
    assert tuple(labels.sum(axis=0)) == CLASS_SIZES


# --- the memory of what was verified ---------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is really opened; files are never too young to be remembered."""
    seen: list[Path] = []
    inspect = verification._inspect
    monkeypatch.setattr(verification, "_inspect", lambda path: seen.append(path) or inspect(path))
    monkeypatch.setattr(verification, "RACY_NS", -(10**12))
    return seen


def test_only_new_and_changed_files_are_decoded_again(tmp_path: Path, decoded: list[Path]) -> None:
    paths = _photos(tmp_path / "photos", 6)
    names = [path.name for path in paths]
    first = inspect_files(tmp_path / "photos", names, 2)
    assert sorted(decoded) == paths
    assert inspect_files(tmp_path / "photos", names, 2) == first
    assert len(decoded) == 6

    stat = paths[2].stat()
    content = bytearray(paths[2].read_bytes())
    content[-20] ^= 1  # a byte of the checksum of the image data: same size …
    paths[2].write_bytes(bytes(content))
    os.utime(paths[2], ns=(stat.st_atime_ns, stat.st_mtime_ns))  # … and same time of change, as a careless copy has
    _photos(tmp_path / "photos", 1, first=6)
    second = inspect_files(tmp_path / "photos", [*names, "0006.png"], 2)
    assert decoded[6:] == [paths[2], tmp_path / "photos" / "0006.png"]
    assert second[2].reason
    assert [second[row] == first[row] for row in range(6)] == [True, True, False, True, True, True]


def test_young_files_are_not_remembered(tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "RACY_NS", 10**12)
    paths = _photos(tmp_path / "photos", 2)
    for _ in range(2):
        inspect_files(tmp_path / "photos", [path.name for path in paths], 0)
    assert len(decoded) == 4


def test_other_rules_or_a_torn_table_forget_everything(tmp_path: Path, decoded: list[Path]) -> None:
    paths = _photos(tmp_path / "photos", 3)
    names = [path.name for path in paths]
    first = inspect_files(tmp_path / "photos", names, 1)
    (table,) = (tmp_path / "ssdh-home" / "verified").iterdir()
    lines = table.read_text().splitlines()
    for text in (
        "\n".join([lines[0].rsplit(",", 1)[0] + ",other-version", *lines[1:]]),
        "\n".join([*lines[:-1], lines[-1][:20]]),
        "",
        "\0binary",
    ):
        table.write_text(text)
        decoded.clear()
        assert inspect_files(tmp_path / "photos", names, 1) == first
        assert len(decoded) == 3


def test_missing_file_is_bad_and_asked_for_again(tmp_path: Path, decoded: list[Path]) -> None:
    (tmp_path / "photos").mkdir()
    (only,) = inspect_files(tmp_path / "photos", ["gone.jpg"], 0)
    assert "cannot be read" in only.reason
    _photos(tmp_path / "photos", 1)
    (tmp_path / "photos" / "0000.png").rename(tmp_path / "photos" / "gone.jpg")
    assert inspect_files(tmp_path / "photos", ["gone.jpg"], 0)[0].reason == ""
