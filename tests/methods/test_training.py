"""Every recipe trained where the answer is known, its head saved and loaded, and methods that do not fit refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdh.core.errors import DataError, ParameterError
from ssdh.core.files import write_array, write_csv
from ssdh.core.params import read_recipe, recipe_names
from ssdh.features.images import open_images
from ssdh.features.params import Preprocessing, ViewsParams
from ssdh.hashing.codes import sign_codes
from ssdh.hashing.model_file import load_hashnet, save_hashnet
from ssdh.hashing.network import HashNet, seeded_hashnet
from ssdh.hashing.retrieval import mean_average_precision
from ssdh.structure.fit import fit_recipe
from ssdh.structure.params import StructureParams
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.thresholds import Structure
from ssdh.training.finetune import AugmentedImages, NetworkTrainer
from ssdh.training.head import train_head
from ssdh.training.loop import Run
from ssdh.training.method import Method, load_method
from ssdh.training.params import TrainParams
from tests.helpers.distributed_worker import Backbone
from tests.helpers.tiny import tiny_images

NO_STRUCTURE = Structure(0.5, 0.1, 0.1, 0.3, 0.7, 1, 0.0, 0.0)
CLASSES, TRAIN, D, K = 5, 200, 24, 16
# few images and steps: as many neighbours, clusters and passes as suit them
FEW: dict[str, dict[str, Any]] = {
    "mls3rduh": {"loss": {"neighbors": 0.15, "manifold_neighbors": 0.18, "alpha": 0.99}},
    "cimon": {"loss": read_recipe("cimon")["train"]["loss"] | {"clusters": 5.0}},
    "crovca": {"epochs": 60},
    "greedyhash": {"epochs": 100},
    "bihalf": {"epochs": 100},
    "sdc": {"epochs": 50},
    "published": {"lr": 0.1, "centre": True},
    "centred": {"lr": 0.1},
}


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features of 300 images (300, D), one-hot labels, two views of the first 200): well-separated Gaussians.

    A view tells the class of its image and no more: contrastive losses tell apart whatever they can.
    """
    rng = np.random.default_rng(2)
    classes = np.arange(300) % CLASSES
    centres = 3 * np.linalg.qr(rng.normal(size=(D, D)))[0][:CLASSES]
    features = centres[classes] + 0.25 * rng.normal(size=(300, D)) + 1
    views = centres[classes[:TRAIN]] + 0.25 * rng.normal(size=(2, TRAIN, D)) + 1
    return features.astype(np.float32), np.eye(CLASSES, dtype=np.uint8)[classes], views.astype(np.float16)


def trained(name: str, blobs: Any, tmp_path: Path, **more: Any) -> tuple[HashNet, Method]:
    features, _, views = blobs
    recipe = read_recipe(name)
    (tmp_path / "none").touch()
    values = recipe["train"] | FEW.get(name, {}) | {"init_file": str(tmp_path / "none")} | more
    method = load_method(name)(TrainParams(**values))
    few = {"neighbors": 10, "rank": 8, "alpha": 1.0, "beta": 0.5}
    structure = StructureParams(**(recipe["structure"] | few))
    chosen = views if method.views else ()
    fitted = fit_recipe(features[:TRAIN], structure, seed=0, views=chosen)
    pair_labels = PairLabels(fitted.pairs.features, fitted.structure)
    return train_head(features[:TRAIN], pair_labels, Run(method, K, 0), views=chosen)[0], method


@pytest.mark.parametrize("name", recipe_names())
def test_codes_of_separated_gaussians_are_near_perfect(name: str, blobs: Any, tmp_path: Path) -> None:
    features, labels, _ = blobs
    model, _ = trained(name, blobs, tmp_path)
    with torch.inference_mode():
        codes = sign_codes(model(torch.from_numpy(features)).numpy())
    result = mean_average_precision(codes[TRAIN:], codes[:TRAIN], labels[TRAIN:], labels[:TRAIN])
    assert result > 0.95


