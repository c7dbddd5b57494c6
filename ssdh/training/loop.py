"""The training loop, the same for the hash layer on cached features and for the whole network from images.

The position in the run is (seed, iteration): the order of every epoch and all random numbers of a step are derived from
them, so a run that was interrupted continues to the same bits.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import repeat
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import Tensor
from tqdm import tqdm

from ssdh.core.arrays import Rows
from ssdh.core.distributed import Rank, barrier
from ssdh.core.errors import SSDHError
from ssdh.hashing.network import HashNet
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.training.checkpoint import Snapshots
from ssdh.training.method import NO_PAIRS, Method
from ssdh.training.optimizer import Optimizer, learning_rate_factor
from ssdh.training.pairs import PairBatches
from ssdh.training.params import TrainParams

ORDER_STREAM = 11  # of the seed's random streams
LARGEST_BATCH = 256  # that a recipe has; of fewer images it takes all, and nobody has asked for that


@dataclass(frozen=True)
class Run:
    """What is the same for all steps of a training run.

    method: the loss, which holds the parameters; bits: K; workers: processes that decode images; dtype: of the hash
    layer's arithmetic; verbose: show a progress bar on a terminal, lines of the log elsewhere.
    """

    method: Method
    bits: int
    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: Rank = field(default_factory=Rank)
    workers: int = 0
    snapshots: Snapshots | None = None
    dtype: torch.dtype = torch.float32
    verbose: bool = True

    @property
    def params(self) -> TrainParams:
        """The effective values of `train`."""
        return self.method.params


@dataclass
class Progress:
    """How far a run is, and its curves."""

    iteration: int = 0
    losses: list[Tensor] = field(default_factory=list)  # of the steps of the present epoch, scalars on the device
    epochs: list[tuple[int, int, float]] = field(default_factory=list)  # (epoch, iteration, mean loss)
    validation: list[tuple[int, float]] = field(default_factory=list)  # (iteration, mAP)
    moved: float = 0.0  # how far training took the hash layer's weights, as a share of their length

    def end_epoch(self, epoch: int) -> None:
        """Note the mean loss of the epoch's steps; raises SSDHError where it is no longer a finite number."""
        mean = float(torch.stack(self.losses).cpu().double().mean())
        if not np.isfinite(mean):
            raise SSDHError(
                "the loss is no longer a finite number: lower train.lr, or set other values of train as the recipe has "
                "them (params.yaml: train.lr)"
            )
        self.epochs.append((epoch, self.iteration, mean))
        self.losses = []


