"""SSDH (IJCAI 2018) with distances along the neighbour graph and unknown pairs regressed to 0.

Its nearest relatives are MLS3RDUH (Tu, Mao, Wei, IJCAI 2020), which also takes neighbours along the manifold, and CIMON
(Luo et al., IJCAI 2021), which weights pairs by confidence. `docs/method.md` has what each step adds.
"""

from ssdh.training.loss import PairLoss


class Manifold(PairLoss):
    """(1/B²) Σ_ij w_ij (z_iᵀz_j / K − S_ij)², w_ij = |S_ij|, or `train.unknown_weight` where S_ij = 0."""
