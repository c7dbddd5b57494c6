"""GreedyHash, unsupervised: the cosines of the codes are those of the features.

Su, Zhang, Han, Tian: "Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN", NeurIPS 2018. Where we
depart: the cosines are those of the features as the head takes them (`train.power`, `train.centre`).
"""

from torch import Tensor

from ssdh.training.loss import cosines, straight_through
from ssdh.training.method import Batch, Method


class GreedyHash(Method):
    """mean_ij (cos(b_i, b_j) − cos(x_i, x_j))² + q·mean ||h| − 1|³, b = sign(h) with the gradient of the identity."""

    def loss(self, batch: Batch) -> Tensor:
        """q is `train.loss.quantisation`."""
        (outputs,) = batch.outputs
        pairs = (cosines(straight_through(outputs)) - cosines(batch.features)).square().mean()
        return pairs + self.params.loss["quantisation"] * (outputs.abs() - 1).abs().pow(3).mean()
