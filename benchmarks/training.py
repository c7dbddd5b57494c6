"""Training beside the usual way: `python -m benchmarks.training [--device auto] [--only head|network]`.

Hash layer: steps a second of `ssdh.training.head` against a DataLoader loop over the same features (autograd,
torch.optim, the loss read each step), with equal losses step by step. Whole network: a training step, with
augmentation, labels and bookkeeping, against the bare forward + backward + step on a batch that lies on the device,
both with `runtime.deterministic`, the default; what that costs on a CUDA device is a table of its own.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common import best_seconds, table, write_results
from ssdh.core.device import device_name, make_deterministic, threads, use_device
from ssdh.core.files import write_array, write_csv
from ssdh.core.stage import configure_logging
from ssdh.features.backbone import build_network, feature_size
from ssdh.features.images import open_images
from ssdh.features.params import Preprocessing
from ssdh.hashing.network import HashNet, seeded_hashnet
from ssdh.methods.published import Published
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.thresholds import Structure
from ssdh.training.checkpoint import Snapshots
from ssdh.training.finetune import AugmentedImages, NetworkTrainer
from ssdh.training.head import HeadTrainer
from ssdh.training.loop import Run, epoch_batches, epoch_steps
from ssdh.training.loss import weighted_loss
from ssdh.training.optimizer import HeadOptimizer, make_optimizer
from ssdh.training.pairs import PairBatches
from ssdh.training.params import TrainParams

IMAGES, BITS, SEED = 5000, 32, 0
NONE = Path(__file__).resolve().parents[1] / "models/pretrained/none.safetensors"
NOTHING = Structure(0.5, 0.1, 0.1, 0.3, 0.7, 1, 0.0, 0.0)  # the matrix is given: no label is computed


def train_params(**more: Any) -> TrainParams:
    """The published recipe, without intervals."""
    values: dict[str, Any] = {"finetune": False, "epochs": 1, "optimizer": "sgd", "lr": 1e-3, "momentum": 0.9}
    values |= {"weight_decay": 1e-5, "batch_size": 24, "centre": False, "unknown_weight": 0.0, "eval_interval": 0}
    return TrainParams(**(values | {"snapshot_interval": 0, "init_file": str(NONE)} | more))


def sample(dim: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Features (5000, dim) and symmetric labels (5000, 5000) with 5% of the pairs known."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(IMAGES, dim)).astype(np.float32) / np.float32(dim**0.5)
    labels = rng.choice(np.array([-1, 0, 1], np.int8), (IMAGES, IMAGES), p=[0.025, 0.95, 0.025])
    labels = np.triu(labels, 1)
    return features, labels + labels.T + np.eye(IMAGES, dtype=np.int8)


# --- the hash layer -------------------------------------------------------------------------------------------------


def usual_epoch(
    features: torch.Tensor, labels: torch.Tensor, batch: int, device: torch.device, workers: int, count: int | None
) -> list[float]:
    """Losses of an epoch of the loop that one finds in repositories, on `count` threads; same batches as ours."""
    with threads(count):
        return _usual_epoch(features, labels, batch, device, workers)


def _usual_epoch(
    features: torch.Tensor, labels: torch.Tensor, batch: int, device: torch.device, workers: int
) -> list[float]:
    model = seeded_hashnet(features.shape[1], BITS, SEED).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-5)
    order = [rows.tolist() for rows in epoch_batches(IMAGES, batch, SEED, 0)]
    data = TensorDataset(features, torch.arange(IMAGES))
    losses = []
    for x, index in DataLoader(data, batch_sampler=order, num_workers=workers):
        rows = index.to(device)
        expected = labels[rows][:, rows].float()
        loss = weighted_loss(model(x.to(device)), expected, expected.abs())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


class NotingTrainer(HeadTrainer):
    """Keeps the losses of the steps."""

    seen: list[torch.Tensor]

    def step(self, *arguments: Any) -> torch.Tensor:
        """As the class it derives from."""
        self.seen.append(super().step(*arguments))
        return self.seen[-1]


def our_epoch(
    features: NDArray[np.float32], pair_labels: PairLabels, batch: int, device: torch.device
) -> Callable[[], list[float]]:
    """One epoch of `HeadTrainer`, everything in place; returns the losses of its steps."""
    method = Published(train_params(batch_size=batch))
    trainer = NotingTrainer(Run(method, BITS, SEED, device), features, pair_labels)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    def run() -> list[float]:
        trainer.seen = []
        trainer.model.load_state_dict(start)
        trainer.optimizer = HeadOptimizer(cast("HeadOptimizer", trainer.optimizer).tensors, method.params)
        trainer.train()
        return torch.stack(trainer.seen).tolist()

    return run


def head(device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """Rows of the comparison for 512 and 4096 dimensions, batches of 24 and 256."""
    rows = []
    for dim in (512, 4096):
        values, matrix = sample(dim)
        features, labels = torch.from_numpy(values), torch.from_numpy(matrix).to(device)
        pair_labels = PairLabels(values, NOTHING, matrix)
        for batch in (24, 256):
            steps = epoch_steps(IMAGES, batch)
            ours = our_epoch(values, pair_labels, batch, device)

            usual = functools.partial(usual_epoch, features, labels, batch, device)
            gap = float(np.abs(np.array(usual(0, 1)) - np.array(ours())).max())
            loops = {"one thread": functools.partial(usual, 0, 1), "all threads": functools.partial(usual, 0, None)}
            seconds = best_seconds(loops | {"ours": ours}, repeats)
            # last: after a fork this process copies each page anew that it writes to
            loaders = {name: seconds[name] for name in loops}
            loaders |= best_seconds({"2 workers": functools.partial(usual, 2, 1)}, repeats)
            rows.append(
                {
                    "dimensions": dim,
                    "batch": batch,
                    **{f"loader, {name}": steps / result for name, result in loaders.items()},
                    "ours": steps / seconds["ours"],
                    "ratio to the best": min(loaders.values()) / seconds["ours"],
                    "loss difference": gap,
                }
            )
    return rows


# --- the whole network ----------------------------------------------------------------------------------------------


def network(
    arch: str, size: int, batch: int, device: torch.device, precision: str, steps: int, repeats: int, **more: Any
) -> dict[str, Any]:
    """Milliseconds of a training step and of the bare one, and of a snapshot: training held up, until written.

    more: further parameters of our training.
    """
    layer = "fc7" if arch.startswith("vgg") or arch == "alexnet" else "penultimate"
    dim = feature_size(arch, layer, size)
    count = batch * steps
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([-1, 0, 1], np.int8), (count, count))
    pair_labels = PairLabels(rng.normal(size=(count, 2)), NOTHING, np.triu(labels) + np.triu(labels, 1).T)
    params = train_params(finetune=True, batch_size=batch, precision=precision, **more)

    def fresh() -> HashNet:
        model = seeded_hashnet(dim, BITS, SEED, build_network(arch, layer, size)).to(device)
        return model.to(memory_format=torch.channels_last)

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    bare_model = fresh().train()
    bare_optimizer = make_optimizer([{"params": list(bare_model.parameters()), "lr": 1e-3}], params)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    rows = np.arange(batch)
    (targets, weights), *_ = PairBatches(pair_labels, device).of([rows])

    def bare() -> None:
        for _ in range(steps):
            bare_optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                codes = bare_model(images)
            ((codes @ codes.T / BITS - targets).square() * weights).sum().backward()
            bare_optimizer.step()
        finish()

    with tempfile.TemporaryDirectory() as folder:
        write_array(Path(folder) / "images.npy", rng.integers(0, 256, (count, 32, 32, 3), np.uint8))
        write_csv(Path(folder) / "manifest.csv", ("row", "path", "sha256"), [])
        preprocessing = Preprocessing(size, size, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        source = AugmentedImages(open_images(Path(folder)), preprocessing, np.arange(count), seed=SEED, device=device)
        frozen = np.zeros((count, dim), np.float32)
        trainer = NetworkTrainer(Run(Published(params), BITS, SEED, device), fresh(), source, frozen, pair_labels)

        def ours() -> None:
            trainer.train()
            finish()

        bare()
        started = time.perf_counter()
        ours()  # warm
        first = time.perf_counter() - started
        seconds = best_seconds({"bare": bare, "ours": ours}, repeats)
        snapshots, started = Snapshots(Path(folder), "benchmark"), time.perf_counter()
        snapshots.save({"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()})
        held = time.perf_counter() - started
        snapshots.finish()
        written = time.perf_counter() - started
    return {
        "arch": arch,
        "size": size,
        "batch": batch,
        "precision": precision,
        **more,
        "first_pass_s": first,
        "bare_ms": 1000 * seconds["bare"] / steps,
        "ours_ms": 1000 * seconds["ours"] / steps,
        "ratio": seconds["ours"] / seconds["bare"],
        "snapshot_holds_ms": 1000 * held,
        "snapshot_written_ms": 1000 * written,
    }


def determinism(
    arch: str, size: int, batch: int, device: torch.device, steps: int, repeats: int
) -> list[dict[str, Any]]:
    """The same step with `runtime.deterministic` on and off: its cost on a CUDA device."""
    rows = []
    for expected in (True, False):
        make_deterministic(device, expected)
        rows.append({"deterministic": expected} | network(arch, size, batch, device, "fp32", steps, repeats))
    make_deterministic(device, True)
    return rows


def main() -> None:
    """Print the tables and write `benchmarks/results/training.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", choices=("head", "network"))
    parser.add_argument("--repeats", type=int, default=3, help="of the hash layer's short epochs four times as many")
    parser.add_argument("--arch", default="vgg16")
    parser.add_argument("--size", type=int, help="pixels; default 224 on a GPU, 64 on the CPU")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--steps", type=int, help="steps measured at once; default 50 on a GPU, 3 on the CPU")
    chosen = parser.parse_args()
    configure_logging("WARNING")
    # the default of `runtime.deterministic`, for the loops beside ours too
    device = use_device(chosen.device, deterministic=True)
    fast = device.type == "cuda"
    size, steps = chosen.size or (224 if fast else 64), chosen.steps or (50 if fast else 3)
    results: dict[str, Any] = {"device": device_name(device), "threads": torch.get_num_threads()}
    started = time.perf_counter()
    if chosen.only != "network":
        results["head"] = head(device, 4 * chosen.repeats)
        print(f"hash layer on cached features, {IMAGES} images, {BITS} bits, {device_name(device)}: steps a second")
        print(table(results["head"]), flush=True)
    if chosen.only != "head":
        shape = (chosen.arch, size, chosen.batch, device)
        results["network"] = [network(*shape, precision, steps, chosen.repeats) for precision in ("fp32", "bf16")]
        print(f"\nwhole network, a step against the bare one, {device_name(device)}")
        print(table(results["network"]), flush=True)
        if fast:
            results["determinism"] = determinism(*shape, steps, chosen.repeats)
            print(table(results["determinism"]))
    print(f"\n{write_results('training', results)}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
