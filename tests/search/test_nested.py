"""Shorter codes of a nested model: the first bits, in search, export and evaluation; other lengths are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdh.__main__ import main
from ssdh.core.split import Split, write_split
from ssdh.evaluation.metrics import evaluate
from ssdh.evaluation.params import EvaluateParams
from ssdh.hashing.codes import first_bits, pack, unpack
from ssdh.hashing.model_file import load_hashnet, read_metadata, save_hashnet
from ssdh.hashing.network import seeded_hashnet
from ssdh.hashing.retrieval import mean_average_precision
from tests.helpers.finished_run import finished_run

BITS = 12


@pytest.fixture(scope="module")
def nested(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose model says that its first 4 and 9 bits are codes."""
    folder = finished_run(project, tmp_path_factory.mktemp("nested"), bits=BITS)
    model = folder / "models/hashnet.safetensors"
    metadata = {key: value for key, value in read_metadata(model).items() if key != "has_backbone"}
    save_hashnet(model, load_hashnet(model), metadata | {"train": {"nested": [4, 9]}})
    return folder


@pytest.mark.parametrize("count", [1, 8, 9, 16, 20])
def test_the_first_bits_are_those_of_the_unpacked_code(count: int) -> None:
    codes = np.where(np.random.default_rng(0).random((7, 20)) < 0.5, -1, 1)
    np.testing.assert_array_equal(first_bits(pack(codes), 20, count), pack(codes[:, :count]))


def test_more_bits_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="a code of 3 bits has no first 4"):
        first_bits(pack([[1, -1, 1]]), 3, 4)


@pytest.mark.parametrize("head", ["tanh", "mlp", "gelu_bn"])
def test_a_shortened_network_gives_the_first_outputs(head: str) -> None:
    model = seeded_hashnet(6, BITS, 0, head=head)
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    model(inputs)  # statistics of the normalisation are no longer those it starts with
    short = model.eval().shortened(5)
    assert (short.bits, model.bits, short.training) == (5, BITS, False)
    torch.testing.assert_close(short(inputs), model(inputs)[:, :5])


def test_search_compares_the_first_bits(
    nested: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(nested)
    photo = next(nested.glob("photos/*/*.jpg"))
    assert main(["search", str(photo), "--bits", "9", "--json", "--top", "24"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["bits"] == 9
    (query,) = answer["queries"]
    codes = unpack(np.load("models/codes.npy"), BITS)[:, :9]
    own = unpack(np.frombuffer(bytes.fromhex(query["code"]), np.uint8)[None], 9)[0]
    expected = {row: int((code != own).sum()) for row, code in enumerate(codes)}
    assert {result["row"]: result["distance"] for result in query["results"]} == expected


def test_a_length_that_was_not_trained_is_one_line(
    nested: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(nested)
    for command in (["search", "photos"], ["export", str(tmp_path / "x")]):
        assert main([*command, "--bits", "8"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "--bits must be one of 4, 9, 12, got 8" in line
        assert "train.nested" in line


def test_export_cuts_codes_and_network(nested: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(nested)
    assert main(["export", str(tmp_path), "--bits", "9", "--no-onnx"]) == 0
    long = load_hashnet(Path("models/hashnet.safetensors"))
    short = load_hashnet(tmp_path / "model.safetensors")
    features = torch.from_numpy(np.load("features/features.npy"))
    torch.testing.assert_close(short.head(short.prepared(features)), long(features)[:, :9])
    metadata = read_metadata(tmp_path / "model.safetensors")
    assert (metadata["bits"], metadata["train"]["nested"]) == (9, [4])
    codes = unpack(np.load("models/codes.npy"), BITS)[:, :9]
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), pack(codes))


def test_evaluate_reports_every_length() -> None:
    rng = np.random.default_rng(0)
    classes = np.arange(60) % 3
    labels = np.eye(3, dtype=np.uint8)[classes]
    codes = np.where(rng.normal(size=(60, BITS)) + 0.7 * rng.normal(size=(3, BITS))[classes] > 0, 1, -1)
    split = Split(query=np.arange(10), train=np.arange(10, 30), database=np.arange(10, 60))
    params = EvaluateParams(precision_at=[1], radius=2, neighbors=[])
    result = evaluate(
        pack(codes), labels, rng.normal(size=(60, 4)), split, bits=BITS, topk=20, params=params, nested=[4, 9]
    )
    q, d = split.query, split.database
    expected = {
        str(bits): pytest.approx(mean_average_precision(codes[q, :bits], codes[d, :bits], labels[q], labels[d], 20))
        for bits in (4, 9, BITS)
    }
    assert result.metrics["map_by_bits"] == expected


def test_the_command_evaluate_reports_every_length_of_the_model(
    nested: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = shutil.copytree(nested, tmp_path / "run")
    monkeypatch.chdir(folder)
    rows = np.arange(len(np.load("features/features.npy")))
    write_split(Path("data/split"), Split(query=rows[:6], train=rows[6:], database=rows[6:]), len(rows))
    np.save("data/labels.npy", np.eye(3, dtype=np.uint8)[rows % 3])
    assert main(["evaluate", "--json", "evaluated.json"]) == 0
    metrics = json.loads(Path("evaluated.json").read_text(encoding="utf-8"))
    assert list(metrics["map_by_bits"]) == ["4", "9", "12"]
    assert metrics["map_by_bits"]["12"] == metrics["map"]
