"""`encode`: the pipeline's codes from a model's file alone, however the work is cut, interrupted or shared out."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdh.__main__ import main
from ssdh.core.params import read_params
from ssdh.features import blocks, forward
from ssdh.features.backbone import load_backbone
from ssdh.features.extract import feature_kind
from ssdh.features.images import open_images
from ssdh.features.params import BackboneParams, ImageParams
from ssdh.features.reuse import reusing
from ssdh.features.store import FeatureStore
from ssdh.hashing.codes import pack, sign_codes
from ssdh.hashing.model_file import load_hashnet
from ssdh.search import encode
from ssdh.search.layout import stored_features
from tests.helpers.finished_run import finished_run
from tests.helpers.killing import call
from tests.helpers.tiny import environment


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(project, tmp_path_factory.mktemp("run"), count=72)


@pytest.fixture
def model(finished: Path) -> list[str]:
    return ["--model", str(finished / "models/hashnet.safetensors")]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All photos encoded at once, with features."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSDH_HOME", str(out.parent / "home"))
        model = str(finished / "models/hashnet.safetensors")
        options = ["--out", str(out), "--features", "float16", "--workers", "0"]
        assert main(["encode", str(finished / "photos"), "--model", model, *options]) == 0
    return out


def test_codes_are_the_pipeline_s(finished: Path, whole: Path) -> None:
    assert np.array_equal(np.load(whole / "codes.npy"), np.load(finished / "models/codes.npy")[order(finished, whole)])
    features = np.load(whole / "features.npy")
    assert (features.dtype, features.shape) == (np.float16, (72, 512))
    about = json.loads((whole / "encode.json").read_text(encoding="utf-8"))
    assert (about["images"], about["bits"], about["features"], about["skipped"]) == (72, 12, "float16", 0)
    # what is kept tells the signs that the network's own features tell
    outputs = load_hashnet(finished / "models/hashnet.safetensors").hash.weight.detach().numpy()
    assert outputs.shape == (12, 512)


def order(finished: Path, whole: Path) -> list[int]:
    """The run's row of each row of `whole`: the run lists its photos as they were written."""
    rows = {}
    for path in (finished / "data/images/manifest.csv", whole / "manifest.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            rows[path] = [row["path"] for row in csv.DictReader(file)]
    first, second = rows.values()
    return [first.index(name) for name in second]


def test_a_photo_s_code_depends_on_nothing_else(finished: Path, whole: Path, model: list[str], tmp_path: Path) -> None:
    photo = finished / "photos/day 1/004.jpg"
    assert main(["encode", str(photo), *model, "--out", str(tmp_path / "one"), "--workers", "0"]) == 0
    with (whole / "manifest.csv").open(newline="", encoding="utf-8") as file:
        names = [row["path"] for row in csv.DictReader(file)]
    assert np.array_equal(
        np.load(tmp_path / "one/codes.npy")[0], np.load(whole / "codes.npy")[names.index("day 1/004.jpg")]
    )
    assert not (tmp_path / "one/features.npy").exists()


def test_an_interrupted_run_goes_on(
    finished: Path, whole: Path, model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "FLUSH_SECONDS", -1.0)
    command = ["encode", str(finished / "photos"), *model, "--out", str(tmp_path / "out"), "--features", "float16"]
    command += ["--workers", "0"]

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forward, "_fetched", call(3, forward._fetched, stop))  # a block is features, then outputs
        assert main(command) == 130
    assert not (tmp_path / "out/codes.npy").exists()
    computed = rows_computed(monkeypatch)
    assert main(command) == 0
    assert computed == list(range(64, 72))
    assert files_of(tmp_path / "out") == files_of(whole)


