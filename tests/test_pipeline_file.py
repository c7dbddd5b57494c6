"""dvc.yaml: each stage's `deps` are its real imports, its parameters those that it reads."""

import ast
from pathlib import Path

import pytest
import yaml

STAGES = yaml.safe_load((Path(__file__).resolve().parents[1] / "dvc.yaml").read_text())["stages"]


def module_file(project: Path, name: str) -> Path | None:
    """The file of module `name` in the project, or None where it is someone else's."""
    base = project.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def is_only_a_docstring(path: Path) -> bool:
    body = ast.parse(path.read_text()).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def imports(project: Path, path: Path) -> set[Path]:
    """Project files that `path` imports, at the top or inside a function, with the packages around them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively: write the whole name"
            assert node.module is not None
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    names = {name for name in names if name.split(".")[0] in ("ssdh", "stages")}
    names |= {name.rsplit(".", n)[0] for name in names for n in range(1, name.count(".") + 1)}
    files = {module_file(project, name) for name in names}
    return {file for file in files if file is not None}


def closure(project: Path, path: Path) -> set[str]:
    seen: set[Path] = set()
    todo = {path}
    while todo:
        file = todo.pop()
        seen.add(file)
        todo |= imports(project, file) - seen
    return {str(file.relative_to(project)) for file in seen if not is_only_a_docstring(file)}


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_real_imports(project: Path, stage: str) -> None:
    entry = project / "stages" / f"{stage}.py"
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    listed = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    expected = closure(project, entry)
    assert listed == expected, "dvc.yaml should list\n" + "\n".join(f"      - {name}" for name in sorted(expected))


def test_only_dispatch_reaches_a_module_by_a_computed_name(project: Path) -> None:
    """`closure` sees import statements only, so nothing that a stage imports may use importlib."""
    reached = set().union(*(closure(project, project / "stages" / f"{stage}.py") for stage in STAGES))
    users = [name for name in reached if "importlib" in (project / name).read_text()]
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
