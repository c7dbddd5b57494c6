"""Targets and weights of the pairs of each mini-batch, on the device, from pseudo-labels stored or computed."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssdh.devices import to_device
from ssdh.loss import pair_weights
from ssdh.pair_labels import PairLabels

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
        found: NDArray[Any] = self.labels.affinities(rows, rows)
        return to_device(torch.from_numpy(np.ascontiguousarray(found)), self.device).to(self.dtype)
