"""Training of backbone and hash layer together, from augmented images; several processes share each batch.

The loss is over the pairs of the *global* batch: codes are gathered with gradient, so N processes with B/N images each
do what one does with B. Statistics of batch normalisation stay those of the pretrained network (its scale and shift
are trained): a batch of 24 is too small for its own, and the result must not depend on how a batch is cut.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from ssdh.core.arrays import Rows
from ssdh.core.device import autocast, to_device
from ssdh.core.distributed import Rank, all_gather_rows, share
from ssdh.core.errors import ParameterError
from ssdh.features.augment import CROPS, Augmentation, Draw, draw
from ssdh.features.images import ImageSource
from ssdh.features.params import AugmentParams, Preprocessing
from ssdh.hashing.network import HashNet
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.training.loop import Run, Trainer
from ssdh.training.method import NO_PAIRS, Batch, batch_loss
from ssdh.training.optimizer import make_optimizer
from ssdh.training.pairs import FeatureCosines


def freeze(backbone: nn.Module, until: str | None) -> None:
    """Fix every parameter defined before the module called `until`, such as features.17 of VGG16 or layer3 of ResNet.

    Raises ParameterError where there is no such module.
    """
    backbone.requires_grad_(True)
    if until is None:
        return
    names = [name for name, _ in backbone.named_modules() if name]
    if until not in names:
        known = [name for name, _ in backbone.named_children()]
        inner = [f"{known[0]}.{name}" for name, _ in getattr(backbone, known[0]).named_children()]
        raise ParameterError(
            f"train.freeze_until {until!r} is no part of the network: its parts are {', '.join([*known, *inner])}, "
            "and theirs (params.yaml: train.freeze_until)"
        )
    frozen = 0
    for name, module in backbone.named_modules():
        if name == until:  # a pool or an activation is one too, though it has no parameters
            break
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
            frozen += 1
    logger.info("{} parameter tensors before {} stay as they are", frozen, until)


STEP_STREAM = 12  # of the seed's random streams


class AugmentedImages:
    """Random views of the train images, each by (seed, epoch, row, view) alone; one of each image where views is 1."""

    def __init__(
        self,
        images: ImageSource,
        preprocessing: Preprocessing,
        rows: Rows,
        *,
        seed: int,
        device: torch.device,
        workers: int = 0,
        rank: Rank = Rank(),  # noqa: B008 (immutable)
        views: int = 1,
        augment: AugmentParams = CROPS,
    ) -> None:
        self.augmentation = Augmentation(images, preprocessing, workers=workers, device=device)
        self.rows, self.seed, self.rank = rows, seed, rank
        self.views, self.augment = views, augment

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, batches: Sequence[Rows], epoch: int) -> Iterator[list[Tensor]]:
        """Yield this rank's part of each batch, (≤ ⌈B/ranks⌉, 3, size, size) a view; one image where it has none."""
        own = [self.rows[batch[share(len(batch), self.rank)]] for batch in batches]
        own = [rows if len(rows) else self.rows[batch[:1]] for rows, batch in zip(own, batches, strict=True)]
        draws = [functools.partial(self._draw, epoch, view) for view in range(self.views)]
        images = self.augmentation.batches([(rows, draw_row) for rows in own for draw_row in draws])
        for _ in own:
            views = itertools.islice(images, self.views)
            yield [view.contiguous(memory_format=torch.channels_last) for view in views]

    def _draw(self, epoch: int, view: int, row: int) -> Draw:
        return draw((self.seed, epoch, row, view), self.augment)


