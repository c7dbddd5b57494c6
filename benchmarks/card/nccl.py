"""The ways of several processes over NCCL, with the one process that one card allows: the same weights as without."""

import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from benchmarks.card.options import Options, Row
from benchmarks.training import NOTHING as NO_STRUCTURE
from benchmarks.training import SEED, train_params
from ssdh.core.device import use_device
from ssdh.core.distributed import Rank, all_gather_rows, all_reduce, barrier, broadcast
from ssdh.features.backbone import build_network, feature_size
from ssdh.features.images import ImageSource
from ssdh.features.params import Preprocessing
from ssdh.hashing.network import HashNet, seeded_hashnet
from ssdh.methods.published import Published
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.training.finetune import AugmentedImages, NetworkTrainer
from ssdh.training.loop import Run

BITS, BATCH, STEPS = 16, 8, 3


class Several(int):
    """A number of ranks that is 1 in sums and never equal to 1 or below 2, so that nothing is cut short."""

    def __eq__(self, other: object) -> bool:
        return False

    def __gt__(self, other: int) -> bool:
        return True

    __hash__ = int.__hash__


def rows(options: Options) -> Iterator[Row]:
    """Collectives by themselves, then steps of the whole network."""
    device = use_device(options.device, deterministic=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"  # as ssdh.core.distributed joins
    dist.init_process_group(backend, timeout=timedelta(minutes=2))
    patient = cast("ProcessGroup", dist.new_group(backend="gloo", timeout=timedelta(minutes=2)))
    rank = Rank(0, Several(1), 0, patient)
    own = torch.arange(12.0, device=device).view(4, 3)
    summed = own.clone()
    all_reduce([summed], rank)
    barrier(rank)
    yield {
        "what": "collectives",
        "backend": backend,
        "gathered": torch.equal(all_gather_rows(own, 4, rank), own),
        "summed": torch.equal(summed, own),
        "broadcast": broadcast({"from": 0}, rank) == {"from": 0},
    }
    alone = _weights(options, device, Rank())
    shared = _weights(options, device, rank)
    differences = [float((a - b).abs().max()) for a, b in zip(alone, shared, strict=True)]
    yield {"what": f"{STEPS} steps of {options.trained}", "largest_difference": max(differences)}
    dist.destroy_process_group()


def _weights(options: Options, device: torch.device, rank: Rank) -> list[torch.Tensor]:
    """The parameters after a few steps."""
    layer = "fc7" if options.trained == "vgg16" else "penultimate"
    dim = feature_size(options.trained, layer, options.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(options.trained, layer, options.size)
    model: HashNet = seeded_hashnet(dim, BITS, SEED, network)
    method = Published(train_params(finetune=True, batch_size=BATCH))
    rows = np.arange(BATCH)
    no_images = cast("ImageSource", None)  # they are given to the step
    preprocessing = Preprocessing(options.size, options.size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    source = AugmentedImages(no_images, preprocessing, rows, seed=SEED, device=device, rank=rank)
    features = np.zeros((BATCH, dim), np.float32)
    pair_labels = PairLabels(features, NO_STRUCTURE)
    trainer = NetworkTrainer(Run(method, BITS, SEED, device, rank), model, source, features, pair_labels)
    rng = np.random.default_rng(0)
    targets = torch.eye(BATCH, device=device)
    for iteration in range(STEPS):
        images = torch.from_numpy(rng.normal(size=(BATCH, 3, options.size, options.size)).astype(np.float32))
        views = [images.to(device).contiguous(memory_format=torch.channels_last)]
        trainer.step(iteration, rows, views, targets, targets + 0.5)
        trainer.optimizer.step()
    return [parameter.detach().cpu() for parameter in model.parameters()]
