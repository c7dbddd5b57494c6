"""Exported files, read by other software alone: onnxruntime, faiss, numpy and safetensors."""

import ast
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors.numpy import load_file
from torchvision.transforms import v2

from ssdh.__main__ import main
from ssdh.core.errors import SSDHError
from ssdh.core.files import file_sha256
from ssdh.features.decode import decode_image
from ssdh.features.params import Preprocessing
from ssdh.hashing.codes import unpack
from ssdh.hashing.encoder import load_encoder
from ssdh.hashing.model_file import load_hashnet
from ssdh.search.export import about_preprocessing, check_onnx, export
from ssdh.search.index import Index
from tests.helpers.docs_blocks import blocks
from tests.helpers.finished_run import finished_run
from tests.helpers.galleries import disc

pytestmark = pytest.mark.long  # ONNX


@pytest.fixture(scope="module", params=[(12, 0.0), (65, 0.5)], ids=["12 bits", "65 bits, normalised features"])
def exported(request: pytest.FixtureRequest, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bits, power = request.param
    folder = finished_run(project, tmp_path_factory.mktemp("finished"), bits=bits, power=power)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["export", "out"]) == 0
    return folder


def pictures(folder: Path) -> NDArray[np.float32]:
    """Every photo, preprocessed by torchvision as the ONNX file's metadata says."""
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "out/model.onnx").metadata_props}
    how = json.loads(metadata["preprocessing"])
    with (folder / "out/names.csv").open(newline="", encoding="utf-8") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    steps = v2.Compose([
        v2.Resize(how["resize"], interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        v2.CenterCrop(how["size"]),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(how["mean"], how["std"]),
    ])  # fmt: skip
    batch = []
    for name in names:
        with Image.open(folder / "photos" / name) as image:
            image.draft("RGB", (how["resize"], how["resize"]))  # as ingestion: a JPEG no larger than needed
            batch.append(steps(v2.functional.pil_to_tensor(image.convert("RGB"))))
    return torch.stack(batch).numpy()


def test_onnx_goes_from_image_to_code_in_one_file(exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported / "out/model.onnx", providers=["CPUExecutionProvider"])
    images = pictures(exported)
    stored = np.load(exported / "out/codes.npy")
    encoder = load_encoder(exported / "models/hashnet.safetensors")
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(images)).numpy()
        expected_features = encoder.model.features(torch.from_numpy(images)).numpy()
    bits = expected.shape[1]
    for count in (24, 1, 7):  # any number at once
        outputs, codes, features = session.run(["outputs", "codes", "features"], {"images": images[:count]})
        assert np.abs(outputs - expected[:count]).max() < 1e-4
        np.testing.assert_allclose(features, expected_features[:count], atol=1e-4 * np.abs(expected_features).max())
        sure = np.abs(expected[:count]) > 1e-3  # nearer to zero, rounding decides a bit
        assert sure.mean() > 0.9
        assert np.array_equal(unpack(codes, bits)[sure], unpack(stored[:count], bits)[sure])
    assert not (exported / "out/model.onnx.data").exists()


def test_opset_and_ir_are_the_oldest_that_work(exported: Path) -> None:
    model = onnx.load(exported / "out/model.onnx")
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    assert model.ir_version == 8  # ONNX 1.13 brought both
    onnx.checker.check_model(model)


def test_its_codes_find_their_images_in_the_exported_index(exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported / "out/model.onnx", providers=["CPUExecutionProvider"])
    (codes,) = session.run(["codes"], {"images": pictures(exported)})
    index = faiss.read_index_binary(str(exported / "out/index.faiss"))
    distances, _ = index.search(codes, 1)
    assert (distances == 0).mean() > 0.9  # a bit within rounding of zero may turn


def test_safetensors_holds_the_whole_network(exported: Path) -> None:
    names = set(load_file(exported / "out/model.safetensors"))
    assert {"hash.weight", "hash.bias", "center", "backbone.conv1.weight"} <= names
    images = torch.from_numpy(pictures(exported))
    encoder = load_encoder(exported / "models/hashnet.safetensors")
    with torch.inference_mode():
        torch.testing.assert_close(load_hashnet(exported / "out/model.safetensors")(images), encoder(images))


def test_the_list_of_files_is_true(exported: Path) -> None:
    about = json.loads((exported / "out/export.json").read_text())
    assert set(about["sha256"]) == {path.name for path in (exported / "out").iterdir()} - {"export.json"}
    for name, digest in about["sha256"].items():
        assert file_sha256(exported / "out" / name) == digest
    assert len({path.stat().st_mode for path in (exported / "out").iterdir()}) == 1
    index = Index.load(exported / "out")
    assert (index.bits, len(index)) == (about["bits"], about["images"])


