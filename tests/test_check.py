"""Parameter files of the wrong shape: one line for each mistake that names the parameter, never a traceback."""

import copy
from pathlib import Path
from typing import Any

import pytest

from ssdh.check import check, check_parameters
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.params import read_params, section
from ssdh.structure.params import StructureParams


@pytest.fixture
def params(project: Path) -> dict[str, Any]:
    return copy.deepcopy(read_params(project / "params.yaml"))


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("structure", None, "structure must be a mapping, got None (params.yaml: structure)"),
        ("structure", 5, "structure must be a mapping, got 5 (params.yaml: structure)"),
        ("train", [1], "train must be a mapping, got [1] (params.yaml: train)"),
        ("datasets", [1], "datasets must be a mapping of data sets, got [1] (params.yaml: datasets)"),
        ("recipes", "x", "recipes must be a mapping of recipes, got 'x' (params.yaml: recipes)"),
        ("recipe", ["a"], "got ['a'] (params.yaml: recipe)"),
    ],
)
def test_a_section_of_the_wrong_shape_is_named(params: dict[str, Any], name: str, value: Any, line: str) -> None:
    with pytest.raises(ParameterError) as error:
        check_parameters(params | {name: value})
    assert line in str(error.value)


def test_a_recipe_without_a_block_is_named(params: dict[str, Any]) -> None:
    params["recipes"]["mine"] = {"structure": params["recipes"]["manifold"]["structure"], "train": None}
    with pytest.raises(ParameterError, match=r"^recipes\.mine\.train must be a mapping, got None"):
        check_parameters(params)


def test_a_recipe_may_leave_out_what_has_a_default_but_nothing_else(params: dict[str, Any]) -> None:
    params["recipes"]["mine"] = copy.deepcopy(params["recipes"]["manifold"])
    del params["recipes"]["mine"]["structure"]["power"]
    params["recipe"] = "mine"
    check_parameters(params)
    assert section(params, "structure", StructureParams).power == StructureParams.model_fields["power"].default
    del params["recipes"]["mine"]["train"]["epochs"]
    with pytest.raises(ParameterError) as error:
        check_parameters(params)
    assert str(error.value).splitlines() == [
        "train.epochs is missing (params.yaml: train.epochs)",
        "recipes.mine.train.epochs is missing (params.yaml: recipes.mine.train.epochs)",
    ]


def test_an_environment_that_a_later_stage_could_not_use(
    params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params["backbone"]["weights_file"] = params["train"]["init_file"] = str(tmp_path / "none.safetensors")
    (tmp_path / "none.safetensors").touch()
    check(params)
    monkeypatch.setenv("SSDH_NPROC", "abc")
    with pytest.raises(ParameterError, match="SSDH_NPROC must be a positive integer, got 'abc'"):
        check(params)
    monkeypatch.delenv("SSDH_NPROC")
    monkeypatch.setenv("SSDH_HOME", str(tmp_path / "none.safetensors" / "home"))
    with pytest.raises(DataError, match=r"home, where .* cannot be written to \(Not a directory\): set SSDH_HOME"):
        check(params)
