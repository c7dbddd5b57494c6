"""What one page shows, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.report.gallery import Query
from ssdh.report.inputs import Results, StageRecord


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    parameters: named groups of parameters as they took effect; weights: of the backbone ("random" is a smoke run,
    "none" are embeddings, which no network made here and of which there are no pictures);
    query_labels: (q, C) multi-hot, row by row those of `per_query.csv`; bit_shares: (K,) share of +1 of each bit over
    the database; tiny: thumbnails are pixels to be shown as squares.
    """

    results: Results
    published: list[dict[str, str]] = field(default_factory=list)
    stages: list[StageRecord] = field(default_factory=list)
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights: str = ""
    query_labels: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0), np.uint8))
    bit_shares: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    worst: list[Query] = field(default_factory=list)
    typical: list[Query] = field(default_factory=list)
    tiny: bool = False

    @property
    def unit(self) -> str:
        """What rows are called."""
        return "rows" if self.weights == "none" else "images"
