"""Every baseline by its name: the name of its file in `ssdh/evaluation/baselines/`. To add one, add a file."""

import importlib
import pkgutil
from typing import ClassVar, Protocol, cast

from ssdh.evaluation import baselines
from ssdh.evaluation.baseline import Codes, Float32, Quantizer


class Baseline(Protocol):
    """A module of `ssdh/evaluation/baselines/`: title and a few words for people, and `fit`."""

    TITLE: ClassVar[str]
    ABOUT: ClassVar[str]

    def fit(self, train: Float32, bits: int, seed: int) -> Codes | Quantizer:
        """Fit `bits` bits an image to train features (n, D); raises CannotFitError."""


def names() -> list[str]:
    """The names of all baselines, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(baselines.__path__))


def get(name: str) -> Baseline:
    """The baseline called `name`, one of `names()`."""
    return cast(Baseline, importlib.import_module(f"{baselines.__name__}.{name}"))
