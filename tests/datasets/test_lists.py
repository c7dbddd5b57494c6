"""MIRFLICKR-25K and NUS-WIDE on their real lists and labels, with small images that the tests make."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loguru import logger
from PIL import Image

from ssdh.core.errors import DataError
from ssdh.datasets import flickr25k, registry
from ssdh.datasets.prepare import prepare
from ssdh.datasets.text_lists import read_binary_rows, read_names
from ssdh.features.download import RemoteFile


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), format="{message}", level="WARNING")
    yield lines
    logger.remove(sink)


def touch_images(root: Path, names: list[str]) -> None:
    """A different tiny image for each name."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (number % 256, number // 256, 7)).save(path)


# --- the text files ---------------------------------------------------------------------------------------------------


def test_binary_rows_agree_with_numpy(shared: Path) -> None:
    path = shared / "flickr25k-lists" / "targets.txt"
    expected = np.loadtxt(path, dtype=np.uint8)
    np.testing.assert_array_equal(read_binary_rows(path, 25_000), expected)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("0 1\n1 0\n", [[0, 1], [1, 0]]),
        ("0 1\r\n1 0", [[0, 1], [1, 0]]),
        ("0,1,\n1,0,\n\n", [[0, 1], [1, 0]]),
        ("1\n0\n", [[1], [0]]),
    ],
)
def test_binary_rows_take_the_spellings_that_go_around(tmp_path: Path, text: str, rows: list[list[int]]) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(text.encode())
    assert read_binary_rows(path, 2).tolist() == rows


@pytest.mark.parametrize(
    "text", ["0 1\n1\n", "0 1\n", "0 1\n1 0\n0 0\n", "0 2\n1 0\n", "10 0\n0 1\n", "0.0 1\n1 0\n", ""]
)
def test_binary_rows_refuse_anything_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=r"t\.txt"):
        read_binary_rows(path, 2)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg", "..\\x.jpg"])
def test_list_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "img.txt").write_text(f"good.jpg\n{name}\n")
    with pytest.raises(DataError, match="not a path below the root"):
        read_names(tmp_path / "img.txt")


def test_names_lose_byte_order_mark_backslashes_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "img.txt").write_bytes("\ufeffa\\b.jpg\r\n\r\n./c d.jpg \r\n".encode())
    assert read_names(tmp_path / "img.txt") == ["a/b.jpg", "c d.jpg"]


# --- MIRFLICKR-25K ----------------------------------------------------------------------------------------------------


@pytest.fixture
def flickr_lists(shared: Path, tmp_path: Path) -> Path:
    """The real lists; images only for every 100th name."""
    root = tmp_path / "flickr"
    root.mkdir()
    for name in ("img.txt", "targets.txt"):
        (root / name).write_bytes((shared / "flickr25k-lists" / name).read_bytes())
    return root


def _flickr(root: Path | None, **data: Any) -> Any:
    options = {"num_query": 20, "num_train": 50} | data
    return registry.get("flickr25k").Params(root=None if root is None else str(root), **options)


def test_flickr_lists_of_the_real_set(flickr_lists: Path) -> None:
    names = (flickr_lists / "img.txt").read_text().split()
    touch_images(flickr_lists / "images", names[::100])
    dataset = registry.get("flickr25k")
    with pytest.raises(DataError, match=r"24,750 of 25,000 images .*\(images/im2\.jpg, .*on_bad_image: skip"):
        dataset.ensure(_flickr(flickr_lists))
    params = _flickr(flickr_lists, on_bad_image="skip")
    dataset.ensure(params)
    raw = dataset.read(params)
    assert raw.labels.shape == (25_000, 24)
    assert (raw.labels.sum(axis=1) == 0).sum() == 419
    counts = dict(zip(raw.classes, raw.labels.sum(axis=0).tolist(), strict=True))
    assert counts["people"] == 10_373  # as the set's authors publish
    assert counts["baby"] == 259
    prepared = prepare(raw, root=flickr_lists, seed=0, workers=2, name="flickr25k", on_bad_image="skip")
    assert prepared.raw.names == [f"images/{name}" for name in names[::100]]
    np.testing.assert_array_equal(prepared.raw.labels, raw.labels[::100])
    assert len(prepared.raw.skipped) == 24_750


