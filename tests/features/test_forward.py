"""A network over blocks: padded, in order, and no row depends on its place nor on its neighbours."""

import numpy as np
import pytest
import torch
from torch import nn

from ssdh.features.backbone import build_network
from ssdh.features.forward import BLOCK, run_network


def test_the_last_block_is_padded_so_that_its_values_do_not_depend_on_its_size() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    images = torch.randn(BLOCK, 3, 9, 9)
    seen: list[int] = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    (whole,) = run_network(network, [images], torch.device("cpu"))
    (part,) = run_network(network, [images[:7]], torch.device("cpu"))
    assert seen == [BLOCK, BLOCK]
    assert part.shape == (7, 5)
    assert np.array_equal(part, whole[:7])


def test_order_of_batches_and_precision() -> None:
    network = nn.Linear(4, 4)
    batches = [torch.full((BLOCK, 4), float(number)) for number in range(4)]
    result = list(run_network(network, batches, torch.device("cpu")))
    for batch, output in zip(batches, result, strict=True):
        assert np.array_equal(output, network(batch).detach().numpy())
    (low,) = run_network(network, batches[:1], torch.device("cpu"), precision="bf16")
    assert low.dtype == np.float32
    assert np.array_equal(low, network.bfloat16()(batches[0].bfloat16()).detach().float().numpy())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", ["alexnet", "resnet18", "mobilenet_v3_small"])
def test_a_row_depends_neither_on_its_place_in_the_block_nor_on_the_others(arch: str, precision: str) -> None:
    """So an image has the same features whether all or only it is computed: see `ssdh.features.store`."""
    torch.manual_seed(0)
    network = build_network(arch, "penultimate", 64)
    images = torch.randn(BLOCK, 3, 64, 64)
    order = torch.randperm(BLOCK)
    cpu = torch.device("cpu")
    (whole,) = run_network(network, [images], cpu, precision)
    (shuffled,) = run_network(network, [images[order]], cpu, precision)
    (few,) = run_network(network, [images[order[:10]]], cpu, precision)
    assert np.array_equal(shuffled, whole[order])
    assert np.array_equal(few, whole[order[:10]])
