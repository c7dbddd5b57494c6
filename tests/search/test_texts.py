"""Search by text, on a tiny model of open_clip with random weights: text tower, same hash layer, same index."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from ssdh.__main__ import main
from ssdh.features.params import BackboneParams, ImageParams
from ssdh.hashing.codes import pack, sign_codes
from ssdh.hashing.model_file import describe_backbone, save_hashnet
from ssdh.hashing.network import seeded_hashnet
from ssdh.search.collection import open_collection
from tests.helpers.finished_run import finished_run
from tests.helpers.galleries import digits_gallery, disc

open_clip = pytest.importorskip("open_clip")

NAME, BITS, DIM = "ssdh-tiny-words", 32, 24
CONFIG = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The whole model, both towers, with random weights."""
    path = tmp_path_factory.mktemp("configs") / f"{NAME}.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    open_clip.add_model_config(path)
    torch.manual_seed(1)
    return open_clip.create_model(NAME).eval()


def model_file(folder: Path, whole: Any, weights: str = "file") -> Path:
    """A hash layer on the image tower, and beside it the weights of both."""
    save_file(whole.state_dict(), folder / "clip.safetensors")
    backbone = BackboneParams(
        arch=f"open_clip/{NAME}", layer="auto", precision="fp32", weights_file=str(folder / "clip.safetensors")
    )
    path = folder / "hashnet.safetensors"
    save_hashnet(
        path,
        seeded_hashnet(DIM, BITS, seed=2),
        describe_backbone(backbone, ImageParams(weights=weights)) | {"bits": BITS},
    )
    return path


@pytest.fixture
def collection(tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSDH_HOME", str(tmp_path / "home"))
    (tmp_path / "photos").mkdir()
    for seed in range(12):
        disc(seed).save(tmp_path / "photos" / f"{seed:02d}.png")
    model = model_file(tmp_path, whole)
    assert main(["add", "mine", "photos", "--model", str(model), "--workers", "0"]) == 0
    return tmp_path / "mine"


def test_a_text_finds_by_its_code_and_by_its_vector(
    collection: Path, whole: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "a dog on a beach"
    with torch.inference_mode():
        vector = whole.encode_text(open_clip.get_tokenizer(NAME)([words]))[0].numpy().astype(np.float64)
    state = safetensors.numpy.load_file(collection / "model.safetensors")
    outputs = state["hash.weight"] @ (vector - state["center"]) + state["hash.bias"]
    assert np.abs(outputs).min() > 1e-5  # so that the signs are sure
    table = open_collection(collection).table()
    distances = np.unpackbits(table.packed ^ pack(sign_codes(outputs[None])), axis=1).sum(axis=1)

    def answer(*options: str) -> dict[str, Any]:
        capsys.readouterr()
        assert (
            main(["search", "--text", words, "--collection", str(collection), "--top", "12", "--json", *options]) == 0
        )
        (query,) = json.loads(capsys.readouterr().out)["queries"]
        return query

    query = answer()
    assert query["text"] == words
    assert [result["distance"] for result in query["results"]] == sorted(distances.tolist())
    assert {result["id"]: result["distance"] for result in query["results"]} == dict(
        zip(table.ids, distances.tolist(), strict=True)
    )
    kept = open_collection(collection).features(table.ids).astype(np.float64)
    cosines = kept @ vector / np.linalg.norm(kept, axis=1) / np.linalg.norm(vector)
    best = [result["id"] for result in answer("--rerank", "12")["results"]]
    assert best == [table.ids[row] for row in np.argsort(-cosines)]
    assert main(["search", "--text", words, "--collection", str(collection), "--top", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == words


def test_what_reads_no_text_is_one_line(
    project: Path, collection: Path, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refused(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["search", *arguments]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ssdh:")]
        return line

    assert "give a PHOTO, or --text WORDS" in refused()
    assert "give a PHOTO, or --text WORDS" in refused("a.jpg", "--text", "b")
    (tmp_path / "images").mkdir()
    model_file(tmp_path / "images", whole.visual)
    assert (
        main(["add", "other", "photos", "--model", str(tmp_path / "images/hashnet.safetensors"), "--workers", "0"]) == 0
    )
    assert "are not those of its whole model" in refused("--text", "a dog", "--collection", "other")
    (tmp_path / "random").mkdir()
    model = model_file(tmp_path / "random", whole, "random")
    assert main(["add", "third", "photos", "--model", str(model), "--workers", "0"]) == 0
    assert "reads no texts: that takes a frozen open_clip backbone" in refused("--text", "a", "--collection", "third")
    monkeypatch.chdir(finished_run(project, tmp_path / "run", count=6))
    assert "reads no texts: that takes a frozen open_clip backbone" in refused("--text", "a dog")


def test_the_page_searches_by_text(collection: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from ssdh.search.searchable import open_searchable
    from ssdh.search.web.app import create_app

    assert main(["search", "--text", "a dog", "--collection", str(collection), "--rerank", "5", "--json"]) == 0
    (expected,) = json.loads(capsys.readouterr().out)["queries"]
    with TestClient(create_app(open_searchable(collection).open_gallery()), base_url="http://127.0.0.1") as client:
        assert client.get("/api/about").json()["texts"] is True
        result = client.get("/api/search", params={"text": "a dog", "rerank": 5}).json()
        assert result["query"] == {"code": expected["code"], "text": "a dog"}
        assert [(one["row"], one["distance"]) for one in result["results"]] == [
            (one["row"], one["distance"]) for one in expected["results"]
        ]
        for query in ("text=", f"text={'x' * 501}", "text=a&row=1"):
            assert client.get(f"/api/search?{query}").status_code == 422
    with TestClient(create_app(digits_gallery(tmp_path / "digits", count=5)), base_url="http://127.0.0.1") as client:
        assert client.get("/api/about").json()["texts"] is False
        answer = client.get("/api/search?text=a")
        assert (answer.status_code, answer.json()["error"]) == (422, "the network of this collection reads no texts")