def test_flickr_unlabelled_can_be_dropped(flickr_lists: Path) -> None:
    touch_images(flickr_lists / "images", ["im1.jpg"])
    dataset = registry.get("flickr25k")
    raw = dataset.read(_flickr(flickr_lists, on_bad_image="skip", unlabelled="drop"))
    assert raw.labels.shape == (24_581, 24)
    assert raw.labels.any(axis=1).all()
    assert raw.counts["unlabelled_dropped"] == 419
    kept = dataset.read(_flickr(flickr_lists, on_bad_image="skip"))
    for row in (0, 10_000, 24_580):
        np.testing.assert_array_equal(raw.labels[row], kept.labels[kept.names.index(raw.names[row])])


def test_flickr_lists_of_the_wrong_kind(flickr_lists: Path, shared: Path, warnings: list[str]) -> None:
    touch_images(flickr_lists / "images", ["im1.jpg"])
    dataset = registry.get("flickr25k")
    with pytest.raises(DataError, match=r"targets\.txt has 24 labels, 38 are asked for: .*labels to 24"):
        dataset.read(_flickr(flickr_lists, on_bad_image="skip", labels=38))
    assert not warnings
    raw = dataset.read(_flickr(shared / "coco256-flickr-layout"))
    assert raw.labels.shape == (256, 80)
    assert any("has 80 labels, MIRFLICKR-25K has 24 or 38" in line for line in warnings)
    with pytest.raises(DataError, match=r"targets\.txt"):
        (flickr_lists / "targets.txt").unlink()
        dataset.ensure(_flickr(flickr_lists))


