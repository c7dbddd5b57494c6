"""The scale from "same kind" to "same picture", and codes whose first bits are codes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdh.check import check_parameters
from ssdh.core.errors import ParameterError
from ssdh.core.params import read_params, read_recipe, section
from ssdh.hashing.codes import sign_codes
from ssdh.structure.fit import fit_recipe
from ssdh.structure.params import StructureParams
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.training.head import HeadTrainer, train_head
from ssdh.training.loop import Run
from ssdh.training.loss import neighbor_loss
from ssdh.training.method import Batch, batch_loss, load_method
from ssdh.training.pairs import FeatureCosines
from ssdh.training.params import TrainParams, check_train_params
from tests.methods import references as ref

B, D, K = 9, 5, 8


def method_of(recipe: str = "manifold", **values: Any) -> Any:
    return load_method(recipe)(TrainParams(**(read_recipe(recipe)["train"] | {"init_file": "none"} | values)))


def a_batch(outputs: torch.Tensor) -> tuple[Batch, np.ndarray, np.ndarray, np.ndarray]:
    """(batch, features, targets, weights)."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(B, D)) + 2
    targets = np.sign(rng.normal(size=(B, B)))
    targets = np.triu(targets, 1) + np.triu(targets, 1).T + np.eye(B)
    weights = np.abs(targets) + 0.5
    rows = np.arange(B)
    cosines = FeatureCosines(x, torch.device("cpu"), torch.float64).of(rows)
    pairs = torch.from_numpy(targets), torch.from_numpy(weights)
    return Batch([outputs], rows, torch.from_numpy(x), (), *pairs, cosines), x, targets, weights


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_loss_and_gradient_between_the_ends(weight: float) -> None:
    z = np.tanh(np.random.default_rng(1).normal(size=(B, K)))
    outputs = torch.from_numpy(z).requires_grad_()
    batch, x, targets, weights = a_batch(outputs)
    method = method_of(neighbor_weight=weight, neighbor_temperature=0.4, code_temperature=0.2)

    def reference(codes: np.ndarray) -> float:
        near = ref.neighbors(codes, x, 0.4, 0.2)
        return (1 - weight) * ref.pair_loss(codes, targets, weights) + weight * 0.2 * near

    loss = method.loss(batch)
    loss.backward()
    assert loss.item() == pytest.approx(reference(z), rel=1e-9)
    np.testing.assert_allclose(outputs.grad.numpy(), ref.gradient(reference, z), rtol=1e-5, atol=1e-8)  # type: ignore[union-attr]


def test_one_image_and_equal_images_have_a_finite_gradient() -> None:
    for size in (1, 4):
        outputs = torch.zeros(size, K, requires_grad=True)
        loss = neighbor_loss(outputs, torch.ones(size, size), 0.25, 0.07)
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.item() == pytest.approx(np.log(max(1, size - 1)), rel=1e-6)
        assert outputs.grad is not None
        assert not outputs.grad.any()


def test_the_loss_of_nested_codes_is_the_sum_over_their_lengths_and_each_learns_the_bits_it_adds() -> None:
    z = np.tanh(np.random.default_rng(1).normal(size=(B, K)))
    outputs = torch.from_numpy(z).requires_grad_()
    batch, _, targets, weights = a_batch(outputs)
    result = batch_loss(method_of(nested=[2, 4]), batch)
    result.backward()  # type: ignore[no-untyped-call]
    losses = [ref.pair_loss(z[:, :bits], targets, weights) for bits in (2, 4, K)]
    assert result.item() == pytest.approx(sum(losses), rel=1e-9)
    expected = np.empty_like(z)
    for first, last in ((0, 2), (2, 4), (4, K)):
        of_length = ref.gradient(lambda part: ref.pair_loss(part, targets, weights), z[:, :last])
        expected[:, first:last] = of_length[:, first:]
    np.testing.assert_allclose(outputs.grad.numpy(), expected, rtol=1e-5, atol=1e-8)  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, PairLabels]:
    """Features (240, 16) of four groups, and their pseudo-labels."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(4, 16))[np.arange(240) % 4] + rng.normal(size=(240, 16)) + 1).astype(np.float32)
    few = StructureParams(**(read_recipe("manifold")["structure"] | {"rank": 6}))
    fitted = fit_recipe(features, few, seed=0)
    return features, PairLabels(fitted.pairs.features, fitted.structure)


def trained(pictures: Any, tmp_path: Path, bits: int, **values: Any) -> np.ndarray:
    """Codes (240, bits) in −1, 1."""
    (tmp_path / "none").touch()
    method = method_of(batch_size=60, lr=0.01, init_file=str(tmp_path / "none"), **values)
    model, _ = train_head(pictures[0], pictures[1], Run(method, bits, 0))
    with torch.inference_mode():
        return sign_codes(model(torch.from_numpy(pictures[0])).numpy())


def found_neighbors(features: np.ndarray, codes: np.ndarray) -> float:
    """Share of the ten nearest by cosine that are among the 40 nearest by code, at random among ties."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    by_features, by_code = unit @ unit.T, codes.astype(float) @ codes.T
    by_code += np.random.default_rng(0).random(by_code.shape) / 2
    for similarity in (by_features, by_code):
        np.fill_diagonal(similarity, -np.inf)
    near, first = np.argsort(-by_features)[:, :10], np.argsort(-by_code)[:, :40]
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(near, first, strict=True)]))


def test_more_of_the_nearest_are_found_towards_the_end_of_the_scale(pictures: Any, tmp_path: Path) -> None:
    result = [
        found_neighbors(pictures[0], trained(pictures, tmp_path, 32, neighbor_weight=weight, epochs=60))
        for weight in (0.0, 0.5, 1.0)
    ]
    assert result[0] + 0.05 < result[1] < result[2] + 0.02
    assert result[2] > result[0] + 0.1


def test_longer_lengths_change_no_shorter_code(pictures: Any, tmp_path: Path) -> None:
    of_two, of_three = (trained(pictures, tmp_path, 16, nested=nested, epochs=20) for nested in ([4], [4, 8]))
    assert (of_two[:, :4] == of_three[:, :4]).all()
    assert (of_two[:, 4:] != of_three[:, 4:]).any()


def test_weight_0_takes_the_step_in_closed_form(pictures: Any, tmp_path: Path) -> None:
    (tmp_path / "none").touch()
    for values, closed in (({}, True), ({"neighbor_weight": 0.1}, False), ({"nested": [4]}, False)):
        run = Run(method_of(init_file=str(tmp_path / "none"), **values), K, 0)
        assert (HeadTrainer(run, pictures[0], pictures[1]).closed is not None) == closed


def test_what_does_not_fit_is_one_line(project: Path) -> None:
    params = read_params(project / "params.yaml")

    def with_train(recipe: str, **values: Any) -> dict[str, Any]:
        return params | {"recipe": recipe, "train": params["train"] | values}

    with pytest.raises(ParameterError, match=r"^train\.neighbor_weight is nothing that recipe sdc reads"):
        check_parameters(with_train("sdc", neighbor_weight=0.5))
    with pytest.raises(ParameterError, match=r"^train\.nested must be lengths that ascend, each once, got \[8, 4\]"):
        check_parameters(with_train("manifold", nested=[8, 4]))
    chosen = with_train("manifold", nested=[16, 32])
    check_parameters(chosen)
    train: TrainParams = section(chosen, "train", TrainParams)
    with pytest.raises(ParameterError, match=r"^train\.nested must hold lengths below bits \(32\), got 32"):
        check_train_params(train, 32)
