"""Models of methods with heads of their own, trained, saved, exported and searched: every way gives the same bits."""

import csv
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from ssdh.__main__ import main
from ssdh.core.files import write_array
from ssdh.core.params import read_recipe
from ssdh.hashing.codes import pack, sign_codes, unpack
from ssdh.hashing.encoder import load_encoder
from ssdh.hashing.model_file import load_hashnet, read_metadata, save_hashnet
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.thresholds import Structure
from ssdh.training.head import train_head
from ssdh.training.loop import Run
from ssdh.training.method import load_method
from ssdh.training.params import TrainParams
from tests.helpers.finished_run import finished_run

pytestmark = pytest.mark.long  # ONNX

BITS = 12
NO_STRUCTURE = Structure(0.5, 0.1, 0.1, 0.3, 0.7, 1, 0.0, 0.0)
LAYERS = {"greedyhash": 1, "sdc": 2, "cibhash": 2, "crovca": 2}  # that have weights, without the normalisation


@pytest.fixture(scope="module", params=LAYERS)
def run(request: pytest.FixtureRequest, project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(recipe, a finished run whose hash layer that recipe has trained for a few epochs)."""
    recipe: str = request.param
    folder = finished_run(project, tmp_path_factory.mktemp(recipe), bits=BITS)
    features = np.load(folder / "features/features.npy")
    few = {"epochs": 3, "batch_size": 8, "init_file": ""}
    method = load_method(recipe)(TrainParams(**(read_recipe(recipe)["train"] | few)))
    noise = np.random.default_rng(0).normal(scale=0.1 * features.std(), size=(2, *features.shape))
    views = (features + noise).astype(np.float32) if method.views else ()
    head, _ = train_head(features, PairLabels(features, NO_STRUCTURE), Run(method, BITS, 0), views=views)
    path = folder / "models/hashnet.safetensors"
    save_hashnet(path, head, {key: value for key, value in read_metadata(path).items() if key != "has_backbone"})
    with torch.inference_mode():
        write_array(folder / "models/codes.npy", pack(sign_codes(head(torch.from_numpy(features)).numpy())))
    return recipe, folder


def test_a_photo_is_searched_by_its_own_code(
    run: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = run
    monkeypatch.chdir(folder)
    stored = np.load("models/codes.npy")
    assert len(np.unique(stored, axis=0)) > len(stored) // 2  # the codes say something
    assert main(["search", "photos", "--json", "--top", "24"]) == 0
    codes = unpack(stored, BITS)
    for row, query in enumerate(json.loads(capsys.readouterr().out)["queries"]):
        own = unpack(np.frombuffer(bytes.fromhex(query["code"]), np.uint8)[None], BITS)[0]
        (place,) = [result["row"] for result in query["results"] if query["photo"].endswith(result["name"])]
        np.testing.assert_array_equal(own, codes[place], err_msg=f"query {row}")
        expected = {number: int((code != own).sum()) for number, code in enumerate(codes)}
        assert {result["row"]: result["distance"] for result in query["results"]} == expected


def test_encode_gives_the_codes_of_photos_and_of_features(run: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = run
    model = ["--model", str(folder / "models/hashnet.safetensors"), "--features", "float16"]
    stored, features = np.load(folder / "models/codes.npy"), np.load(folder / "features/features.npy")
    photos, vectors = tmp_path / "photos", tmp_path / "vectors"
    assert main(["encode", str(folder / "photos"), *model, "--out", str(photos)]) == 0
    assert main(["encode", str(folder / "features/features.npy"), *model, "--out", str(vectors)]) == 0
    with (photos / "manifest.csv").open(encoding="utf-8", newline="") as file:
        names = [Path(row["path"]).stem for row in csv.DictReader(file)]
    rows = [int(name) for name in names]  # a photo's name is its row in the run
    assert sorted(rows) == list(range(len(stored)))
    np.testing.assert_array_equal(np.load(photos / "codes.npy"), stored[rows])
    np.testing.assert_array_equal(np.load(vectors / "codes.npy"), stored)
    assert np.load(photos / "features.npy").shape == np.load(vectors / "features.npy").shape == features.shape


def test_the_exported_network_gives_the_same_bits(run: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, folder = run
    monkeypatch.chdir(folder)
    assert main(["export", "out"]) == 0
    again = load_hashnet(Path("out/model.safetensors"))
    layers = [name for name in again.state_dict() if name.endswith("weight") and name.startswith(("hidden", "hash"))]
    assert len(layers) == LAYERS[recipe]
    encoder = load_encoder(Path("models/hashnet.safetensors"))
    size = encoder.preprocessing.size
    images = torch.rand(9, 3, size, size, generator=torch.Generator().manual_seed(0)) * 4 - 2
    with torch.inference_mode():
        outputs = encoder(images).numpy()
    session = onnxruntime.InferenceSession("out/model.onnx", providers=["CPUExecutionProvider"])
    exported, codes = session.run(["outputs", "codes"], {"images": images.numpy()})
    np.testing.assert_allclose(exported, outputs, atol=1e-4 * max(1, np.abs(outputs).max()))
    sure = np.abs(outputs) > 1e-3 * np.abs(outputs).max()  # nearer to zero, rounding decides a bit
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(unpack(codes, BITS)[sure], sign_codes(outputs)[sure])
