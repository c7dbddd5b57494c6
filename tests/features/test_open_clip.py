"""Image towers of open_clip, on a tiny model of our own configuration, against the whole model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ssdh.core.errors import DataError, ParameterError
from ssdh.core.params import validate
from ssdh.features.backbone import ensure_weights, load_backbone, resolve_preprocessing
from ssdh.features.params import BackboneParams, ImageParams

open_clip = pytest.importorskip("open_clip")

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("configs") / "ssdh-tiny.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    open_clip.add_model_config(path)


def backbone(network: str, file: Path | str = "models/pretrained/none.safetensors") -> BackboneParams:
    given = {"arch": f"open_clip/{network}", "layer": "auto", "precision": "fp32", "weights_file": str(file)}
    return validate(BackboneParams, given, "backbone")


@pytest.mark.parametrize("part", ["whole", "tower"])
def test_features_are_the_image_embeddings(tmp_path: Path, part: str) -> None:
    torch.manual_seed(1)
    whole: Any = open_clip.create_model("ssdh-tiny").eval()
    path = tmp_path / "clip.safetensors"
    save_file((whole if part == "whole" else whole.visual).state_dict(), path)
    result = load_backbone(backbone("ssdh-tiny", path), ImageParams(weights="file"))
    batch = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(result.module(batch), whole.encode_image(batch))
        larger = load_backbone(backbone("ssdh-tiny", path), ImageParams(size=64, weights="file"))
        assert larger.module(torch.randn(2, 3, 64, 64)).shape == (2, 24)
    assert (result.dim, result.layer, result.preprocessing.size, result.preprocessing.resize) == (
        24,
        "embedding",
        32,
        32,
    )


def test_the_preprocessing_is_that_of_the_weights() -> None:
    result = resolve_preprocessing(backbone("ViT-B-32/laion2b_s34b_b79k"), ImageParams(weights="imagenet"))
    expected: Any = open_clip.get_pretrained_cfg("ViT-B-32", "laion2b_s34b_b79k")
    assert (result.size, result.mean, result.std) == (224, expected["mean"], expected["std"])


def test_names_and_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"a model of open_clip, such as .*open_clip/ViT-B-32, .* got .*ViT-B32'"):
        backbone("ViT-B32")
    with pytest.raises(
        ParameterError, match=r"must end with pretrained weights of ViT-B-32: openai, .* and \d+ more, got"
    ):
        backbone("ViT-B-32/nobody")
    with pytest.raises(ParameterError, match=r"open_clip/ssdh-tiny with images.weights 'imagenet' names no weights"):
        ensure_weights(backbone("ssdh-tiny"), ImageParams(weights="imagenet"))
    with pytest.raises(
        DataError, match=r"^SSDH_OFFLINE=1 forbids the download of \S+laion/CLIP-ViT-B-32-laion2B"
    ) as error:
        ensure_weights(backbone("ViT-B-32/laion2b_s34b_b79k"), ImageParams(weights="imagenet"))
    assert "\n" not in str(error.value)
    path = tmp_path / "clip.safetensors"
    save_file({"visual.proj": torch.zeros(3)}, path)
    with pytest.raises(DataError, match=r"weights_file .* does not fit ssdh-tiny: \d+ missing"):
        ensure_weights(backbone("ssdh-tiny", path), ImageParams(weights="file"))