class NetworkTrainer(Trainer):
    """Trains a network with a backbone on augmented images; random numbers depend on (seed, iteration) alone.

    features: (n, D) of the train images by the frozen network, for the methods whose loss looks at them.
    """

    def __init__(
        self,
        run: Run,
        model: HashNet,
        images: AugmentedImages,
        features: NDArray[np.floating[Any]],
        pair_labels: PairLabels,
        validate: Callable[[HashNet], float] | None = None,
    ) -> None:
        params = run.params
        if run.rank.count > 1 and not isinstance(model.norm, nn.Identity):
            raise ParameterError(
                f"train.head {model.head_name} normalises over the batch, which one process must hold: set "
                "runtime.processes to 1 (params.yaml: runtime.processes)"
            )
        backbone = model.backbone
        assert backbone is not None
        exact_pooling(backbone)
        freeze(backbone, params.freeze_until)
        model = model.to(run.device).to(memory_format=torch.channels_last)
        super().__init__(run, model, len(images), pair_labels, validate)
        self.images = images
        groups = [{"params": model.head_parameters(), "lr": params.lr}]
        body = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
        if body:
            groups.append({"params": body, "lr": params.lr_backbone or params.lr})
        self.optimizer = make_optimizer(groups, params)
        self.cosines = FeatureCosines(features, run.device, run.dtype) if params.neighbor_weight else None
        with torch.no_grad():
            self.features = model.prepared(torch.from_numpy(features).to(run.device, run.dtype))  # (n, D)
        run.method.prepare(self.features, [], pair_labels)
        self.dropouts = share_dropout(model)
        training_mode(model)
        network: nn.Module = model
        if run.rank.count > 1:
            network = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.network = cast("nn.Module", torch.compile(network)) if params.compile else network

    def inputs(self, batches: Sequence[Rows], epoch: int) -> Iterator[Sequence[Tensor]]:
        """Yield this rank's images of each batch, a tensor for each view."""
        return self.images.batches(batches, epoch)

    def step(self, iteration: int, rows: Rows, inputs: Sequence[Tensor], targets: Tensor, weights: Tensor) -> Tensor:
        """inputs: this rank's images of each view; rows, targets and weights are of the global batch."""
        run, size = self.run, len(rows)
        own = share(size, run.rank)
        torch.manual_seed(step_seed(run.seed, iteration))
        for dropout in self.dropouts:
            dropout.first, dropout.total = min(own.start, size - 1), size
        if not self.model.training:  # after a validation
            training_mode(self.model)
        self.model.zero_grad(set_to_none=True)
        with autocast(inputs[0].device, run.params.precision):
            outputs = [self.network(images)[: own.stop - own.start] for images in inputs]  # (b, K) each
        if run.rank.count > 1:
            outputs = [GatherRows.apply(part, size, run.rank) for part in outputs]  # (B, K) each
        features = self.features[to_device(torch.from_numpy(rows), run.device)]
        cosines = self.cosines.of(rows) if self.cosines else NO_PAIRS
        batch = Batch(outputs, rows, features, [features] * len(outputs), targets, weights, cosines)
        loss = batch_loss(run.method, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


class GatherRows(torch.autograd.Function):
    """`all_gather_rows` with gradient, for a loss that every rank computes alike.

    Each rank's gradient is scaled by the number of ranks, since DistributedDataParallel averages over them.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, size: int, rank: Rank) -> Tensor:
        """own: (b, K); returns (size, K)."""
        ctx.rows, ctx.count = share(size, rank), rank.count
        return all_gather_rows(own.detach().contiguous(), size, rank)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of this rank's rows."""
        return gradients[0][ctx.rows] * ctx.count, None, None


class SharedDropout(nn.Module):
    """Dropout, or stochastic depth, whose mask is drawn for the global batch, of which this rank's rows are used."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.rowwise = isinstance(inner, StochasticDepth)
        self.first, self.total = 0, 0

    def forward(self, values: Tensor) -> Tensor:
        """values: (b, …); returns the same shape."""
        if not self.training:
            return values
        shape = [1] * (values.ndim - 1) if self.rowwise else list(values.shape[1:])
        mask: Tensor = self.inner(values.new_ones(self.total, *shape))
        return values * mask[self.first : self.first + len(values)]


def share_dropout(model: nn.Module) -> list[SharedDropout]:
    """Replace every dropout with one whose mask does not depend on how the batch is cut; returns the new ones."""
    result: list[SharedDropout] = []
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Dropout | StochasticDepth) and not name.endswith(".inner") and module.p > 0:
            result.append(SharedDropout(module))
            model.set_submodule(name, result[-1])
    return result


class ExactPool(nn.AdaptiveAvgPool2d):
    """Adaptive pooling that passes maps of the wanted size through: its gradient on CUDA is not deterministic."""

    def forward(self, input: Tensor) -> Tensor:
        """input: (n, C, h, w)."""
        size = self.output_size if isinstance(self.output_size, tuple) else (self.output_size,) * 2
        return input if tuple(input.shape[2:]) == tuple(size) else super().forward(input)


def exact_pooling(backbone: nn.Module) -> None:
    """Replace every adaptive average pooling by `ExactPool`, the same function."""
    for name, module in list(backbone.named_modules()):
        if type(module) is nn.AdaptiveAvgPool2d:
            backbone.set_submodule(name, ExactPool(module.output_size))


def training_mode(model: HashNet) -> None:
    """Dropout on, statistics of the backbone's batch normalisation fixed; those of a head are learned."""
    model.train()
    assert model.backbone is not None
    for module in model.backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def step_seed(seed: int, iteration: int) -> int:
    """The seed of all random numbers of a step, 63 bits."""
    return int(np.random.SeedSequence([seed, STEP_STREAM, iteration]).generate_state(1, np.uint64)[0] >> np.uint64(1))