def rows_computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects the rows that go through the network from now on."""
    computed: list[int] = []
    make = encode.image_blocks

    def recording(*arguments: Any) -> Any:
        blocks_of = make(*arguments)

        def recorded(rows: Any) -> Any:
            computed.extend(rows.tolist())
            return blocks_of(rows)

        return recorded

    monkeypatch.setattr(encode, "image_blocks", recording)
    return computed


@pytest.mark.parametrize("before", [[], ["photos/day 1"], ["photos"]])
def test_photos_that_were_seen_do_not_go_through_the_network_again(
    before: list[str], finished: Path, whole: Path, model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSDH_HOME", str(tmp_path / "home"))
    options = [*model, "--features", "float16", "--workers", "0", "--out"]
    for folder in before:
        assert main(["encode", str(finished / folder), *options, str(tmp_path / "before")]) == 0
    seen = 0 if not before else len(np.load(tmp_path / "before/codes.npy"))
    computed = rows_computed(monkeypatch)
    assert main(["encode", str(finished / "photos"), *options, str(tmp_path / "out")]) == 0
    assert len(computed) == 72 - seen
    assert files_of(tmp_path / "out") == files_of(whole)
    assert main(["add", str(tmp_path / "mine"), str(finished / "photos"), *model, "--workers", "0"]) == 0
    assert len(computed) == 72 - seen
    monkeypatch.setenv("SSDH_FEATURES_GIB", "0")
    assert main(["encode", str(finished / "photos"), *options, str(tmp_path / "without")]) == 0
    assert len(computed) == 2 * 72 - seen
    assert files_of(tmp_path / "without") == files_of(whole)


def test_what_the_pipeline_extracted_counts_as_seen(finished: Path, whole: Path) -> None:
    """The store's folder is that of the stage `extract`."""
    params = read_params(finished / "params.yaml")
    chosen = BackboneParams(**params["backbone"])
    images = ImageParams(**params["datasets"]["folder"]["images"])
    source = open_images(finished / "data/images", finished / "photos")
    kind = feature_kind(load_backbone(chosen, images), chosen, images, source, torch.device("cpu"), deterministic=True)
    (folder,) = (whole.parent / "home/features").glob("*/")
    assert folder.name == FeatureStore(kind).folder.name


def test_rows_that_are_removed_meanwhile_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSDH_HOME", str(tmp_path))
    rng = np.random.default_rng(0)
    values, digests = rng.random((200, 3), np.float32), rng.integers(0, 256, (200, 32), np.uint8)
    store = FeatureStore({"of": "a test"})
    store.add(digests[::3], values[::3])

    def blocks_of(rows: Any) -> Any:
        return (values[rows[start : start + 64]] for start in range(0, len(rows), 64))

    blocks = reusing(store, digests, blocks_of)(np.arange(200))
    result = [next(blocks)]
    for path in store.folder.glob("*.npy"):
        path.unlink()
    result += blocks
    assert [len(block) for block in result] == [64, 64, 64, 8]
    assert np.array_equal(np.concatenate(result), values)
    kept = FeatureStore({"of": "a test"}).find(digests)
    assert (kept.block >= 0).sum() == 133  # the computed ones; those that went are not known any more


