"""Photos with legal and odd names in everything that names them: they come back as they are, or one line."""

import csv
import html
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from ssdh.__main__ import main
from ssdh.core.files import write_csv
from ssdh.features.images import read_manifest
from ssdh.report.collect import collect
from ssdh.report.page import render
from ssdh.search.finished_run import open_gallery
from ssdh.search.index import Index
from ssdh.search.web.app import create_app
from tests.datasets.test_odd_names import ODD
from tests.helpers.finished_run import finished_run
from tests.helpers.small_run import SPLIT, SmallRun

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse or change such names"),
]
NAMES = [*ODD, "line\nfeed.jpg", "<b>&amp;.jpg", "\x1b[31mred.jpg"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """A finished run whose photos have these names."""
    folder = finished_run(project, tmp_path_factory.mktemp("odd") / "run", count=len(NAMES))
    before, digests = read_manifest(folder / "data/images")
    for name, new in zip(before, NAMES, strict=True):
        (folder / "photos" / name).rename(folder / "photos" / new)
    rows = [(row, name, digest) for row, (name, digest) in enumerate(zip(NAMES, digests, strict=True))]
    write_csv(folder / "data/images/manifest.csv", ("row", "path", "sha256"), rows)
    for empty in (folder / "photos").glob("day *"):
        empty.rmdir()
    return folder


@pytest.fixture(autouse=True)
def _inside(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_export(tmp_path: Path) -> None:
    assert main(["export", str(tmp_path / "out"), "--no-onnx"]) == 0
    assert list(Index.load(tmp_path / "out").names or ()) == NAMES


def test_export_to_faiss_and_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert main(["export", str(tmp_path / "faiss"), "--to", "faiss"]) == 0
    assert column(tmp_path / "faiss/codes.csv", "name") == NAMES
    assert main(["export", str(tmp_path / "parquet"), "--to", "parquet"]) == 0
    assert parquet.read_table(tmp_path / "parquet/codes.parquet")["name"].to_pylist() == NAMES


def test_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "groups.csv"
    assert main(["duplicates", "--codes-only", "--radius", "12", "--csv", str(result)]) == 0
    assert sorted(column(result, "name")) == sorted(NAMES)
    message = capsys.readouterr().out
    assert len(message.splitlines()) == len(NAMES) + 3  # a line each, whatever the name holds
    assert r"'line\nfeed.jpg'" in message
    assert "\x1b" not in message


def test_encode_add_list_search_and_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "photos", "--out", str(tmp_path / "codes"), "--workers", "0"]) == 0
    assert read_manifest(tmp_path / "codes")[0] == sorted(NAMES)
    collection = str(tmp_path / "mine")
    assert main(["add", collection, "photos", "--workers", "0"]) == 0
    capsys.readouterr()
    assert main(["list", collection, "--json"]) == 0
    listed = [json.loads(line)["paths"] for line in capsys.readouterr().out.splitlines()]
    paths = [str(Path("photos").resolve() / name) for name in NAMES]
    assert sorted(path for (path,) in listed) == sorted(paths)
    assert main(["list", collection]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(NAMES)
    for name in NAMES:
        assert main(["search", f"photos/{name}", "--collection", collection, "--top", "1", "--json"]) == 0
        (query,) = json.loads(capsys.readouterr().out)["queries"]
        assert query["photo"] == f"photos/{name}"
        assert query["results"][0]["distance"] == 0
    assert main(["remove", collection, *paths[:-1]]) == 0
    capsys.readouterr()
    assert main(["list", collection, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paths"] == paths[-1:]


def test_the_page() -> None:
    client = TestClient(create_app(open_gallery()), base_url="http://127.0.0.1")
    images = client.get("/api/images").json()["images"]
    assert [image["name"] for image in images] == NAMES
    assert {client.get(image["thumbnail"]).status_code for image in images} == {200}


def test_names_that_are_no_text_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    odd = os.fsdecode(os.fsencode(folder) + b"/\xe9t\xe9.jpg")
    Path(odd).write_bytes(Path("photos/A.jpg").read_bytes())
    collection = str(tmp_path / "mine")
    assert main(["add", collection, "photos/a.jpg", "--workers", "0"]) == 0
    commands = [
        ["encode", str(folder), "--out", str(tmp_path / "codes"), "--workers", "0"],
        ["add", collection, str(folder), "--workers", "0"],
        ["remove", collection, odd],
    ]
    for command in commands:
        capsys.readouterr()
        assert main(command) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ssdh: ")]
        assert "not in UTF-8" in line
        assert r"\udce9t\udce9.jpg" in line
    assert main(["search", odd, "--collection", collection]) == 0  # a query's name is only shown


def test_the_report(tmp_path: Path, project: Path) -> None:
    run = SmallRun(tmp_path / "run", project, labelled=False)
    names = [*NAMES, "last.jpg"]
    names = [names[(row + len(names) - 3) % len(names)] for row in range(21)]
    assert any("<b>" in names[row] for row in SPLIT.query)
    run.as_files(tmp_path / "photos", np.zeros((21, 8, 8, 3), np.uint8), names=names)
    text = render(collect(run.folder, run.params))
    text.encode()
    assert "<b>&amp;.jpg" not in text
    assert [names[row] for row in SPLIT.query if names[row] not in html.unescape(text)] == []
