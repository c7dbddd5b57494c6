"""`labels.csv`: nothing is swallowed, every mistake is named by its line, and any legal file name can be listed."""

import csv
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssdh.core.errors import DataError
from ssdh.core.files import write_csv
from ssdh.datasets.folder import Folder, FolderParams
from ssdh.datasets.label_table import read_labels
from ssdh.features.images import read_manifest

ROWS = [f"{row}.jpg,{'ab'[row % 2]}" for row in range(8)]


def write(folder: Path, *lines: str, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_bytes("\n".join([*lines, ""]).encode())
    return path


def photos(folder: Path, *names: str) -> None:
    for row, name in enumerate(names):
        Image.new("RGB", (8, 8), (20 * row, 0, 0)).save(folder / name, "JPEG")


@pytest.mark.parametrize("line", ['x.jpg,"a', '"x.jpg,a', 'x.jpg,"a"b', 'x.jpg,"a;b\nb"'])
def test_a_stray_quote_is_refused_and_its_line_named(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, *ROWS[:4], line, *ROWS[4:])
    with pytest.raises(DataError, match=r"labels\.csv, line 5: a quote is not closed"):
        read_labels(path, ())


@pytest.mark.parametrize(
    "header", ["path,label", "image_path,label", "File Name,label", "sep=,", "SEP=,\nfilename,x", ""]
)
def test_known_headers_are_no_image(tmp_path: Path, header: str) -> None:
    expected = {f"{row}.jpg": {"ab"[row % 2]} for row in range(8)}
    assert read_labels(write(tmp_path, header, *ROWS), ()) == expected


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("bild,klasse", "line 1: 'bild' is neither an image nor a known header .*path, file, filename"),
        ("sep=,\nbild,klasse", "line 2: 'bild' is neither"),
        ("sep=;", "line 1: 'sep=;': save it with commas"),
        ("path;label", "line 1: expected path,label.* got 1 fields"),
    ],
)
def test_an_unknown_header_is_named_with_the_known_ones(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(write(tmp_path, header, *ROWS), ())


def test_a_file_with_capitals_is_seen(tmp_path: Path) -> None:
    photos(tmp_path, *(f"{row}.jpg" for row in range(8)))
    write(tmp_path, *ROWS, name="Labels.CSV")
    assert Folder().read(FolderParams(root=str(tmp_path))).classes == ("a", "b")
    write(tmp_path, *ROWS, name="LABELS.csv")
    with pytest.raises(DataError, match=r"holds LABELS\.csv, Labels\.CSV: keep one"):
        Folder().read(FolderParams(root=str(tmp_path)))


def test_composed_and_decomposed_names_are_one(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "schön.jpg") for form in ("NFC", "NFD"))
    photos(tmp_path, decomposed, *(f"{row}.jpg" for row in range(8)))
    write(tmp_path, f"{composed},c", *ROWS)
    read = Folder().read(FolderParams(root=str(tmp_path)))
    assert read.labels[read.names.index(decomposed)].tolist() == [0, 0, 1]


def test_a_name_in_other_capitals_is_said(tmp_path: Path) -> None:
    photos(tmp_path, "IMG_1.JPG", *(f"{row}.jpg" for row in range(8)))
    write(tmp_path, "img_1.jpg,c", *ROWS)
    with pytest.raises(DataError, match=r"'img_1\.jpg', there is 'IMG_1\.JPG'"):
        Folder().read(FolderParams(root=str(tmp_path)))


LEGAL = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=60)
@given(st.sets(LEGAL.map(lambda text: text + ".jpg"), min_size=1, max_size=6))
def test_any_legal_name_goes_through_manifest_and_labels(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    write_csv(
        folder / "manifest.csv", ("row", "path", "sha256"), [(row, name, "00" * 32) for row, name in enumerate(names)]
    )
    assert read_manifest(folder)[0] == list(names)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label"], *([name, "a;b"] for name in names)])
    assert read_labels(folder / "labels.csv", names) == {name: {"a", "b"} for name in names}


@pytest.mark.parametrize(
    "name", ["cr\r.jpg", "lf\n.jpg", 'q".jpg', " a.jpg", "a\\b.jpg", "sep=,.jpg", "=1+1.jpg", "\x85.jpg"]
)
def test_an_odd_name_on_the_disk_has_its_label(tmp_path: Path, name: str) -> None:
    photos(tmp_path, name, *(f"{row}.jpg" for row in range(8)))
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([[f"{row}.jpg", "other"] for row in range(8)] + [[name, "own"]])
    read = Folder().read(FolderParams(root=str(tmp_path)))
    expected = np.zeros((9, 2), np.uint8)
    expected[:, 0] = 1
    expected[read.names.index(name)] = [0, 1]
    np.testing.assert_array_equal(read.labels, expected)


def test_a_header_below_blank_lines_is_one(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("\n \n\npath,label\na.jpg,x\n")
    assert read_labels(tmp_path / "labels.csv", ()) == {"a.jpg": {"x"}}


@pytest.mark.parametrize("label", ["a\x85b", "a\u2028b", "a\x0cb", "a\0b"])
def test_no_label_holds_a_line_break_of_any_kind(tmp_path: Path, label: str) -> None:
    (tmp_path / "labels.csv").write_bytes(f"path,label\na.jpg,{label}\n".encode())
    with pytest.raises(DataError, match=r"labels\.csv, line 2: .* holds a line break or a null"):
        read_labels(tmp_path / "labels.csv", ())
