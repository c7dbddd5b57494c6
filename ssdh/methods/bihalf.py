"""Bi-half: every bit is +1 for the upper half of a batch and −1 for the lower, so that it carries most information.

Li, van Gemert: "Deep Unsupervised Image Hashing by Maximizing Bit Entropy", AAAI 2021. Where we depart: the cosines are
those of the features as the head takes them, and γ is 3; the authors' code has 6, as have the settings `authors`.
"""

from typing import Any

import torch
from torch import Tensor

from ssdh.training.loss import cosines
from ssdh.training.method import Batch, Method


class HalfAndHalf(torch.autograd.Function):
    """Codes b of outputs h (B, K), half of each column +1; backward g + γ(h − b)/(B·K)."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, gamma: float) -> Tensor:
        """outputs: (B, K); of an odd batch the lower half has one more."""
        upper = outputs.argsort(dim=0, descending=True)[: len(outputs) // 2]
        codes = torch.full_like(outputs, -1.0).scatter_(0, upper, 1.0)
        ctx.save_for_backward(outputs - codes)
        ctx.gamma = gamma
        return codes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient of the codes, drawn towards them."""
        (gap,) = ctx.saved_tensors
        return gradients[0] + ctx.gamma * gap / gap.numel(), None


class BiHalf(Method):
    """mean_ij (cos(b_i, b_j) − cos(x_i, x_j))²; codes of new images are sign(h)."""

    def loss(self, batch: Batch) -> Tensor:
        """γ is `train.loss.gamma`."""
        codes: Tensor = HalfAndHalf.apply(batch.outputs[0], self.params.loss["gamma"])
        return (cosines(codes) - cosines(batch.features)).square().mean()
