"""Outputs of stored images against the network on what it was given before."""

import numpy as np
import pytest
import torch

from ssdh.hashing.codes import first_bits, pack, sign_codes, unpack
from ssdh.hashing.network import centre, seeded_hashnet
from ssdh.search.layout import stored_features
from ssdh.search.stored_outputs import stored_outputs

CPU = torch.device("cpu")


@pytest.mark.parametrize("power", [0.0, 0.7])
def test_outputs_are_the_network_s(power: float) -> None:
    features = np.random.default_rng(0).standard_normal((70, 20)).astype(np.float32)
    model = seeded_hashnet(20, 11, 0, power=power).eval()
    centre(model, torch.from_numpy(features))
    with torch.inference_mode():
        expected = model(torch.from_numpy(features)).numpy()
    codes = pack(sign_codes(expected))
    np.testing.assert_allclose(stored_outputs(model, codes, 11, features, CPU), expected, atol=1e-6)
    short = stored_outputs(model, first_bits(codes, 11, 5), 5, features, CPU)
    np.testing.assert_allclose(short, expected[:, :5], atol=1e-6)


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_signs_are_the_codes_whatever_the_features_lost(kind: str) -> None:
    features = np.random.default_rng(0).standard_normal((400, 20)).astype(np.float32)
    model = seeded_hashnet(20, 11, 0, power=0.7).eval()
    with torch.inference_mode():
        expected = model(torch.from_numpy(features)).numpy()
    codes = pack(sign_codes(expected))
    outputs = stored_outputs(model, codes, 11, stored_features(features, kind), CPU)  # type: ignore[arg-type]
    assert np.array_equal(sign_codes(outputs), unpack(codes, 11))
    assert np.abs(outputs - expected).max() < 0.02
