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

from ssdh.__main__ import main
from ssdh.features import blocks, forward
from ssdh.hashing.codes import pack, sign_codes
from ssdh.hashing.model_file import load_hashnet
from ssdh.search.encode import stored_features
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
        patch.setattr(forward, "_fetched", call(2, forward._fetched, stop))
        assert main(command) == 130
    assert not (tmp_path / "out/codes.npy").exists()
    computed: list[int] = []
    fetched = forward._fetched
    monkeypatch.setattr(forward, "_fetched", lambda started: computed.append(1) or fetched(started))
    assert main(command) == 0
    assert len(computed) == 1  # of two blocks
    assert files_of(tmp_path / "out") == files_of(whole)


@pytest.mark.long
def test_two_processes_write_the_same(finished: Path, whole: Path, model: list[str], tmp_path: Path) -> None:
    command = ["-m", "ssdh", "encode", str(finished / "photos"), *model, "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, *command, "--features", "float16", "--workers", "0", "--processes", "2"],
        env=environment(tmp_path / "home"), capture_output=True, text=True, check=False, timeout=240,
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
        capture_output=True, text=True, check=False, timeout=240,
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
    ("make", "inputs", "told"),
    [
        (lambda _: None, ["none.jpg"], "none.jpg does not exist: give photos or folders of photos"),
        (lambda at: (at / "empty").mkdir(), ["empty"], "empty holds no image file"),
        (lambda at: np.save(at / "a.npy", np.zeros((3, 5), np.float32)), ["a.npy"], "takes floats (N, 512)"),
        (lambda at: np.save(at / "a.npy", np.zeros((3, 512), np.int64)), ["a.npy"], "takes floats (N, 512)"),
        (
            lambda at: np.save(at / "a.npy", np.full((3, 512), np.nan, np.float32)),
            ["a.npy"],
            "a.npy: row 0 is not finite",
        ),
        (lambda at: (at / "a.npy").touch(), ["a.npy", "b.jpg"], "must be encoded alone"),
        (lambda at: ((at / "out").mkdir(), (at / "out/mine").touch()), ["."], "out holds other things (mine)"),
        (lambda _: None, [".", "--device", "tpu"], "--device must be auto, cpu"),
    ],
)
def test_mistakes_are_one_line(
    make: Any, inputs: list[str], told: str, model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    assert main(["encode", *inputs, *model, "--out", "out", "--workers", "0"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ssdh:")]
    assert told in line
