"""The SSDH loss: inner products of codes regressed to pseudo-labels.

Yang, Deng, Liu, Liu, Tao: "Semantic Structure-based Unsupervised Deep Hashing", IJCAI 2018, equation 6.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ssdh.training.method import Batch, Method


def weighted_loss(codes: Tensor, targets: Tensor, weights: Tensor, others: Tensor | None = None) -> Tensor:
    """(1/B²) Σ_ij w_ij (z_iᵀy_j / K − T_ij)² for codes z (B, K), targets and weights (B, B).

    others: y (B, K), the codes of other views of the same images; by default z. With T the pseudo-labels S and w = |S|
    it is the paper's loss.

    >>> z = torch.tensor([[0.5, 0.5], [0.5, -0.5]])
    >>> weighted_loss(z, torch.eye(2), torch.eye(2))  # (1/4)·[(0.25 − 1)² + (0.25 − 1)²]
    tensor(0.2812)
    """
    size, bits = codes.shape
    similarity = codes @ (codes if others is None else others).T / bits  # (B, B)
    return (weights * (similarity - targets).square()).sum() / size**2


def neighbor_loss(
    codes: Tensor, cosines: Tensor, temperature: float, code_temperature: float, others: Tensor | None = None
) -> Tensor:
    """−(1/B) Σ_i Σ_j≠i p_ij log q_ij: each image's neighbours by code, q, against those by its features, p.

    p_i = softmax_j≠i(c_ij / (tσ)), q_i = softmax_j≠i(z_iᵀz_j / (Kτ)), for codes z (B, K), cosines c (B, B) of the
    features, temperature t in units of σ, the deviation of the c_ij with i ≠ j, and code_temperature τ. Returns a
    scalar, 0 for one image. others: z_j of other views of the images, (B, K), where there are some.

    Up to a constant it is stochastic neighbour embedding (Hinton and Roweis, NIPS 2002) of a batch, with inner products
    in the place of squared distances and one t in the place of a perplexity for each image; matching
    softmax-normalised similarities to a teacher's is probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018).
    """
    size, bits = codes.shape
    apart = ~torch.eye(size, dtype=torch.bool, device=codes.device)
    expected = cosines[apart].view(size, size - 1)  # (B, B − 1): without the image itself
    result = (codes @ (codes if others is None else others).T / bits)[apart].view(size, size - 1)
    spread = temperature * expected.std(correction=0) if expected.numel() else expected.new_ones(())
    spread = spread.clamp_min(torch.finfo(expected.dtype).tiny)  # of equal images
    shares = torch.softmax(expected / spread, 1)
    return -(shares * torch.log_softmax(result / code_temperature, 1)).sum() / size


class PairLoss(Method):
    """The loss that the recipes of SSDH share; `train.target` and `train.unknown_weight` tell them apart.

    `train.neighbor_weight` λ leads from "same kind" to "same picture": (1 − λ)·`weighted_loss` + λτ·`neighbor_loss`. τ
    keeps the second term's gradient at the scale of the first one's. A subclass with two views compares each image of
    one with each of the other.
    """

    pairs = True

    def loss(self, batch: Batch) -> Tensor:
        """Of the outputs of a batch, of one view or two."""
        codes, params = batch.outputs[0], self.params
        others = batch.outputs[1] if len(batch.outputs) > 1 else None
        pairs = weighted_loss(codes, batch.targets, batch.weights, others)
        if not (weight := params.neighbor_weight):
            return pairs
        temperatures = params.neighbor_temperature, params.code_temperature
        neighbors = neighbor_loss(codes, batch.cosines, *temperatures, others)
        return (1 - weight) * pairs + weight * params.code_temperature * neighbors


# --- parts of other methods' losses ---------------------------------------------------------------------------------


def cosines(a: Tensor, b: Tensor | None = None) -> Tensor:
    """(n, m) cosines of the rows of a (n, d) and b (m, d), of a with itself without b."""
    a = functional.normalize(a, dim=1)
    return a @ (a if b is None else functional.normalize(b, dim=1)).T


def signs(outputs: Tensor) -> Tensor:
    """Codes in {−1, +1} of outputs, +1 at 0, as they are stored; without gradient."""
    return torch.where(outputs >= 0, 1.0, -1.0).to(outputs.dtype)


def straight_through(outputs: Tensor) -> Tensor:
    """`signs` whose gradient is passed on to the outputs as it is."""
    return outputs + (signs(outputs) - outputs).detach()


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Contrastive loss of two views (B, K) each: the other view of an image among the 2B − 1 other rows, by cosine.

    Chen et al.: "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, equation 1.
    """
    size = len(a)
    similarity = cosines(torch.cat((a, b))) / temperature  # (2B, 2B)
    itself = torch.eye(2 * size, dtype=torch.bool, device=a.device)
    partner = torch.arange(2 * size, device=a.device).roll(size)
    return functional.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)
