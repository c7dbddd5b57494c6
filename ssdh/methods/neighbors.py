"""Codes whose neighbours are those of the features: the recipe `manifold` at the other end of `train.neighbor_weight`.

After stochastic neighbour embedding (Hinton and Roweis, NIPS 2002). Values below 1 of `train.neighbor_weight` lead back
to codes of "same kind", 0 is the recipe `manifold`; `docs/method.md` has the curve between them.
"""

from ssdh.training.loss import PairLoss


class Neighbors(PairLoss):
    """`neighbor_loss`; with `train.neighbor_weight` below 1 a share of the pair loss beside it."""