@pytest.mark.parametrize("name", ["greedyhash", "sdc", "cibhash", "crovca"])
def test_a_head_is_the_same_after_it_was_saved(name: str, blobs: Any, tmp_path: Path) -> None:
    model, method = trained(name, blobs, tmp_path, epochs=2)
    assert model.head_name == method.params.head != "tanh"
    save_hashnet(tmp_path / "model.safetensors", model, {"bits": K})
    again = load_hashnet(tmp_path / "model.safetensors")
    assert (again.head_name, again.bits, again.dim) == (model.head_name, K, D)
    features = torch.from_numpy(blobs[0])
    torch.testing.assert_close(again(features), model(features))
    torch.testing.assert_close(again(features[:3]), model(features)[:3])  # no statistic of the batch at hand
    other = {"epochs": 1, "init_file": str(tmp_path / "model.safetensors"), "head": "linear"}
    if model.head_name != "linear":
        with pytest.raises(DataError, match=rf"has the head {model.head_name}, expected is linear: set train.head"):
            trained(name, blobs, tmp_path, **other)


def test_a_method_without_its_views_is_refused(blobs: Any, tmp_path: Path) -> None:
    features, labels, views = blobs
    for few in (views[:0], views[:1]):
        message = rf"cibhash compares features of 2 or more random crops .* here are {len(few)}: set views.count so, or"
        with pytest.raises(ParameterError, match=message):
            trained("cibhash", (features, labels, few), tmp_path)


def test_without_views_a_method_with_its_own_view_trains_as_the_one_without(blobs: Any, tmp_path: Path) -> None:
    features, labels, views = blobs
    none = (features, labels, views[:0])
    plain, without = (trained(name, none, tmp_path)[0].state_dict() for name in ("manifold", "manifold_views"))
    assert all(torch.equal(value, without[name]) for name, value in plain.items())
    one = trained("manifold_views", (features, labels, views[:1]), tmp_path)[0].state_dict()
    assert not torch.equal(one["hash.weight"], plain["hash.weight"])


@pytest.mark.parametrize("name", ["crovca", "sdc"])
def test_an_image_that_a_batch_of_others_leaves_over_trains_too(name: str, blobs: Any, tmp_path: Path) -> None:
    """A head with batch normalisation has no statistics of one image, SDC's loss no pairs of it."""
    model, _ = trained(name, blobs, tmp_path, epochs=1, batch_size=TRAIN - 1)
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize(("name", "count"), [("greedyhash", 24), ("crovca", 24), ("crovca", 25)])
def test_the_whole_network_trains_with_the_same_file(name: str, count: int, tmp_path: Path) -> None:
    """Two views come from images; the statistics of the head's normalisation are learned, the backbone's stay."""
    write_array(tmp_path / "images.npy", tiny_images()[0][:count])
    write_csv(tmp_path / "manifest.csv", ("row", "path", "sha256"), [])
    values = read_recipe(name)["train"] | {"init_file": "none", "epochs": 2, "batch_size": 8, "power": 0.0}
    method = load_method(name)(TrainParams(**values))
    source = AugmentedImages(
        open_images(tmp_path),
        Preprocessing(16, 16, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2)),
        np.arange(count),
        seed=0,
        device=torch.device("cpu"),
        views=max(1, method.views),
        augment=ViewsParams(),
    )
    views = next(iter(source.batches([np.arange(8)], 0)))
    assert [tuple(view.shape) for view in views] == [(8, 3, 16, 16)] * len(views)
    assert len(views) == 1 or not torch.equal(*views)
    features = np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)
    network = seeded_hashnet(16, K, 0, Backbone(), head=method.params.head)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    trainer = NetworkTrainer(Run(method, K, 0), network, source, features, PairLabels(features, NO_STRUCTURE))
    progress = trainer.train()
    assert len(progress.epochs) == 2
    after = network.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert {"hash.weight", "backbone.stem.0.weight"} <= changed
    assert "backbone.stem.1.running_mean" not in changed
    assert ("norm.running_mean" in changed) == (name == "crovca")


def test_two_runs_give_the_same_bits(blobs: Any, tmp_path: Path) -> None:
    first, second = (trained("crovca", blobs, tmp_path, epochs=3)[0].state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_method_is_the_one_class_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_method("manifold").__name__ == "Manifold"
    with pytest.raises(ParameterError, match=r"^recipe 'nothing' has no ssdh/methods/nothing\.py: write its method"):
        load_method("nothing")
    monkeypatch.setattr("ssdh.training.method.recipes_folder", lambda: tmp_path)
    (tmp_path / "twice.py").write_text(
        "from ssdh.training.loss import PairLoss\nclass A(PairLoss): pass\nclass B(PairLoss): pass\n"
    )
    with pytest.raises(ParameterError, match=r"twice\.py must define one subclass of Method, found 2"):
        load_method("twice")