@pytest.mark.long
def test_two_processes_write_the_same(finished: Path, whole: Path, model: list[str], tmp_path: Path) -> None:
    command = ["-m", "ssdh", "encode", str(finished / "photos"), *model, "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, *command, "--features", "float16", "--workers", "0", "--processes", "2"],
        env=environment(tmp_path / "home"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("72 codes of 12 bits") == 1
    assert files_of(tmp_path / "out") == files_of(whole)


@pytest.mark.long
def test_under_torchrun(finished: Path, whole: Path, model: list[str], tmp_path: Path) -> None:
    """The example of docs/scaling.md."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = ["ssdh", "encode", str(finished / "photos"), *model, "--out", str(tmp_path / "out"), "--workers", "0"]
    done = subprocess.run(
        [*torchrun, *command], env=environment(tmp_path / "home") | {"PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/codes.npy").read_bytes() == (whole / "codes.npy").read_bytes()


def test_int8_keeps_directions() -> None:
    features = np.random.default_rng(0).standard_normal((50, 300)).astype(np.float32) * 1000
    for kind in ("float16", "int8"):
        kept = stored_features(features, kind).astype(np.float64)
        assert kept.shape == features.shape
        cosines = (kept * features).sum(1) / np.linalg.norm(kept, axis=1) / np.linalg.norm(features, axis=1)
        assert cosines.min() > 0.9999
    assert not stored_features(np.zeros((1, 3), np.float32), "int8").any()
    assert not stored_features(np.zeros((1, 3), np.float32), "float16").any()


def test_embeddings(finished: Path, model: list[str], tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((130, 512)).astype(np.float32)
    np.save(tmp_path / "a.npy", features)
    assert main(["encode", str(tmp_path / "a.npy"), *model, "--out", str(tmp_path / "out"), "--features", "int8"]) == 0
    network = load_hashnet(finished / "models/hashnet.safetensors")
    weight, bias, centre = (
        value.detach().numpy() for value in (network.hash.weight, network.hash.bias, network.center)
    )
    expected = (features - centre) @ weight.T + bias  # tanh keeps the sign
    sure = np.abs(expected) > 1e-3
    codes = np.unpackbits(np.load(tmp_path / "out/codes.npy"), axis=1, count=12)
    assert np.array_equal(codes[sure], np.unpackbits(pack(sign_codes(expected)), axis=1, count=12)[sure])
    assert np.load(tmp_path / "out/features.npy").dtype == np.int8


@pytest.mark.parametrize(
    ("make", "inputs", "message"),
    [
        (lambda _: None, ["none.jpg"], "none.jpg does not exist: give photos or folders of photos"),
        (lambda at: (at / "empty").mkdir(), ["empty"], "empty holds no image file"),
        (lambda at: np.save(at / "a.npy", np.ones((3, 5), np.float32)), ["a.npy"], "a.npy has 5 values a row"),
        (lambda at: (at / "a.npy").touch(), ["a.npy", "b.jpg"], "must be encoded alone"),
        (lambda at: ((at / "out").mkdir(), (at / "out/mine").touch()), ["."], "out holds other things (mine)"),
        (lambda _: None, [".", "--device", "tpu"], "--device must be auto, cpu"),
    ],
)
def test_mistakes_are_one_line(
    make: Any, inputs: list[str], message: str, model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    assert main(["encode", *inputs, *model, "--out", "out", "--workers", "0"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ssdh:")]
    assert message in line


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such files or names")
def test_what_is_no_file_or_has_no_name_in_text_is_left_out_by_name(
    finished: Path,
    model: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = (finished / "photos/day 0/000.jpg").read_bytes()
    folder = tmp_path / "photos"
    (folder / "album.jpg").mkdir(parents=True)
    for name in ("album.jpg/in it.jpg", os.fsdecode(b"\xe9t\xe9.jpg")):
        (folder / name).write_bytes(photo)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    special, odd = "not a file but a folder, pipe, socket or device", r"\udce9t\udce9.jpg"

    assert main(["encode", "photos", "--out", "out", "--workers", "0", *model]) == 0
    with Path("out/skipped.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1:] == [
            ["device.jpg", special], ["pipe.jpg", special], [f"'{odd}'", "its name is not in UTF-8: rename it"]
        ]  # fmt: skip
    assert ": 1 codes of 12 bits" in capsys.readouterr().out
    assert main(["add", "mine", "photos", "--workers", "0", *model]) == 0
    printed, logged = capsys.readouterr()
    assert "1 images added; 3 files are no images" in printed
    assert f"{folder}/pipe.jpg is left out: {special}" in logged
    assert f"'{folder}/{odd}' is left out: its name is not in UTF-8" in logged

    assert main(["search", "photos", "--collection", "mine", "--json"]) == 0
    printed, logged = capsys.readouterr()
    answer = json.loads(printed)
    assert [query["results"][0]["distance"] for query in answer["queries"]] == [0, 0]
    assert answer["skipped"] == [{"photo": f"photos/{name}", "reason": special} for name in ("device.jpg", "pipe.jpg")]
    for name in ("pipe.jpg", "device.jpg"):
        assert main(["search", f"photos/{name}", "--collection", "mine"]) == 1
        assert f"photos/{name}: {special}" in capsys.readouterr().err
    assert main(["encode", "photos/pipe.jpg", "--out", "none", *model]) == 1
    assert f"none of 1 files is an image: {folder}/pipe.jpg: {special}" in capsys.readouterr().err
