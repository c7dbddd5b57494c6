"""SSDH as published: known pairs are regressed to their pseudo-labels, unknown ones are left out.

Yang, Deng, Liu, Liu, Tao: "Semantic Structure-based Unsupervised Deep Hashing", IJCAI 2018. The paper trains the whole
network: `train.finetune=true`.
"""

from ssdh.training.loss import PairLoss


class Published(PairLoss):
    """(1/B²) Σ_ij |S_ij| (z_iᵀz_j / K − S_ij)², equation 6."""
