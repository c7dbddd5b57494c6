"""`python -m ssdh search` and `serve` on a finished run: what they print, and what they say when something is wrong."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from ssdh.__main__ import main
from ssdh.cli import serve
from ssdh.core.errors import DataError
from ssdh.features.decode import decode_image
from ssdh.hashing.codes import unpack
from ssdh.hashing.model_file import read_metadata
from ssdh.search import finished_run as finished_module
from ssdh.search.finished_run import check_one_run, open_encoder
from ssdh.search.photos import find_photos
from tests.helpers.finished_run import finished_run


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(project, tmp_path_factory.mktemp("finished"))


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["search", "--json", *arguments]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main([*arguments]) == 1
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text.startswith("ssdh: ")
    return text


def test_photos_of_the_collection_find_themselves_and_true_neighbours(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = answer(capsys, "photos", "--top", "24")
    bits = unpack(np.load("models/codes.npy"), 12)
    assert results["images"] == len(results["queries"]) == 24
    rows = {
        name: row for row, name in enumerate(p["name"] for p in sorted(everything(results), key=lambda p: p["row"]))
    }
    for query in results["queries"]:
        row = rows[Path(query["photo"]).relative_to("photos").as_posix()]
        assert query["code"] == np.load("models/codes.npy")[row].tobytes().hex()
        distances = (bits != bits[row]).sum(axis=1)
        assert sorted(result["row"] for result in query["results"]) == list(range(24))
        assert [result["distance"] for result in query["results"]] == np.sort(distances).tolist()
        assert [distances[result["row"]] for result in query["results"]] == np.sort(distances).tolist()


def everything(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of one query that was asked for all images."""
    results: list[dict[str, Any]] = found["queries"][0]["results"]
    assert len(results) == found["images"]
    return results


