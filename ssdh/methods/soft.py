"""Every pair is regressed to its affinity 1 − d along the neighbour graph, without thresholds.

After SSDH (Yang et al., IJCAI 2018), whose labels −1, 0, 1 the affinities replace.
"""

from ssdh.training.loss import PairLoss


class Soft(PairLoss):
    """(1/B²) Σ_ij (z_iᵀz_j / K − (1 − d_ij))²."""
