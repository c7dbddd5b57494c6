"""Whole-network training: what is trained, what stays, how dropout is drawn, errors that say what to do, the stages."""

import argparse
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from ssdh.cli import evaluate as command
from ssdh.cli import measure as measuring
from ssdh.core.errors import DataError, ParameterError, SSDHError
from ssdh.core.files import rounded, write_array
from ssdh.features import forward
from ssdh.features.backbone import build_network, feature_size, shape_of_network
from ssdh.features.images import ImageSource
from ssdh.features.params import Preprocessing
from ssdh.hashing.model_file import load_hashnet, read_metadata
from ssdh.hashing.network import HashNet, seeded_hashnet
from ssdh.methods.published import Published
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.thresholds import Structure
from ssdh.training import finetune as whole_network
from ssdh.training.finetune import (
    AugmentedImages,
    ExactPool,
    NetworkTrainer,
    SharedDropout,
    freeze,
    share_dropout,
    step_seed,
    training_mode,
)
from ssdh.training.loop import Run
from ssdh.training.loss import weighted_loss
from ssdh.training.optimizer import make_optimizer
from ssdh.training.params import TrainParams
from tests.helpers.distributed_worker import Backbone
from tests.helpers.tiny import inside, results, run_stage, tiny_params, write_params, write_tiny

CPU = torch.device("cpu")


def train_params(**more: Any) -> TrainParams:
    values: dict[str, Any] = {"finetune": True, "epochs": 1, "optimizer": "sgd", "lr": 0.1, "lr_backbone": 0.01}
    values |= {"momentum": 0.9, "weight_decay": 0.0, "batch_size": 6, "centre": False, "unknown_weight": 0.0}
    return TrainParams(**(values | {"eval_interval": 0, "snapshot_interval": 0, "init_file": "none"} | more))


def trainer(network: HashNet, *, seed: int = 0, **more: Any) -> NetworkTrainer:
    """Of the published method; the images are given to its step."""
    method = Published(train_params(**more))
    size = 7
    pair_labels = PairLabels(np.eye(size, network.dim), Structure(0.5, 0.1, 0.1, 0.3, 0.7, 1, 0.0, 0.0))
    images = AugmentedImages(
        cast("ImageSource", None),  # never read
        Preprocessing(9, 9, (0.5,) * 3, (0.5,) * 3),
        np.arange(size),
        seed=seed,
        device=CPU,
    )
    frozen = np.zeros((size, network.dim), np.float32)
    return NetworkTrainer(Run(method, network.bits, seed), network, images, frozen, pair_labels)


def step(
    trained: NetworkTrainer, iteration: int, images: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    return trained.step(iteration, np.arange(len(images)), [images], targets, weights)


def model() -> HashNet:
    torch.manual_seed(1)
    return seeded_hashnet(16, 8, 6, Backbone())


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """(images (6, 3, 16, 16), labels (6, 6))."""
    rng = np.random.default_rng(0)
    labels = np.triu(rng.integers(-1, 2, (6, 6)))
    return torch.from_numpy(rng.normal(size=(6, 3, 16, 16)).astype(np.float32)), torch.from_numpy(labels + labels.T)


def test_a_step_is_the_textbook_step_without_dropout() -> None:
    images, labels = batch()
    ours, plain = model(), model()
    for network in (ours, plain):
        for module in network.modules():
            if hasattr(module, "p"):
                module.p = 0.0
    loss = step(trainer(ours), 0, images, labels.float(), labels.abs().float())
    plain.train()
    plain.backbone.stem[1].eval()  # type: ignore[union-attr,index]
    expected = weighted_loss(plain(images), labels.float(), labels.abs().float())
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for (name, one), two in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=lambda text, n=name: f"{n}: {text}")


def test_random_numbers_of_a_step_follow_seed_and_iteration_alone() -> None:
    images, labels = batch()
    arguments = (images, labels.float(), labels.abs().float())
    trained = trainer(model(), seed=3)
    torch.manual_seed(1)
    first = step(trained, 5, *arguments)
    torch.manual_seed(2)
    assert torch.equal(step(trained, 5, *arguments), first)
    assert not torch.equal(step(trained, 6, *arguments), first)
    assert not torch.equal(step(trainer(model(), seed=4), 5, *arguments), first)
    assert step_seed(0, 1) != step_seed(1, 0)


