"""CIBHash: two views of an image have like codes and unlike those of others, with a bottleneck on the information.

Qiu, Su, Ou, Yu, Chen: "Unsupervised Hashing with Contrastive Information Bottleneck", IJCAI 2021. Where we depart: on
frozen features the views are those of the `views` stage, in whole-network training crops and flips alone.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ssdh.training.loss import nt_xent, straight_through
from ssdh.training.method import Batch, Method


class CIBHash(Method):
    """NT-Xent of b = sign(p − ½) of both views, + β·½(KL(p_a ‖ p_b) + KL(p_b ‖ p_a)); p = sigmoid(h), p's gradient."""

    views = 2

    def loss(self, batch: Batch) -> Tensor:
        """The temperature and β are `train.loss`; the second argument of each divergence is held fixed."""
        a, b = batch.outputs
        codes = [straight_through(torch.sigmoid(outputs) - 0.5) for outputs in (a, b)]
        bottleneck = (divergence(a, b.detach()) + divergence(b, a.detach())) / 2
        return nt_xent(codes[0], codes[1], self.params.loss["temperature"]) + self.params.loss["beta"] * bottleneck


def divergence(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the images of the divergence KL(p ‖ q) of K Bernoulli variables; a, b: (B, K), logits of p and q."""
    log_ratio = functional.logsigmoid(a) - functional.logsigmoid(b)
    log_ratio_not = functional.logsigmoid(-a) - functional.logsigmoid(-b)
    p = torch.sigmoid(a)
    return (p * log_ratio + (1 - p) * log_ratio_not).sum(1).mean()
