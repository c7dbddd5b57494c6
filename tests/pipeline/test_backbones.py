"""The stages on networks of timm: frozen from random weights, and trained whole from a file, first blocks fixed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ssdh.features.loader import normalise, preprocess
from ssdh.hashing.codes import unpack
from ssdh.hashing.encoder import load_encoder
from ssdh.search.export import export
from ssdh.search.index import Index
from tests.helpers.tiny import inside, run_stage, tiny_images, tiny_params, write_tiny

timm = pytest.importorskip("timm")


def outputs(folder: Path) -> np.ndarray:
    """The trained network's outputs (N, K) for the images, by loading it from its file."""
    with inside(folder):
        encoder = load_encoder(Path("models/hashnet.safetensors"))
    pixels = normalise(preprocess(tiny_images()[0], encoder.preprocessing), encoder.preprocessing)
    with torch.inference_mode():
        values: np.ndarray = encoder(pixels).numpy()
    return values


def agree(folder: Path) -> None:
    """Codes are the signs of the outputs, apart from those within rounding of zero."""
    codes, values = unpack(np.load(folder / "models/codes.npy"), 12), outputs(folder)
    clear = np.abs(values) > 1e-3
    assert clear.mean() > 0.95
    assert np.array_equal(codes[clear], np.sign(values)[clear])


@pytest.mark.long
def test_a_frozen_transformer(tmp_path: Path) -> None:
    params = tiny_params("timm/test_vit")
    params["backbone"]["layer"] = "cls+mean"
    folder = write_tiny(tmp_path / "w", params)
    run_stage(folder, "extract", "structure", "train", "encode")
    assert np.load(folder / "features/features.npy").shape == (168, 128)
    agree(folder)


@pytest.mark.long
def test_a_transformer_trained_whole(tmp_path: Path) -> None:
    torch.manual_seed(5)
    given: Any = timm.create_model("test_vit", num_classes=3)
    path = tmp_path / "net.safetensors"
    save_file(given.state_dict(), path)
    params = tiny_params("timm/test_vit", finetune=True, lr=0.01, lr_backbone=1e-3, freeze_until="blocks.4", epochs=1)
    params["backbone"]["weights_file"] = str(path)
    params["datasets"]["digits"]["images"] |= {"weights": "file"}
    folder = write_tiny(tmp_path / "w", params)
    run_stage(folder, "extract", "structure", "train", "encode")
    agree(folder)
    with safe_open(folder / "models/hashnet.safetensors", "pt") as file:
        before = {f"backbone.{name}": value for name, value in given.state_dict().items()}
        names = [name for name in file.keys() if name in before and "pos_embed" not in name]  # noqa: SIM118
        same = {name for name in names if torch.equal(file.get_tensor(name), before[name])}
    fixed = {name for name in names if name.split(".")[1] in ("cls_token", "patch_embed")}
    fixed |= {name for name in names if name.startswith("backbone.blocks.") and int(name.split(".")[2]) < 4}
    assert same == fixed


@pytest.mark.long
def test_export_to_onnx(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "w", tiny_params("timm/test_vit"))
    run_stage(folder, "extract", "structure", "train", "encode")
    with inside(folder):
        index = Index(np.load("models/codes.npy"), bits=12)
        files = export(tmp_path / "out", Path("models/hashnet.safetensors"), index, None)  # compares both networks
    assert tmp_path / "out" / "model.onnx" in files
