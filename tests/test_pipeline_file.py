"""dvc.yaml: each stage's `deps` are its real imports, its parameters those that it reads."""

from pathlib import Path

import pytest
import yaml

from tests.imports import closure, imports

STAGES = yaml.safe_load((Path(__file__).resolve().parents[1] / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_real_imports(project: Path, stage: str) -> None:
    entry = project / "stages" / f"{stage}.py"
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    listed = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    expected = closure(project, entry)
    assert listed == expected, "run `python -m tests.imports`"


def test_only_dispatch_reaches_a_module_by_a_computed_name(project: Path) -> None:
    """`closure` sees import statements only, so nothing that a stage imports may use importlib."""
    reached = set().union(*(closure(project, project / "stages" / f"{stage}.py") for stage in STAGES))
    users = [name for name in reached if "import_module" in (project / name).read_text()]
    assert users == []


def test_library_imports_no_stage_and_datasets_import_no_step(project: Path) -> None:
    steps = {"structure", "network", "loss", "training", "retrieval", "baselines", "backbones", "report", "search"}
    for path in (project / "ssdh").rglob("*.py"):
        names = {str(file.relative_to(project)) for file in imports(project, path)}
        assert not [name for name in names if name.startswith("stages/")], path
        if path.parent.name == "datasets":
            assert not names & {f"ssdh/{step}.py" for step in steps}, path


def test_entry_points_are_thin(project: Path) -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (project / "stages").glob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 70} == {}
