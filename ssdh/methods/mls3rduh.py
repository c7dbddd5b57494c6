"""MLS3RDUH: a similarity reconstructed from neighbours by cosine and along the manifold.

Tu, Mao, Wei: "MLS3RDUH: Deep Unsupervised Hashing via Manifold based Local Semantic Similarity Structure
Reconstructing", IJCAI 2020. Where we depart: negative cosines, which centred features have, count as 0, and S is
symmetrised by its mean with its transpose. Needs some n×n matrices and the inverse of one: 0.5 GB for 5,000 images.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ssdh.structure.pseudo_labels import PairLabels
from ssdh.training.loss import cosines
from ssdh.training.method import Batch, Method

UNCONNECTED = 1e-6  # of rounding, beside a diagonal of 1 and more


class MLS3RDUH(Method):
    """mean_ij log cosh(h_iᵀh_j / K − S_ij)."""

    def prepare(self, features: Tensor, views: Sequence[Tensor], pair_labels: PairLabels) -> None:
        """S of all pairs from the features (n, D); the shares of neighbours and α are `train.loss`."""
        similarity = cosines(features)  # (n, n)
        n, values = len(features), self.params.loss
        near = _top(similarity, values["neighbors"])
        graph = torch.where(near & near.T, similarity.clamp_min(0), 0).fill_diagonal_(0)
        root = graph.sum(1).clamp_min(1e-12).rsqrt()
        walk = torch.eye(n).to(graph) - values["alpha"] * root[:, None] * graph * root
        along = _top(torch.linalg.inv(walk), values["manifold_neighbors"])  # of M up to its factor 1 − α
        similar = torch.where(near, along.to(similarity), similarity.clamp_min(0))
        self.targets = similar + similar.T - 1  # 2·(S + Sᵀ)/2 − 1

    def loss(self, batch: Batch) -> Tensor:
        """log cosh x = x + log(1 + e^−2x) − log 2 for x = |gap|, without overflow."""
        (codes,) = batch.outputs
        rows = torch.from_numpy(batch.rows).to(codes.device)
        gap = (codes @ codes.T / codes.shape[1] - self.targets[rows][:, rows]).abs()
        return (gap + functional.softplus(-2 * gap) - math.log(2)).mean()


def _top(values: Tensor, share: float) -> Tensor:
    """(n, n) bool: the largest `share` of each row, at least one besides the diagonal, of what is connected."""
    chosen = values.topk(max(2, round(share * len(values))), dim=1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, chosen, True) & (values > UNCONNECTED)
