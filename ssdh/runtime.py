"""`runtime` of `params.yaml`: how the work is done."""

import os
import re
from typing import Literal

from pydantic import Field, field_validator

from ssdh.params import Params


class RuntimeParams(Params):
    """How the work is done: results are the same for any number of workers; another device agrees to rounding.

    So does another number of training processes.
    """

    device: str
    workers: int | None = Field(ge=0, le=256)
    processes: int | None = Field(ge=1, le=4096)
    deterministic: bool
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"]

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", device):
            raise ValueError("must be auto, cpu, cuda, cuda:N (a card's number) or mps")
        return device

    @property
    def num_workers(self) -> int:
        """`workers`; null: one for each CPU core of this rank; 0 works in the process."""
        if self.workers is not None:
            return self.workers
        return rank_cores()


def rank_cores() -> int:
    """CPU cores for this training process: those that there are, shared out over the ranks of this machine."""
    return max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def num_cores() -> int:
    """CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
