"""Training of the hash layer alone, on features that lie on the device.

Any method goes through autograd. The pair loss on one linear layer takes its step in closed form, without autograd's
overhead: for L = (1/B²) Σ_ij w_ij e_ij², e_ij = z_iᵀz_j/K − T_ij with symmetric w and T,
∂L/∂z_i = 4/(B²K) Σ_j w_ij e_ij z_j, and ∂L/∂h = ∂L/∂z·(1 − z²) for z = tanh(h), h = W(φ − c) + b.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssdh.core.arrays import Rows
from ssdh.core.device import threads, to_device
from ssdh.core.distributed import Rank, all_gather_rows, all_reduce, share
from ssdh.core.runtime import share_out
from ssdh.hashing.network import HashNet, centre
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.whitening import Views
from ssdh.training.init_file import initial_hashnet
from ssdh.training.loop import Progress, Run, Trainer
from ssdh.training.loss import PairLoss
from ssdh.training.method import NO_PAIRS, Batch, batch_loss
from ssdh.training.optimizer import HeadOptimizer
from ssdh.training.pairs import FeatureCosines

GATHERED = 2**18  # feature values looked up at once, 1 MB: they stay in a core's cache for several small batches
LONG_SUM = 2**12  # terms from which a single sum in float32 loses digits

# What a core takes a quarter to half a millisecond for. Products with the features and look-ups of them that hold it at
# least twice are shared out in parts of once to twice this size; shorter ones would not pay for waking a thread.
PART_PRODUCT, PART_VALUES = 2**24, 2**19  # multiply-adds, feature values copied


class FeatureSource:
    """What the hash layer takes of the train images, (n, D), resident on the device."""

    def __init__(self, prepared: Tensor, rank: Rank = Rank()) -> None:  # noqa: B008 (immutable)
        self.features = prepared
        self.rank = rank

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield this rank's rows (≤ ⌈B/ranks⌉, D) of each batch; a batch holds until the next is asked for."""
        own = [rows[share(len(rows), self.rank)] for rows in batches]
        index = to_device(torch.from_numpy(np.concatenate(own)), self.features.device)  # one copy an epoch
        dim, largest = self.features.shape[1], max(1, *map(len, own))
        together = max(1, GATHERED // (largest * dim))  # batches looked up at once
        # always the same memory: touching fresh pages would take longer than copying the rows
        gathered = self.features.new_empty(together * largest, dim)
        ends = np.cumsum([0] + [len(rows) for rows in own])
        for start in range(0, len(own), together):
            sizes = [len(rows) for rows in own[start : start + together]]
            rows = index[int(ends[start]) :][: sum(sizes)]
            self._look_up(rows, gathered[: len(rows)])
            yield from torch.split(gathered[: len(rows)], sizes)

    def _look_up(self, rows: Tensor, out: Tensor) -> None:
        share_out(
            lambda part: torch.index_select(self.features, 0, rows[part], out=out[part]),
            len(rows),
            _parts(out.numel(), PART_VALUES, out.device),
        )


class ClosedFormStep:
    """The pair loss of a batch and the gradients of the hash layer."""

    def __init__(self, model: HashNet, rank: Rank = Rank()) -> None:  # noqa: B008 (immutable)
        # the same memory, but without autograd, which a step would have to switch off each time
        self.weight, self.bias = model.hash.weight.detach(), model.hash.bias.detach()
        self.columns = self.weight.T  # a view
        self.gradients = self.weight.grad, self.bias.grad = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.rank = rank

    def __call__(self, features: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """features: this rank's centred rows; targets, weights: (B, B) of the global batch; returns the loss."""
        size, bits = len(targets), len(self.weight)
        parts = _parts(features.numel() * bits, PART_PRODUCT, features.device)
        own = self._codes(features, parts)  # (b, K)
        codes = all_gather_rows(own, size, self.rank)  # (B, K)
        errors = torch.addmm(targets, codes, codes.T, beta=-1, alpha=1 / bits)  # (B, B)
        weighted = weights * errors
        loss = _sum_of_products(weighted, errors) / size**2
        mine = weighted[share(size, self.rank)] if self.rank.count > 1 else weighted  # (b, B)
        slopes = torch.ops.aten.tanh_backward((mine @ codes).mul_(4 / (size**2 * bits)), own)  # (b, K)
        self._set_gradients(slopes, features, parts)
        all_reduce(self.gradients, self.rank)
        return loss

    def _codes(self, features: Tensor, parts: int) -> Tensor:
        if parts == 1:  # without the 5 µs that slices and threads cost
            return torch.addmm(self.bias, features, self.columns).tanh_()
        codes = features.new_empty(len(features), len(self.weight))

        def hash_part(rows: slice) -> None:
            torch.addmm(self.bias, features[rows], self.columns, out=codes[rows]).tanh_()

        share_out(hash_part, len(features), parts)
        return codes

    def _set_gradients(self, slopes: Tensor, features: Tensor, parts: int) -> None:
        of_weight, of_bias = self.gradients
        torch.sum(slopes, 0, out=of_bias)
        if parts == 1:
            torch.mm(slopes.T, features, out=of_weight)
        else:
            share_out(
                lambda columns: torch.mm(slopes.T, features[:, columns], out=of_weight[:, columns]),
                features.shape[1],
                parts,
            )


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """Σ a·b of two (B, B), a long sum row by row."""
    if a.numel() < LONG_SUM:
        return torch.dot(a.ravel(), b.ravel())
    return (a * b).sum(1).sum()


def _parts(work: int, size: int, device: torch.device) -> int:
    """How many parts of about `size` to share out; never by the number of cores, so that no digit depends on it."""
    return max(1, work // size) if device.type == "cpu" else 1


class HeadTrainer(Trainer):
    """Trains the hash layer on features (n, D) of the train images, and on features (V, n, D) of their views."""

    def __init__(
        self,
        run: Run,
        features: NDArray[np.floating[Any]],
        pair_labels: PairLabels,
        *,
        views: Views = (),
        validate: Callable[[HashNet], float] | None = None,
    ) -> None:
        params, method = run.params, run.method
        method.check_crops(len(views))
        self.taken = method.views_taken(len(views))
        model = initial_hashnet(features.shape[1], run.bits, run.seed, params)
        model = model.to(run.device, run.dtype)
        super().__init__(run, model, len(features), pair_labels, validate)
        values = torch.from_numpy(features).to(run.device, run.dtype)
        if params.centre and params.starts_afresh:
            centre(model, values)
        self.features = model.prepared(values)  # (n, D)
        crops = (torch.from_numpy(np.array(view)).to(run.device, run.dtype) for view in views)
        self.views = [self.features] * method.own_view + [model.prepared(crop) for crop in crops]
        method.prepare(self.features, self.views, pair_labels)
        self.closed: ClosedFormStep | None = None
        self.cosines = FeatureCosines(features, run.device, run.dtype) if params.neighbor_weight else None
        plain = not (self.taken or params.neighbor_weight or params.nested)
        if isinstance(method, PairLoss) and params.head == "tanh" and plain:
            self.closed = ClosedFormStep(model, run.rank)
            self.optimizer = HeadOptimizer([self.closed.weight, self.closed.bias], params)
            self.source = FeatureSource(self.features, run.rank)
        else:
            self.optimizer = HeadOptimizer(model.head_parameters(), params)

    def inputs(self, batches: Sequence[Rows], epoch: int) -> Iterator[Sequence[Tensor]]:
        """Yield the features of each batch: of this rank's rows in closed form, else of all rows and each view."""
        if self.closed:
            for features in self.source.batches(batches):
                yield (features,)
            return
        chosen = [self.features]
        if self.taken:
            chosen = [self.views[number] for number in view_numbers(epoch, self.taken, len(self.views))]
        for rows in batches:
            index = to_device(torch.from_numpy(rows), self.run.device)
            yield [values[index] for values in chosen]

    def step(self, iteration: int, rows: Rows, inputs: Sequence[Tensor], targets: Tensor, weights: Tensor) -> Tensor:
        """The loss of a batch; with several ranks, which hold all features, each computes the whole step alike."""
        if self.closed:
            return self.closed(inputs[0], targets, weights)
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        outputs = [self.model.head(values) for values in inputs]  # (B, K) each
        features = inputs[0]
        if self.taken:
            features = self.features[to_device(torch.from_numpy(rows), self.run.device)]
        cosines = self.cosines.of(rows) if self.cosines else NO_PAIRS
        loss = batch_loss(self.run.method, Batch(outputs, rows, features, inputs, targets, weights, cosines))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def train(self) -> Progress:
        """Train on one thread of PyTorch's: those of `share_out` take their place, and no digit depends on a core."""
        with threads(1 if self.run.device.type == "cpu" else None):
            return super().train()


def view_numbers(epoch: int, taken: int, count: int) -> list[int]:
    """Which of `count` views an epoch takes: those after the epoch's before, in a circle.

    >>> [view_numbers(epoch, 2, 5) for epoch in range(3)]
    [[0, 1], [2, 3], [4, 0]]
    """
    return [(epoch * taken + number) % count for number in range(taken)]


def train_head(
    features: NDArray[np.floating[Any]],
    pair_labels: PairLabels,
    run: Run,
    *,
    views: Views = (),
    validate: Callable[[HashNet], float] | None = None,
) -> tuple[HashNet, Progress]:
    """Train the hash layer on features (n, D) of the train images; returns the network and its curves.

    pair_labels: pseudo-labels of the n images; views: (V, n, D) features of their crops, for methods that take some.
    """
    trainer = HeadTrainer(run, features, pair_labels, views=views, validate=validate)
    progress = trainer.train()
    return trainer.model, progress
