"""SDC: the cosines of the codes get a given distribution, in the order of the features' cosines.

Ng, Zhu, Hoe, Chan, Zhang, Song, Xiang: "Unsupervised Hashing with Similarity Distribution Calibration", BMVC 2023.
Where we depart: a batch's pairs are those with i < j, and the hidden layer is as wide as the features.
"""

import functools

import torch
from torch import Tensor

from ssdh.training.loss import cosines, signs
from ssdh.training.method import Batch, Method


class SDC(Method):
    """mean |cos(h)_(i) − q_i| over pairs in the order of cos(x), + λ·mean(1 − cos(h, sign h)).

    q_i = 2·Beta⁻¹((2i − 1)/2N; a, a) − 1 for N pairs: the quantiles of a symmetric Beta distribution over −1…1.
    """

    def loss(self, batch: Batch) -> Tensor:
        """λ is `train.loss.quantisation`, a `train.loss.beta`."""
        (outputs,) = batch.outputs
        i, j = torch.triu_indices(len(outputs), len(outputs), 1, device=outputs.device)
        order = cosines(batch.features)[i, j].argsort()
        targets = quantiles(len(order), self.params.loss["beta"])
        gap = (cosines(outputs)[i, j][order] - targets.to(outputs)).abs().mean()
        own = torch.cosine_similarity(outputs, signs(outputs), dim=1)
        return gap + self.params.loss["quantisation"] * (1 - own).mean()


@functools.lru_cache(maxsize=1)
def quantiles(count: int, beta: float) -> Tensor:
    """q_1 to q_count, float64 ascending; those of the last count are kept."""
    from scipy.special import betaincinv

    shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.from_numpy(2 * betaincinv(beta, beta, shares.numpy()) - 1)
