"""Steps of the hash layer's optimizer against `torch.optim`, to the bit, and going on from a state."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ssdh.training.optimizer import HeadOptimizer, learning_rate_factor
from tests.training.test_loop import train_params


def parameters() -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in ((12, 37), (12,))]


def set_gradients(tensors: list[nn.Parameter], step: int) -> None:
    rng = torch.Generator().manual_seed(step + 1)
    for tensor in tensors:
        tensor.grad = torch.randn(tensor.shape, generator=rng)


CASES = [
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-2},
    {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0},
    {"optimizer": "adam", "weight_decay": 1e-2},
    {"optimizer": "adamw", "weight_decay": 1e-2},
]


@pytest.mark.parametrize("case", CASES, ids=["momentum", "plain", "adam", "adamw"])
def test_the_same_bits_as_torch(tmp_path: Path, case: dict[str, object]) -> None:
    params = train_params(tmp_path / "none", lr=0.03, **case)
    ours, theirs = parameters(), parameters()
    optimizer = HeadOptimizer(ours, params)
    reference: torch.optim.Optimizer
    if params.optimizer != "sgd":
        kind = torch.optim.Adam if params.optimizer == "adam" else torch.optim.AdamW
        reference = kind(theirs, lr=0.03, weight_decay=params.weight_decay, fused=True)
    else:
        reference = torch.optim.SGD(
            theirs, lr=0.03, momentum=params.momentum, weight_decay=params.weight_decay, fused=True
        )
    for step in range(5):
        for tensors, stepping in ((ours, optimizer), (theirs, reference)):
            set_gradients(tensors, step)
            stepping.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("case", CASES, ids=["momentum", "plain", "adam", "adamw"])
def test_going_on_from_a_state(tmp_path: Path, case: dict[str, object]) -> None:
    params = train_params(tmp_path / "none", lr=0.03, **case)
    whole, cut = parameters(), parameters()
    through = HeadOptimizer(whole, params)
    first = HeadOptimizer(cut, params)
    for step in range(2):
        for tensors, optimizer in ((whole, through), (cut, first)):
            set_gradients(tensors, step)
            optimizer.step()
    second = HeadOptimizer(cut, params)
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        for tensors, optimizer in ((whole, through), (cut, second)):
            set_gradients(tensors, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_schedules_by_hand(tmp_path: Path) -> None:
    """4 epochs of 5 steps: cosine ends at a thousandth and passes its middle between steps 9 and 10; a drop at 0.8."""
    cosine = train_params(tmp_path / "none", epochs=4, schedule="cosine")
    factors = [learning_rate_factor(cosine, iteration, 5) for iteration in range(20)]
    assert factors[0] == 1.0
    assert factors[19] == pytest.approx(1e-3)
    assert factors[9] + factors[10] == pytest.approx(1.001)
    assert factors == sorted(factors, reverse=True)
    drop = train_params(tmp_path / "none", epochs=4, schedule="drop", lr_drop=0.8)
    assert [learning_rate_factor(drop, iteration, 5) for iteration in range(20)] == [1.0] * 16 + [0.1] * 4