class Trainer(ABC):
    """Trains `model` in place on `count` images; a subclass reads the inputs of the batches and takes the step.

    pair_labels: pseudo-labels of the train images, looked up for methods that ask for pairs.
    """

    optimizer: Optimizer

    def __init__(
        self,
        run: Run,
        model: HashNet,
        count: int,
        pair_labels: PairLabels,
        validate: Callable[[HashNet], float] | None = None,
    ) -> None:
        self.run, self.model, self.count, self.validate = run, model, count, validate
        self._drawn = model.hash.weight.detach().cpu().clone()
        params = run.params
        self.pairs: PairBatches | None = None
        if run.method.pairs:
            self.pairs = PairBatches(
                pair_labels,
                run.device,
                unknown_weight=params.unknown_weight,
                target=params.target,
                dtype=run.dtype,
            )

    @abstractmethod
    def inputs(self, batches: Sequence[Rows], epoch: int) -> Iterator[Sequence[Tensor]]:
        """Yield what the network takes of each batch of train-image numbers, on the device: a tensor for each view."""

    @abstractmethod
    def step(self, iteration: int, rows: Rows, inputs: Sequence[Tensor], targets: Tensor, weights: Tensor) -> Tensor:
        """Return the loss of a batch and leave its gradients in the parameters.

        rows: (B,) train-image numbers; targets, weights: (B, B), or empty where the method takes no pairs.
        """

    def train(self) -> Progress:
        """Train for `train.epochs`, from the last snapshot if one fits; returns the curves."""
        run, params = self.run, self.run.params
        progress = self._restore()
        steps = epoch_steps(self.count, params.batch_size)
        if params.batch_size > max(self.count, LARGEST_BATCH) and run.rank.first:
            logger.warning(
                "train.batch_size {:,} is more than the {:,} train images: each epoch is one step (params.yaml: "
                "train.batch_size)",
                *(params.batch_size, self.count),
            )
        shown = run.verbose and run.rank.first
        quiet = not (shown and sys.stderr.isatty())
        bar = tqdm(total=params.epochs * steps, initial=progress.iteration, unit="step", disable=quiet)
        each_step = logger.opt(lazy=True)
        for epoch in range(progress.iteration // steps, params.epochs):
            batches = epoch_batches(self.count, params.batch_size, run.seed, epoch)[progress.iteration % steps :]
            pairs = self.pairs.of(batches) if self.pairs else repeat((NO_PAIRS, NO_PAIRS))
            for rows, inputs, (targets, weights) in zip(batches, self.inputs(batches, epoch), pairs, strict=False):
                progress.losses.append(self.step(progress.iteration, rows, inputs, targets, weights))
                self._set_learning_rate(progress.iteration, steps)
                self.optimizer.step()
                progress.iteration += 1
                each_step.trace("iteration {}: loss {:.5f}", lambda: progress.iteration, progress.losses[-1].item)
                bar.update()
                if progress.iteration % steps == 0:
                    progress.end_epoch(epoch + 1)
                    if quiet and shown:
                        _log_epoch(progress, params.epochs)
                if _due(params.eval_interval, progress.iteration) and self.validate:
                    if run.rank.first:
                        progress.validation.append((progress.iteration, self.validate(self.model)))
                    barrier(run.rank)
                if _due(params.snapshot_interval, progress.iteration) and run.snapshots:
                    run.snapshots.save(self._state(progress))
        bar.close()
        if run.snapshots:
            run.snapshots.finish()
        self.model.eval()
        progress.moved = self._moved()
        return progress

    def _moved(self) -> float:
        change = torch.linalg.norm(self.model.hash.weight.detach().cpu().float() - self._drawn.float())
        return float(change / torch.linalg.norm(self._drawn.float()).clamp_min(1e-30))

    def _set_learning_rate(self, iteration: int, steps: int) -> None:
        factor = learning_rate_factor(self.run.params, iteration, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def _restore(self) -> Progress:
        """Put the last snapshot, if one fits, into model and optimizer; returns where the run goes on."""
        state = self.run.snapshots.load() if self.run.snapshots else None
        if state is None:
            return Progress()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        progress = Progress(**state["progress"])
        progress.losses = [loss.to(self.run.device) for loss in progress.losses]
        logger.info("continuing from the snapshot of iteration {}", progress.iteration)
        return progress

    def _state(self, progress: Progress) -> dict[str, Any]:
        curves = {item.name: getattr(progress, item.name) for item in fields(progress)}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "progress": curves}


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """The batches of an epoch: all train-image numbers once, in the order that (seed, epoch) gives.

    The last batch may be smaller. An image that would be one of its own joins the batch before: alone it has no pairs,
    nor statistics that a head could be normalised by.
    """
    order: Rows = np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(count).astype(np.int64)
    return np.split(order, range(batch_size, epoch_steps(count, batch_size) * batch_size, batch_size))


def epoch_steps(count: int, batch_size: int) -> int:
    """The number of batches of an epoch, for batches of at least two.

    >>> [epoch_steps(count, 12) for count in (24, 25, 26)]
    [2, 2, 3]
    """
    return max(1, -(-(count - 1) // batch_size))


def _due(interval: int, iteration: int) -> bool:
    return interval > 0 and iteration % interval == 0


def _log_epoch(progress: Progress, epochs: int) -> None:
    epoch, iteration, loss = progress.epochs[-1]
    if epoch % max(1, epochs // 10) == 0 or epoch == epochs:
        logger.info("epoch {}/{}, iteration {}: loss {:.5f}", epoch, epochs, iteration, loss)
