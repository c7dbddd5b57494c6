"""The SSDH loss: inner products of codes regressed to pseudo-labels.

Yang, Deng, Liu, Liu, Tao: "Semantic Structure-based Unsupervised Deep Hashing", IJCAI 2018, equation 6.
"""

from torch import Tensor


def ssdh_loss(codes: Tensor, labels: Tensor, *, unknown_weight: float = 0.0, targets: Tensor | None = None) -> Tensor:
    """(1/B²) Σ_ij w_ij (z_iᵀz_j / K − T_ij)², with w_ij = |S_ij|, or `unknown_weight` where S_ij = 0.

    codes: (B, K) relaxed codes z in (−1, 1); labels: (B, B) pseudo-labels S, 1 similar, −1 dissimilar, 0 unknown;
    targets: (B, B) real values T to regress to, by default S itself (the paper's, with unknown_weight 0).
    Returns a scalar. Raises ValueError where the shapes do not fit.

    >>> import torch
    >>> z = torch.tensor([[0.5, 0.5], [0.5, -0.5]])
    >>> ssdh_loss(z, torch.tensor([[1, 0], [0, 1]]))  # (1/4)·[(0.25 − 1)² + (0.25 − 1)²]
    tensor(0.2812)
    """
    size = codes.shape[0]
    if codes.ndim != 2 or labels.shape != (size, size):
        raise ValueError(f"labels must be (B, B) for codes (B, K), got {tuple(labels.shape)} for {tuple(codes.shape)}")
    weights = pair_weights(labels, unknown_weight).to(codes.dtype)
    wanted = (labels if targets is None else targets).to(codes.dtype)
    return weighted_loss(codes, wanted, weights)


def pair_weights(labels: Tensor, unknown_weight: float) -> Tensor:
    """w_ij of the loss: 1 where the label is ±1, `unknown_weight` where it is 0; float, any shape."""
    known = labels.abs().float()
    return known if unknown_weight == 0 else known + unknown_weight * (1 - known)


def weighted_loss(codes: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """(1/B²) Σ_ij w_ij (z_iᵀz_j / K − T_ij)² for codes (B, K), targets and weights (B, B)."""
    size, bits = codes.shape
    similarity = codes @ codes.T / bits  # (B, B)
    return (weights * (similarity - targets).square()).sum() / size**2
