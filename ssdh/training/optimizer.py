"""SGD with momentum and Adam by PyTorch's fused kernels, for the few tensors of the hash layer.

The same bits as `torch.optim` with `fused=True`. Making an object of `torch.optim` imports PyTorch's compiler, which
costs as long as importing PyTorch itself, and a step of one costs more than the kernel where tensors are small.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ssdh.training.params import TrainParams

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam, PyTorch's defaults


class Optimizer(Protocol):
    """What the training loop asks of an optimizer; `torch.optim`'s fit too."""

    def step(self) -> Any:
        """Change the parameters by their gradients."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from such a state."""


class FusedOptimizer:
    """Steps of `params.optimizer` on `tensors`, whose gradients are set before each step (CPU and CUDA).

    tensors: without autograd; of parameters, their `detach()`, which is the same memory.
    """

    def __init__(self, tensors: Sequence[Tensor], params: TrainParams) -> None:
        self.tensors = list(tensors)
        self.params = params
        self.momenta = [torch.zeros_like(tensor) for tensor in tensors]
        self.squares = [torch.zeros_like(tensor) for tensor in tensors] if params.optimizer == "adam" else []
        self.steps = [torch.zeros((), dtype=torch.float32, device=tensor.device) for tensor in tensors]

    def step(self) -> None:
        """Change the tensors by their gradients."""
        gradients = [tensor.grad for tensor in self.tensors if tensor.grad is not None]
        if self.params.optimizer == "adam":
            for step in self.steps:
                step += 1
            torch._fused_adam_(
                self.tensors, gradients, self.momenta, self.squares, [], self.steps,
                lr=self.params.lr, beta1=BETAS[0], beta2=BETAS[1], weight_decay=self.params.weight_decay,
                eps=EPSILON, amsgrad=False, maximize=False, grad_scale=None, found_inf=None,
            )  # fmt: skip
        else:
            torch._fused_sgd_(
                self.tensors, gradients, self.momenta if self.params.momentum else [],
                weight_decay=self.params.weight_decay, momentum=self.params.momentum, lr=self.params.lr, dampening=0.0,
                nesterov=False, maximize=False, is_first_step=False, grad_scale=None, found_inf=None,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Momenta, squares and step counts."""
        return {"momenta": self.momenta, "squares": self.squares, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from such a state."""
        for name, mine in self.state_dict().items():
            for tensor, stored in zip(mine, state_dict[name], strict=True):
                tensor.copy_(stored)


def _optimizer(tensors: list[Tensor], params: TrainParams) -> Optimizer:
    if tensors[0].device.type in ("cpu", "cuda"):
        return FusedOptimizer(tensors, params)
    return make_optimizer([{"params": tensors, "lr": params.lr}], params)


def make_optimizer(groups: list[dict[str, Any]], params: TrainParams) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam, over parameter groups that each name their `lr`."""
    device = groups[0]["params"][0].device
    fused = device.type in ("cpu", "cuda")
    if params.optimizer == "adam":
        return torch.optim.Adam(groups, lr=params.lr, weight_decay=params.weight_decay, fused=fused)
    return torch.optim.SGD(
        groups, lr=params.lr, momentum=params.momentum, weight_decay=params.weight_decay, fused=fused
    )
