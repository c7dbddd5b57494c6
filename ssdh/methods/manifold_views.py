"""The recipe `manifold` across views: a step compares one view of each image with another view of each other.

Views are features of random crops (stage `views`) and those of the image itself. The pseudo-labels are of the images;
what views change about them counts less there (`structure.view_whitening`). Without crops, as of embeddings or by a
network with random weights, it trains as `manifold`.
"""

from ssdh.training.loss import PairLoss


class ManifoldViews(PairLoss):
    """(1/B²) Σ_ij w_ij (z_iᵀy_j / K − S_ij)² for codes z of one view and y of another; weights as in `manifold`."""

    views = 2
    own_view = True
