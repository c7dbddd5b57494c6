"""Parameter files of the wrong shape: one line for each mistake that names the parameter, never a traceback."""

import copy
import shutil
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
        ("recipes", {}, "recipes is not a parameter: remove it or correct its spelling (params.yaml: recipes)"),
        ("train", {"epochz": None}, "train.epochz is not a parameter: remove it or correct its spelling"),
        ("recipe", ["a"], "got ['a'] (params.yaml: recipe)"),
    ],
)
def test_a_section_of_the_wrong_shape_is_named(params: dict[str, Any], name: str, value: Any, line: str) -> None:
    with pytest.raises(ParameterError) as error:
        check_parameters(params | {name: value})
    assert line in str(error.value)


@pytest.fixture
def recipes(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `ssdh/methods` that is the one read."""
    folder = tmp_path / "methods"
    shutil.copytree(project / "ssdh/methods", folder)
    monkeypatch.setattr("ssdh.core.params.recipes_folder", lambda: folder)
    monkeypatch.setattr("ssdh.check.recipes_folder", lambda: folder)
    return folder


def test_a_recipe_may_leave_out_what_has_a_default_but_nothing_else(params: dict[str, Any], recipes: Path) -> None:
    text = (recipes / "manifold.yaml").read_text(encoding="utf-8")
    (recipes / "mine.yaml").write_text(text.replace("  power: 0.7\n", "", 1), encoding="utf-8")
    (recipes / "mine.py").write_text("", encoding="utf-8")
    params["recipe"] = "mine"
    check_parameters(params)
    assert section(params, "structure", StructureParams).power == StructureParams.model_fields["power"].default
    (recipes / "mine.yaml").write_text(text.replace("  epochs: 50\n", "", 1), encoding="utf-8")
    with pytest.raises(ParameterError) as error:
        check_parameters(params)
    assert str(error.value) == "train.epochs is missing (ssdh/methods/mine.yaml: train.epochs)"


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
@pytest.mark.parametrize("file", ["soft.yaml", "soft.py"])
def test_a_recipe_in_another_encoding_is_one_line(
    params: dict[str, Any], recipes: Path, file: str, encoding: str
) -> None:
    text = (recipes / file).read_text(encoding="utf-8") + "\n# é\n"
    (recipes / file).write_bytes(text.encode(encoding, "replace"))
    with pytest.raises(ParameterError, match=rf"{file} .*UTF-8") as error:
        check_parameters(params)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("soft.yaml", "a: [1", "ssdh/methods/soft.yaml is not valid YAML"),
        ("soft.yaml", "structure: {}\ntrain: null\nviews: {}\n", "ssdh/methods/soft.yaml: train must be a mapping"),
        ("soft.py", "def loss(:\n", "ssdh/methods/soft.py is not valid Python: "),
        ("soft.py", None, "ssdh/methods/soft.py does not exist: the method of ssdh/methods/soft.yaml belongs there"),
    ],
)
def test_a_broken_or_missing_recipe_is_one_line(
    params: dict[str, Any], recipes: Path, file: str, text: str | None, line: str
) -> None:
    (recipes / file).unlink()
    if text is not None:
        (recipes / file).write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError) as error:
        check_parameters(params)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("statement", "module"),
    [
        ("from ssdh.methods.contrast_parts import SCALE", "ssdh.methods.contrast_parts"),
        ("def f():\n    import ssdh.methods.cibhash", "ssdh.methods.cibhash"),
        ("from ssdh import methods", "ssdh.methods"),
        ("from .cibhash import CIBHash", ".cibhash"),
        ("from . import training", "."),
        ("from .training import loss", ".training"),
        ("from ssdh.evaluation.metrics import label_metrics", "ssdh.evaluation.metrics"),
        ("import parts", "parts"),
        ("from lib.parts import SCALE", "lib.parts"),
    ],
)
def test_a_method_that_imports_what_train_does_not_follow_is_one_line(
    params: dict[str, Any],
    recipes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
    module: str,
) -> None:
    """An edit of such a module would leave the trained model as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib").mkdir()
    for file in ("parts.py", "lib/parts.py"):
        (tmp_path / file).touch()
    own = "import math\nimport torch\nfrom ssdh.training.loss import PairLoss\nfrom ssdh import hashing\n"
    (recipes / "soft.py").write_text(own, encoding="utf-8")
    check_parameters(params)
    (recipes / "soft.py").write_text(f"{own}{statement}\n", encoding="utf-8")
    with pytest.raises(ParameterError) as error:
        check_parameters(params)
    assert str(error.value).startswith(f"ssdh/methods/soft.py imports {module}, and an edit there would not train it")
    assert "\n" not in str(error.value)


def test_a_value_that_the_recipes_loss_does_not_read_is_named(params: dict[str, Any]) -> None:
    params["train"] |= {"unknown_weight": 0.5, "loss": {"gamma": 3.0, "quantisation": 0.2}}
    with pytest.raises(ParameterError) as error:
        check_parameters(params | {"recipe": "greedyhash"})
    assert str(error.value).splitlines() == [
        "train.unknown_weight is nothing that recipe greedyhash reads (params.yaml: train.unknown_weight)",
        "train.loss.gamma is nothing that recipe greedyhash reads (params.yaml: train.loss.gamma)",
    ]
    params["train"] |= {"unknown_weight": 0.5, "loss": None}
    check_parameters(params | {"recipe": "manifold"})


def test_a_value_or_section_that_no_recipe_has_is_named(params: dict[str, Any], recipes: Path) -> None:
    with (recipes / "soft.yaml").open("a", encoding="utf-8") as file:
        file.write("trian: {}\n")
    text = (recipes / "soft.yaml").read_text(encoding="utf-8")
    (recipes / "soft.yaml").write_text(text.replace("lr: 1.0e-3", "lr: -1"), encoding="utf-8")
    with pytest.raises(ParameterError) as error:
        check_parameters(params)
    first, second = str(error.value).splitlines()
    assert first == "ssdh/methods/soft.yaml: trian is no section: a recipe has structure, train, views"
    assert second == "train.lr must be greater than 0, got -1 (ssdh/methods/soft.yaml: train.lr)"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"epochs": 0}, "train.epochs 0 keeps a trained model, but train.init_file names none"),
        ({"nested": [16, 32]}, r"train.nested must hold lengths below bits \(32\), got 32"),
    ],
)
def test_training_that_does_not_fit_itself_is_named(
    params: dict[str, Any], tmp_path: Path, train: dict[str, Any], message: str
) -> None:
    params["backbone"]["weights_file"] = params["train"]["init_file"] = str(tmp_path / "none.safetensors")
    (tmp_path / "none.safetensors").touch()
    params["bits"] = 32
    params["train"] |= train
    with pytest.raises(ParameterError, match=message):
        check(params)


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
