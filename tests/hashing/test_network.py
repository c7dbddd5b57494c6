"""The hash network and its file: same bytes each time, refusals that say what to do, whole and head-only models."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file

from ssdh import __version__
from ssdh.core.errors import DataError
from ssdh.features.backbone import build_network, load_backbone
from ssdh.features.params import BackboneParams, ImageParams
from ssdh.hashing import network
from ssdh.hashing.encoder import load_encoder
from ssdh.hashing.model_file import (
    describe_backbone,
    load_hashnet,
    model_preprocessing,
    read_metadata,
    save_hashnet,
)
from ssdh.hashing.network import HashNet, centre, seeded_hashnet
from ssdh.hashing.params import HeadName

METADATA: dict[str, Any] = {"bits": 12, "arch": "squeezenet1_1", "layer": "penultimate", "size": 32, "mean": [0.1, 0.2]}


def test_every_head_has_a_name_and_every_name_its_layers() -> None:
    assert set(get_args(HeadName)) == {"tanh", "linear", *network.HIDDEN}
    for name in get_args(HeadName):
        assert HashNet(6, 4, head=name).eval()(torch.ones(2, 6)).shape == (2, 4)


def test_outputs_by_hand() -> None:
    model = HashNet(3, 2)
    with torch.no_grad():
        model.hash.weight.copy_(torch.tensor([[1.0, 0, 0], [0, -1, 2]]))
        model.hash.bias.copy_(torch.tensor([0.5, 0]))
        model.center.copy_(torch.tensor([1.0, 1, 1]))
    result = model(torch.tensor([[2.0, 3, 4]])).detach()
    torch.testing.assert_close(result, torch.tanh(torch.tensor([[1 + 0.5, -2.0 + 6]])))


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = seeded_hashnet(5, 4, seed=3)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = seeded_hashnet(5, 4, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.hash.weight, second.hash.weight)
    assert not torch.equal(first.hash.weight, seeded_hashnet(5, 4, seed=4).hash.weight)


def test_a_file_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    written, plain = set(), set()
    for _ in range(8):
        path = tmp_path / "model.safetensors"
        save_hashnet(path, seeded_hashnet(6, 12, 0), METADATA)
        written.add(path.read_bytes())
        save_file(seeded_hashnet(6, 12, 0).state_dict(), path, dict.fromkeys(METADATA, "x"))
        plain.add(path.read_bytes())
    (tmp_path / "any").touch()
    save_hashnet(path, seeded_hashnet(6, 12, 0), METADATA)
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode
    assert len(written) == 1
    assert len(plain) > 1  # what safetensors itself does, and why the header is sorted


def test_round_trip(tmp_path: Path) -> None:
    model = seeded_hashnet(6, 12, 0)
    model.center.fill_(0.25)
    path = tmp_path / "model.safetensors"
    save_hashnet(path, model, METADATA)
    result = load_hashnet(path)
    features = torch.randn(4, 6)
    for name, weight in model.state_dict().items():
        assert torch.equal(result.state_dict()[name], weight), name
    torch.testing.assert_close(result(features), model(features))  # kernels may round by where an array lies in memory
    assert not result.training
    assert read_metadata(path) == METADATA | {"has_backbone": False, "ssdh_version": __version__}
    with pytest.raises(DataError, match="takes features"):
        result(torch.zeros(1, 3, 32, 32))


def test_whole_network_takes_images_and_features(tmp_path: Path) -> None:
    model = seeded_hashnet(512, 12, 0, build_network("squeezenet1_1", "penultimate", 32)).eval()
    path = tmp_path / "model.safetensors"
    save_hashnet(path, model, METADATA)
    result = load_hashnet(path)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(result(images), model(images))
        torch.testing.assert_close(result(model.features(images)), model(images))
    for name, weight in model.state_dict().items():
        assert torch.equal(result.state_dict()[name], weight), name


def test_a_network_that_renormalises_its_input_still_does_after_a_round_trip(tmp_path: Path) -> None:
    googlenet = build_network("googlenet", "penultimate", 64, "imagenet")
    model = seeded_hashnet(1024, 12, 0, googlenet).eval()
    path = tmp_path / "model.safetensors"
    metadata = METADATA | {"arch": "googlenet", "size": 64}
    images = 1e4 * torch.randn(2, 3, 64, 64)  # of usual ones random weights make next to nothing
    with torch.inference_mode():
        for weights, same in (("imagenet", True), ("random", False)):
            save_hashnet(path, model, metadata | {"weights": weights})
            assert torch.allclose(load_hashnet(path)(images), model(images), rtol=0, atol=1e-3) is same


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(DataError, match="does not exist"):
        load_hashnet(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="is not a hash network"):
        load_hashnet(path)
    save_hashnet(path, seeded_hashnet(6, 12, 0), METADATA)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="is not a whole model file"):
        load_hashnet(path)
    model = seeded_hashnet(512, 12, 0, build_network("squeezenet1_1", "penultimate", 32))
    save_hashnet(path, model, METADATA | {"arch": "resnet18"})
    with pytest.raises(DataError, match="does not fit its own metadata"):
        load_hashnet(path)


@pytest.mark.parametrize("power", [0.0, 0.7])
def test_centring_part_by_part(power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(100, 6, generator=torch.Generator().manual_seed(0)) + 2
    whole, parts = seeded_hashnet(6, 4, 0, power=power), seeded_hashnet(6, 4, 0, power=power)
    centre(whole, features)
    powered = features.double().abs() ** power * features.sign() if power else features.double()
    expected = powered / powered.norm(dim=1, keepdim=True) if power else powered
    torch.testing.assert_close(whole.center.double(), expected.mean(0), rtol=1e-5, atol=1e-7)
    if power:
        scale = (expected - expected.mean(0)).square().mean().rsqrt()
        torch.testing.assert_close(whole.scale.double(), scale, rtol=1e-5, atol=0)
    seen: list[int] = []
    normalised = parts.normalised

    def noted(rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows))
        return normalised(rows)

    monkeypatch.setattr(parts, "normalised", noted)
    monkeypatch.setattr(network, "CHUNK", 7 * 6)
    centre(parts, features)
    assert max(seen) == 7
    torch.testing.assert_close(parts.center, whole.center, rtol=1e-6, atol=0)
    torch.testing.assert_close(parts.scale, whole.scale, rtol=1e-6, atol=0)


def test_an_encoder_builds_the_frozen_network_again(tmp_path: Path) -> None:
    backbone = BackboneParams(arch="squeezenet1_1", layer="auto", precision="fp32", weights_file="none")
    params = ImageParams(size=32, resize=40, weights="random", mean=[0.4, 0.5, 0.6])
    frozen = load_backbone(backbone, params)
    head = seeded_hashnet(frozen.dim, 12, 0)
    path = tmp_path / "model.safetensors"
    save_hashnet(path, head, {"bits": 12} | describe_backbone(backbone, params))
    encoder = load_encoder(path)
    assert encoder.preprocessing == frozen.preprocessing == model_preprocessing(read_metadata(path))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(images), head(frozen.module(images)))
    assert encoder.bits == 12
    save_hashnet(path, head, {"bits": 12})
    with pytest.raises(DataError, match="does not say which frozen network it belongs to"):
        load_encoder(path)
    weights = tmp_path / "frozen.safetensors"
    save_file(dict(frozen.module.state_dict()), weights)
    save_hashnet(path, head, {"bits": 12} | describe_backbone(backbone, params))
    with torch.inference_mode():
        torch.testing.assert_close(load_encoder(path, weights)(images), encoder(images))
