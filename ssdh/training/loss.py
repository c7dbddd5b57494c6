"""The SSDH loss: inner products of codes regressed to pseudo-labels.

Yang, Deng, Liu, Liu, Tao: "Semantic Structure-based Unsupervised Deep Hashing", IJCAI 2018, equation 6.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ssdh.core.device import to_device
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.training.method import Batch, Method


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
    expected = (labels if targets is None else targets).to(codes.dtype)
    return weighted_loss(codes, expected, weights)


def pair_weights(labels: Tensor, unknown_weight: float) -> Tensor:
    """w_ij of the loss: 1 where the label is ±1, `unknown_weight` where it is 0; float, any shape."""
    known = labels.abs().float()
    return known if unknown_weight == 0 else known + unknown_weight * (1 - known)


def weighted_loss(codes: Tensor, targets: Tensor, weights: Tensor, others: Tensor | None = None) -> Tensor:
    """(1/B²) Σ_ij w_ij (z_iᵀy_j / K − T_ij)² for codes z (B, K), targets and weights (B, B).

    others: y (B, K), the codes of other views of the same images; by default z.
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


# --- the pairs of a batch -------------------------------------------------------------------------------------------


class FeatureCosines:
    """Cosines of the frozen features (n, D), as they were extracted, of the images of a batch."""

    def __init__(self, features: NDArray[np.floating[Any]], device: torch.device, dtype: torch.dtype) -> None:
        self.unit = functional.normalize(torch.from_numpy(features).to(device, dtype), dim=1)  # (n, D)

    def of(self, rows: NDArray[np.int64]) -> Tensor:
        """(B, B) of the train images with these numbers (B,)."""
        chosen = self.unit[to_device(torch.from_numpy(rows), self.unit.device)]
        return chosen @ chosen.T


CHUNK_PAIRS = 2**18  # pairs looked up at once: one index operation serves many small batches


class PairBatches:
    """What `weighted_loss` needs for a batch of train images.

    labels: the pseudo-labels; unknown_weight: the weight of pairs with S = 0; target: regress to S ("ternary") or to
    the affinity 1 − d ("soft").
    """

    def __init__(
        self,
        labels: PairLabels,
        device: torch.device,
        *,
        unknown_weight: float = 0.0,
        target: Literal["ternary", "soft"] = "ternary",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.labels = labels
        self.device = device
        self.unknown_weight = unknown_weight
        self.dtype = dtype
        self.soft = target == "soft"
        self.matrix: Tensor | None = None  # a copy on the device
        if labels.matrix is not None and device.type != "cpu":
            self.matrix = torch.from_numpy(labels.matrix).to(device)

    def of(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (targets, weights), each (B, B) of `dtype`, for every batch of train-image numbers (B,)."""
        start = 0
        while start < len(batches):
            size = len(batches[start])
            end = start + 1
            while end < len(batches) and len(batches[end]) == size and (end - start) * size**2 < CHUNK_PAIRS:
                end += 1
            labels = self._labels(batches[start:end])  # (batches, B, B)
            weights = pair_weights(labels, self.unknown_weight).to(self.dtype)
            targets = map(self._affinities, batches[start:end]) if self.soft else labels.to(self.dtype).unbind()
            yield from zip(targets, weights.unbind(), strict=True)
            start = end

    def _labels(self, batches: Sequence[NDArray[np.int64]]) -> Tensor:
        together = np.stack(batches)  # (batches, B)
        if self.matrix is None:
            return to_device(torch.from_numpy(self.labels.blocks(together)), self.device)
        rows = to_device(torch.from_numpy(together), self.device)
        return self.matrix[rows[:, :, None], rows[:, None, :]]

    def _affinities(self, rows: NDArray[np.int64]) -> Tensor:
        result: NDArray[Any] = self.labels.affinities(rows, rows)
        return to_device(torch.from_numpy(np.ascontiguousarray(result)), self.device).to(self.dtype)
