"""The loss against hand-computed cases, a double loop over pairs, and its closed-form gradient."""

import numpy as np
import pytest
import torch

from ssdh.training.loss import weighted_loss
from ssdh.training.pairs import pair_weights


def looped(
    codes: np.ndarray, labels: np.ndarray, unknown_weight: float = 0.0, targets: np.ndarray | None = None
) -> float:
    """Equation 6 of the paper, pair by pair."""
    size, bits = codes.shape
    total = 0.0
    for i in range(size):
        for j in range(size):
            expected = labels[i, j] if targets is None else targets[i, j]
            weight = abs(labels[i, j]) if labels[i, j] else unknown_weight
            total += weight * (codes[i] @ codes[j] / bits - expected) ** 2
    return total / size**2


def ssdh_loss(
    codes: torch.Tensor, labels: torch.Tensor, unknown_weight: float = 0.0, targets: torch.Tensor | None = None
) -> torch.Tensor:
    """Of codes (B, K) and pseudo-labels (B, B), which are the targets unless there are others."""
    expected = labels if targets is None else targets
    return weighted_loss(codes, expected.to(codes.dtype), pair_weights(labels, unknown_weight).to(codes.dtype))


def test_hand_computed() -> None:
    codes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    labels = torch.tensor([[1, -1], [-1, 1]])
    # diagonal: 2/2 = 1, as wanted; off it: 0 against −1, twice: (1 + 1) / 4
    assert ssdh_loss(codes, labels).item() == pytest.approx((0 + 1 + 1 + 0) / 4)


def test_unknown_pairs_count_only_with_a_weight() -> None:
    codes = torch.full((2, 4), 0.5, dtype=torch.float64)
    labels = torch.tensor([[1, 0], [0, 1]])
    diagonal = 2 * (0.25 - 1) ** 2 / 4
    assert ssdh_loss(codes, labels).item() == pytest.approx(diagonal)
    assert ssdh_loss(codes, labels, unknown_weight=0.5).item() == pytest.approx(diagonal + 2 * 0.5 * 0.25**2 / 4)


@pytest.mark.parametrize("unknown_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("soft", [False, True])
def test_against_a_loop(unknown_weight: float, soft: bool) -> None:
    rng = np.random.default_rng(0)
    codes, labels = np.tanh(rng.normal(size=(9, 5))), rng.integers(-1, 2, (9, 9))
    targets = rng.uniform(-1, 1, (9, 9)) if soft else None
    result = ssdh_loss(
        torch.from_numpy(codes),
        torch.from_numpy(labels.astype(np.int8)),
        unknown_weight=unknown_weight,
        targets=None if targets is None else torch.from_numpy(targets),
    )
    assert result.item() == pytest.approx(looped(codes, labels, unknown_weight, targets), rel=1e-6)


def test_gradient_by_differences() -> None:
    rng = np.random.default_rng(1)
    labels = torch.from_numpy(rng.integers(-1, 2, (6, 6)))
    codes = torch.from_numpy(np.tanh(rng.normal(size=(6, 3)))).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: ssdh_loss(z, labels, unknown_weight=0.5), (codes,))


def test_weights() -> None:
    assert pair_weights(torch.tensor([1, 0, -1], dtype=torch.int8), 0.25).tolist() == [1.0, 0.25, 1.0]
