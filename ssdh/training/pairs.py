"""What a loss is told of the pairs of a batch: pseudo-labels or affinities, their weights, cosines of the features."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ssdh.core.device import to_device
from ssdh.structure.pseudo_labels import PairLabels

CHUNK_PAIRS = 2**18  # pairs looked up at once: one index operation serves many small batches


class FeatureCosines:
    """Cosines of the frozen features (n, D), as they were extracted, of the images of a batch."""

    def __init__(self, features: NDArray[np.floating[Any]], device: torch.device, dtype: torch.dtype) -> None:
        self.unit = functional.normalize(torch.from_numpy(features).to(device, dtype), dim=1)  # (n, D)

    def of(self, rows: NDArray[np.int64]) -> Tensor:
        """(B, B) of the train images with these numbers (B,)."""
        chosen = self.unit[to_device(torch.from_numpy(rows), self.unit.device)]
        return chosen @ chosen.T


class PairBatches:
    """What `weighted_loss` needs for a batch of train images.

    pair_labels: the pseudo-labels; unknown_weight: the weight of pairs with S = 0; target: regress to S ("ternary") or
    to the affinity 1 − d ("soft").
    """

    def __init__(
        self,
        pair_labels: PairLabels,
        device: torch.device,
        *,
        unknown_weight: float = 0.0,
        target: Literal["ternary", "soft"] = "ternary",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.pair_labels = pair_labels
        self.device = device
        self.unknown_weight = unknown_weight
        self.dtype = dtype
        self.soft = target == "soft"
        self.matrix: Tensor | None = None  # a copy on the device
        if pair_labels.matrix is not None and device.type != "cpu":
            self.matrix = torch.from_numpy(pair_labels.matrix).to(device)

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
            return to_device(torch.from_numpy(self.pair_labels.blocks(together)), self.device)
        rows = to_device(torch.from_numpy(together), self.device)
        return self.matrix[rows[:, :, None], rows[:, None, :]]

    def _affinities(self, rows: NDArray[np.int64]) -> Tensor:
        result: NDArray[Any] = self.pair_labels.affinities(rows, rows)
        return to_device(torch.from_numpy(np.ascontiguousarray(result)), self.device).to(self.dtype)


def pair_weights(labels: Tensor, unknown_weight: float) -> Tensor:
    """w_ij of the loss: 1 where the label is ±1, `unknown_weight` where it is 0; float, any shape."""
    known = labels.abs().float()
    return known if unknown_weight == 0 else known + unknown_weight * (1 - known)
