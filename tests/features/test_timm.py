"""Networks of timm: layers, preprocessing, weights from a file, a folder and a local server, on tiny ones."""

import contextlib
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ssdh.core.errors import DataError, ParameterError
from ssdh.core.params import validate
from ssdh.features.backbone import (
    build_network,
    ensure_weights,
    load_backbone,
    network_to_fill,
    resolve_layer,
    resolve_preprocessing,
)
from ssdh.features.params import BackboneParams, ImageParams, Preprocessing

timm = pytest.importorskip("timm")

NONE = "models/pretrained/none.safetensors"


def backbone(arch: str, layer: str = "auto", file: Path | str = NONE) -> BackboneParams:
    given = {"arch": arch, "layer": layer, "precision": "fp32", "weights_file": str(file)}
    return validate(BackboneParams, given, "backbone")


def images(weights: str = "random", **more: Any) -> ImageParams:
    return validate(ImageParams, {"weights": weights} | more, "images")


def trained(name: str = "test_vit", seed: int = 3, **options: Any) -> nn.Module:
    """A network as timm makes it, with weights that no other seed has."""
    torch.manual_seed(seed)
    module: nn.Module = timm.create_model(name, **options).eval()
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What timm writes of a network for the Hub: its configuration and its weights."""
    from timm.models import save_for_hf

    module: Any = trained(num_classes=5)
    save_for_hf(module, tmp_path / "mine", safe_serialization=True)
    return tmp_path / "mine"


# --- names, layers and preprocessing --------------------------------------------------------------------------------


def test_names() -> None:
    assert backbone("torchvision/vgg16").arch == "vgg16"
    assert backbone("timm/test_vit").arch == "timm/test_vit"
    with pytest.raises(ParameterError, match=r"a network of timm, such as timm/test_vit, .* got 'timm/tst_vit'"):
        backbone("timm/tst_vit")
    with pytest.raises(ParameterError, match=r"one of its pretrained weights: r160_in1k, got 'timm/test_vit.nobody'"):
        backbone("timm/test_vit.nobody")
    with pytest.raises(ParameterError, match=r"FAMILY/NETWORK with one of .*timm, torchvision, got 'tim/vgg16'"):
        backbone("tim/vgg16")
    with pytest.raises(ParameterError, match=r"backbone.layer must be one of auto, pre_logits, cls, mean, cls\+mean"):
        backbone("timm/test_vit", "fc7")


def test_layers_are_the_tokens_and_what_the_classifier_gets() -> None:
    whole: Any = trained()
    batch = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        tokens = whole.forward_features(batch)  # (2, 1 + patches, D)
        cls = tokens[:, 0]
        mean = sum(tokens[:, place] for place in range(1, tokens.shape[1])) / (tokens.shape[1] - 1)
        weight, bias = whole.head.weight, whole.head.bias
        for layer, expected in (("cls", cls), ("mean", mean), ("cls+mean", torch.cat((cls, mean), 1))):
            result = build_network("timm/test_vit", layer, 160).eval()
            result.load_state_dict({key: v for key, v in whole.state_dict().items() if not key.startswith("head.")})
            torch.testing.assert_close(result(batch), expected)
        result = build_network("timm/test_vit", "pre_logits", 160).eval()
        result.load_state_dict({key: v for key, v in whole.state_dict().items() if not key.startswith("head.")})
        torch.testing.assert_close(result(batch) @ weight.T + bias, whole(batch))
    assert resolve_layer(backbone("timm/test_vit"), "random") == "pre_logits"


def test_registers_are_no_patches() -> None:
    name = "vit_small_patch16_dinov3"  # one class token and four registers, rotary positions outside the state dict
    result: Any = build_network(f"timm/{name}", "mean", 64).eval()
    batch = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        tokens = result.forward_features(batch)
        assert tokens.shape[1] == 5 + 16
        torch.testing.assert_close(result(batch), tokens[:, 5:].mean(1))


@pytest.mark.parametrize("layer", ["cls", "mean"])
def test_a_network_without_tokens_has_no_such_layer(layer: str) -> None:
    with pytest.raises(ParameterError, match=rf"layer '{layer}' is not in timm/test_resnet, which has no tokens"):
        ensure_weights(backbone("timm/test_resnet", layer), images(size=64))


def test_the_preprocessing_is_timms_unless_set() -> None:
    half = (0.5, 0.5, 0.5)
    result = resolve_preprocessing(backbone("timm/test_resnet"), images())
    assert result == Preprocessing(168, 160, half, half, "bilinear")  # 160 / 0.95, rounded down
    result = resolve_preprocessing(backbone("timm/test_vit"), images(size=64, mean=[0.0, 0.0, 0.0]))
    assert result == Preprocessing(64, 64, (0.0, 0.0, 0.0), half, "bicubic")
    with pytest.raises(ParameterError, match=r"images.resize 96 is below the 160 px that timm/test_vit wants"):
        resolve_preprocessing(backbone("timm/test_vit"), images(resize=96))


def test_pixels_are_those_of_timms_own_transform() -> None:
    """Of an image whose sides need no rounding: Pillow and torch resize within one grey value of each other."""
    import numpy as np
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config

    from ssdh.features.loader import normalise, preprocess

    how = resolve_preprocessing(backbone("timm/test_resnet"), images())
    noise = np.random.default_rng(0).integers(0, 256, (21, 21, 3), np.uint8)
    picture = Image.fromarray(noise).resize((336, 336), Image.Resampling.BICUBIC)
    transform: Any = create_transform(**resolve_model_data_config(trained("test_resnet")))
    result = normalise(preprocess(np.array(picture)[None], how), how)[0]
    assert (result - transform(picture)).abs().max() < 2.5 / 255 / 0.5


# --- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [0, 5, 1000])
def test_weights_of_a_file_with_any_classifier(tmp_path: Path, classes: int) -> None:
    whole: Any = trained(num_classes=classes)
    path = tmp_path / "net.safetensors"
    save_file(whole.state_dict(), path)
    result = load_backbone(backbone("timm/test_vit", "cls", path), images("file"))
    batch = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(result.module(batch), whole.forward_features(batch)[:, 0])
    assert not any(value.is_meta for value in (*result.module.parameters(), *result.module.buffers()))
    assert "state_dict" not in result.module.pretrained_cfg  # type: ignore[operator]


def test_positions_are_resampled_to_another_size(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(trained().state_dict(), path)
    result = load_backbone(backbone("timm/test_vit", file=path), images("file", size=64))
    assert result.module(torch.randn(1, 3, 64, 64)).shape == (1, 64)


def test_a_file_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    state = trained().state_dict()
    del state["norm.weight"]
    save_file(state, path)
    with pytest.raises(DataError, match=r"weights_file .* does not fit timm/test_vit: .*norm\.weight") as error:
        ensure_weights(backbone("timm/test_vit", file=path), images("file"))
    assert "\n" not in str(error.value)


def test_a_folder(folder: Path) -> None:
    result = load_backbone(backbone(f"timm/local-dir:{folder}", "mean"), images("pretrained"))
    whole: Any = trained(num_classes=5)
    batch = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(result.module(batch), whole.forward_features(batch)[:, 1:].mean(1))
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"mine holds no weights \(model.safetensors, "):
        ensure_weights(backbone(f"timm/local-dir:{folder}"), images("imagenet"))
    (folder / "config.json").write_text('{"model_type": "dinov2"}', encoding="utf-8")
    with pytest.raises(ParameterError, match=r"its config.json is not one of timm's"):
        ensure_weights(backbone(f"timm/local-dir:{folder}"), images())
    (folder / "config.json").unlink()
    with pytest.raises(ParameterError, match=r"mine holds no config.json"):
        ensure_weights(backbone(f"timm/local-dir:{folder}"), images())


def test_tensors_outside_the_state_dict_have_their_values() -> None:
    torch.manual_seed(0)
    expected = build_network("timm/test_vit_relpos", "pre_logits", 64).eval()
    result = network_to_fill("timm/test_vit_relpos", "pre_logits", 64, "random").eval()
    result.load_state_dict(expected.state_dict(), assign=True)
    batch = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(result(batch), expected(batch))


# --- the Hub, on a server of our own --------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """Files of one repository at the addresses and with the headers of the Hub; `me/gated` asks for its terms."""

    folder: Path
    requests: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.requests.append(f"{self.command} {self.path}")
        path = self.folder / self.path.rpartition("/")[2]
        gated = self.path.startswith("/me/gated/") and path.suffix != ".json"
        result = self.path.startswith("/me/") and path.is_file() and not gated
        content = path.read_bytes() if result else b""
        self.send_response(200 if result else 403 if gated else 404)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", "c" * 40)
        if result:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        else:
            self.send_header("X-Error-Code", "GatedRepo" if gated else "EntryNotFound")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The server's address and what it was asked."""
    handler = type("Handler", (Hub,), {"folder": folder, "requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.requests  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


LOAD = """
import json, sys
from ssdh.core.errors import SSDHError
from ssdh.features.backbone import ensure_weights, load_backbone
from ssdh.features.params import BackboneParams, ImageParams
backbone = BackboneParams(arch=sys.argv[1], layer="cls", precision="fp32", weights_file="none")
images = ImageParams(weights="imagenet")
try:
    ensure_weights(backbone, images)
    state = load_backbone(backbone, images).module.state_dict()
    print(json.dumps({name: float(value.sum()) for name, value in state.items()}))
except SSDHError as error:
    print(json.dumps(str(error)))
"""


def load(arch: str, hub: str, home: Path, **more: str) -> tuple[Any, str]:
    """What a fresh process makes of `arch`: the Hub's package reads its settings when it is imported."""
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(home / "hf"), "SSDH_HOME": str(home / "ssdh")}
    for name in ("SSDH_OFFLINE", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    with contextlib.suppress(KeyError):
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", LOAD, arch],
        env=environment | more,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout), done.stderr


@pytest.mark.long
def test_the_hub_is_asked_once_and_never_when_offline(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, requests = hub
    arch = "timm/hf-hub:me/mine"
    message, _ = load(arch, address, tmp_path, SSDH_OFFLINE="1")
    assert message.startswith(f"SSDH_OFFLINE=1 forbids the download of {address}/me/mine")
    assert "run `hf download me/mine config.json` where there is a network and copy what it writes to" in message
    assert requests == []

    result, said = load(arch, address, tmp_path)
    expected = {name: float(value.sum()) for name, value in trained(num_classes=5).state_dict().items()}
    assert result == pytest.approx({name: value for name, value in expected.items() if not name.startswith("head.")})
    assert f"fetching {address}/me/mine (licence: apache-2.0)" in said
    files = [line.rpartition("/")[2] for line in requests if line.startswith("GET /me/")]
    assert files == ["config.json", "model.safetensors"]

    requests.clear()
    for flag in ({}, {"SSDH_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "1"}):
        assert load(arch, address, tmp_path, **flag)[0] == result
    assert requests == []


@pytest.mark.long
def test_a_gated_model_says_so(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, _ = hub
    message, _ = load("timm/hf-hub:me/gated", address, tmp_path)
    assert message.startswith(f"{address}/me/gated is gated (licence: apache-2.0): accept its terms on that page, then")
    assert "\n" not in message
