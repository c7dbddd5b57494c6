"""SGD with momentum, Adam and AdamW: for the whole network by `torch.optim`, for the hash layer by its functions.

The functions give the same bits as the classes. A class imports PyTorch's compiler, which takes as long as PyTorch
itself (2 s), so the hash layer, which trains in seconds, does without.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from ssdh.training.params import TrainParams

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam, PyTorch's defaults
LAST_FACTOR = 1e-3  # of the learning rate at the end of schedule cosine


class Optimizer(Protocol):
    """What the training loop asks of an optimizer; those of `torch.optim` fit too."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any:
        """Change the parameters by their gradients."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from such a state."""


class HeadOptimizer:
    """Steps of `params.optimizer` on `tensors`, whose gradients are set before each step.

    tensors: parameters, or their `detach()`, which is the same memory.
    """

    def __init__(self, tensors: Sequence[Tensor], params: TrainParams) -> None:
        self.tensors, self.params = list(tensors), params
        self.param_groups = [{"lr": params.lr, "initial_lr": params.lr}]
        self.momenta = [torch.zeros_like(tensor) for tensor in tensors]
        self.squares = [torch.zeros_like(tensor) for tensor in tensors] if params.optimizer != "sgd" else []
        self.steps = [torch.zeros((), dtype=torch.float32, device=tensor.device) for tensor in tensors]
        self.fused = self.tensors[0].device.type in ("cpu", "cuda")

    @torch.no_grad()
    def step(self) -> None:
        """Change the tensors by their gradients."""
        params, lr = self.params, self.param_groups[0]["lr"]
        gradients = [tensor.grad for tensor in self.tensors if tensor.grad is not None]
        if params.optimizer == "sgd":
            momenta: list[Tensor | None] = list(self.momenta) if params.momentum else [None] * len(self.tensors)
            sgd(
                self.tensors, gradients, momenta,
                weight_decay=params.weight_decay, momentum=params.momentum, lr=lr, dampening=0.0,
                nesterov=False, maximize=False, foreach=False, fused=self.fused,
            )  # fmt: skip
        else:
            adam(
                self.tensors, gradients, self.momenta, self.squares, [], self.steps,
                lr=lr, beta1=BETAS[0], beta2=BETAS[1], weight_decay=params.weight_decay, eps=EPSILON,
                amsgrad=False, maximize=False, foreach=False, fused=self.fused,
                decoupled_weight_decay=params.optimizer == "adamw",
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Momenta, squares and step counts."""
        return {"momenta": self.momenta, "squares": self.squares, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from such a state."""
        for name, mine in self.state_dict().items():
            for tensor, stored in zip(mine, state_dict[name], strict=True):
                tensor.copy_(stored)


def make_optimizer(groups: list[dict[str, Any]], params: TrainParams) -> torch.optim.Optimizer:
    """`params.optimizer` over parameter groups that each name their `lr`."""
    groups = [group | {"initial_lr": group["lr"]} for group in groups]
    fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
    if params.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=params.lr, momentum=params.momentum, weight_decay=params.weight_decay, fused=fused
        )
    kind = torch.optim.Adam if params.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=params.lr, weight_decay=params.weight_decay, fused=fused)


def learning_rate_factor(params: TrainParams, iteration: int, steps: int) -> float:
    """What the learning rates are multiplied by at an iteration (from 0) of a run with `steps` an epoch.

    constant: 1; cosine: from 1 to a thousandth over the run, each step; drop: 1, a tenth once `lr_drop` of the epochs
    are over.
    """
    if params.schedule == "constant":
        return 1.0
    if params.schedule == "cosine":
        share = iteration / max(1, params.epochs * steps - 1)
        return LAST_FACTOR + (1 - LAST_FACTOR) * (1 + math.cos(math.pi * share)) / 2
    return 0.1 if iteration >= params.lr_drop * params.epochs * steps else 1.0
