"""Every baseline by its name: the name of its file in `ssdh/evaluation/baselines/`. To add one, add a file."""

import importlib
from typing import ClassVar, Protocol, cast

from ssdh.core.discovery import module_names
from ssdh.evaluation import baselines
from ssdh.evaluation.baseline import Codes, Float32, Quantizer


class Baseline(Protocol):
    """A module of `ssdh/evaluation/baselines/`: title and a few words for people, its information tier, and `fit`.

    TIER is what it is given beside features of images: "images only" | "outside knowledge" | "class names" | "labels".
    """

    TITLE: ClassVar[str]
    ABOUT: ClassVar[str]
    TIER: ClassVar[str]

    def fit(self, train: Float32, bits: int, seed: int) -> Codes | Quantizer:
        """Fit `bits` bits an image to train features (n, D); raises CannotFitError."""


def names() -> list[str]:
    """The names of all baselines, sorted."""
    return module_names(baselines)


def get(name: str) -> Baseline:
    """The baseline called `name`, one of `names()`."""
    return cast(Baseline, importlib.import_module(f"{baselines.__name__}.{name}"))