def test_dropout_is_on_in_training_and_off_in_validation() -> None:
    network = model()
    result = share_dropout(network)
    assert len(result) == 2
    training_mode(network)
    assert not network.backbone.stem[1].training  # type: ignore[union-attr,index]
    dropout = SharedDropout(nn.Dropout(0.5))
    dropout.total = 4
    dropped = dropout(torch.ones(4, 1000))
    assert 0.4 < (dropped == 0).float().mean() < 0.6
    assert dropped.max() == 2.0
    assert torch.equal(dropout.eval()(torch.ones(4, 1000)), torch.ones(4, 1000))


def test_masks_of_parts_are_parts_of_the_mask() -> None:
    whole, parts = [], []
    for first, count in ((0, 6), (0, 3), (3, 3)):
        dropout = SharedDropout(nn.Dropout(0.5))
        dropout.first, dropout.total = first, 6
        torch.manual_seed(0)
        (whole if count == 6 else parts).append(dropout(torch.ones(count, 50)))
    assert torch.equal(torch.cat(parts), whole[0])


def test_freezing_until_a_module() -> None:
    network = Backbone()
    freeze(network, "body.0")
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    assert trained == ["body.0.weight", "body.0.bias", "tail.3.weight", "tail.3.bias"]
    freeze(network, "body.1")  # an activation: nothing of its own, but everything before it
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    assert trained == ["tail.3.weight", "tail.3.bias"]
    freeze(network, None)
    assert all(value.requires_grad for value in network.parameters())
    with pytest.raises(
        ParameterError, match=r"freeze_until 'layer9' is no part .*: its parts are stem, body, tail"
    ) as e:
        freeze(network, "layer9")
    assert len(str(e.value).splitlines()) == 1


def test_freezing_until_a_pool_of_vgg() -> None:
    network = shape_of_network("vgg16", "fc7", 32)
    freeze(network, "features.16")
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    assert trained[:2] == ["features.17.weight", "features.17.bias"]
    assert trained[-1] == "classifier.3.bias"
    assert not network.get_parameter("features.14.weight").requires_grad


