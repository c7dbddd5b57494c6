"""What a module of the project really imports, at the top or inside a function."""

import ast
from pathlib import Path

# modules that import all of a folder, by the names found in it
SCANNED = {
    "ssdh/datasets/registry.py": "ssdh/datasets",
    "ssdh/evaluation/baselines/registry.py": "ssdh/evaluation/baselines",
    "ssdh/features/families/registry.py": "ssdh/features/families",
}


def module_file(project: Path, name: str) -> Path | None:
    """The file of module `name` in the project, or None where it is someone else's."""
    base = project.joinpath(*name.split("."))
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


def imports(project: Path, path: Path) -> set[Path]:
    """Project files that `path` imports; packages' own `__init__.py` are left out, since they hold a docstring only."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively: write the whole name"
            assert node.module is not None
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    names = {name for name in names if name.split(".")[0] in ("ssdh", "stages")}
    files = {module_file(project, name) for name in names}
    if folder := SCANNED.get(path.relative_to(project).as_posix()):
        files |= set((project / folder).glob("*.py")) - {path}
    return {file for file in files if file is not None and file.name != "__init__.py"}


def closure(project: Path, path: Path) -> set[str]:
    """`path` and all that it imports, directly or not, relative to the project."""
    seen: set[Path] = set()
    todo = {path}
    while todo:
        file = todo.pop()
        seen.add(file)
        todo |= imports(project, file) - seen
    return {str(file.relative_to(project)) for file in seen}
