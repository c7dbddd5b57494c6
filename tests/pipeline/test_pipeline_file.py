"""dvc.yaml: each stage's `deps` are its real imports, its parameters those that it reads."""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssdh.core.params import read_params, read_recipe, recipe_names
from ssdh.evaluation.params import EvaluateParams
from ssdh.experiments.dvc import override, with_values
from ssdh.report.collect import parameters
from tests.helpers.imports import SCANNED, closure, imports

RECIPES = Path(__file__).resolve().parents[2] / "ssdh" / "methods"
STAGES = yaml.safe_load((Path(__file__).resolve().parents[2] / "dvc.yaml").read_text())["stages"]


# which package may import which, besides itself (no circle, no arrow upward)
ALLOWED = {
    "core": "",
    "features": "core",
    "structure": "core",
    "datasets": "core features",
    "hashing": "core features",
    "training": "core features structure hashing",
    "methods": "core structure hashing training",
    "evaluation": "core structure hashing",
    "report": "core features hashing",
    "search": "core features datasets hashing",
    "check.py": "core features datasets structure hashing training evaluation",
    "hasher.py": "core structure hashing training methods evaluation",
    "collection.py": "core hashing search hasher.py",
    "experiments": "core features datasets hashing check.py",
    "cli": "core features datasets structure hashing training evaluation report search experiments check.py",
    "__main__.py": "core cli",
}


METHODS = {"ssdh/methods", "ssdh/methods/${recipe}.py"}  # of `check`, and of `train`


@pytest.mark.parametrize("stage", STAGES)
def test_deps_list_the_folders_that_a_stage_imports_from_and_no_others(project: Path, stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    listed = [dep for dep in STAGES[stage]["deps"] if dep.startswith(("ssdh", "stages")) and dep not in METHODS]
    reached = closure(project, project / "stages" / f"{stage}.py")
    if METHODS.intersection(STAGES[stage]["deps"]) and stage != "check":  # which `load_method` imports by its name
        assert "ssdh/training/method.py" in reached
        reached |= {file for file in methods_closure(project) if package(project / file, project) != "methods"}

    def within(file: str, dep: str) -> bool:
        return file == dep or file.startswith(f"{dep}/")

    assert [file for file in reached if not any(within(file, dep) for dep in listed)] == [], "not listed"
    assert [dep for dep in listed if not any(within(file, dep) for file in reached)] == [], "listed without need"


def methods_closure(project: Path) -> set[str]:
    """What the methods import."""
    return set().union(*(closure(project, path) for path in (project / "ssdh/methods").glob("[a-z]*.py")))


def package(file: Path, project: Path) -> str:
    """The folder below `ssdh/`, or the module that lies beside the folders."""
    return file.relative_to(project / "ssdh").parts[0]


def test_packages_import_only_those_below_them(project: Path) -> None:
    files = [path for path in (project / "ssdh").rglob("*.py") if path.name != "__init__.py"]
    assert {package(path, project) for path in files} == set(ALLOWED)
    for path in files:
        own = package(path, project)
        imported = imports(project, path)
        assert not [file for file in imported if file.is_relative_to(project / "stages")], path
        packages = {package(file, project) for file in imported} - {own}
        assert packages <= set(ALLOWED[own].split()), path


def test_the_rules_have_no_circle() -> None:
    seen: set[str] = set()
    while len(seen) < len(ALLOWED):
        ready = {name for name, below in ALLOWED.items() if name not in seen and set(below.split()) <= seen}
        assert ready, f"a circle among {set(ALLOWED) - seen}"
        seen |= ready


def test_no_module_imports_itself_in_a_circle(project: Path) -> None:
    graph = {path: imports(project, path) for path in (project / "ssdh").rglob("*.py") if path.name != "__init__.py"}
    while graph:
        leaves = {path for path, imported in graph.items() if not imported & set(graph)}
        assert leaves, f"a circle among {sorted(str(path.relative_to(project)) for path in graph)}"
        graph = {path: imported for path, imported in graph.items() if path not in leaves}


def test_the_run_cache_sees_every_parameter(project: Path) -> None:
    """DVC leaves keys `size` and `nfiles`, at any depth, out of what it looks results up by.

    So a parameter of that name must be tracked by its own dotted name too, which is another key.
    """
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))

    def overlooked(value: Any, name: str) -> set[str]:
        if not isinstance(value, dict):
            return set()
        own = {f"{name}.{key}" for key in value if key in ("size", "nfiles")}
        return own.union(*(overlooked(item, f"{name}.{key}") for key, item in value.items()))

    seen = set()
    for stage in STAGES.values():
        persistent = any(isinstance(out, dict) and next(iter(out.values())).get("persist") for out in stage["outs"])
        if persistent:  # never looked up
            continue
        names = [name for name in stage.get("params", []) if isinstance(name, str)]
        for dataset in params["datasets"]:
            tracked = {name.replace("${dataset}", dataset) for name in names}
            result = set().union(*(overlooked(_at(params, name), name) for name in tracked))
            assert result <= tracked
            seen |= result
    assert "datasets.digits.images.size" in seen
    for recipe in recipe_names():
        assert overlooked(read_recipe(recipe), recipe) == set()


def _at(params: dict[str, Any], name: str) -> Any:
    for key in name.split("."):
        params = params[key]
    return params