def test_learning_rates_of_backbone_and_hash_layer() -> None:
    network = model()
    groups: list[dict[str, Any]] = [
        {"params": list(network.hash.parameters()), "lr": 0.1},
        {"params": list(network.backbone.parameters()), "lr": 0.01},  # type: ignore[union-attr]
    ]
    before = {name: value.clone() for name, value in network.named_parameters()}
    optimizer = make_optimizer(groups, train_params())
    for value in network.parameters():
        value.grad = torch.ones_like(value)
    optimizer.step()
    for name, value in network.named_parameters():
        rate = 0.1 if name.startswith("hash") else 0.01
        torch.testing.assert_close(before[name] - value, torch.full_like(value, rate), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_out_of_memory_of_a_frozen_network_is_one_line(kind: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise kind

    network = nn.Linear(4, 4)
    message = r"out of memory on cpu with blocks of 64 images: set backbone.precision"
    for name in ("forward", "to"):
        with monkeypatch.context() as patch:
            patch.setattr(network, name, full)
            with pytest.raises(SSDHError, match=message):
                list(forward.run_network(network, [torch.zeros(2, 4)], CPU))
    with pytest.raises(SSDHError, match=message):
        list(forward.run_network(network, [torch.zeros(2, 4)], CPU, prepare=full))


LARGE = ("googlenet", "efficientnet_b0", "vit_b_32", "swin_t")


@pytest.mark.parametrize(
    "arch", ["alexnet", "resnet18", *(pytest.param(arch, marks=pytest.mark.long) for arch in LARGE)]
)
def test_any_network_can_be_trained(arch: str) -> None:
    layer = "fc7" if arch == "alexnet" else "penultimate"
    size = 64
    network = seeded_hashnet(feature_size(arch, layer, size), 8, 0, build_network(arch, layer, size))
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    loss = step(trainer(network), 0, images, torch.eye(4), torch.ones(4, 4))
    assert torch.isfinite(loss)
    without = [name for name, value in network.named_parameters() if value.grad is None]
    assert without == []


def test_exact_pooling_is_the_same_function() -> None:
    images = torch.randn(2, 3, 7, 7)
    for size in (7, 3, 1):
        assert torch.equal(ExactPool(size)(images), nn.AdaptiveAvgPool2d(size)(images))
        assert torch.equal(ExactPool((size, size))(images), nn.AdaptiveAvgPool2d((size, size))(images))


def test_other_errors_are_not_called_out_of_memory() -> None:
    with pytest.raises(RuntimeError, match=r"expected input.* to have 3 channels"):
        step(trainer(model()), 0, batch()[0][:, :2], torch.zeros(6, 6), torch.zeros(6, 6))


# --- stages ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny workspace with features and structure."""
    folder = write_tiny(tmp_path_factory.mktemp("whole"), tiny_params())
    run_stage(folder, "extract", "structure")
    return folder


def fresh(workspace: Path, **train: Any) -> dict[str, bytes]:
    write_params(workspace, tiny_params(finetune=True, epochs=1, **train))
    for name in ("models/hashnet.safetensors", "models/codes.npy"):
        (workspace / name).unlink(missing_ok=True)
    run_stage(workspace, "train", "encode")
    return results(workspace)


def test_frozen_blocks_keep_their_pretrained_weights(workspace: Path) -> None:
    fresh(workspace, freeze_until="features.4", lr_backbone=0.001)
    trained = load_hashnet(workspace / "models/hashnet.safetensors").state_dict()
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = torchvision.models.mobilenet_v3_small(weights=None).state_dict()
    assert torch.equal(trained["backbone.features.3.block.0.0.weight"], before["features.3.block.0.0.weight"])
    assert not torch.equal(trained["backbone.features.4.block.0.0.weight"], before["features.4.block.0.0.weight"])


def test_a_recipe_that_can_do_without_views_trains_the_network_on_one(workspace: Path) -> None:
    """Where the stage `views` wrote none, as by random weights; written ones bring a second view into each step."""
    no_views = np.load(workspace / "features/views.npy")  # (0, n, D)
    weights = {}
    for name, recipe, count in (("one", "manifold", 0), ("none", "manifold_views", 0), ("some", "manifold_views", 2)):
        write_params(workspace, tiny_params(finetune=True, epochs=1) | {"recipe": recipe})
        write_array(workspace / "features/views.npy", np.zeros((count, *no_views.shape[1:]), np.float16))
        run_stage(workspace, "train")
        weights[name] = load_hashnet(workspace / "models/hashnet.safetensors").state_dict()
    write_array(workspace / "features/views.npy", no_views)
    assert all(torch.equal(value, weights["none"][name]) for name, value in weights["one"].items())
    assert not all(torch.equal(value, weights["some"][name]) for name, value in weights["one"].items())


@pytest.mark.long
def test_validation_changes_nothing(workspace: Path) -> None:
    often = fresh(workspace, eval_interval=1)
    never = fresh(workspace, eval_interval=0)
    assert often.pop("metrics/validation.csv").count(b"\n") == 4
    assert never.pop("metrics/validation.csv") == b"iteration,map\n"
    # the metadata of the model names the interval; weights, curve and codes are the same
    assert often.pop("models/hashnet.safetensors")[-4096:] == never.pop("models/hashnet.safetensors")[-4096:]
    assert often == never


@pytest.mark.long
def test_codes_come_from_images_and_the_trained_network(workspace: Path) -> None:
    from ssdh.features.images import open_images
    from ssdh.features.loader import normalise, preprocess
    from ssdh.hashing.codes import pack, sign_codes
    from ssdh.hashing.model_file import model_preprocessing

    fresh(workspace)
    path = workspace / "models/hashnet.safetensors"
    preprocessing = model_preprocessing(read_metadata(path))
    source = open_images(workspace / "data/images")
    pixels = normalise(preprocess(source.read(np.arange(len(source))), preprocessing), preprocessing)  # type: ignore[union-attr]
    with torch.inference_mode():
        outputs = load_hashnet(path)(pixels).numpy()
    clear = (np.abs(outputs) > 1e-5).all(axis=1)
    assert clear.mean() > 0.9
    assert np.array_equal(np.load(workspace / "models/codes.npy")[clear], pack(sign_codes(outputs))[clear])


@pytest.mark.long
def test_bf16(workspace: Path) -> None:
    full, low = fresh(workspace), fresh(workspace, precision="bf16")
    assert low["models/hashnet.safetensors"][-4096:] != full["models/hashnet.safetensors"][-4096:]
    loss, expected = (float(result["metrics/train.csv"].split(b",")[-1]) for result in (low, full))
    assert loss == pytest.approx(expected, rel=0.1)
    assert load_hashnet(workspace / "models/hashnet.safetensors").hash.weight.dtype == torch.float32


def test_start_from_a_trained_model(workspace: Path, tmp_path: Path) -> None:
    fresh(workspace)
    given = tmp_path / "given.safetensors"
    given.write_bytes((workspace / "models/hashnet.safetensors").read_bytes())
    fresh(workspace, init_file=str(given), lr=1e-12, lr_backbone=1e-12)
    one, two = (load_hashnet(path).state_dict() for path in (given, workspace / "models/hashnet.safetensors"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)
    write_params(workspace, tiny_params(finetune=False, init_file=str(given)))
    with pytest.raises(SystemExit), inside(workspace):
        run_stage(workspace, "train")


def test_evaluate_measures_a_model_without_training(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(workspace)
    run_stage(workspace, "evaluate")
    expected = json.loads((workspace / "metrics/metrics.json").read_text())
    before = results(workspace)
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    with inside(workspace):
        options = parser.parse_args(["evaluate", "--model", "models/hashnet.safetensors", "--json", "found.json"])
        assert options.run(options) == 0
    result = json.loads((workspace / "found.json").read_text())
    assert result.pop("model") == "models/hashnet.safetensors"
    assert result == expected
    assert f"{expected['map']:.4f}" in capsys.readouterr().out
    assert results(workspace) == before
    # a hash layer alone, whose features are those of the current parameters, and then are not
    write_params(workspace, tiny_params())
    run_stage(workspace, "train", "encode", "evaluate")
    expected = json.loads((workspace / "metrics/metrics.json").read_text())
    modes: list[bool] = []
    monkeypatch.setattr(
        "ssdh.core.device.make_deterministic", lambda device, deterministic: modes.append(deterministic)
    )
    with inside(workspace):
        assert rounded(measuring.measure(Path("models/hashnet.safetensors"))).items() >= expected.items()
        assert modes == [True]  # as `encode`
        params = tiny_params()
        params["backbone"]["layer"] = "penultimate"
        write_params(workspace, params)
        assert measuring.measure(Path("models/hashnet.safetensors"))["map"] == pytest.approx(expected["map"], abs=1e-6)
        with pytest.raises(DataError, match=r"gone.safetensors does not exist"):
            measuring.measure(Path("gone.safetensors"))
        write_params(workspace, params | {"dataset": "fashion_mnist"})
        with pytest.raises(DataError, match=r"dataset is 'fashion_mnist', but the results here are of 'digits'"):
            measuring.measure(Path("models/hashnet.safetensors"))


def test_evaluate_names_weights_that_are_not_whole_by_what_named_them(workspace: Path) -> None:
    write_params(workspace, tiny_params())
    run_stage(workspace, "train", "encode")
    model, cut = Path("models/hashnet.safetensors"), Path("cut.safetensors")
    with inside(workspace):
        cut.write_bytes(model.read_bytes()[:100])
        params = tiny_params()
        params["datasets"]["digits"]["images"]["weights"] = "file"
        for named, message in (("/nope.safetensors", "does not exist"), (str(cut), "is not a whole state dict")):
            params["backbone"]["weights_file"] = named
            write_params(workspace, params)
            with pytest.raises(DataError, match=rf"^backbone\.weights_file {named} {message}"):
                measuring.measure(model)
            with pytest.raises(DataError, match=rf"^--weights-file {named} {message}(?!.*params\.yaml)"):
                measuring.measure(model, Path(named))
        with pytest.raises(DataError, match=r"^--weights-file /nope does not exist"):
            measuring.measure(model, Path("/nope"))


def test_evaluate_finds_out_first_where_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").touch()
    monkeypatch.setattr(measuring, "measure", lambda *_: pytest.fail("measured before"))
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    options = parser.parse_args(["evaluate", "--json", str(tmp_path / "README.md/x.json")])
    with pytest.raises(DataError, match=r"README\.md/x\.json could not be written"):
        options.run(options)


@pytest.mark.parametrize(
    "place",
    [
        "ssdh.training.loop.PairBatches",
        "ssdh.training.fit.load_backbone",
        "ssdh.features.augment.crop_on_device",
        "ssdh.training.loss.weighted_loss",
        "torch.optim.Adam.step",
    ],
)
def test_out_of_memory_names_the_batch_size_to_try(
    workspace: Path, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(place, full)
    write_params(workspace, tiny_params(finetune=True))
    with pytest.raises(SystemExit):
        run_stage(workspace, "train")
    message = "train: out of memory on cpu with train.batch_size 24: try 12, train.precision bf16 or more"
    assert message in capsys.readouterr().err


def test_compile_is_a_flag(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[nn.Module] = []

    def compiled(network: nn.Module) -> nn.Module:
        seen.append(network)
        return network

    monkeypatch.setattr(whole_network.torch, "compile", compiled)
    plain = fresh(workspace)
    assert seen == []
    assert fresh(workspace, compile=True)["models/codes.npy"] == plain["models/codes.npy"]
    assert len(seen) == 1
