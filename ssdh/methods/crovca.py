"""CroVCA: each view predicts the code of the other; a coding rate keeps codes apart.

After "Cross-View Code Alignment" (CroVCA, preprint of 2025), from a description of its loss. Where we depart: on frozen
features the views are those of the `views` stage, in whole-network training crops and flips alone.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ssdh.training.method import Batch, Method


class CroVCA(Method):
    """½(BCE(h_a, 1[h_b > 0]) + BCE(h_b, 1[h_a > 0])) − λ·mean rate(h); the targets have no gradient."""

    views = 2

    def loss(self, batch: Batch) -> Tensor:
        """λ and ε are `train.loss.rate` and `train.loss.epsilon`."""
        a, b = batch.outputs
        align = functional.binary_cross_entropy_with_logits
        aligned = (align(a, (b > 0).to(a)) + align(b, (a > 0).to(b))) / 2
        epsilon = self.params.loss["epsilon"]
        return aligned - self.params.loss["rate"] * (coding_rate(a, epsilon) + coding_rate(b, epsilon)) / 2


def coding_rate(outputs: Tensor, epsilon: float) -> Tensor:
    """½ log det(I + K/(ε·B)·ZᵀZ)·(K + B)/(K·B), Z the unit rows of outputs (B, K)."""
    size, bits = outputs.shape
    unit = functional.normalize(outputs, dim=1)
    inner = torch.eye(bits).to(outputs) + bits / (epsilon * size) * unit.T @ unit
    return torch.logdet(inner) / 2 * (bits + size) / (bits * size)
