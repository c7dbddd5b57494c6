"""Every baseline by its name: the name of its file beside this one. To add one, add a file.

Modules whose names begin with `_` are what baselines share.
"""

import importlib
from typing import ClassVar, Protocol, cast

from ssdh.core.arrays import Float32
from ssdh.core.discovery import module_names
from ssdh.evaluation import baselines
from ssdh.evaluation.baselines._base import Codes, Quantizer


class Baseline(Protocol):
    """A module of `ssdh/evaluation/baselines/`: title and a few words for people, and `fit`."""

    TITLE: ClassVar[str]
    ABOUT: ClassVar[str]

    def fit(self, train: Float32, bits: int, seed: int) -> Codes | Quantizer:
        """Fit `bits` bits an image to train features (n, D); raises CannotFitError."""


def names() -> list[str]:
    """The names of all baselines, sorted."""
    return [name for name in module_names(baselines) if name != "registry" and not name.startswith("_")]


def get(name: str) -> Baseline:
    """The baseline called `name`, one of `names()`."""
    return cast(Baseline, importlib.import_module(f"{baselines.__name__}.{name}"))
