"""Networks, layers, weights and their preprocessing, against torchvision's own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from ssdh.core.errors import DataError, ParameterError
from ssdh.core.params import validate
from ssdh.features.backbone import (
    build_network,
    ensure_weights,
    feature_size,
    load_backbone,
    resolve_layer,
    resolve_preprocessing,
)
from ssdh.features.families.torchvision import architectures
from ssdh.features.loader import normalise, preprocess
from ssdh.features.params import BackboneParams, ImageParams

NONE = "models/pretrained/none.safetensors"


def backbone(arch: str = "vgg16", layer: str = "auto", file: Path | str = NONE) -> BackboneParams:
    return validate(
        BackboneParams, {"arch": arch, "layer": layer, "precision": "fp32", "weights_file": str(file)}, "backbone"
    )


def images(weights: str = "random", size: int = 32, **more: Any) -> ImageParams:
    return validate(ImageParams, {"size": size, "resize": size, "weights": weights} | more, "images")


# --- names and layers -----------------------------------------------------------------------------------------------


def test_the_names_are_torchvisions() -> None:
    assert architectures() == sorted(torchvision.models.list_models(module=torchvision.models))


def test_an_unknown_network_is_told_with_close_ones() -> None:
    with pytest.raises(ParameterError, match=r"backbone.arch must be .* such as .*vgg16.*, got 'vg16'") as error:
        backbone("vg16")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arch", "layer", "dim"),
    [
        *[("vgg16", "auto", 4096), ("vgg16", "fc6", 4096), ("vgg16", "pool5", 512), ("vgg16", "penultimate", 4096)],
        *[("vgg16_bn", "auto", 4096), ("alexnet", "auto", 4096), ("alexnet", "pool5", 256), ("resnet50", "auto", 2048)],
        *[("squeezenet1_1", "auto", 512), ("googlenet", "auto", 1024), ("densenet121", "penultimate", 1024)],
        *[("vit_b_16", "auto", 768), ("convnext_tiny", "auto", 768), ("efficientnet_b0", "auto", 1280)],
        *[
            ("regnet_y_400mf", "auto", 440),
            ("swin_t", "auto", 768),
            ("mobilenet_v3_small", "auto", 1024),
            ("inception_v3", "auto", 2048),
        ],
    ],
)
def test_dimensions(arch: str, layer: str, dim: int) -> None:
    params = backbone(arch, layer)
    size = 96 if arch in ("inception_v3", "googlenet") else 64
    assert feature_size(arch, resolve_layer(params, "imagenet"), size) == dim


def test_layers_that_have_learned_nothing_are_left_out() -> None:
    assert [resolve_layer(backbone(arch), "random") for arch in ("vgg16", "alexnet", "resnet18")] == [
        *("pool5", "pool5", "penultimate")
    ]


def test_fc7_is_the_second_linear_layer_before_its_relu() -> None:
    torch.manual_seed(0)
    whole = torchvision.models.alexnet(weights=None).eval()
    seen: list[torch.Tensor] = []
    linear = [module for module in whole.classifier if isinstance(module, nn.Linear)]
    linear[1].register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    batch = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        whole(batch)
        cut = build_network("alexnet", "fc7", 64).eval()
        cut.load_state_dict({key: value for key, value in whole.state_dict().items() if key in cut.state_dict()})
        result = cut(batch)
    assert torch.equal(result, seen[0])
    assert (result < 0).any()


@pytest.mark.parametrize("arch", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_penultimate_is_the_input_of_the_last_layer(arch: str) -> None:
    torch.manual_seed(1)
    whole = torchvision.models.get_model(arch, weights=None).eval()
    last = [module for module in whole.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    seen: list[torch.Tensor] = []
    last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batch = torch.randn(2, 3, 64, 64)
    cut = build_network(arch, "penultimate", 64).eval()
    cut.load_state_dict({key: value for key, value in whole.state_dict().items() if key in cut.state_dict()})
    with torch.inference_mode():
        whole(batch)
        result = cut(batch)
    expected = seen[0].mean((2, 3)) if seen[0].ndim == 4 else seen[0]
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_layers_that_are_not_there() -> None:
    with pytest.raises(ParameterError, match="fc7' exists in VGG and AlexNet, not in resnet50"):
        resolve_layer(backbone("resnet50", "fc7"), "imagenet")
    with pytest.raises(ParameterError, match=r"has only these: set backbone.layer to pool5"):
        resolve_layer(backbone("vgg16", "fc7"), "features")
    with pytest.raises(ParameterError, match=r"'features' exist for vgg16 only, got backbone.arch 'alexnet'"):
        resolve_layer(backbone("alexnet"), "features")
    assert resolve_layer(backbone("vgg16"), "features") == "pool5"


def test_a_size_that_does_not_fit() -> None:
    with pytest.raises(ParameterError, match=r"images.size 40 does not fit backbone.arch vit_b_16"):
        ensure_weights(backbone("vit_b_16"), images(size=40))
    with pytest.raises(ParameterError, match=r"images.size 16 does not fit backbone.arch alexnet"):
        load_backbone(backbone("alexnet"), images(size=16))


# --- weights --------------------------------------------------------------------------------------------------------


def test_random_weights_never_change_and_touch_no_random_state() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = load_backbone(backbone("squeezenet1_1"), images()).module
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    second = load_backbone(backbone("squeezenet1_1"), images()).module
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not first.training


def test_whole_file_and_metadata(tmp_path: Path) -> None:
    torch.manual_seed(2)
    whole = torchvision.models.resnet18(weights=None).eval()
    path = tmp_path / "net.safetensors"
    save_file(whole.state_dict(), path, {"mean": "0.1 0.2 0.3", "std": json.dumps([0.5])})
    result = load_backbone(backbone("resnet18", file=path), images("file"))
    assert result.preprocessing.mean == (0.1, 0.2, 0.3)
    assert result.preprocessing.std == (0.5, 0.5, 0.5)
    batch = torch.randn(2, 3, 32, 32)
    whole.fc = nn.Identity()  # type: ignore[assignment]
    with torch.inference_mode():
        torch.testing.assert_close(result.module(batch), whole(batch))


def test_pickled_file_of_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(2)
    whole = torchvision.models.alexnet(weights=None).half()
    path = tmp_path / "net.pth"
    torch.save(whole.state_dict(), path)
    result = load_backbone(backbone("alexnet", "pool5", path), images("file", 64))
    weight = result.module.state_dict()["features.0.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, whole.features[0].weight.float())
    assert result.preprocessing.mean == (0.485, 0.456, 0.406)


def test_only_convolutions_give_only_pool5(tmp_path: Path) -> None:
    path = tmp_path / "convolutions.safetensors"
    save_file({f"features.{k}": v for k, v in torchvision.models.alexnet().features.state_dict().items()}, path)
    assert load_backbone(backbone("alexnet", file=path), images("file", 64)).dim == 256
    with pytest.raises(ParameterError, match=r"set backbone.layer to pool5"):
        load_backbone(backbone("alexnet", "fc7", path), images("file", 64))


@pytest.mark.parametrize("use", [load_backbone, ensure_weights])
def test_files_that_do_not_fit(tmp_path: Path, use: Callable[..., object]) -> None:
    state = torchvision.models.resnet18().state_dict()
    path = tmp_path / "net.safetensors"
    save_file({("stem.weight" if key == "conv1.weight" else key): value for key, value in state.items()}, path)
    with pytest.raises(
        DataError, match=r"does not fit resnet18: 1 missing \(conv1.weight\); 1 unknown \(stem.weight\)"
    ):
        use(backbone("resnet18", file=path), images("file"))
    with pytest.raises(DataError, match="of another shape"):
        save_file(state, path)
        use(backbone("resnet50", file=path), images("file"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="is not a whole state dict"):
        use(backbone("resnet18", file=path), images("file"))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        ensure_weights(backbone("resnet18", file=tmp_path / "gone.pth"), images("file"))
    empty = tmp_path / "none.safetensors"
    empty.touch()
    with pytest.raises(ParameterError, match=r"is the empty placeholder: name a .safetensors or .pth file"):
        ensure_weights(backbone("resnet18", file=empty), images("file"))


def test_the_normalisation_of_a_missing_or_cut_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(DataError, match=r"^backbone.weights_file .*net\.safetensors does not exist: name a"):
        resolve_preprocessing(backbone(file=path), images("file"))
    save_file({"a": torch.zeros(100)}, path, {"mean": "0.1 0.2 0.3", "std": "1"})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"^backbone.weights_file .*net\.safetensors is not a whole") as cut:
        resolve_preprocessing(backbone(file=path), images("file"))
    assert "\n" not in str(cut.value)


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path) -> None:
    path, witness = tmp_path / "evil.pth", tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (witness.touch, ())

    torch.save({"features.0.weight": Evil()}, path)
    with pytest.raises(DataError, match="holds more than tensors"):
        load_backbone(backbone("alexnet", file=path), images("file", 64))
    assert not witness.exists()


def test_offline_names_the_file_its_place_and_its_checksum(tmp_path: Path) -> None:
    for weights, digest in (("imagenet", "397923af"), ("features", "amdegroot-88682ab5")):
        with pytest.raises(DataError) as error:
            ensure_weights(backbone("vgg16"), images(weights, 224))
        message = str(error.value)
        assert len(message.splitlines()) == 1
        assert "SSDH_OFFLINE=1 forbids the download of vgg16" in message
        assert "fetch https://download.pytorch.org/models/vgg16" in message
        assert str(tmp_path / "ssdh-home" / "weights" / "vgg16") in message
        assert f"(sha256 {digest[-8:]}…)" in message


def test_random_weights_are_checked_without_torch() -> None:
    code = (
        "import sys; from ssdh.features.backbone import resolve_layer\n"
        "from ssdh.features.families.torchvision import architectures\n"
        "architectures(); assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_explicit_normalisation_wins() -> None:
    result = resolve_preprocessing(backbone(), images(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]))
    assert (result.mean, result.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    result = resolve_preprocessing(backbone(), images("features"))
    assert result.std == pytest.approx((1 / 255,) * 3)


# --- real weights ---------------------------------------------------------------------------------------------------


def test_real_convolutions_give_the_known_features(shared: Path, tmp_path: Path) -> None:
    import io
    import tarfile

    from PIL import Image

    known = np.load(shared / "cifar10-vgg16-pool5-128px.npz")
    chosen = [0, 7, 5000, 59_999]
    with tarfile.open(shared / "cifar10-jpeg.tar") as tar:
        members = sorted((m for m in tar if m.isfile()), key=lambda m: m.name)
        pixels = [
            np.asarray(Image.open(io.BytesIO(tar.extractfile(members[row]).read())).convert("RGB"))  # type: ignore[union-attr]
            for row in chosen
        ]
    params = images("file", 128)
    result = load_backbone(backbone("vgg16", "auto", shared / "vgg16-features-fp16.safetensors"), params)
    assert result.preprocessing.mean == (0.48235, 0.45882, 0.40784)
    assert result.preprocessing.std == pytest.approx((1 / 255,) * 3)
    batch = normalise(preprocess(np.stack(pixels), result.preprocessing), result.preprocessing)
    with torch.inference_mode():
        features = result.module(batch).numpy()
    expected = known["features"][chosen].astype(np.float32)
    cosine = (features * expected).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), np.linalg.norm(expected, axis=1), rtol=0.02)
