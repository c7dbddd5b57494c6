"""The strict loader: what it lets through, and the one line that it says of everything else."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from ssdh.core.errors import ParameterError
from ssdh.core.params import (
    Bits,
    Params,
    effective,
    read_params,
    read_recipe,
    recipe_names,
    section,
    validate,
)


class Step(Params):
    epochs: int = Field(ge=1)
    lr: float = Field(gt=0)
    window: int | None


GOOD: dict[str, Any] = {"epochs": 5, "lr": 0.1, "window": None}


def test_a_whole_number_may_stand_for_a_float() -> None:
    assert validate(Step, GOOD | {"lr": 1}, "train").lr == 1.0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"epochs": "abc"}, "train.epochs must be a valid integer, got 'abc' (params.yaml: train.epochs)"),
        ({"epochs": 0}, "train.epochs must be greater than or equal to 1, got 0 (params.yaml: train.epochs)"),
        ({"epochs": 5.0}, "train.epochs must be a valid integer, got 5.0 (params.yaml: train.epochs)"),
        ({"epochs": True}, "train.epochs must be a valid integer, got True (params.yaml: train.epochs)"),
        ({"window": "x"}, "train.window must be a valid integer, got 'x' (params.yaml: train.window)"),
        ({"lr": float("nan")}, "train.lr must be a finite number, got nan (params.yaml: train.lr)"),
        (
            {"lr": "1e-3"},
            "train.lr must be a valid number, got '1e-3' (a string: write it without quotes) (params.yaml: train.lr)",
        ),
        (
            {"epoch": 5},
            "train.epoch is not a parameter: remove it or correct its spelling (params.yaml: train.epoch)",
        ),
    ],
)
def test_a_mistake_is_one_line_with_name_and_value(change: dict[str, Any], line: str) -> None:
    with pytest.raises(ParameterError) as error:
        validate(Step, GOOD | change, "train")
    assert str(error.value) == line


def test_a_missing_key_and_a_scalar_section_are_named() -> None:
    with pytest.raises(ParameterError, match=r"^train\.lr is missing \(params\.yaml: train\.lr\)$"):
        validate(Step, {"epochs": 5, "window": None}, "train")
    with pytest.raises(ParameterError, match=r"^bits must be a valid integer, got 'many' \(params\.yaml: bits\)$"):
        section({"bits": "many"}, "bits", Bits)
    with pytest.raises(ParameterError, match=r"^a\.b is missing in params\.yaml: a has c$"):
        section({"a": {"c": 1}}, "a.b", Bits)


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(ParameterError) as error:
        validate(Step, {"epochs": 0, "lr": -1.0, "window": None}, "train")
    assert [line.split()[0] for line in str(error.value).splitlines()] == ["train.epochs", "train.lr"]


TOP: dict[str, Any] = {"recipe": "b", "train": {"lr": None, "momentum": None, "init_file": "none"}}


@pytest.fixture
def _two_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssdh.core.params.recipes_folder", lambda: tmp_path)
    (tmp_path / "a.yaml").write_text("structure: {}\ntrain: {lr: 1.0, momentum: 0.5}\nviews: {}\n")
    (tmp_path / "b.yaml").write_text("structure: {}\ntrain: {lr: 2e-1, decay: 1.0}\nviews: {}\n")


@pytest.mark.usefixtures("_two_recipes")
def test_a_recipe_gives_the_values_and_a_top_level_one_wins() -> None:
    assert effective(TOP, "train") == {"lr": 0.2, "decay": 1.0, "init_file": "none"}
    changed = TOP | {"train": {"lr": 0.0, "momentum": None, "init_file": "x"}}
    assert effective(changed, "train") == {"lr": 0.0, "decay": 1.0, "init_file": "x"}
    assert effective(TOP | {"recipe": "a"}, "train") == {"lr": 1.0, "momentum": 0.5, "init_file": "none"}


@pytest.mark.usefixtures("_two_recipes")
def test_values_of_a_loss_are_overridden_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("structure: {}\ntrain: {loss: {gamma: 6.0, beta: 1.0}}\nviews: {}\n")
    assert effective({"recipe": "b", "train": {"loss": {"gamma": 3.0}}}, "train") == {
        "loss": {"gamma": 3.0, "beta": 1.0}
    }
    assert effective({"recipe": "b", "train": {"loss": None}}, "train") == {"loss": {"gamma": 6.0, "beta": 1.0}}


@pytest.mark.usefixtures("_two_recipes")
def test_an_unknown_recipe_names_those_that_exist() -> None:
    with pytest.raises(ParameterError, match=r"^recipe must be one of a, b, got 'c' \(params\.yaml: recipe\)$"):
        effective(TOP | {"recipe": "c"}, "train")
    with pytest.raises(ParameterError, match=r"^recipe must be one of a, b, got \['a'\]"):
        effective(TOP | {"recipe": ["a"]}, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "is not valid YAML"), ("- 1\n", "must hold a mapping of parameters, got list"), ("", "got NoneType")],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=message) as error:
        read_params(path)
    assert "\n" not in str(error.value)


def test_scientific_numbers_are_numbers_as_dvc_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: 1e-05\nb: 1.0e-5\nc: -2E3\nd: '1e-3'\ne: 1e\nf: 12\ng: e5\n")
    expected = {"a": 1e-5, "b": 1e-5, "c": -2000.0, "d": "1e-3", "e": "1e", "f": 12, "g": "e5"}
    assert read_params(path) == expected


def test_a_missing_file_says_where_to_stand(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="holds no pipeline: go to the folder of one"):
        read_params(tmp_path / "params.yaml")


def test_the_committed_parameters_leave_every_recipe_value_to_the_recipe(project: Path) -> None:
    params = read_params(project / "params.yaml")
    for name in ("structure", "views"):
        assert [key for key, value in params[name].items() if value is not None] == []
    assert [key for key, value in params["train"].items() if value is not None] == ["init_file"]
    for name in ("structure", "train", "views"):
        assert set(read_recipe("manifold")[name]) <= set(params[name])


def test_the_installed_package_holds_the_recipes(project: Path) -> None:
    assert recipe_names() == sorted(path.stem for path in (project / "ssdh/methods").glob("*.yaml"))
    assert {"manifold", "published"} <= set(recipe_names())