@pytest.mark.parametrize("kind", ["hnsw", "hash"])
def test_top_radius_and_kind_are_obeyed(here: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    photo = "photos/day 1/004.jpg"
    assert len(answer(capsys, photo, "--top", "3")["queries"][0]["results"]) == 3
    near = answer(capsys, photo, "--radius", "2", "--index", kind)
    assert near["index"] == kind
    assert {result["distance"] for result in near["queries"][0]["results"]} <= {0, 1, 2}
    assert near["queries"][0]["results"][0]["distance"] == 0


def test_a_radius_gives_all_within_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = "photos/day 1/004.jpg"
    everything = answer(capsys, photo, "--top", "1000")["queries"][0]["results"]
    assert len(everything) > 20
    radius = everything[20]["distance"]
    found = answer(capsys, photo, "--radius", str(radius))["queries"][0]["results"]
    assert found == [result for result in everything if result["distance"] <= radius]
    assert len(answer(capsys, photo, "--radius", str(radius), "--top", "3")["queries"][0]["results"]) == 3


def test_the_text_lists_distances_and_names(here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["search", "photos/day 1/004.jpg", "--top", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "photos/day 1/004.jpg"
    assert len(lines) == 6
    assert "0  day 1/004.jpg" in {line.strip() for line in lines}
    Image.new("RGB", (40, 40), "white").save(tmp_path / "white.png")
    result = answer(capsys, str(tmp_path / "white.png"), "--top", "24")
    nearest = everything(result)[0]["distance"]
    if nearest:
        assert main(["search", str(tmp_path / "white.png"), "--radius", str(nearest - 1)]) == 0
        assert "no image within this radius" in capsys.readouterr().out


def test_bad_photos_of_a_folder_are_left_out_and_named(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    Image.new("RGB", (20, 30)).save(folder / "good.png")
    (folder / "bad.jpg").write_bytes(b"<html>")
    (folder / "notes.txt").write_text("not a photo")
    result = answer(capsys, str(folder))
    assert [Path(query["photo"]).name for query in result["queries"]] == ["good.png"]
    assert result["skipped"] == [{"photo": str(folder / "bad.jpg"), "reason": "a web page, not an image"}]


def test_hidden_photos_of_a_folder_are_passed_over_as_in_ingestion(tmp_path: Path) -> None:
    folder = tmp_path / ".photos"  # the folder itself may be hidden: it was asked for
    for name in ("a.png", "in/b.JPG", "._a.png", ".thumbnails/a.png", "in/.cache/deep/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30)).save(folder / name)
    assert [path.relative_to(folder).as_posix() for path in find_photos(folder)] == ["a.png", "in/b.JPG"]
    assert find_photos(folder / "._a.png") == [folder / "._a.png"]


def test_mistakes_are_one_line_with_the_way_out(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.jpg does not exist" in refusal(capsys, "search", "nowhere.jpg")
    (tmp_path / "empty").mkdir()
    assert "holds no image file" in refusal(capsys, "search", str(tmp_path / "empty"))
    (tmp_path / "bad.jpg").write_bytes(b"")
    assert refusal(capsys, "search", str(tmp_path / "bad.jpg")).endswith("bad.jpg: empty file")


def test_without_a_run_the_way_out_is_dvc_repro(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (20, 30)).save(tmp_path / "good.png")
    monkeypatch.chdir(tmp_path)
    for command in (["search", "good.png"], ["export", "out"], ["serve", "--port", "0"]):
        assert "dvc repro" in refusal(capsys, *command)


@pytest.fixture
def locked(finished: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run with the lock file of the default run beside it, as stages run by hand leave it."""
    folder = shutil.copytree(finished, tmp_path / "locked")
    shutil.copy(project / "dvc.lock", folder)
    (folder / "data/split").mkdir()
    monkeypatch.chdir(folder)
    return folder


COMMANDS: dict[str, list[str]] = {
    "search": ["search", "photos"],
    "export": ["export", "out", "--no-onnx"],
    "serve": ["serve", "--port", "0"],
    "evaluate": ["evaluate"],
    "evaluate --model": ["evaluate", "--model", "./copy.safetensors"],
}


@pytest.mark.parametrize(
    ("stage", "path", "refused"),
    [
        ("prepare", "data/images", {*COMMANDS}),  # killed after `prepare`, or `dvc repro prepare` of other photos
        ("prepare", "data/split", {"search", "export", "serve", "evaluate"}),  # `dvc repro prepare` of another seed
        ("extract", "features/features.npy", {"search", "export", "serve", "evaluate"}),
        ("train", "models/hashnet.safetensors", {"search", "export", "serve"}),  # `dvc exp run -S seed=1 train`
        ("encode", "models/codes.npy", set()),  # `dvc repro encode`: what reads codes after is not asked for
    ],
)
def test_results_of_different_runs_are_refused(
    locked: Path, stage: str, path: str, refused: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("models/hashnet.safetensors", "copy.safetensors")
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    (entry,) = (out for out in lock["stages"][stage]["outs"] if out["path"] == path)
    entry["md5"] = "0" * 32
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    for name in refused:
        message = refusal(capsys, *COMMANDS[name])
        assert path in message, name
        assert "of different runs" in message
        assert message.endswith("after an interruption or a run in part: run `dvc repro`")
    if "search" not in refused:
        check_one_run("encode")
    if "evaluate" not in refused:
        check_one_run("train")
    if "evaluate --model" not in refused:
        check_one_run("extract")


@pytest.mark.usefixtures("locked")
def test_what_a_killed_stage_had_still_to_write_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    """`prepare` writes the images first; DVC records its outs at its end only."""
    Path("data/labels.npy").unlink()
    assert "data/labels.npy does not exist: run `dvc repro`" in refusal(capsys, "search", "photos")


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize("content", ["", "<<<<<<< HEAD\n", "[]", "schema: '2.0'"])
def test_a_broken_lock_file_is_one_line(content: str) -> None:
    Path("dvc.lock").write_text(content)
    with pytest.raises(DataError, match=r"^dvc\.lock cannot be read: remove it and run `dvc repro`$"):
        check_one_run("encode")


@pytest.mark.usefixtures("locked")
def test_without_a_lock_file_or_with_one_of_one_run_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "photos/day 1/004.jpg")["images"] == 24
    Path("dvc.lock").unlink()
    Path("data/split").rmdir()
    assert answer(capsys, "photos/day 1/004.jpg")["images"] == 24


@pytest.mark.parametrize("codes", [np.zeros((24, 2), np.int64), np.zeros((24, 2)), np.zeros(24, np.uint8)])
@pytest.mark.usefixtures("locked")
def test_codes_of_another_kind_are_one_line(codes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("models/codes.npy", codes)
    message = refusal(capsys, "search", "photos")
    assert message.startswith(f"ssdh: models/codes.npy {codes.dtype} {codes.shape} does not fit 24 images and 12 bits")
    assert message.endswith("run `dvc repro`")


@pytest.mark.parametrize("content", ["{}", "[]", '{"dataset": "folder"}', "3", "{"])
@pytest.mark.usefixtures("locked")
def test_counts_that_say_nothing_are_one_line(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("metrics/data.json").write_text(content)
    for command in (["serve", "--port", "0"], ["evaluate"], ["export", "out"]):
        message = refusal(capsys, *command)
        assert message.startswith("ssdh: metrics/data.json ")
        assert message.endswith(": run `dvc repro`")


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [("uvicorn", "serve", "[web]"), ("fastapi", "serve", "[web]"), ("onnxruntime", "export", "[onnx]")],
)
def test_a_package_that_is_not_there_is_named_with_its_extra(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
    command: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "ssdh.search.web.app", raising=False)
    message = refusal(capsys, command)
    assert package in message
    assert f"pip install -e '.{extra}'" in message
    assert not Path("export").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "0"], "whole number of at least 1, got '0'"),
        (["--radius", "-1"], "whole number of at least 0, got '-1'"),
        (["--radius", "two"], "got 'two'"),
        (["--index", "tree"], "invalid choice: 'tree'"),
    ],
)
def test_options_are_checked(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["search", "photo.jpg", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_photo_alone_gets_the_outputs_it_gets_among_others(here: Path) -> None:
    encoder = open_encoder()
    photos = [decode_image(path, encoder.min_side) for path in sorted(Path("photos").rglob("*.jpg"))]
    together = encoder(photos)
    alone = np.concatenate([encoder([photo]).outputs for photo in photos])
    assert np.abs(together.outputs - alone).max() < 1e-5
    assert [part.shape for part in encoder([])] == [(0, 2), (0, 12), (0, together.features.shape[1])]


def test_a_shortlist_is_ordered_by_features_and_ties_without_one_by_the_outputs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = "photos/day 1/004.jpg"
    plain = answer(capsys, photo, "--top", "24")
    encoder = open_encoder()
    own = encoder([decode_image(Path(photo), encoder.min_side)])
    packed, features = np.load("models/codes.npy"), np.load("features/features.npy").astype(np.float64)
    distances = (unpack(packed, 12) != unpack(own.packed, 12)).sum(axis=1)
    scores = unpack(packed, 12) @ own.outputs[0].astype(np.float64)
    matches = [(result["distance"], scores[result["row"]]) for result in everything(plain)]
    for (near, high), (far, low) in pairwise(matches):
        assert near < far or (near == far and high >= low - 1e-5)

    again = answer(capsys, photo, "--top", "5", "--rerank", "8")
    assert again["rerank"] == 8
    cosines = features @ own.features[0] / np.linalg.norm(features, axis=1) / np.linalg.norm(own.features[0])
    shortlist = np.flatnonzero(distances <= np.sort(distances)[7])
    results = again["queries"][0]["results"]
    expected = pytest.approx(np.sort(cosines[shortlist])[::-1][:5], abs=1e-4)
    assert [result["similarity"] for result in results] == expected
    assert [cosines[result["row"]] for result in results] == expected
    assert main(["search", photo, "--top", "1", "--rerank", "8"]) == 0
    assert re.search(r"^ +0  1\.0000  day 1/004.jpg$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.usefixtures("here")
def test_a_network_trained_whole_has_no_features_to_rerank_by(monkeypatch: pytest.MonkeyPatch) -> None:
    assert finished_module.open_index(features=True).features is not None
    assert finished_module.open_index().features is None
    metadata = read_metadata(finished_module.MODEL) | {"has_backbone": True}
    monkeypatch.setattr(finished_module, "read_metadata", lambda _: metadata)
    assert finished_module.open_index(features=True).features is None


@pytest.mark.parametrize(("whole", "precision"), [(True, "bf16"), (False, "fp32")])
@pytest.mark.usefixtures("here")
def test_a_photo_is_encoded_in_the_precision_of_the_codes(
    monkeypatch: pytest.MonkeyPatch, whole: bool, precision: str
) -> None:
    """Codes of a whole network were made in `train.precision`, those of a hash layer in `backbone.precision`."""
    metadata = read_metadata(finished_module.MODEL)
    more = {"has_backbone": whole, "precision": "bf16", "backbone_precision": "fp32"}
    monkeypatch.setattr(finished_module, "read_metadata", lambda _: metadata | more)
    assert open_encoder().precision == precision


@pytest.mark.parametrize(("system", "shared"), [("posix", True), ("nt", False)])
def test_two_servers_never_share_a_port(monkeypatch: pytest.MonkeyPatch, system: str, shared: bool) -> None:
    """On Windows SO_REUSEADDR lets a second server bind a port that is in use."""
    monkeypatch.setattr(serve, "os", SimpleNamespace(name=system))
    with serve._listen("127.0.0.1", 0) as listening:
        assert bool(listening.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) is shared


@pytest.mark.long
def test_serve_says_where_it_listens_answers_and_stops(here: Path, project: Path) -> None:
    command = [sys.executable, "-m", "ssdh", "serve", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(project)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
    try:
        assert process.stdout is not None
        results = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert results
        with httpx.Client(base_url=results[0], timeout=None) as client:
            about = client.get("/api/about").json()
            assert (about["title"], about["images"], about["bits"]) == ("folder", 24, 12)
            assert "smoke run" in about["notice"]
            photo = (here / "photos/day 1/004.jpg").read_bytes()
            answer = client.post("/api/search", content=photo).json()
        assert 4 in {result["row"] for result in answer["results"] if result["distance"] == 0}
        same_port = [*command[:-1], results[0].rpartition(":")[2]]
        again = subprocess.run(same_port, capture_output=True, text=True, check=False, env=environment)
        assert again.returncode == 1
        assert again.stderr.strip().endswith("choose another --port")
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.communicate()[1]
        assert process.returncode in (0, 130)
    finally:
        process.kill()
        process.wait()