@pytest.fixture
def official(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The two official archives in small: the real labels of the first 60 images; put by hand into the cache.

    A `_r1` file holds every second image of its label, so that 24 and 38 differ.
    """
    home = tmp_path / "ssdh-home" / "datasets" / "flickr25k"
    home.mkdir(parents=True)
    targets = np.loadtxt(shared / "flickr25k-lists" / "targets.txt", dtype=np.uint8, max_rows=60)
    stricter = {"baby", "bird", "car", "clouds", "dog", "female", "flower"}
    stricter |= {"male", "night", "people", "portrait", "river", "sea", "tree"}
    with zipfile.ZipFile(home / "mirflickr25k_annotations_v080.zip", "w") as archive:
        archive.writestr("README.txt", "MIRFLICKR-25000 annotations\n1\n2\n")
        for column, name in enumerate(flickr25k._TARGETS_CLASSES):
            numbers = (np.flatnonzero(targets[:, column]) + 1).tolist()
            archive.writestr(f"{name}.txt", "\r\n".join(map(str, numbers)) + "\r\n" if numbers else "")
            if name in stricter:
                archive.writestr(f"{name}_r1.txt", "\r\n".join(map(str, numbers[::2])))
    with zipfile.ZipFile(home / "mirflickr25k.zip", "w") as archive:
        for number in range(1, 61):
            data = io.BytesIO()
            Image.new("RGB", (2, 2), (number, 0, 0)).save(data, "JPEG")
            archive.writestr(f"mirflickr/im{number}.jpg", data.getvalue())
        archive.writestr("mirflickr/doc/README.txt", "about")
    for name in ("IMAGES", "ANNOTATIONS"):
        real = getattr(flickr25k, name)
        digest = hashlib.md5((home / real.name).read_bytes()).hexdigest()
        monkeypatch.setattr(flickr25k, name, RemoteFile(real.url, digest))
    np.save(tmp_path / "targets.npy", targets)
    return home


@pytest.mark.parametrize("labels", [24, 38])
def test_flickr_official_archives(official: Path, tmp_path: Path, labels: int, warnings: list[str]) -> None:
    dataset = registry.get("flickr25k")
    params = _flickr(None, labels=labels, num_train=40)
    dataset.ensure(params)
    assert dataset.find(params).missing == ()
    raw = dataset.read(params)
    assert dataset.root(params) == official
    assert raw.names == [f"mirflickr/im{number}.jpg" for number in range(1, 61)]  # by number, not by text
    assert len(raw.classes) == labels
    assert list(raw.classes) == sorted(raw.classes)
    targets = np.load(tmp_path / "targets.npy")
    for column, name in enumerate(flickr25k._TARGETS_CLASSES):
        np.testing.assert_array_equal(raw.labels[:, raw.classes.index(name)], targets[:, column])
    if labels == 38:
        strict, loose = (raw.labels[:, raw.classes.index(name)] for name in ("people_r1", "people"))
        np.testing.assert_array_equal(np.flatnonzero(strict), np.flatnonzero(loose)[::2])
    assert any("holds 60 images, MIRFLICKR-25K has 25,000" in line for line in warnings)
    prepared = prepare(raw, root=official, seed=0, workers=1, name="flickr25k")
    assert len(prepared.split.query) == 20


def test_flickr_offline_names_both_archives(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SSDH_OFFLINE=1 .*annotations_v080\.zip.*aa0138c79892b1b670184d142380948f"):
        registry.get("flickr25k").ensure(_flickr(None))
    with pytest.raises(DataError, match=r"mirflickr/ .* and annotations/ .*datasets\.flickr25k\.data\.root"):
        registry.get("flickr25k").ensure(_flickr(tmp_path))


def test_flickr_broken_annotations_are_named(official: Path) -> None:
    dataset = registry.get("flickr25k")
    dataset.ensure(_flickr(None, num_train=40))
    (official / "annotations" / "dog.txt").write_text("12\nx\n")
    with pytest.raises(DataError, match=r"dog\.txt must hold image numbers"):
        dataset.read(_flickr(None))
    (official / "annotations" / "dog.txt").unlink()
    with pytest.raises(DataError, match="the files of 23 labels, expected 24"):
        dataset.read(_flickr(None))


# --- NUS-WIDE ---------------------------------------------------------------------------------------------------------

TOP_10 = ["animal", "buildings", "clouds", "grass", "lake", "person", "plants", "sky", "water", "window"]


@pytest.fixture(scope="module")
def nus_truth(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real labels in the official layout, with images for the first 300 names."""
    import subprocess
    import sys

    root = tmp_path_factory.mktemp("nus")
    tool = shared.parent / "tools" / "nus_wide_official_layout.py"
    subprocess.run([sys.executable, str(tool), str(root)], check=True, capture_output=True)
    touch_images(root, read_names(root / "ImageList" / "Imagelist.txt")[:300])
    return root


def _nus(k: int, root: Path, **data: Any) -> Any:
    return registry.get(f"nus_wide_{k}").Params(root=str(root), **({"num_train": 50} | data))


@pytest.mark.long
@pytest.mark.parametrize(("k", "images"), [(10, 186_577), (21, 195_834)])
def test_nus_wide_truth_gives_the_published_numbers(
    nus_truth: Path, shared: Path, k: int, images: int, warnings: list[str]
) -> None:
    dataset = registry.get(f"nus_wide_{k}")
    with pytest.raises(DataError, match=rf" of {images:,} images of nus_wide_{k} are missing .*missing: skip"):
        dataset.ensure(_nus(k, nus_truth))
    params = _nus(k, nus_truth, missing="skip", num_query=40)
    dataset.ensure(params)
    raw = dataset.read(params)
    assert not warnings
    assert len(raw.names) + len(raw.skipped) == images
    assert raw.counts["missing"] == len(raw.skipped)
    assert raw.skipped[0][1] == "missing"
    if k == 10:
        assert list(raw.classes) == TOP_10

    # the labels of each image that is there, looked up in the source by its Flickr id
    source = np.load(shared / "nus-wide-labels.npz")
    labels = np.unpackbits(source["labels"], axis=1, count=81)
    columns = [source["concepts"].tolist().index(name) for name in raw.classes]
    assert sorted(columns) == columns
    ids = [int(name.rsplit("_", 1)[1].removesuffix(".jpg")) for name in raw.names]
    row_of = {int(flickr_id): row for row, flickr_id in enumerate(source["flickr_ids"][:300])}
    np.testing.assert_array_equal(raw.labels, labels[[row_of[i] for i in ids]][:, columns])
    assert raw.labels.any(axis=1).all()

    prepared = prepare(raw, root=nus_truth, seed=0, workers=1, name=dataset.name)
    assert len(prepared.split.query) == 40


@pytest.mark.parametrize("moved", [False, True])
def test_nus_wide_truth_of_other_files_warns(tmp_path: Path, warnings: list[str], moved: bool) -> None:
    (tmp_path / "Groundtruth/AllLabels").mkdir(parents=True)
    (tmp_path / "ImageList").mkdir()
    names = [f"actor\\{number:04d}_{number}.jpg" for number in range(30)]
    (tmp_path / "ImageList/Imagelist.txt").write_text("\r\n".join(names))
    concepts = [f"c{number:02d}" for number in range(12)]
    (tmp_path / "Concepts81.txt").write_text("\n".join(concepts))
    for number, concept in enumerate(concepts):  # concept i has i positives: the first two are not in the top ten
        column = np.arange(30) < number
        (tmp_path / f"Groundtruth/AllLabels/Labels_{concept}.txt").write_text("\n".join(map(str, column.astype(int))))
    touch_images(tmp_path / "Flickr", [name.replace("\\", "/") for name in names])
    if moved:
        (tmp_path / "ConceptsList").mkdir()
        (tmp_path / "Concepts81.txt").rename(tmp_path / "ConceptsList/Concepts81.txt")
    dataset = registry.get("nus_wide_10")
    params = _nus(10, tmp_path, num_query=3, num_train=5)
    dataset.ensure(params)
    raw = dataset.read(params)
    assert raw.classes == tuple(concepts[2:])
    assert raw.names == [f"Flickr/actor/{number:04d}_{number}.jpg" for number in range(11)]
    assert any("lists 11 images for nus_wide_10, expected 186,577" in line for line in warnings)


@pytest.fixture
def nus_lists(tmp_path: Path) -> Path:
    """Both seed layouts in small: 12 images for ten labels, 10 + 4 for 21, paths with their folder."""
    rng = np.random.default_rng(0)

    def write(name: str, labels: str, count: int, first: int, k: int) -> None:
        names = [f"images/{number:04d}_7.jpg" for number in range(first, first + count)]
        (tmp_path / name).write_text("\n".join(names) + "\n")
        rows = rng.integers(0, 2, (count, k))
        (tmp_path / labels).write_text("\n".join(" ".join(map(str, row)) for row in rows) + "\n")
        touch_images(tmp_path, names)

    write("img_tc10.txt", "targets_onehot_tc10.txt", 12, 0, 10)
    write("database_img.txt", "database_label_onehot.txt", 10, 0, 21)
    write("test_img.txt", "test_label_onehot.txt", 4, 10, 21)
    return tmp_path


def test_nus_wide_10_lists(nus_lists: Path, warnings: list[str]) -> None:
    dataset = registry.get("nus_wide_10")
    params = _nus(10, nus_lists, num_query=3, num_train=5)
    dataset.ensure(params)
    raw = dataset.read(params)
    np.testing.assert_array_equal(raw.labels, np.loadtxt(nus_lists / "targets_onehot_tc10.txt", dtype=np.uint8))
    assert raw.names[3] == "images/0003_7.jpg"
    assert any("lists 12 images for nus_wide_10, expected 186,577" in line for line in warnings)


def test_nus_wide_21_keeps_the_published_lists(nus_lists: Path) -> None:
    dataset = registry.get("nus_wide_21")
    (nus_lists / "images/0012_7.jpg").unlink()  # a dead link among the queries
    (nus_lists / "images/0004_7.jpg").unlink()
    with pytest.raises(DataError, match="2 of 14 images of nus_wide_21 are missing"):
        dataset.ensure(_nus(21, nus_lists, num_train=5))
    params = _nus(21, nus_lists, num_train=5, missing="skip")
    dataset.ensure(params)
    raw = dataset.read(params)
    orders = []
    for seed in (0, 1):
        prepared = prepare(raw, root=nus_lists, seed=seed, workers=0, name="nus_wide_21")
        names = np.array(prepared.raw.names)
        assert sorted(names[prepared.split.query]) == [f"images/{n:04d}_7.jpg" for n in (10, 11, 13)]
        assert sorted(names[prepared.split.database]) == [f"images/{n:04d}_7.jpg" for n in range(10) if n != 4]
        orders.append(prepared.split.database.tolist())
    assert orders[0] != orders[1]
    np.testing.assert_array_equal(raw.labels[-1], np.loadtxt(nus_lists / "test_label_onehot.txt", dtype=np.uint8)[3])


def test_nus_wide_lists_that_do_not_fit(nus_lists: Path, tmp_path: Path) -> None:
    dataset = registry.get("nus_wide_21")
    (nus_lists / "test_img.txt").write_text("".join(f"images/{n:04d}_7.jpg\n" for n in (9, 11, 12, 13)))
    with pytest.raises(DataError, match=r"1 images stand in both .*images/0009_7\.jpg"):
        dataset.ensure(_nus(21, nus_lists, num_train=3))
    (nus_lists / "test_label_onehot.txt").unlink()
    with pytest.raises(DataError, match=r"test_label_onehot\.txt not found .*cannot be .*nus_wide_21\.data\.root"):
        dataset.ensure(_nus(21, nus_lists, num_train=3))
    (nus_lists / "targets_onehot_tc10.txt").write_text("0 1\n" * 12)
    with pytest.raises(DataError, match="has 2 labels a row, nus_wide_10 has 10"):
        registry.get("nus_wide_10").ensure(_nus(10, nus_lists, num_train=3))
    with pytest.raises(DataError, match="cannot be downloaded"):
        dataset.ensure(_nus(21, tmp_path / "nowhere", num_train=3))
