"""CIMON: pseudo-labels weighted by confidence and by global clusters, crossed over two views, and a contrastive term.

Luo et al.: "CIMON: Towards High-quality Hash Codes", IJCAI 2021; from a description of its loss. Where we depart: the
half Gaussians are fitted to, and the clusters (k-means of a diffusion map) made of, the images themselves; a threshold
of 0 is mode − α·σ_left, since the authors' 0.1 belongs to features that are not centred; in whole-network training
both views have the similarities of the image.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssdh.structure.fit import fit_structure
from ssdh.structure.manifold import diffusion_embedding
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.training.loss import cosines, nt_xent
from ssdh.training.method import Batch, Method


class CIMON(Method):
    """Σ over views v, u of mean_ij w₁w₂ (h_i^u·h_j^u / K − S_ij^v)², + η·NT-Xent; S = 1 up to the threshold, else −1.

    w₁: how far the distribution at the distance is from that at the threshold, 0 to 1 on either side; w₂: 2 where the
    clusters agree with S, else 0.
    """

    views = 2

    def prepare(self, features: Tensor, views: Sequence[Tensor], pair_labels: PairLabels) -> None:
        """The distribution of the distances, and a cluster of each image."""
        from sklearn.cluster import KMeans

        values, array = self.params.loss, features.float().cpu().numpy()
        self.fitted = fit_structure(array, alpha=values["alpha"] or 1.0, beta=1.0, bins=500)
        self.threshold = values["threshold"] or self.fitted.threshold_similar
        count = min(round(values["clusters"]), len(array) // 2)
        vectors = diffusion_embedding(array, neighbors=20, rank=count, steps=0, decay=1.0, seed=0)
        labels = KMeans(count, n_init=1, random_state=0).fit_predict(vectors)
        self.clusters = torch.from_numpy(labels).to(features.device)

    def loss(self, batch: Batch) -> Tensor:
        """η is `train.loss.contrast`."""
        values, own = self.params.loss, self.clusters[torch.from_numpy(batch.rows).to(self.clusters.device)]
        total = torch.zeros((), device=own.device)
        for view in batch.views:
            targets, weights = self.targets(1 - cosines(view), own)
            for codes in batch.outputs:
                total = total + (weights * (codes @ codes.T / codes.shape[1] - targets).square()).mean()
        return total + values["contrast"] * nt_xent(batch.outputs[0], batch.outputs[1], values["temperature"])

    def targets(self, distances: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor]:
        """(S, w₁w₂), each (B, B), of distances (B, B) and clusters (B,)."""
        similar = distances <= self.threshold
        share, middle = self.distribution(distances), self.distribution(torch.tensor(self.threshold))
        low, high = self.distribution(torch.tensor(0.0)), self.distribution(torch.tensor(2.0))
        below, above = (middle - low).clamp_min(1e-12), (high - middle).clamp_min(1e-12)  # no pair may lie there
        confidence = torch.where(similar, (middle - share) / below, (share - middle) / above)
        agree = similar == (clusters[:, None] == clusters)
        return torch.where(similar, 1.0, -1.0).to(distances), confidence.clamp(0, 1) * 2 * agree

    def distribution(self, distances: Tensor) -> Tensor:
        """Share of pairs below a distance by the two half Gaussians, half of them on either side of the mode."""
        fitted = self.fitted
        sigma = torch.where(distances <= fitted.mode, fitted.sigma_left, fitted.sigma_right)
        return (1 + torch.erf((distances - fitted.mode) / (sigma * math.sqrt(2)))) / 2
