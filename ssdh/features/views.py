"""Features of random views of images, for methods that compare two views of one image on frozen features.

A view depends on the image's SHA-256 and the view's number alone, so other seeds, data sets and recipes find it again.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssdh.core.arrays import Rows
from ssdh.features.augment import Augmentation, Draw, draw
from ssdh.features.backbone import Backbone
from ssdh.features.extract import Pass, code_digest
from ssdh.features.forward import BLOCK, run_network
from ssdh.features.images import ImageSource
from ssdh.features.params import AugmentParams, ViewsParams
from ssdh.features.store import Digests, FeatureStore

CODE = ("features/augment", "features/colours", "features/views")  # beside that of plain features


class Views:
    """The views of the images of a source by their digests (N, 32), as a frozen network sees them."""

    def __init__(
        self,
        backbone: Backbone,
        source: ImageSource,
        digests: Digests,
        params: ViewsParams,
        device: torch.device,
        precision: str = "fp32",
        workers: int = 0,
    ) -> None:
        self.backbone, self.digests, self.params = backbone, digests, params
        self.device, self.precision = device, precision
        self.augmentation = Augmentation(source, backbone.preprocessing, workers=workers, device=device)

    def passes(self, kind: dict[str, Any]) -> list[Pass]:
        """One pass for each view; `kind`: what plain features of this network depend on."""
        augment = self.params.model_dump(include=set(AugmentParams.model_fields))  # a further view changes no other
        kind = kind | {"augment": augment, "augment_code": code_digest(CODE)}
        return [
            Pass(FeatureStore(kind | {"view": view}), partial(self.blocks, view)) for view in range(self.params.count)
        ]

    def blocks(self, view: int, rows: Rows) -> Iterator[NDArray[np.float16]]:
        """Features (≤ BLOCK, D) of one view of image rows, block by block."""

        def draw_row(row: int) -> Draw:
            return draw((int.from_bytes(self.digests[row].tobytes(), "big"), view), self.params)

        batches = [(rows[start : start + BLOCK], draw_row) for start in range(0, len(rows), BLOCK)]
        pixels = self.augmentation.batches(batches)
        for values in run_network(self.backbone.module, pixels, self.device, self.precision):
            yield values.astype(np.float16)
