"""Steps that are far too large are said, although the loss stays a finite number and codes differ."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from loguru import logger
from sklearn.datasets import load_digits

from ssdh import Hasher
from ssdh.core.errors import ParameterError, SSDHError
from ssdh.core.params import read_recipe, recipe_names
from ssdh.training.collapse import collapse_statistics, warn_of_no_learning, warn_of_saturation
from ssdh.training.validation import validation_map

DIGITS = load_digits().data[:400].astype(np.float32)
VIEWS = np.stack([DIGITS + np.random.default_rng(view).normal(0, 1, DIGITS.shape) for view in (0, 1)])


def warnings_of(recipe: str, **values: Any) -> list[str]:
    """What training says on 400 digits, 3 epochs unless `values` say otherwise."""
    hasher = Hasher(bits=12, recipe=recipe, **({"epochs": 3} | values))
    return [line for line in said_by(lambda: hasher.fit(DIGITS, views=VIEWS)) if not line.startswith("structure.")]


def said_by(work: Callable[[], Any]) -> list[str]:
    """The warnings of the log."""
    said: list[str] = []
    sink = logger.add(lambda message: said.append(str(message)), level="WARNING", format="{message}")
    try:
        work()
    finally:
        logger.remove(sink)
    return said


@pytest.mark.parametrize("recipe", recipe_names())
def test_nothing_is_said_of_a_recipe_as_it_is(recipe: str) -> None:
    assert warnings_of(recipe) == []


@pytest.mark.parametrize(
    ("recipe", "lr"), [("manifold", 1e30), ("manifold", 1e4), ("bihalf", 1e4), ("greedyhash", 1e10)]
)
def test_far_too_large_steps_are_said(recipe: str, lr: float) -> None:
    said = warnings_of(recipe, lr=lr)
    assert any(line.startswith("SATURATED OUTPUTS: ") and "lower lr" in line for line in said), said


def test_the_rule_on_outputs_by_hand() -> None:
    def is_said(outputs: np.ndarray) -> bool:
        return [line[:9] for line in said_by(lambda: warn_of_saturation(outputs, ""))] == ["SATURATED"]

    rng = np.random.default_rng(0)
    assert not is_said(np.tanh(rng.normal(0, 3, (50, 8))))
    assert is_said(np.sign(rng.normal(size=(50, 8))))
    assert not is_said(rng.normal(0, 10, (50, 8)))
    assert is_said(rng.normal(0, 1e6, (50, 8)))


def test_outputs_that_are_no_numbers_are_one_line() -> None:
    outputs = np.full((4, 8), np.nan, np.float32)
    with pytest.raises(SSDHError, match=r"no longer finite numbers: lower train\.lr"):
        collapse_statistics(outputs)
    rows = np.arange(4)
    with pytest.raises(SSDHError, match=r"no longer finite numbers: lower train\.lr"):
        validation_map(lambda _: outputs, np.ones((4, 1), np.uint8), rows, rows)


@pytest.mark.parametrize("recipe", recipe_names())
def test_steps_that_move_nothing_are_said(recipe: str) -> None:
    assert any("NOTHING LEARNED" in line for line in warnings_of(recipe, lr=1e-30))


@pytest.mark.parametrize("recipe", ["manifold", "centred", "neighbors"])
def test_a_loss_that_rises_is_said(recipe: str) -> None:
    assert any("NOTHING LEARNED" in line for line in warnings_of(recipe, weight_decay=1.0, epochs=20))
    assert warnings_of(recipe, epochs=20) == []


def test_the_rule_on_losses_by_hand() -> None:
    def is_said(losses: list[float], moved: float) -> bool:
        return [line[:7] for line in said_by(lambda: warn_of_no_learning(losses, moved, ""))] == ["NOTHING"]

    falling, rising = [1.0, *([0.9] * 7)], [1.0, *([1.1] * 7)]
    assert not is_said(falling, 0.1)
    assert is_said(falling, 0.0)
    assert is_said(rising, 0.1)
    assert not is_said(rising[:7], 0.1)


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_batch_of_more_than_all_images_is_said(recipe: str) -> None:
    assert any("each epoch is one step" in line for line in warnings_of(recipe, batch_size=401, epochs=1))


ODD = [
    *({"lr": value} for value in (0.0, -1.0, float("nan"), float("inf"))),
    *({"weight_decay": value} for value in (1e30, -1e-3, float("nan"))),
    *({"epochs": value} for value in (10**9, -1, 0.5)),
    *({"unknown_weight": value} for value in (1e30, -1.0)),
    *({"neighbor_weight": value} for value in (-1.0, 2.0, float("nan"))),
    *({"code_temperature": value} for value in (0.0, 1e-30, float("inf"))),
    *({"batch_size": value} for value in (0, 1, 10**9)),
    *({"alpha": value} for value in (0.0, float("nan"))),
]


@pytest.mark.parametrize("recipe", recipe_names())
def test_values_that_make_no_sense_are_one_line(recipe: str) -> None:
    of_loss = [
        {"loss": {name: value}}
        for name in read_recipe(recipe)["train"].get("loss", {})
        for value in (-1.0, 1e30, float("nan"), float("-inf"))
    ]
    for values in [*ODD, *of_loss]:
        with pytest.raises(ParameterError) as error:
            warnings_of(recipe, **values)
        assert next(iter(values)) in str(error.value)
        assert len(str(error.value).splitlines()) == 1


def test_one_value_of_a_loss_leaves_the_others_as_the_recipe_has_them() -> None:
    hasher = Hasher(recipe="cibhash", loss={"beta": 0.5})
    own = read_recipe("cibhash")["train"]["loss"]
    assert hasher._sections()[1].loss == own | {"beta": 0.5}


def test_pairs_without_structure_leave_cimons_loss_a_number() -> None:
    noise = np.random.default_rng(1).normal(size=(2, 300, 64)).astype(np.float32)
    hasher = Hasher(bits=16, recipe="cimon", epochs=2).fit(noise[0], views=noise)
    assert np.isfinite(hasher.losses_).all()
