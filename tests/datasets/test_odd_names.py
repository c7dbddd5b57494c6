"""File names that are legal and odd, in every list that people pass around: they come back as they are, or one line."""

import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssdh.core.errors import DataError
from ssdh.datasets import registry
from ssdh.datasets.prepare import prepare, write_images
from ssdh.datasets.text_lists import locate, read_names
from ssdh.features.images import FileImages, read_manifest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse or change such names")

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "Zoë.jpg"), unicodedata.normalize("NFD", "Zoë.jpg")
ODD = [
    "cr\rin it.jpg",
    "next\x85line.jpg",
    "line\u2028separator.jpg",
    "tab\tin it.jpg",
    "form\x0cfeed.jpg",
    "quote\"and'comma,.jpg",
    "semi;colon.jpg",
    "\xa0hard blank.jpg",
    "x" * 251 + ".jpg",
    "é" * 125 + ".jpg",
    "A.jpg",
    "a.jpg",
    "-rf.jpg",
    "$HOME `id`.jpg",
    "a:b.jpg",
    "😀.jpg",
    DECOMPOSED,
]


def photos(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (number, 7, 7)).save(path, "JPEG")


def rows_of(count: int, width: int) -> str:
    return "".join(" ".join("01"[row % width == column] for column in range(width)) + "\n" for row in range(count))


def coco_layout(root: Path, names: list[str]) -> Any:
    photos(root / "images", names)
    (root / "img.txt").write_bytes("\n".join(names).encode() + b"\n")
    (root / "targets.txt").write_text(rows_of(len(names), 80))
    return registry.get("coco").Params(root=str(root), num_query=2, num_train=4)


def flickr_layout(root: Path, names: list[str]) -> Any:
    photos(root / "images", names)
    (root / "img.txt").write_bytes("\r\n".join(names).encode())
    (root / "targets.txt").write_text(rows_of(len(names), 24))
    return registry.get("flickr25k").Params(root=str(root), num_query=2, num_train=4)


def nus_wide_layout(root: Path, names: list[str]) -> Any:
    photos(root / "images", names)
    (root / "img_tc10.txt").write_bytes("\n".join(names).encode())
    (root / "targets_onehot_tc10.txt").write_text(rows_of(len(names), 10))
    return registry.get("nus_wide_10").Params(root=str(root), num_query=2, num_train=4)


def imagenet_layout(root: Path, names: list[str]) -> Any:
    photos(root, names)
    lines = [f"{name} {flags}" for name, flags in zip(names, rows_of(len(names), 100).splitlines(), strict=True)]
    (root / "database.txt").write_bytes("\n".join(lines[2:]).encode())
    (root / "test.txt").write_bytes("\n".join(lines[:2]).encode())
    return registry.get("imagenet100").Params(root=str(root), num_train=4)


