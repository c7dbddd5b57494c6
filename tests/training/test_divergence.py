"""Steps that are far too large are said, although the loss stays a finite number and codes differ."""

from typing import Any

import numpy as np
import pytest
from loguru import logger
from sklearn.datasets import load_digits

from ssdh import Hasher
from ssdh.core.errors import SSDHError
from ssdh.training.validation import collapse_statistics, validation_map, warn_of_saturation


def warnings_of(recipe: str, **values: Any) -> list[str]:
    """What training says on 400 digits, 3 epochs."""
    said: list[str] = []
    sink = logger.add(lambda message: said.append(str(message)), level="WARNING", format="{message}")
    try:
        Hasher(bits=12, recipe=recipe, epochs=3, verbose=False, **values).fit(load_digits().data[:400])
    finally:
        logger.remove(sink)
    return [line for line in said if not line.startswith("structure.")]


@pytest.mark.parametrize("recipe", ["manifold", "centred", "greedyhash", "bihalf"])
def test_nothing_is_said_of_a_recipe_as_it_is(recipe: str) -> None:
    assert warnings_of(recipe) == []


@pytest.mark.parametrize(
    ("recipe", "lr"), [("manifold", 1e30), ("manifold", 1e4), ("bihalf", 1e4), ("greedyhash", 1e10)]
)
def test_far_too_large_steps_are_said(recipe: str, lr: float) -> None:
    said = warnings_of(recipe, lr=lr)
    assert any(line.startswith("SATURATED OUTPUTS: ") and "lower lr" in line for line in said), said


def test_the_rule_on_outputs_by_hand() -> None:
    rng = np.random.default_rng(0)
    assert not warn_of_saturation(np.tanh(rng.normal(0, 3, (50, 8))), "")
    assert warn_of_saturation(np.sign(rng.normal(size=(50, 8))), "")
    assert not warn_of_saturation(rng.normal(0, 10, (50, 8)), "")
    assert warn_of_saturation(rng.normal(0, 1e6, (50, 8)), "")


def test_outputs_that_are_no_numbers_are_one_line() -> None:
    outputs = np.full((4, 8), np.nan, np.float32)
    with pytest.raises(SSDHError, match=r"no longer finite numbers: lower train\.lr"):
        collapse_statistics(outputs)
    rows = np.arange(4)
    with pytest.raises(SSDHError, match=r"no longer finite numbers: lower train\.lr"):
        validation_map(lambda _: outputs, np.ones((4, 1), np.uint8), rows, rows)
