"""The parameters of the structure."""

from typing import Literal

from pydantic import Field

from ssdh.core.params import Params


class StructureParams(Params):
    """How pairs of train images become similar, dissimilar or unknown."""

    alpha: float = Field(gt=0, le=100)
    beta: float = Field(gt=0, le=100)
    bins: int = Field(ge=2, le=1_000_000)
    max_matrix_gib: float = Field(ge=0)
    max_pairs: int = Field(default=0, ge=0)  # 0: all pairs
    power: float = Field(default=0.0, ge=0, le=4)  # 0: features as they are
    space: Literal["feature", "manifold"] = "feature"
    neighbors: int = Field(default=20, ge=1, le=10_000)
    rank: int = Field(default=128, ge=1, le=10_000)
    steps: int = Field(default=6, ge=0, le=1000)
    decay: float = Field(default=0.9, gt=0, le=1)
    view_whitening: float = Field(default=0.0, ge=0, le=1e6)  # 0: none
