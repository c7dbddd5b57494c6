"""Power-normalised features: numpy and the network do the same, by hand and at the edges."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssdh.hashing.model_file import load_hashnet, save_hashnet
from ssdh.hashing.network import HashNet, centre, seeded_hashnet
from ssdh.structure.vectors import power_normalise


def test_by_hand() -> None:
    features = np.array([[9.0, -16.0], [0.0, 4.0], [0.0, 0.0]])
    expected = [[0.6, -0.8], [0.0, 1.0], [0.0, 0.0]]  # √9 = 3, −√16 = −4, length 5; a row of zeros stays one
    np.testing.assert_allclose(power_normalise(features, 0.5), expected, rtol=1e-6)
    assert power_normalise(features, 0.0) is features


@given(power=st.floats(0.1, 3), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_unit_length_signs_kept_and_no_scale_matters(power: float, scale: float, seed: int) -> None:
    features = np.random.default_rng(seed).standard_normal((5, 7)).astype(np.float32)
    result = power_normalise(features, power)
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(np.sign(result), np.sign(features))
    np.testing.assert_allclose(power_normalise(features * np.float32(scale), power), result, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.5, 0.7, 1.0])
def test_the_network_normalises_as_the_structure_does(power: float) -> None:
    features = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    features[3] = 0
    model = HashNet(6, 4, power=power)
    result = model.normalised(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(result, power_normalise(features, power), rtol=1e-5, atol=1e-6)


def test_centred_features_have_a_mean_square_of_one() -> None:
    features = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)) * 0.01 + 3
    model = seeded_hashnet(6, 4, seed=0, power=0.7)
    centre(model, features)
    prepared = model.prepared(features)
    torch.testing.assert_close(prepared.mean(0), torch.zeros(6), atol=1e-3, rtol=0)
    assert prepared.square().mean().item() == pytest.approx(1, rel=1e-3)
    before = model.center.clone()
    centre(model, features + 1)  # a model that has a centre keeps it
    assert torch.equal(model.center, before)


def test_without_power_the_published_network_is_unchanged() -> None:
    features = torch.randn(10, 6)
    model = seeded_hashnet(6, 4, seed=0)
    expected = torch.tanh(features @ model.hash.weight.T + model.hash.bias)
    torch.testing.assert_close(model(features), expected)
    centre(model, features)
    assert model.scale == 1


def test_power_and_scale_are_in_the_file_and_old_files_still_load(tmp_path: Path) -> None:
    features = torch.randn(10, 6)
    model = seeded_hashnet(6, 4, seed=0, power=0.7)
    centre(model, features)
    save_hashnet(tmp_path / "model.safetensors", model, {"bits": 4})
    result = load_hashnet(tmp_path / "model.safetensors")
    assert result.power == 0.7
    torch.testing.assert_close(result(features), model(features))


def test_gradients_are_finite_at_zero_features() -> None:
    """Whole-network training sends gradients through the power and the length."""
    features = torch.zeros(3, 6)
    features[1, 2] = 1e-20
    features[2] = torch.arange(6.0) - 2
    features.requires_grad_()
    HashNet(6, 4, power=0.7)(features).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
