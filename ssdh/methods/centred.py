"""SSDH's loss (IJCAI 2018) on features centred by the train mean; on all-positive features codes collapse without."""

from ssdh.training.loss import PairLoss


class Centred(PairLoss):
    """The published loss."""
