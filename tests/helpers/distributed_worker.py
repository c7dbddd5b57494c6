"""Trains small networks alone or as one of several ranks, and keeps their weights.

`python -m torch.distributed.run --standalone --nproc-per-node 3 -m tests.helpers.distributed_worker OUT`
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssdh.core.distributed import Rank, process_group
from ssdh.core.files import write_array, write_csv
from ssdh.features.images import open_images
from ssdh.features.params import Preprocessing
from ssdh.hashing.network import HashNet, seeded_hashnet
from ssdh.methods.published import Published
from ssdh.structure.fit import fit_structure
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.training.finetune import AugmentedImages, NetworkTrainer
from ssdh.training.head import train_head
from ssdh.training.loop import Run
from ssdh.training.params import TrainParams
from tests.helpers.tiny import tiny_images

CPU = torch.device("cpu")
COUNT, BITS, BATCH = 50, 8, 12  # the last batch of an epoch holds two images: one rank of three has none

# name: (whole network, dtype, optimizer, epochs)
CASES: dict[str, tuple[bool, torch.dtype, str, int]] = {
    "head-sgd-64": (False, torch.float64, "sgd", 4),
    "head-adam-64": (False, torch.float64, "adam", 4),
    "head-sgd-32": (False, torch.float32, "sgd", 4),
    "network-sgd-64": (True, torch.float64, "sgd", 4),
    "network-adam-64": (True, torch.float64, "adam", 1),
    "network-sgd-32": (True, torch.float32, "sgd", 4),
}


def params_of(folder: Path, optimizer: str, epochs: int, whole: bool) -> TrainParams:
    """Parameters of a case."""
    (folder / "none").touch()
    return TrainParams(
        finetune=whole,
        epochs=epochs,
        optimizer="adam" if optimizer == "adam" else "sgd",
        lr=0.01 if optimizer == "adam" else 0.05,
        lr_backbone=0.001 if whole else None,
        momentum=0.9,
        weight_decay=1e-3,
        batch_size=BATCH,
        centre=True,
        unknown_weight=0.5,
        eval_interval=0,
        snapshot_interval=0,
        init_file=str(folder / "none"),
    )


class Backbone(nn.Module):
    """Convolution, batch normalisation, stochastic depth and dropout in one small network."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.ops import StochasticDepth

        self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), StochasticDepth(0.3, "row"))
        self.tail = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(32, 16))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: (n, 3, h, w); returns (n, 16)."""
        features = self.stem(images)
        result: torch.Tensor = self.tail(features + self.body(features))
        return result


class TypedTrainer(NetworkTrainer):
    """Takes images in the run's type: in double precision the results of several processes differ by rounding alone."""

    def inputs(self, batches: Sequence[NDArray[np.int64]], epoch: int) -> Iterator[Sequence[Tensor]]:
        """Yield the images of each batch."""
        for views in super().inputs(batches, epoch):
            yield [view.to(self.run.dtype) for view in views]


def run_case(folder: Path, name: str, rank: Rank) -> HashNet:
    """Train one case; returns the network."""
    whole, dtype, optimizer, epochs = CASES[name]
    params = params_of(folder, optimizer, epochs, whole)
    features = np.random.default_rng(2).normal(size=(COUNT, 16)).astype(np.float32) + 1
    structure = fit_structure(features, alpha=0.7, beta=0.7, bins=30)
    pair_labels = PairLabels(features, structure, None)
    run = Run(Published(params), BITS, 6, rank=rank, dtype=dtype)
    if not whole:
        return train_head(features, pair_labels, run)[0]
    images = folder / f"images-{rank.index}"
    write_array(images / "images.npy", tiny_images()[0])
    write_csv(images / "manifest.csv", ("row", "path", "sha256"), [])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        backbone = Backbone()
    model = seeded_hashnet(16, BITS, 6, backbone).to(dtype)
    preprocessing = Preprocessing(16, 16, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    rows = np.arange(COUNT, dtype=np.int64) * 3
    source = AugmentedImages(open_images(images), preprocessing, rows, seed=6, device=CPU, rank=rank)
    trainer = TypedTrainer(run, model, source, features, pair_labels)
    trainer.train()
    return trainer.model


def main(folder: Path) -> None:
    """Train every case and keep the weights of rank 0."""
    folder.mkdir(parents=True, exist_ok=True)
    with process_group(CPU) as rank:
        for name in CASES:
            model = run_case(folder, name, rank)
            if rank.first:
                torch.save(model.state_dict(), folder / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