LAYOUTS: dict[str, Callable[[Path, list[str]], Any]] = {
    "coco": coco_layout,
    "flickr25k": flickr_layout,
    "nus_wide_10": nus_wide_layout,
    "imagenet100": imagenet_layout,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_odd_names_of_a_list_come_back_from_the_manifest(name: str, tmp_path: Path) -> None:
    root = tmp_path / "raw"
    params, dataset = LAYOUTS[name](root, ODD), registry.get(name)
    dataset.ensure(params)
    raw = dataset.read(params)
    write_images(tmp_path / "out", prepare(raw, root=dataset.root(params), seed=0, workers=1, name=name))
    result, _ = read_manifest(tmp_path / "out")
    assert sorted(path.removeprefix("images/") for path in result) == sorted(ODD)
    images = FileImages.from_manifest(tmp_path / "out" / "manifest.csv", root)
    assert all(images.read_bytes(row) for row in range(len(ODD)))


@pytest.mark.parametrize("name", LAYOUTS)
def test_names_that_are_composed_otherwise_are_found_in_folders_too(name: str, tmp_path: Path) -> None:
    names = [f"f{number}.jpg" for number in range(6)]
    listed, there = [unicodedata.normalize(form, "ö/é.jpg") for form in ("NFC", "NFD")]
    params, dataset = LAYOUTS[name](tmp_path, [*names, listed]), registry.get(name)
    folder = tmp_path if name == "imagenet100" else tmp_path / "images"
    (folder / "ö").rename(folder / there.split("/")[0])
    (folder / there.split("/")[0] / "é.jpg").rename(folder / there)
    dataset.ensure(params)
    assert there in [path.removeprefix("images/") for path in dataset.read(params).names]


def test_blanks_at_the_ends_of_names_are_found_though_no_list_shows_them(tmp_path: Path) -> None:
    photos(tmp_path, [" a.jpg", "b.jpg ", "c.jpg"])
    (tmp_path / "img.txt").write_text(" a.jpg\nb.jpg \n./c.jpg \n")
    paths, result = locate(tmp_path, read_names(tmp_path / "img.txt"))
    assert (paths, result.tolist()) == ([" a.jpg", "b.jpg ", "c.jpg"], [True] * 3)


def test_a_name_that_fits_two_files_is_none(tmp_path: Path) -> None:
    photos(tmp_path, [" a.jpg", "a.jpg "])
    paths, result = locate(tmp_path, ["a.jpg", "b.jpg"])
    assert (paths, result.tolist()) == (["a.jpg", "b.jpg"], [False, False])
    photos(tmp_path, ["a.jpg"])
    assert locate(tmp_path, ["a.jpg"])[1].all()


@pytest.mark.parametrize("name", LAYOUTS)
def test_names_in_other_letters_case_are_said(name: str, tmp_path: Path) -> None:
    params, dataset = LAYOUTS[name](tmp_path, [f"f{number}.jpg" for number in range(6)]), registry.get(name)
    folder = tmp_path if name == "imagenet100" else tmp_path / "images"
    (folder / "f3.jpg").rename(folder / "F3.JPG")
    with pytest.raises(DataError, match=r"f3\.jpg', there is '(images/)?F3\.JPG'"):
        dataset.ensure(params)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_list_that_is_no_utf_8_is_one_line(name: str, tmp_path: Path) -> None:
    params, dataset = LAYOUTS[name](tmp_path, [f"f{number}.jpg" for number in range(6)]), registry.get(name)
    (path,) = [path for file in ("img.txt", "img_tc10.txt", "test.txt") if (path := tmp_path / file).exists()]
    path.write_bytes(path.read_bytes().replace(b"f1", b"\xe9"))
    with pytest.raises(DataError, match=r"cannot be read as a list in UTF-8"):
        dataset.ensure(params)


def test_a_name_that_no_line_can_show_is_said_in_one(tmp_path: Path) -> None:
    params = coco_layout(tmp_path, [*(f"f{number}.jpg" for number in range(6)), "a\rb.jpg"])
    (tmp_path / "images" / "a\rb.jpg").unlink()
    with pytest.raises(DataError) as error:
        registry.get("coco").ensure(params)
    assert r"'images/a\rb.jpg'" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_class_names_in_another_encoding_are_one_line(tmp_path: Path) -> None:
    params = flickr_layout(tmp_path, [f"f{number}.jpg" for number in range(6)])
    (tmp_path / "classes.txt").write_bytes(b"\xe9t\xe9\n" * 24)
    with pytest.raises(DataError, match=r"classes\.txt cannot be read as a list in UTF-8"):
        registry.get("flickr25k").read(params)


def test_a_root_whose_own_name_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names below it are all that is written; its own is only asked of the system."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9t\xe9"))
    photos(folder / "raw", [f"f{number}.jpg" for number in range(6)])
    monkeypatch.chdir(folder)
    dataset = registry.get("folder")
    params = dataset.Params(root="raw")
    dataset.ensure(params)
    prepared = prepare(dataset.read(params), root=dataset.root(params), seed=0, workers=1, name="folder")
    assert len(prepared.digests) == 6


@pytest.mark.long
def test_four_thousand_photos_with_names_of_255_bytes(tmp_path: Path) -> None:
    names = [f"{number:04d}{'é' * 123}x.jpg" for number in range(4000)]
    assert {len(os.fsencode(name)) for name in names} == {255}
    root = tmp_path / "raw"
    root.mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (2, 2), (number % 256, number // 256, 7)).save(root / name, "PPM")
    dataset = registry.get("folder")
    params = dataset.Params(root=str(root))
    dataset.ensure(params)
    prepared = prepare(dataset.read(params), root=root, seed=0, workers=1, name="folder")
    write_images(tmp_path / "out", prepared)
    assert read_manifest(tmp_path / "out")[0] == names
    images = FileImages.from_manifest(tmp_path / "out" / "manifest.csv", root)
    assert images.read_bytes(3999) == (root / names[3999]).read_bytes()