def test_the_report_is_made_again_for_every_parameter_that_it_shows(project: Path) -> None:
    params = read_params(project / "params.yaml") | {"recipe": "manifold"}
    tracked = [name for name in STAGES["report"]["params"] if isinstance(name, str)]
    names = [name.replace("${dataset}", "digits") for name in tracked]

    def cut(other: dict[str, Any]) -> list[Any]:
        return [_at(other, name) for name in names]

    assert {"ssdh/methods/${recipe}.yaml": ["structure", "train", "views"]} in STAGES["report"]["params"]
    for name in ("bits", "seed", "train.momentum", "structure.alpha", "views.count", "evaluate.radius",
                 "backbone.layer", "datasets.digits.topk", "datasets.digits.data.num_query"):  # fmt: skip
        changed = with_values(params, {name: 7})
        assert parameters(changed) != parameters(params), name
        assert cut(changed) != cut(params), name


def test_dvc_still_leaves_those_keys_out() -> None:
    from dvc.stage.cache import _get_cache_hash

    def key(size: int, **more: int) -> str:
        return str(_get_cache_hash({"cmd": "x", "params": {"params.yaml": {"images": {"size": size}} | more}}))

    assert key(64) == key(48), "the second entry of images.size in dvc.yaml is no longer needed"
    assert key(64, **{"images.size": 64}) != key(48, **{"images.size": 48})


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("params.yaml", "bits=64"),
        ("params.yaml", "train.lr=0.01"),
        ("params.yaml", "datasets.digits.images.size=24"),
        ("params.yaml", "datasets.folder.data.root=/photos"),
        *((f"ssdh/methods/{path.stem}.yaml", "train.epochs=7") for path in RECIPES.glob("*.yaml")),
    ],
)
def test_one_setting_of_dvc_changes_one_line(project: Path, tmp_path: Path, file: str, setting: str) -> None:
    """`dvc exp run -S` writes the whole file anew, in DVC's layout: so it is stored in that."""
    from dvc.utils.hydra import apply_overrides

    before = (project / file).read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(before, encoding="utf-8")
    apply_overrides(tmp_path / "params.yaml", [setting])
    after = (tmp_path / "params.yaml").read_text(encoding="utf-8").splitlines()
    lines = before.splitlines()
    assert len(after) == len(lines)
    [(old, new)] = [(old, new) for old, new in zip(lines, after, strict=True) if old != new]
    assert new.split("#")[0].split()[:1] == old.split("#")[0].split()[:1]


LISTS = ("baselines", "precision_at", "neighbors", "rerank")


@pytest.mark.parametrize("emptied", [*((name,) for name in LISTS), LISTS])
def test_a_list_that_dvc_empties_leaves_the_rest_as_it_is(project: Path, tmp_path: Path, emptied: tuple[str]) -> None:
    """`-S evaluate.rerank=[]` skips it; before a value that is no list DVC would lose a line break."""
    from dvc.utils.hydra import apply_overrides

    expected = read_params(project / "params.yaml")
    assert {name for name, value in expected["evaluate"].items() if isinstance(value, list)} == set(LISTS)
    expected["evaluate"] |= {name: [] for name in emptied}
    path = tmp_path / "params.yaml"
    path.write_text((project / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    apply_overrides(path, [f"evaluate.{name}=[]" for name in emptied])
    assert read_params(path) == expected
    apply_overrides(path, ["evaluate.metric=l2"])
    assert read_params(path) == expected | {"evaluate": expected["evaluate"] | {"metric": "l2"}}


@pytest.mark.parametrize("name", ["train.nested", "datasets.folder.data.exclude"])
def test_a_list_that_is_set_can_be_emptied_again(project: Path, tmp_path: Path, name: str) -> None:
    """`-S train.nested=[]` after `-S train.nested=[8,16]`: beside a comment DVC would write what it cannot read."""
    from dvc.utils.hydra import apply_overrides

    params = read_params(project / "params.yaml")
    path = tmp_path / "params.yaml"
    path.write_text((project / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    for value in ([8, 16], [], [8], None):
        apply_overrides(path, [override(name, value)])
        assert read_params(path) == with_values(params, {name: value})


def test_only_dispatch_reaches_a_module_by_a_computed_name(project: Path) -> None:
    """`closure` sees import statements only, and knows which folder each registry imports.

    Methods are named in dvc.yaml.
    """
    reached = set().union(*(closure(project, project / "stages" / f"{stage}.py") for stage in STAGES))
    computed = ("import_module", "spec_from_file_location", "listed_in")
    users = {name for name in reached if any(call in (project / name).read_text() for call in computed)}
    assert users == {*SCANNED, "ssdh/core/discovery.py", "ssdh/training/method.py"}
    assert [name for name, stage in STAGES.items() if METHODS.intersection(stage["deps"])] == ["check", "train"]


def test_entry_points_are_thin(project: Path) -> None:
    lengths = {name: lines_of_main(project / "stages" / f"{name}.py") for name in STAGES}
    assert {name: length for name, length in lengths.items() if length > 45} == {}


def lines_of_main(path: Path) -> int:
    [main] = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert main.end_lineno is not None
    return main.end_lineno - main.lineno + 1


def test_the_codes_are_measured_again_for_each_evaluation_parameter_but_the_baselines() -> None:
    tracked = {name for name in STAGES["evaluate"]["params"] if str(name).startswith("evaluate")}
    assert tracked == {f"evaluate.{name}" for name in EvaluateParams.model_fields if name != "baselines"}
