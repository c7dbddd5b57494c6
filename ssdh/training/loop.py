"""Training of the hash layer on cached features, or of the whole network from images: one loop for both.

The position in the run is (seed, iteration): the order of every epoch and all random numbers of a step are derived from
them, so a run that was interrupted continues to the same bits.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ssdh.core.distributed import Rank, barrier
from ssdh.core.errors import SSDHError
from ssdh.hashing.network import HashNet
from ssdh.training.checkpoint import Snapshots
from ssdh.training.loss import PairBatches
from ssdh.training.optimizer import Optimizer
from ssdh.training.params import TrainParams

ORDER_STREAM = 11  # of the seed's random streams


Rows = NDArray[np.int64]


@dataclass
class Progress:
    """How far a run is, and its curves."""

    iteration: int = 0
    losses: list[Tensor] = field(default_factory=list)  # of the steps of the present epoch, scalars on the device
    epochs: list[tuple[int, int, float]] = field(default_factory=list)  # (epoch, iteration, mean loss)
    validation: list[tuple[int, float]] = field(default_factory=list)  # (iteration, mAP)

    def end_epoch(self, epoch: int) -> None:
        """Note the mean loss of the epoch's steps; raises SSDHError where it is no longer a finite number."""
        mean = float(torch.stack(self.losses).cpu().double().mean())
        if not np.isfinite(mean):
            raise SSDHError("the loss is no longer a finite number: lower train.lr (params.yaml: train.lr)")
        self.epochs.append((epoch, self.iteration, mean))
        self.losses = []


class Source(Protocol):
    """Where the inputs of the steps come from."""

    def __len__(self) -> int:
        """The number of train images."""
        ...

    def batches(self, batches: Sequence[Rows], epoch: int) -> Iterator[Tensor]:
        """Yield this rank's part of each batch of train-image numbers, on the device, ready for the step."""
        ...


# step(iteration, inputs, targets, weights) computes the loss of a batch and leaves the gradients in the parameters.
Step = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def train(
    model: HashNet,
    source: Source,
    pairs: PairBatches,
    step: Step,
    optimizer: Optimizer,
    params: TrainParams,
    *,
    seed: int,
    rank: Rank = Rank(),  # noqa: B008 (immutable)
    snapshots: Snapshots | None = None,
    validate: Callable[[], float] | None = None,
) -> Progress:
    """Train `model` in place for `params.epochs`, from the last snapshot if one fits; returns the curves."""
    progress = restore(model, optimizer, snapshots, model.hash.weight.device)
    steps = -(-len(source) // params.batch_size)  # of an epoch; the last batch may be smaller
    quiet = not (rank.first and sys.stderr.isatty())
    bar = tqdm(total=params.epochs * steps, initial=progress.iteration, unit="step", disable=quiet)
    each_step = logger.opt(lazy=True)
    for epoch in range(progress.iteration // steps, params.epochs):
        batches = epoch_batches(len(source), params.batch_size, seed, epoch)[progress.iteration % steps :]
        for inputs, (targets, weights) in zip(source.batches(batches, epoch), pairs.of(batches), strict=True):
            progress.losses.append(step(progress.iteration, inputs, targets, weights))
            optimizer.step()
            progress.iteration += 1
            each_step.trace("iteration {}: loss {:.5f}", lambda: progress.iteration, progress.losses[-1].item)
            bar.update()
            if progress.iteration % steps == 0:
                progress.end_epoch(epoch + 1)
                if quiet and rank.first:
                    _log_epoch(progress, params.epochs)
            if _due(params.eval_interval, progress.iteration) and validate:
                if rank.first:
                    progress.validation.append((progress.iteration, validate()))
                barrier(rank)
            if _due(params.snapshot_interval, progress.iteration) and snapshots:
                snapshots.save(_state(model, optimizer, progress))
    bar.close()
    if snapshots:
        snapshots.finish()
    return progress


def _due(interval: int, iteration: int) -> bool:
    return interval > 0 and iteration % interval == 0


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """The batches of an epoch: all train-image numbers once, in the order that (seed, epoch) gives."""
    order: Rows = np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(count).astype(np.int64)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def restore(model: nn.Module, optimizer: Optimizer, snapshots: Snapshots | None, device: torch.device) -> Progress:
    """Put the last snapshot, if one fits, into model and optimizer; returns where the run goes on."""
    state = snapshots.load() if snapshots else None
    if state is None:
        return Progress()
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    progress = Progress(**state["progress"])
    progress.losses = [loss.to(device) for loss in progress.losses]
    logger.info("continuing from the snapshot of iteration {}", progress.iteration)
    return progress


def _state(model: nn.Module, optimizer: Optimizer, progress: Progress) -> dict[str, Any]:
    curves = {field.name: getattr(progress, field.name) for field in fields(progress)}
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": curves}


def _log_epoch(progress: Progress, epochs: int) -> None:
    epoch, iteration, loss = progress.epochs[-1]
    if epoch % max(1, epochs // 10) == 0 or epoch == epochs:
        logger.info("epoch {}/{}, iteration {}: loss {:.5f}", epoch, epochs, iteration, loss)