def test_a_network_that_disagrees_is_refused(exported: Path) -> None:
    encoder = load_encoder(exported / "models/hashnet.safetensors")
    images = torch.from_numpy(pictures(exported)[:2])
    assert check_onnx(exported / "out/model.onnx", encoder, images) < 1e-4
    with torch.no_grad():
        encoder.model.hash.bias += 0.01
    with pytest.raises(SSDHError, match=r"differ by .*, more than 0\.0001"):
        check_onnx(exported / "out/model.onnx", encoder, images)


def test_onnx_can_be_left_out(exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(exported)
    assert main(["export", str(tmp_path / "out"), "--no-onnx", "--index", "hash"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"codes.npy", "names.csv", "index.faiss", "index.json", "model.safetensors", "export.json"}
    assert Index.load(tmp_path / "out").kind == "hash"


def test_a_second_export_leaves_nothing_of_the_first(
    exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(exported)
    folder = tmp_path / "out"
    shutil.copytree(exported / "out", folder)
    assert (folder / "model.onnx").exists()
    (folder / "mine.txt").touch()
    assert main(["export", str(folder), "--no-onnx"]) == 0
    assert not (folder / "model.onnx").exists()
    assert (folder / "mine.txt").exists()
    assert "model.onnx" not in json.loads((folder / "export.json").read_text())["sha256"]


def test_an_export_without_names_lists_none(exported: Path, tmp_path: Path) -> None:
    named = Index.load(exported / "out")
    model = exported / "models/hashnet.safetensors"
    export(tmp_path / "out", model, named, None, onnx=False)
    files = export(tmp_path / "out", model, Index(named.packed, bits=named.bits), None, onnx=False)
    assert {path.name for path in files} == {path.name for path in (tmp_path / "out").iterdir()}
    assert "names.csv" not in {path.name for path in files}


# --- what a picture must go through before --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read_rgb(project: Path) -> Callable[[Path, int], Image.Image]:
    """The function of docs/search.md that reads a picture without this project."""
    (text,) = (block.text for block in blocks(project) if "def read_rgb" in block.text)
    (function,) = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    names: dict[str, Any] = {"np": np, "Image": Image, "ImageOps": ImageOps}
    exec(ast.unparse(function), names)
    result: Callable[[Path, int], Image.Image] = names["read_rgb"]
    return result


def photo(name: str, folder: Path) -> Path:
    """A picture that needs a rule of ingestion, written to `folder`."""
    path = folder / name
    picture = disc(1, (90, 60))
    ramp = np.linspace(0, 1, 5400, dtype=np.float32).reshape(60, 90)
    if name.startswith("orientation"):
        exif = Image.Exif()
        exif[0x0112] = int(path.stem[-1])
        picture.save(path, exif=exif)
    elif name == "alpha.png":
        picture.putalpha(Image.fromarray((255 * ramp).astype(np.uint8)))
        picture.save(path)
    elif name == "palette.png":
        picture.quantize(16).save(path, transparency=3)
    elif name == "16 bits.png":
        Image.fromarray((65535 * ramp).astype(np.uint16)).save(path)
    else:
        Image.fromarray(ramp * (1 if name == "to 1.tif" else 300)).save(path)
    return path


TURNED = [f"orientation {i}.jpg" for i in range(1, 9)]


@pytest.mark.parametrize("name", [*TURNED, "alpha.png", "palette.png", "16 bits.png", "to 1.tif", "to 300.tif"])
@pytest.mark.parametrize("short_side", [20, 60])
def test_the_documented_way_reads_as_ingestion_does(
    read_rgb: Callable[[Path, int], Image.Image], name: str, short_side: int, tmp_path: Path
) -> None:
    path = photo(name, tmp_path)
    expected = decode_image(path, short_side)
    np.testing.assert_array_equal(np.asarray(read_rgb(path, short_side)), expected)
    with Image.open(path) as image:
        plain = np.asarray(image.convert("RGB"))
    assert name == "orientation 1.jpg" or not np.array_equal(plain, expected)  # a rule was needed


def test_the_documented_way_reads_odd_files_as_ingestion_does(
    read_rgb: Callable[[Path, int], Image.Image], shared: Path
) -> None:
    for name in ("hopper_orientation_3.jpg", "hopper_16bit.pgm", "mode_16bit.png", "mode_palette_alpha.png"):
        path = shared / "odd-images" / name
        np.testing.assert_array_equal(np.asarray(read_rgb(path, 64)), decode_image(path, 64))


def test_the_metadata_has_every_step_in_words() -> None:
    how = about_preprocessing(Preprocessing(resize=40, size=32, mean=(0.5,) * 3, std=(0.5,) * 3))
    message = " ".join(how["steps"])
    for word in ("JPEG", "EXIF", "16-bit", "white", "short side to 40 px", "bicubic", "crop of 32x32", "/ std"):
        assert word in message
    assert json.loads(json.dumps(how)) == {**how, "mean": [0.5] * 3, "std": [0.5] * 3}
