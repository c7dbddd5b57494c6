"""The parameters of the evaluation."""

from typing import Annotated

from pydantic import Field, field_validator

from ssdh.core.params import Params
from ssdh.evaluation.baselines import registry
from ssdh.evaluation.float_search import Metric


class EvaluateParams(Params):
    """What is reported beside the mAP; cut-offs above the size of the database are left out.

    precision_at: N of precision@N. radius: of precision within a Hamming radius. curve_points: of the precision@N
    curve. neighbors: k of the recall of the k nearest images by float features; an empty list skips it. rerank: lengths
    of shortlists by code that are ordered by the float features, at least 10, left out above the database. metric: of
    the float features, as the reference and as a method beside the codes; the codes always come from cosines.
    baselines: files of `ssdh/evaluation/baselines/` that the codes are measured against, beside the float features.
    """

    precision_at: list[Annotated[int, Field(ge=1)]]
    radius: int = Field(ge=0, le=4096)
    curve_points: int = Field(default=50, ge=2, le=10_000)
    neighbors: list[Annotated[int, Field(ge=1, le=10_000)]] = Field(default=[10, 100])
    rerank: list[Annotated[int, Field(ge=10)]] = Field(default=[100, 500, 1000])
    metric: Metric = "cosine"
    baselines: list[str] = Field(default=["lsh", "pcah", "itq"])

    @field_validator("baselines")
    @classmethod
    def _are_there(cls, baselines: list[str]) -> list[str]:
        known = registry.names()
        if (unknown := set(baselines) - set(known)) or len(set(baselines)) < len(baselines):
            problem = f"not {', '.join(sorted(unknown))}" if unknown else "each once"
            raise ValueError(f"must be of {', '.join(known)}, {problem}")
        return baselines
